"""Does the ledger still hold what it held when this client last looked? Asked at connect and in intervals.

A checkpoint is taken only if the ledger's key signed it (the history of keys is followed from the genesis, each of its
entries proved to be in the tree) and if the tree extends the one that is remembered, or is extended by it. The latest may
not be smaller than the remembered one.

What a broker keeps back counts against it, or a rewritten history would only have to be kept quiet. Once it has shown a
checkpoint, a refusal of what proves it is a rewritten history. Failures that pass are borne for a while; then no request
goes out until the proof is there. Only a client that remembers nothing does without what it isn't shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from broker.client.checkpoint_memory import (
    MEMORY_DAMAGED,
    CheckpointMemory,
    MemoryFolder,
    Remembered,
    UnsafeNoCheckpointMemory,
    default_folder,
    parse_key,
)
from broker.client.errors import HANDSHAKE_FAILED, HistoryRewrittenError
from broker.domain.canonical import JsonObject, parse_object
from broker.errors import (
    BrokerError,
    CancelledCallError,
    DataLossError,
    DeadlineError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KeyHistory, KeyHistoryError
from broker.tlog.merkle import ProofError, leaf_hash, verify_consistency, verify_inclusion
from broker.tlog.note import Note, NoteError
from broker.tlog.proof import TlogProof

FIRST_CHECK_S = 5.0
"""How long a request waits, at most, for a check where nothing is remembered, or where one more check is made for it."""
FIRST_TRIES = 7
"""How often the first check of a client is made, in about five seconds, before its requests are refused for want of it. A
program that makes one request and ends has no other check than this one."""
_RETRY_S = 0.1
_ENTRY_BYTES = 64 * 1024
_KEY_UNKNOWN = "LEDGER_KEY_UNKNOWN"
_UNPROVED = "HISTORY_UNPROVED"
_log = logging.getLogger(__name__)
_PASSING = (UnavailableError, DeadlineError, ResourceExhaustedError, CancelledCallError, UnauthenticatedError)
"""Failures that may pass: borne for a while. Any other that keeps a proof back counts as there being none."""
_Answer = TypeVar("_Answer")


class LedgerSource(Protocol):
    """What is asked of the broker; each may raise any ``BrokerError``."""

    async def checkpoint(self) -> Note:
        """The latest checkpoint."""

    async def key_entries(self, first: int, before: int) -> Sequence[tuple[int, bytes]]:
        """Numbers and bytes of the entries that a key history is made of, in order."""

    async def inclusion(self, seq: int, size: int) -> TlogProof:
        """The proof that an entry is in the tree of a checkpoint."""

    async def consistency(self, old_size: int, size: int) -> Sequence[bytes]:
        """The proof that the tree of a checkpoint extends a smaller one."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A signed note and the checkpoint that it is."""

    note: Note
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Anchored:
    """The newest checkpoint that is known to hold, and the leaf hash of the ledger's first entry.

    ``genesis_leaf`` is empty where no entry of the key history was proved: with a ledger whose genesis names no key.
    """

    checkpoint: Checkpoint
    genesis_leaf: bytes


