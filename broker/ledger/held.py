"""Checkpoints that a reader holds, and what they say about the ledger that was read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from broker.errors import DataLossError, InvalidArgumentError
from broker.ledger.chain import Chain
from broker.ledger.verdict import Place, Verdict
from broker.ledger.whole_file import NotWholeError, read_whole
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import Recovered
from broker.tlog.note import Note, NoteError, VerifierKey, verify_note

LATEST = "latest.note"
"""The newest checkpoint in a folder; the others are named by their size, padded to 16 digits."""
_NEXT = "next.note"
"""One that is on its way there; it stands without the other where the first of all was cut off."""
MAX_HELD = 1000
"""Most checkpoints of a folder that are looked at: the newest."""
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Held:
    """A checkpoint from outside of the ledger. One that is not ``required`` may be signed by a key that counts no more."""

    name: str
    note: Note
    checkpoint: Checkpoint
    required: bool = True


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the checkpoints say: a verdict and its place where one contradicts the ledger, else how far they vouch for it.

    ``excused``: sizes of those that don't fit, and can be of what the ledger's key has signed as lost.
    """

    verdict: Verdict
    place: Place | None
    counted: int
    size: int
    excused: tuple[int, ...] = ()


def read_held(path: Path, *, required: bool = True) -> Held:
    """Reads a checkpoint from a file.

    Raises:
        InvalidArgumentError: ``CHECKPOINT_MISSING``, ``CHECKPOINT_MALFORMED``.
    """
    try:
        data = read_whole(path)
    except (OSError, NotWholeError) as error:
        raise _malformed(path, str(error)) from error
    if data is None:
        raise InvalidArgumentError(
            f"there is no checkpoint file {path}", reason="CHECKPOINT_MISSING", hint="Name a file with a signed note."
        )
    try:
        note = Note.parse(data)
        return Held(str(path), note, Checkpoint.parse(note.text), required)
    except NoteError as error:
        raise _malformed(path, str(error)) from error


def read_folder(folder: Path) -> tuple[Held, ...]:
    """Reads the newest checkpoints of a folder; nothing where there is none. The newest and the largest must count.

    Raises:
        InvalidArgumentError: ``CHECKPOINT_MALFORMED``: one of them is damaged; ``CHECKPOINT_MISSING``: there are some, but
            not the newest.
    """
    numbered = sorted(path for path in folder.glob("*.note") if path.stem.isdecimal()) if folder.is_dir() else []
    newest = next((path for path in (folder / LATEST, folder / _NEXT) if path.is_file()), None)
    if newest is None and numbered:
        # Without it nobody would miss what came after the others; and no broker has left a folder so.
        raise InvalidArgumentError(
            f"{folder} holds checkpoints, but no {LATEST}: somebody took the newest away",
            reason="CHECKPOINT_MISSING",
            hint=f"Look for it. If it is lost, copy the one with the largest number, {numbered[-1].name}, to {LATEST}.",
        )
    found = [] if newest is None else [read_held(newest)]
    found += [read_held(path, required=path == numbered[-1]) for path in numbered[-MAX_HELD:]]
    return tuple(found)


def brought_along(name: str, notes: Sequence[Note]) -> tuple[Held, ...]:
    """The checkpoints that a source brings along, smallest first; the largest must count.

    Raises:
        DataLossError: ``LEDGER_UNREADABLE``: one is no checkpoint.
    """
    try:
        found = [Held(f"a checkpoint in {name}", note, Checkpoint.parse(note.text), required=False) for note in notes]
    except NoteError as error:
        raise DataLossError(
            f"{name} holds a note that is no checkpoint: {error}", reason="LEDGER_UNREADABLE"
        ) from error
    return (*found[:-1], *(replace(item, required=True) for item in found[-1:]))


