"""Does the ledger still hold what it held when this client last looked? Asked at connect and in intervals.

A checkpoint is taken only if the ledger's key signed it (the history of keys is followed from the genesis, each of its
entries proved to be in the tree) and if the tree extends the one that is remembered, or is extended by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from broker.client.checkpoint_memory import (
    MEMORY_DAMAGED,
    CheckpointMemory,
    MemoryFolder,
    Remembered,
    UnsafeNoCheckpointMemory,
    default_folder,
    parse_key,
)
from broker.client.errors import HistoryRewrittenError
from broker.domain.canonical import JsonObject, parse_object
from broker.errors import (
    BrokerError,
    CancelledCallError,
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
"""How long the first request of a client waits, at most, for the first check to be done."""
_RETRY_S = 2.0
_ENTRY_BYTES = 64 * 1024
_log = logging.getLogger(__name__)
_PASSING = (UnavailableError, DeadlineError, ResourceExhaustedError, CancelledCallError, UnauthenticatedError)
"""Failures that say nothing of the ledger. Any other that keeps a proof back counts as there being none."""


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
        self._gate = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._said: set[str] = set()
        self.failure: BrokerError | None = None
        """Why nothing more may be asked of this broker."""

    @property
    def keys(self) -> KeyHistory:
        """The ledger's keys, as far as the last accepted checkpoint reaches."""
        return self._keys

    async def ready(self, within_s: float) -> None:
        """Returns once the first check is done, or some seconds later; starts it where needed. Costs nothing after that.

        Raises:
            BrokerError: ``failure``.
        """
        if self._memory is not None and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(self._memory.interval_s))
        if self._watcher is not None and not self._settled.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(min(within_s, FIRST_CHECK_S)):
                    await self._settled.wait()
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        """Asks no more."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def check(self) -> Anchor:
        """Asks for the latest checkpoint and accepts it.

        Raises:
            HistoryRewrittenError: it can't be accepted.
            BrokerError: the broker couldn't be asked, or refuses.
        """
        known, _ = await self._remembered("")
        try:
            note = await self._source.checkpoint()
        except NotFoundError as error:
            if known is None:
                raise
            raise self._rewritten("HISTORY_ROLLED_BACK", "the broker says that there is no checkpoint", None) from error
        except NoteError as error:
            raise self._rewritten(
                "CHECKPOINT_FORGED", f"what the broker shows is no checkpoint: {error}", None
            ) from error
        return Anchor(note, await self.accept(note))

    async def accept(self, note: Note) -> Checkpoint:
        """What a checkpoint says, once it is shown to be signed, and of the same history as the remembered one.

        Raises:
            HistoryRewrittenError: it isn't; every later ``ready`` raises the same.
            BrokerError: the broker couldn't be asked, or refuses.
        """
        async with self._gate:
            try:
                return await self._accept(note)
            except HistoryRewrittenError as error:
                if self.failure is None:
                    self.failure = error
                    _log.error("%s %s", error.message, error.hint, extra={"reason": error.reason})
                raise

    async def _accept(self, note: Note) -> Checkpoint:
        try:
            shown = Anchor(note, Checkpoint.parse(note.text))
        except NoteError as error:
            raise self._rewritten(
                "CHECKPOINT_FORGED", f"what the broker shows is no checkpoint: {error}", note
            ) from error
        while True:
            known, on_disk = await self._remembered(shown.checkpoint.origin)
            self._check_origin(shown, known)
            if known is not None and known.note.text == note.text and self._keys.keys:
                return shown.checkpoint
            keys, texts = await self._key_history(shown, known)
            self._check_signature(shown, keys)
            if known is not None:
                await self._same_history(shown, known)
            self._keys = keys
            if known is not None and known.checkpoint.size >= shown.checkpoint.size:
                return shown.checkpoint
            if await self._remember(on_disk, Remembered(note, texts, self._authority)):
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
            raise FailedPreconditionError(
                "the ledger's genesis names no key, so its checkpoints can't be judged",
                reason="LEDGER_KEY_UNKNOWN",
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
                for seq, data in await self._source.key_entries(first, shown.checkpoint.size):
                    entry = await self._proved(shown, seq, data)
                    history.entry(entry)
                    await self._rotation(shown, seq, entry)
                    texts.append(data.decode())
        except (KeyHistoryError, NoteError, ProofError, UnicodeDecodeError, InvalidArgumentError) as error:
            why = f"the entries that name the ledger's keys don't fit: {error}"
            raise self._rewritten("CHECKPOINT_FORGED", why, shown.note) from error
        return history, tuple(texts)

    async def _proved(self, shown: Anchor, seq: int, data: bytes) -> JsonObject:
        proof = await self._source.inclusion(seq, shown.checkpoint.size)
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
        hashes = await self._source.consistency(seq, shown.checkpoint.size)
        verify_consistency(before.size, before.root, shown.checkpoint.size, shown.checkpoint.root, hashes)

    async def _same_history(self, shown: Anchor, known: Remembered) -> None:
        old, new = sorted((known.checkpoint, shown.checkpoint), key=lambda item: item.size)
        cause: Exception
        try:
            hashes = () if old.size == new.size else await self._source.consistency(old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, hashes)
        except ProofError as error:
            why, cause = str(error), error
        except BrokerError as error:
            if isinstance(error, _PASSING) or _not_offered(error):
                raise
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

    async def _watch(self, interval_s: float) -> None:
        failures = 0
        while True:
            wait = interval_s
            try:
                await self.check()
                failures = 0
            except BrokerError as error:
                if isinstance(error, HistoryRewrittenError) or error.reason == MEMORY_DAMAGED:
                    self.failure = self.failure or error
                    return
                failures += 1
                wait = min(interval_s, _RETRY_S * 2 ** min(failures - 1, 10))
                if self._gave_up(error):
                    return
            except Exception:  # noqa: BLE001 - a defect of the check is told as such, and stops what it guards
                # Fail closed: without the check nobody would notice what it is there for.
                _log.exception("the check of the ledger's history failed by a defect of this client")
                self.failure = InternalError(
                    "the check of the ledger's history failed by a defect of this client; the log has it",
                    reason="CHECKPOINT_CHECK_FAILED",
                    hint="Report it. UnsafeNoCheckpointMemory() connects without the check.",
                )
            finally:
                self._settled.set()
            if self.failure is not None:
                return
            await asyncio.sleep(wait)

    def _gave_up(self, error: BrokerError) -> bool:
        """Says what keeps the check from being made; is it no use to ask again?"""
        refused = _not_offered(error) or error.reason == "LEDGER_KEY_UNKNOWN"
        if refused:
            # A broker that showed its checkpoints before and doesn't now has something to explain.
            level = logging.INFO if self._known is None else logging.WARNING
            self._say(level, f"the ledger's history isn't checked: {error.message}")
        elif not isinstance(error, NotFoundError):
            self._say(logging.INFO, f"the ledger's history could not be checked, and will be later: {error.message}")
        return refused

    def _say(self, level: int, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _log.log(level, text)

    def _rewritten(self, reason: str, why: str, shown: Note | None) -> HistoryRewrittenError:
        known = self._known
        metadata = {"origin": known.checkpoint.origin} if known is not None else {}
        place: Path | None = None
        if known is not None:
            metadata["remembered_size"] = str(known.checkpoint.size)
            if self._folder is not None:
                place = self._folder.path(known.checkpoint.origin)
                metadata["memory"] = str(place)
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


def _object(data: bytes) -> JsonObject:
    return parse_object(data, field="entry", max_bytes=_ENTRY_BYTES)
