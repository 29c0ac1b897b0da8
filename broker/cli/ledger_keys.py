"""``broker ledger keys``, ``rotate-key``, ``revoke-key`` and ``recover``: the keys that sign the ledger's checkpoints.

They work on the state directory itself. All but ``keys`` write, and need it for themselves: no broker may serve it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from broker.cli.ledger_place import checkpoints_of
from broker.cli.local import (
    AsOption,
    CertOption,
    JsonOption,
    KeyOption,
    Local,
    StateOption,
    acting_human,
    clock,
    open_local,
)
from broker.cli.output import OutputModel, console, emit
from broker.domain.secret import Secret
from broker.errors import FieldViolation, InvalidArgumentError
from broker.ledger import recovery, rotation
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.signer import (
    FileSigner,
    make_passphrase_file,
    make_signer_file,
    read_passphrase,
    read_public_key,
)
from broker.settings import DEFAULT_STATE, Settings, StatePaths, load_settings
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import MAX_NOTE_BYTES, Note, NoteError, VerifierKey, encode_base64


class SigningKeyOutput(OutputModel):
    """One key and the sizes of tree whose checkpoints it signs; no ``until_size``: it is in force."""

    key: str
    from_size: int
    until_size: int | None
    revoked: bool


class RecoveredOutput(OutputModel):
    """A loss that an entry tells of: entries ``first`` to ``last`` of a history of ``checkpoint_size`` entries."""

    entry: int
    first: int
    last: int
    checkpoint_size: int
    checkpoint_root: str
    forked: bool


class KeysOutput(OutputModel):
    """The ledger's key history. ``anchored``: the genesis names the first key. ``key_file``: whose the key file is."""

    origin: str
    anchored: bool
    key_file: str
    items: tuple[SigningKeyOutput, ...]
    recovered: tuple[RecoveredOutput, ...]


class RotatedOutput(OutputModel):
    """A key that came into force: from checkpoints of ``from_size`` on. ``old`` is empty for a ledger's first key."""

    old: str
    new: str
    from_size: int
    checkpoint: str


class RevokedOutput(OutputModel):
    """A key that counts for nothing from entry ``entry`` on."""

    key: str
    entry: int
    checkpoint: str


class RecoverOutput(OutputModel):
    """What is lost, and the checkpoint that is the newest now. ``lost`` is none where only the store had lost something."""

    lost: RecoveredOutput | None
    checkpoint: str


def keys(*, state: StateOption = DEFAULT_STATE, as_json: JsonOption = False) -> None:
    """List the keys that sign the ledger's checkpoints, from the genesis on, and what was ever recovered.

    Example: broker ledger keys --json
    """
    with open_local(state) as local:
        history = local.read(rotation.read_history)
        paths = local.paths
        key_file = str(read_public_key(paths.checkpoint_key)) if paths.checkpoint_key.exists() else ""
    items = tuple(
        SigningKeyOutput(key=str(item.key), from_size=item.from_size, until_size=item.until_size, revoked=item.revoked)
        for item in history.keys
    )
    recovered = tuple(
        RecoveredOutput(
            entry=item.seq,
            first=item.first,
            last=item.last,
            checkpoint_size=item.checkpoint.size,
            checkpoint_root=encode_base64(item.checkpoint.root),
            forked=item.forked,
        )
        for item in history.recovered
    )
    output = KeysOutput(
        origin=history.origin, anchored=history.anchored, key_file=key_file, items=items, recovered=recovered
    )
    emit(output, as_json=as_json, render=_render_keys)