def judge(
    chain: Chain, held: Sequence[Held], keys: Iterable[VerifierKey], lacking: str, *, whole: bool | None
) -> Judgement:
    """Compares checkpoints with a ledger whose entries were all found good.

    Args:
        chain: the ledger, which was asked for the root at each checkpoint's size.
        held: the checkpoints.
        keys: keys that the reader knows from elsewhere.
        lacking: why the newest entries may be missing; empty where nothing says so.
        whole: do projections beside the entries end where they do? ``None`` where there are none.
    """
    pinned = frozenset(keys)
    if chain.first and not pinned:
        held = ()  # the keys stand in the part that wasn't read: nobody knows whose these are
    counted: list[Held] = []
    refused: tuple[Held, str] | None = None
    for item in held:
        try:
            _check(chain, item, pinned)
            counted.append(item)
        except NoteError as error:
            if item.required and refused is None:
                refused = item, str(error)
    agreed = sorted(item.checkpoint.size for item in counted if _agrees(chain, item.checkpoint))
    size = agreed[-1] if agreed else 0
    fault = _fault(chain, counted, agreed, lacking, whole=whole) or _wrong_key(chain, refused, pinned)
    excused = tuple(sorted({item.checkpoint.size for item in counted if _excused(chain, item.checkpoint)}))
    if fault is not None:
        return Judgement(*fault, len(agreed), size, excused)
    if chain.history.recovered:
        place = _recovered(chain.history.recovered[0], excused)
        return Judgement(Verdict.RECOVERED, place, len(agreed), size, excused)
    return Judgement(Verdict.OK, None, len(agreed), size)


def _check(chain: Chain, item: Held, pinned: frozenset[VerifierKey]) -> None:
    if chain.first:
        verify_note(item.note, pinned)
    else:
        chain.history.check(item.note, pinned)


def _agrees(chain: Chain, checkpoint: Checkpoint) -> bool:
    return chain.roots.get(checkpoint.size) == checkpoint.root


def _fault(
    chain: Chain, counted: Sequence[Held], agreed: Sequence[int], lacking: str, *, whole: bool | None
) -> tuple[Verdict, Place] | None:
    behind: Held | None = None
    for item in sorted(counted, key=lambda held: held.checkpoint.size):
        size = item.checkpoint.size
        if _excused(chain, item.checkpoint):
            continue
        if size in chain.roots and not _agrees(chain, item.checkpoint):
            before = max((good for good in agreed if good < size), default=0)
            why = (
                f"the first {size} entries have the root {chain.roots[size].hex()}, but {item.name} says"
                f" {item.checkpoint.root.hex()}: entries from {before} on are of another history"
            )
            return Verdict.FORKED, Place(size - 1, "checkpoint", why)
        if size > chain.count:
            behind = item
    last = chain.count - 1
    if lacking:
        return Verdict.TRUNCATED, Place(last, "file", lacking)
    if behind is None:
        return None
    why = f"the ledger ends after {chain.count} entries, but {behind.name} is of {behind.checkpoint.size}"
    if whole:
        return Verdict.ROLLED_BACK, Place(last, "checkpoint", f"{why}: this is an old state, such as a restored backup")
    return Verdict.TRUNCATED, Place(last, "checkpoint", why)


def _wrong_key(
    chain: Chain, refused: tuple[Held, str] | None, pinned: frozenset[VerifierKey]
) -> tuple[Verdict, Place] | None:
    if refused is not None:
        item, why = refused
        seq = min(item.checkpoint.size, chain.count) - 1
        return Verdict.WRONG_KEY, Place(max(seq, 0), "checkpoint", f"{item.name}: {why}")
    keys = chain.history.keys
    if pinned and keys and not any(item.key in pinned and not item.revoked for item in keys):
        revoked = any(item.key in pinned for item in keys)
        why = (
            "the given key was revoked: it shows no longer whose history this is"
            if revoked
            else f"the ledger names {keys[0].key}, and never any of the given keys"
        )
        return Verdict.WRONG_KEY, Place(0, "checkpoint_key", why)
    return None


def _excused(chain: Chain, checkpoint: Checkpoint) -> bool:
    """Doesn't it fit, and can it be of a history that the ledger's key has signed as lost?

    Outside of the signed range each must fit. Within it nobody can tell those of the lost history from others.
    """
    if _agrees(chain, checkpoint):
        return False
    return any(item.covers(checkpoint.size) for item in chain.history.recovered)


def _recovered(item: Recovered, excused: Sequence[int]) -> Place:
    why = f"the ledger was taken into service again without the entries {item.first} to {item.last}, which are lost"
    if excused:
        sizes = ", ".join(map(str, excused[:_MOST_NAMED])) + (", ..." if len(excused) > _MOST_NAMED else "")
        why += f"; so checkpoints that don't fit are excused, of these sizes: {sizes}"
    return Place(item.seq, "lost", why)


def _malformed(path: Path, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{path} is no checkpoint: {why}",
        reason="CHECKPOINT_MALFORMED",
        hint="Name a file with a signed note, as `broker ledger checkpoint` prints it.",
    )