class History:
    """What a client knows of its broker's ledger.

    Args:
        source: asks the broker.
        memory: where to remember, or that nothing is to be remembered.
        ca: PEM of the CA that vouches for the broker; empty where there is none.
    """

    def __init__(self, source: LedgerSource, memory: CheckpointMemory | UnsafeNoCheckpointMemory, ca: bytes) -> None:
        self._source = source
        self._memory = memory if isinstance(memory, CheckpointMemory) else None
        folder = None if self._memory is None else self._memory.folder or default_folder()
        self._folder = None if folder is None else MemoryFolder(folder)
        self._authority = hashlib.sha256(ca).hexdigest() if ca else ""
        key = parse_key(memory.key)
        self._pinned = () if key is None else (key,)
        self._known: Remembered | None = None
        self._keys = KeyHistory()
        self._unproved: Note | None = None
        """What the broker has shown, and not proved yet. It stays until it is proved: whoever showed it must."""
        self._gate = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        """Set once the first check is decided."""
        self._wake = asyncio.Event()
        """Set to have the next check made at once."""
        self._round = asyncio.Event()
        """Set, and replaced by another, at the end of each check."""
        self._held: BrokerError | None = None
        self._said: set[tuple[int, str]] = set()
        self.failure: BrokerError | None = None
        """Why nothing more may be asked of this broker, whatever it shows."""

    @property
    def keys(self) -> KeyHistory:
        """The ledger's keys, as far as the last accepted checkpoint reaches."""
        return self._keys

    async def seen(self) -> int:
        """The size of the largest checkpoint that is known of the ledger; a later answer may not be a smaller latest one.

        Raises:
            FailedPreconditionError: ``CHECKPOINT_MEMORY_DAMAGED``.
        """
        known, _ = await self._remembered("")
        return 0 if known is None else known.checkpoint.size

    async def ready(self, within_s: float) -> None:
        """Returns once a request may go out; makes the first check where needed. Costs nothing after that.

        Raises:
            HistoryRewrittenError: the history was rewritten, or for too long the broker hasn't shown that it wasn't.
            BrokerError: the broker couldn't be asked, and there is something remembered to ask about.
        """
        if self._memory is not None and self._watcher is None and self.failure is None:
            self._watcher = asyncio.create_task(self._watch(self._memory))
        if self._watcher is not None and self.failure is None:
            if not self._settled.is_set():
                await self._first_check(within_s)
            elif self._held is not None:
                self._wake.set()
                await _within(min(within_s, FIRST_CHECK_S), self._round)
        error = self.failure or self._held
        if error is not None:
            raise error

    async def _first_check(self, within_s: float) -> None:
        at_most = min(within_s, FIRST_CHECK_S)
        await _within(at_most, self._settled)
        if self._settled.is_set() or not self._owed():
            return
        await _within(within_s - at_most, self._settled)
        if not self._settled.is_set():
            raise DeadlineError(
                "the broker hasn't shown in time that its ledger is what it was, so nothing was asked of it",
                hint="Give the request a longer timeout, or ask the broker's operators what holds it up.",
            )

    async def close(self) -> None:
        """Asks no more, and lets nothing go out that waits for an answer."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            self.failure = self.failure or CancelledCallError("the client was closed", reason="CLIENT_CLOSED")
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            self._settled.set()

    async def check(self) -> Anchor:
        """Asks for the latest checkpoint and accepts it.

        Raises:
            HistoryRewrittenError: it can't be accepted.
            BrokerError: the broker couldn't be asked, or refuses.
        """
        found = await self._check_latest()
        if self._known is not None and self._known.checkpoint.size > found.checkpoint.size:
            # Another process saw a larger one while this answer was on its way; now the broker has to show that.
            found = await self._check_latest()
        return found

    async def _check_latest(self) -> Anchor:
        # The memory is read before the question: what is remembered by then the answer can't be behind.
        at_least = await self.seen()
        try:
            note = await self._source.checkpoint()
        except NotFoundError as error:
            if not self._owed():
                raise
            raise self._rewritten("HISTORY_ROLLED_BACK", "the broker says that there is no checkpoint", None) from error
        except NoteError as error:
            raise self._rewritten(
                "CHECKPOINT_FORGED", f"what the broker shows is no checkpoint: {error}", None
            ) from error
        return Anchor(note, await self._take(note, at_least))

    async def newest(self) -> Anchored | None:
        """What a signer says that it has seen: the newest checkpoint, asked for now and verified against all before.

        ``None`` where the broker offers none, and never showed one.

        Raises:
            HistoryRewrittenError: it can't be accepted.
            BrokerError: the broker couldn't be asked.
        """
        try:
            await self.check()
        except HistoryRewrittenError as error:
            self._fail(error)
            raise
        except BrokerError as error:
            nothing = _not_offered(error) or isinstance(error, NotFoundError) or error.reason == _KEY_UNKNOWN
            if self._owed() or not nothing:
                raise
            return None
        known, _ = await self._remembered("")
        if known is None:
            return None
        return Anchored(known.checkpoint, leaf_hash(known.key_entries[0].encode()) if known.key_entries else b"")

    async def accept(self, note: Note, *, at_least: int = 0) -> Checkpoint:
        """What a checkpoint says, once it is shown to be signed, and of the same history as the remembered one.

        Args:
            note: the checkpoint.
            at_least: what it can't be smaller than: for the latest one, ``seen`` from before it was asked for.

        Raises:
            HistoryRewrittenError: it isn't; every later ``ready`` raises the same.
            BrokerError: the broker couldn't be asked, or refuses.
        """
        try:
            return await self._take(note, at_least)
        except BrokerError:
            # The watch must know of what was shown and not proved, and from now on count for how long.
            self._wake.set()
            raise

    async def _take(self, note: Note, at_least: int) -> Checkpoint:
        async with self._gate:
            try:
                if self._unproved is not None and self._unproved.text != note.text:
                    await self._prove(self._unproved, 0)
                return await self._prove(note, at_least)
            except HistoryRewrittenError as error:
                self._fail(error)
                raise

    async def _prove(self, note: Note, at_least: int) -> Checkpoint:
        try:
            shown = Anchor(note, Checkpoint.parse(note.text))
        except NoteError as error:
            raise self._rewritten(
                "CHECKPOINT_FORGED", f"what the broker shows is no checkpoint: {error}", note
            ) from error
        while True:
            known, on_disk = await self._remembered(shown.checkpoint.origin)
            self._check_origin(shown, known)
            if known is None or known.note.text != note.text:
                self._unproved = note
            keys, texts = await self._key_history(shown, known)
            self._check_signature(shown, keys)
            if shown.checkpoint.size < at_least:
                why = f"the broker's latest checkpoint is of {shown.checkpoint.size} entries, after one of {at_least}"
                raise self._rewritten("HISTORY_ROLLED_BACK", why + await self._excuse(shown), note)
            if known is not None:
                await self._same_history(shown, known)
            if (known is not None and known.checkpoint.size >= shown.checkpoint.size) or await self._remember(
                on_disk, Remembered(note, texts, self._authority)
            ):
                self._keys, self._unproved = keys, None
                return shown.checkpoint

    # What is remembered

    async def _remembered(self, origin: str) -> tuple[Remembered | None, Remembered | None]:
        """The largest checkpoint that is known of the ledger, and the one on the disk; ``origin`` is what was shown."""
        folder = self._folder
        if folder is None:
            return self._known, None
        try:
            if self._pinned:
                origin = self._pinned[0].name
            elif self._authority:
                origin = await asyncio.to_thread(folder.origin_of, self._authority) or origin
            on_disk = await asyncio.to_thread(folder.read, origin) if origin else None
        except OSError as error:
            self._say(logging.WARNING, f"the checkpoint that was remembered can't be read: {error}")
            return self._known, None
        if on_disk is not None and (self._known is None or on_disk.checkpoint.size >= self._known.checkpoint.size):
            self._known = on_disk
        return self._known, on_disk

    async def _remember(self, on_disk: Remembered | None, new: Remembered) -> bool:
        """Remembers it, unless another process was quicker: then its checkpoint and ours must be of one history too."""
        if self._folder is None and self._memory is not None:
            self._say(logging.WARNING, "no checkpoint can be remembered for later: the user has no home folder")
        if self._folder is not None:
            try:
                if not await asyncio.to_thread(self._folder.replace, on_disk, new):
                    return False
            except OSError as error:
                self._say(logging.WARNING, f"no checkpoint can be remembered for later: {error}")
        self._known = new
        return True

    def _check_origin(self, shown: Anchor, known: Remembered | None) -> None:
        expected = self._pinned[0].name if self._pinned else known.checkpoint.origin if known is not None else ""
        if expected and shown.checkpoint.origin != expected:
            why = f"the broker shows the ledger {shown.checkpoint.origin!a} in the place of {expected!a}"
            raise self._rewritten("LEDGER_REPLACED", why, shown.note)

    # What the broker must show

    def _check_signature(self, shown: Anchor, keys: KeyHistory) -> None:
        if not keys.keys and not self._pinned:
            self._unproved = None  # nobody can prove it, however long one waits
            raise FailedPreconditionError(
                "the ledger's genesis names no key, so its checkpoints can't be judged",
                reason=_KEY_UNKNOWN,
                hint="Get the key from the broker's operator, and give it as CheckpointMemory(key=...).",
            )
        try:
            keys.check(shown.note, self._pinned)
        except NoteError as error:
            raise self._rewritten("CHECKPOINT_FORGED", str(error), shown.note) from error

    async def _key_history(self, shown: Anchor, known: Remembered | None) -> tuple[KeyHistory, tuple[str, ...]]:
        history = KeyHistory()
        texts = list(known.key_entries) if known is not None else []
        first = known.checkpoint.size if known is not None else 0
        try:
            for text in texts:
                history.entry(_object(text.encode()))
            if shown.checkpoint.size > first:
                found = self._source.key_entries(first, shown.checkpoint.size)
                for seq, data in await self._told(shown, "the entries that name the ledger's keys", found):
                    entry = await self._proved(shown, seq, data)
                    history.entry(entry)
                    await self._rotation(shown, seq, entry)
                    texts.append(data.decode())
        except (KeyHistoryError, NoteError, ProofError, UnicodeDecodeError, InvalidArgumentError) as error:
            why = f"the entries that name the ledger's keys don't fit: {error}"
            raise self._rewritten("CHECKPOINT_FORGED", why, shown.note) from error
        return history, tuple(texts)

    async def _proved(self, shown: Anchor, seq: int, data: bytes) -> JsonObject:
        asked = self._source.inclusion(seq, shown.checkpoint.size)
        proof = await self._told(shown, f"the proof that entry {seq} is in its ledger", asked)
        verify_inclusion(leaf_hash(data), seq, shown.checkpoint.size, proof.hashes, shown.checkpoint.root)
        entry = _object(data)
        if entry.get("seq") != seq:
            raise KeyHistoryError(f"entry {seq} says that it is another")
        return entry

    async def _rotation(self, shown: Anchor, seq: int, entry: JsonObject) -> None:
        # Both keys signed a tree: it must be the beginning of the one that is shown.
        if entry.get("type") != "signer.rotated":
            return
        before = Checkpoint.parse(Note.parse(str(entry.get("checkpoint")).encode()).text)
        asked = self._source.consistency(seq, shown.checkpoint.size)
        hashes = await self._told(shown, "the proof for a change of the ledger's key", asked)
        verify_consistency(before.size, before.root, shown.checkpoint.size, shown.checkpoint.root, hashes)

    async def _told(self, shown: Anchor, what: str, answer: Awaitable[_Answer]) -> _Answer:
        try:
            return await answer
        except _PASSING:
            raise
        except BrokerError as error:
            why = f"the broker shows a checkpoint and keeps back {what}: {error.message}"
            raise self._rewritten("HISTORY_REWRITTEN", why, shown.note) from error

    async def _same_history(self, shown: Anchor, known: Remembered) -> None:
        old, new = sorted((known.checkpoint, shown.checkpoint), key=lambda item: item.size)
        cause: Exception
        try:
            hashes = () if old.size == new.size else await self._source.consistency(old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, hashes)
        except ProofError as error:
            why, cause = str(error), error
        except _PASSING:
            raise
        except BrokerError as error:
            why, cause = f"the broker can't show that one follows from the other: {error.message}", error
        else:
            return
        reason = "HISTORY_ROLLED_BACK" if shown.checkpoint.size < known.checkpoint.size else "HISTORY_REWRITTEN"
        raise self._rewritten(reason, why + await self._excuse(shown), shown.note) from cause

    async def _excuse(self, shown: Anchor) -> str:
        """What the broker's own entries say of lost ones; nothing of it is believed."""
        try:
            entries = [_object(data) for _, data in await self._source.key_entries(0, shown.checkpoint.size)]
        except BrokerError:
            return ""
        lost = [entry.get("lost") for entry in entries if entry.get("type") == "recovered"]
        ranges = [f"{item.get('from')} to {item.get('to')}" for item in lost if isinstance(item, dict)]
        return f"; the broker says that entries were lost: {', '.join(ranges)}" if ranges else ""

    # The watch

    async def _watch(self, memory: CheckpointMemory) -> None:
        clock = asyncio.get_running_loop().time
        tries, since = 0, clock()
        while self.failure is None:
            self._wake.clear()
            wait = memory.interval_s
            if not tries:
                since = clock()
            try:
                await self.check()
            except BrokerError as error:
                tries += 1
                left = memory.unproved_s - (clock() - since)
                wait = min(wait, _RETRY_S * 2 ** min(tries - 1, 20), left if left > 0 else wait)
                if self._gave_up(error, tries, left):
                    return
            except Exception:  # noqa: BLE001 - a defect of the check is told as such, and stops what it guards
                # Fail closed: without the check nobody would notice what it is there for.
                _log.exception("the check of the ledger's history failed by a defect of this client")
                self.failure = InternalError(
                    "the check of the ledger's history failed by a defect of this client; the log has it",
                    reason="CHECKPOINT_CHECK_FAILED",
                    hint="Report it. UnsafeNoCheckpointMemory() connects without the check.",
                )
                self._settled.set()
                return
            else:
                tries = 0
                self._let_go()
                self._settled.set()
            finally:
                ended, self._round = self._round, asyncio.Event()
                ended.set()
            await _within(wait, self._wake)

    def _gave_up(self, error: BrokerError, tries: int, left_s: float) -> bool:
        """Judges a check that couldn't be made; is it no use to ask again?"""
        if isinstance(error, HistoryRewrittenError) or error.reason == MEMORY_DAMAGED:
            self._fail(error)
            self._settled.set()
            return True
        if not self._owed():
            self._settled.set()
            if _not_offered(error) or error.reason == _KEY_UNKNOWN:
                self._say(logging.INFO, f"the ledger's history isn't checked: {error.message}")
                return True
            text = f"the ledger's history could not be checked, and will be later: {error.message}"
            self._say(logging.INFO, text)
            return False
        too_long = left_s <= 0 or (not self._settled.is_set() and (tries >= FIRST_TRIES or self._no_use(error)))
        if too_long or _not_offered(error) or error.reason == _KEY_UNKNOWN:
            self._hold(error)
            self._settled.set()
        else:
            # A restart of the broker looks like this once; with a checkpoint shown and not proved, twice is odd.
            level = logging.ERROR if self._unproved is not None and tries > 1 else logging.INFO
            what = "the ledger's history could not be checked"
            if self._unproved is not None:
                what = "a checkpoint of the ledger is shown, and not proved"
            self._say(level, f"{what}; asked again for a while: {error.message}")
        return False

    def _owed(self) -> bool:
        """Is there a checkpoint, remembered or shown, for which the broker has to answer?"""
        return self._known is not None or self._unproved is not None

    def _no_use(self, error: BrokerError) -> bool:
        """Would a request fail the same way, so that it may as well do so at once?"""
        lasting = isinstance(error, UnauthenticatedError | DataLossError) or error.reason == HANDSHAKE_FAILED
        return lasting and self._unproved is None

    def _hold(self, error: BrokerError) -> None:
        """Lets nothing go out until a check succeeds."""
        # Where a broker that is away has shown nothing, a request fails as it would have without the check.
        plain = isinstance(error, (*_PASSING, DataLossError)) and self._unproved is None
        held = error if plain or error.reason == _KEY_UNKNOWN else self._not_shown(error)
        if self._held is None or str(self._held) != str(held):
            self._held = held
        text = f"no request goes out until the broker shows that the ledger is what it was: {error.message}"
        self._say(logging.ERROR, f"{text} {held.hint}".rstrip())

    def _let_go(self) -> None:
        if self._held is not None:
            self._held = None
            self._said.clear()  # the next time it is news again
            _log.warning("the broker shows again that the ledger is what it was")

    def _fail(self, error: BrokerError) -> None:
        if self.failure is None:
            self.failure = error
            _log.error("%s %s", error.message, error.hint, extra={"reason": error.reason})

    def _say(self, level: int, text: str) -> None:
        if (level, text) not in self._said:
            self._said.add((level, text))
            _log.log(level, text)

    def _not_shown(self, error: BrokerError) -> HistoryRewrittenError:
        if isinstance(error, PermissionDeniedError):
            rule = error.metadata.get("rule", "")
            named = f"The policy rule {rule} denies it" if rule else "It is denied"
            do = f"{named}: ask the broker's operators to allow broker.v1.Ledger/* to this identity."
        elif _not_offered(error):
            do = "It had the service before: is it the same broker, and no older than it was? Ask its operators."
        else:
            do = "Each further request asks again; if it stays so, ask the broker's operators and auditors."
        return HistoryRewrittenError(
            f"THE BROKER DOESN'T SHOW THAT THE LEDGER'S HISTORY IS WHAT IT WAS: {error.message}",
            remembered=self._known.note.encode().decode() if self._known is not None else "",
            shown=self._unproved.encode().decode() if self._unproved is not None else "",
            reason=_UNPROVED,
            hint=f"{do} UnsafeNoCheckpointMemory() goes without the check: a rewritten history is then not noticed.",
            metadata={**error.metadata, **self._place()},
        )

    def _place(self) -> dict[str, str]:
        known = self._known
        if known is None:
            return {}
        found = {"origin": known.checkpoint.origin, "remembered_size": str(known.checkpoint.size)}
        if self._folder is not None:
            found["memory"] = str(self._folder.path(known.checkpoint.origin))
        return found

    def _rewritten(self, reason: str, why: str, shown: Note | None) -> HistoryRewrittenError:
        known, metadata = self._known, self._place()
        place = metadata.get("memory")
        forget = f" If they give a good reason, and only then, remove {place}." if place is not None else ""
        return HistoryRewrittenError(
            f"THE LEDGER'S HISTORY IS NOT WHAT IT WAS, or not honestly signed: {why}",
            remembered=known.note.encode().decode() if known is not None else "",
            shown=shown.encode().decode() if shown is not None else "",
            reason=reason,
            hint=f"Keep both checkpoints as evidence and ask the broker's operators and auditors.{forget}",
            metadata=metadata,
        )


def _not_offered(error: BrokerError) -> bool:
    return isinstance(error, PermissionDeniedError) or error.reason == "UNIMPLEMENTED"


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Waits for an event, and no longer than so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()


def _object(data: bytes) -> JsonObject:
    return parse_object(data, field="entry", max_bytes=_ENTRY_BYTES)