def rotate_key(
    *,
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Make a fresh key and let it sign the ledger's checkpoints from now on; both keys sign the handing over.

    The old key's file is gone afterwards. A ledger from before there were keys gets its first.

    Example: broker ledger rotate-key
    """
    with _alone(state) as desk:
        by = acting_human(desk.local, human, key=key, cert=cert).identity.id
        emit(asyncio.run(_rotate(desk, by)), as_json=as_json, render=_render_rotated)


def revoke_key(
    *,
    vkey: Annotated[str, typer.Argument(metavar="VKEY", help="The key, as `broker ledger keys` prints it.")],
    reason: Annotated[str, typer.Option(help="Why; kept encrypted.")],
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key that was replaced: a checkpoint that it alone has signed counts for nothing any more.

    Example: broker ledger revoke-key "brk_01...+1ab4ad3c+Ad8b..." --reason "a copy of the disk was lost"
    """
    target = _vkey(vkey, "VKEY")
    with _alone(state) as desk:
        by = acting_human(desk.local, human, key=key, cert=cert).identity.id
        emit(asyncio.run(_revoke(desk, target, reason, by)), as_json=as_json, render=_render_revoked)


def recover(
    *,
    checkpoint_root: Annotated[
        str,
        typer.Option(
            help="The last six characters of the lost checkpoint's root, to confirm; without it: what is lost."
        ),
    ] = "",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A newer checkpoint that somebody else has kept, where the broker's own store lacks it."),
    ] = None,
    known_key: Annotated[
        list[str] | None,
        typer.Option(help="A VKEY known from elsewhere, if the lost entries brought it in; may be repeated."),
    ] = None,
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Take a ledger into service that lacks entries which were signed, such as a restored backup. This can't be undone.

    An entry names what is lost, for ever, and the verifier says `recovered` from then on. Look for a younger backup first.

    Example: broker ledger recover --checkpoint-root Xw2hk=
    """
    pinned = tuple(_vkey(text, "--known-key") for text in known_key or ())
    seen = None if checkpoint is None else _note(checkpoint)
    with _alone(state) as desk:
        by = acting_human(desk.local, human, key=key, cert=cert).identity.id
        signer = desk.signer()
        done = asyncio.run(
            recovery.recover(
                desk.local.store,
                desk.local.recorder,
                desk.checkpoints,
                signer,
                confirmation=checkpoint_root,
                by=by,
                seen=seen,
                pinned=pinned,
            )
        )
    emit(_recover_output(done), as_json=as_json, render=_render_recovered)


@dataclass(frozen=True, slots=True)
class _Desk:
    """A state directory that nobody else serves, with what its ledger is signed by."""

    local: Local
    settings: Settings
    checkpoints: DirectoryCheckpoints

    @property
    def paths(self) -> StatePaths:
        return self.local.paths

    def passphrase(self) -> Secret:
        return read_passphrase(self.settings.checkpoint_passphrase, self.paths.checkpoint_passphrase)

    def signer(self) -> FileSigner:
        """The signer in force, after a rotation that was cut off has been ended."""
        current = self.local.read(rotation.read_history).current
        paths = self.paths
        return rotation.open_signer(paths.checkpoint_key, paths.next_checkpoint_key, current, self.passphrase())


@contextmanager
def _alone(state: Path) -> Iterator[_Desk]:
    from broker.app.place import only_broker  # noqa: PLC0415 - brings the whole broker along, which reading needs not

    settings = load_settings(state)
    paths = StatePaths(state)
    with only_broker(paths), open_local(state) as local:
        yield _Desk(local, settings, DirectoryCheckpoints(checkpoints_of(state)))


async def _rotate(desk: _Desk, by: str) -> RotatedOutput:
    local, paths = desk.local, desk.paths
    if local.read(rotation.read_history).current is None and not paths.checkpoint_key.exists():
        return await _first_key(desk)
    old = desk.signer()
    await recovery.keep_checkpoint(local.store, desk.checkpoints, old)
    make_signer_file(paths.next_checkpoint_key, local.origin, desk.passphrase())
    new = FileSigner.load(paths.next_checkpoint_key, desk.passphrase())
    note = await rotation.rotate(local.store, local.recorder, old, new, by=by)
    rotation.settle_key_files(paths.checkpoint_key, paths.next_checkpoint_key, new.key)
    newest = await recovery.keep_checkpoint(local.store, desk.checkpoints, new)
    return RotatedOutput(
        old=str(old.key),
        new=str(new.key),
        from_size=Checkpoint.parse(note.text).size + 1,
        checkpoint=newest.encode().decode(),
    )


async def _first_key(desk: _Desk) -> RotatedOutput:
    paths = desk.paths
    if not desk.settings.checkpoint_passphrase and not paths.checkpoint_passphrase.exists():
        make_passphrase_file(paths.checkpoint_passphrase)
    key = make_signer_file(paths.checkpoint_key, desk.local.origin, desk.passphrase())
    note = await recovery.keep_checkpoint(desk.local.store, desk.checkpoints, desk.signer())
    return RotatedOutput(old="", new=str(key), from_size=1, checkpoint=note.encode().decode())


async def _revoke(desk: _Desk, target: VerifierKey, reason: str, by: str) -> RevokedOutput:
    local = desk.local
    signer = desk.signer()
    # First, so that the newest checkpoint is never one that only the revoked key has signed.
    await recovery.keep_checkpoint(local.store, desk.checkpoints, signer)
    entry = await rotation.revoke(local.store, local.recorder, local.vault, target, reason=reason, by=by, now=clock())
    note = await recovery.keep_checkpoint(local.store, desk.checkpoints, signer)
    return RevokedOutput(key=str(target), entry=entry, checkpoint=note.encode().decode())


def _recover_output(done: recovery.Recovery) -> RecoverOutput:
    loss, lost = done.loss, None
    if loss is not None and loss.entry is not None:
        lost = RecoveredOutput(
            entry=loss.entry,
            first=loss.first,
            last=loss.last,
            checkpoint_size=loss.checkpoint.size,
            checkpoint_root=encode_base64(loss.checkpoint.root),
            forked=loss.forked,
        )
    return RecoverOutput(lost=lost, checkpoint=done.note.encode().decode())


def _note(path: Path) -> Note:
    try:
        with path.open("rb") as file:
            note = Note.parse(file.read(MAX_NOTE_BYTES + 1))
    except OSError as error:
        raise InvalidArgumentError(
            f"--checkpoint {path} can't be read: {error.strerror}", reason="FILE_UNREADABLE"
        ) from error
    except NoteError as error:
        raise InvalidArgumentError(
            f"--checkpoint {path} is no checkpoint: {error}",
            reason="CHECKPOINT_INVALID",
            violations=(FieldViolation("--checkpoint", str(error)),),
        ) from error
    return note


def _vkey(text: str, field: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except NoteError as error:
        raise InvalidArgumentError(
            f"{field} is no key: {error}",
            reason="KEY_INVALID",
            violations=(FieldViolation(field, str(error)),),
            hint="Copy it whole, in quotes, as `broker ledger keys` prints it.",
        ) from error


def _render_keys(output: KeysOutput) -> None:
    console.print(f"ledger {output.origin}", markup=False)
    table = Table("key", "from size", "until", "state", box=None)
    for item in output.items:
        state = "revoked" if item.revoked else "in force" if item.until_size is None else "replaced"
        table.add_row(item.key, str(item.from_size), "" if item.until_size is None else str(item.until_size), state)
    console.print(table)
    if not output.anchored:
        console.print(
            "The genesis names no key: whoever checks must be given one, by a way of its own. The key file has: "
            f"{output.key_file or 'none'}",
            soft_wrap=True,
            markup=False,
        )
    for loss in output.recovered:
        fork = ", over another history" if loss.forked else ""
        console.print(
            f"entry {loss.entry}: entries {loss.first} to {loss.last} are lost{fork}", soft_wrap=True, style="yellow"
        )


def _render_rotated(output: RotatedOutput) -> None:
    if output.old:
        console.print(f"old key  {output.old}", soft_wrap=True, markup=False)
    console.print(f"new key  {output.new}", soft_wrap=True, markup=False)
    if output.old:
        console.print(f"It signs checkpoints from {output.from_size} entries on. The old key's file is gone.")
        console.print("If the old key may be in other hands, revoke it: broker ledger revoke-key VKEY --reason WHY")
    else:
        console.print("The genesis doesn't name it: give it to whoever shall check the ledger.", soft_wrap=True)


def _render_revoked(output: RevokedOutput) -> None:
    console.print(f"revoked by entry {output.entry}: {output.key}", soft_wrap=True, markup=False)
    console.print("What it alone has signed counts for nothing now.")


def _render_recovered(output: RecoverOutput) -> None:
    if output.lost is None:
        console.print(
            "Nothing is lost but the newest checkpoint: the ledger fits the one that was given, and has a new one."
        )
        return
    lost = output.lost
    fork = ", over a history that isn't this one" if lost.forked else ""
    console.print(f"entry {lost.entry} says it: entries {lost.first} to {lost.last} are lost{fork}", soft_wrap=True)
    console.print("The ledger can be served again; the verifier says `recovered` from now on.", soft_wrap=True)
    console.print("Witnesses that hold the lost checkpoint will refuse the new one: tell them.", soft_wrap=True)
