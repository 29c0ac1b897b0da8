"""Signs checkpoints of the ledger as it grows, keeps them apart from it and hands them to those outside.

A round appends a ``heads`` entry, reads the tree's root, compares it with the newest checkpoint by a consistency proof,
signs, and moves the store of checkpoints by compare-and-swap. Every round begins with what is kept, never with what the
one before believed to have done: so a step that failed, or that was done and reported as failed, is found as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final, Self

import structlog

from broker.domain.canonical import JsonObject
from broker.domain.ports import Recorder, Store, Transaction
from broker.errors import BrokerError, ConflictError, DataLossError, FailedPreconditionError, UnavailableError
from broker.ledger.checkpoint_check import MOST_KEPT, Course, Standing, compare, forked, new_heads
from broker.ledger.checkpoint_store import CheckpointStore
from broker.ledger.publish import FIRST_WAIT_S, Delivery, DeliveryStatus, Publisher
from broker.ledger.signer import Signer
from broker.ledger.tree import Tree
from broker.ledger.witness import Witness
from broker.tlog.agent_map import AgentMap
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import ProofError, verify_consistency
from broker.tlog.note import Note, NoteError, sign

CLOSING_S: Final = 5.0
"""How long the end of a broker waits for holders that took the last checkpoint but one."""
_ATTEMPTS: Final = 8

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointStatus:
    """How it stands. ``last_error`` is empty after a round that went well; ``unfit`` says why there will be none."""

    size: int | None = None
    """Of the newest checkpoint."""
    root: str = ""
    """Of the newest checkpoint, hexadecimal."""
    last_success: datetime | None = None
    failures: int = 0
    """Rounds in a row that failed."""
    last_error: str = ""
    unfit: str = ""
    holders: tuple[DeliveryStatus, ...] = ()


class Checkpointer:
    """Makes a checkpoint every so often if there is something new; an async context manager.

    Args:
        store: of the ledger.
        ledger: appends to it.
        signer: signs checkpoints; its key's name is the ledger's origin.
        checkpoints: where they are kept.
        publishers: who gets them.
        witnesses: who cosigns them.
        clock: the time now, with a zone.
        interval_s: between rounds.
        on_unfit: called once, with a ``DataLossError``, when the ledger isn't what was signed: take no calls any more.
        first_wait_s: before a holder that failed is tried again.
    """

    def __init__(
        self,
        *,
        store: Store,
        ledger: Recorder,
        signer: Signer,
        checkpoints: CheckpointStore,
        publishers: Sequence[Publisher] = (),
        witnesses: Sequence[Witness] = (),
        clock: Callable[[], datetime],
        interval_s: float,
        on_unfit: Callable[[BrokerError], None],
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._signer = signer
        self._checkpoints = checkpoints
        self._clock = clock
        self._interval_s = interval_s
        self._on_unfit = on_unfit
        self._publishing = tuple(Delivery(item, clock, first_wait_s) for item in publishers)
        cosigners = (_Cosigner(item, store, checkpoints, self._cosigned) for item in witnesses)
        self._witnessing = tuple(Delivery(item, clock, first_wait_s) for item in cosigners)
        self._gate = asyncio.Lock()
        self._stop = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._rounds: set[asyncio.Task[Note | None]] = set()
        self._course = Course()
        self._agents = _Agents()
        self._newest: Note | None = None
        self._unfit: DataLossError | None = None
        self._status = CheckpointStatus()

    async def __aenter__(self) -> Self:
        for delivery in (*self._publishing, *self._witnessing):
            delivery.start()
        await self._try()
        self._loop = asyncio.create_task(self._run(), name="checkpoints")
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._stop.set()
        if self._loop is not None:
            await self._loop
        await self._try()
        await asyncio.gather(*self._rounds, return_exceptions=True)
        # Witnesses first: what they sign is for the others.
        await asyncio.gather(*(delivery.close(CLOSING_S) for delivery in self._witnessing))
        await asyncio.gather(*(delivery.close(CLOSING_S) for delivery in self._publishing))

    @property
    def newest(self) -> Note | None:
        """The newest checkpoint as of the last round, with the cosignatures of then."""
        return self._newest

    @property
    def status(self) -> CheckpointStatus:
        """How it stands now."""
        holders = tuple(delivery.status for delivery in (*self._publishing, *self._witnessing))
        return replace(self._status, holders=holders)

    async def publish_now(self) -> Note | None:
        """Makes a checkpoint of all that is durable now, if the newest isn't one; returns the newest.

        Cancelling the caller doesn't stop it.

        Returns:
            The newest checkpoint; ``None`` where the ledger is empty.

        Raises:
            DataLossError: the ledger isn't what was signed (reasons as ``compare`` has them); there will be no further
                checkpoint before a new start.
            FailedPreconditionError: ``CHECKPOINT_SIGNER``: the ledger demands another key than the signer has.
            UnavailableError: the store or the checkpoints are away; the next round begins anew.
        """
        task = asyncio.create_task(self._guarded())
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Returns once every holder has the newest checkpoint."""
        for delivery in (*self._witnessing, *self._publishing):
            await delivery.settle()

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._stop.wait()
            except TimeoutError:
                await self._try()

    async def _try(self) -> None:
        if self._unfit is not None:
            return
        try:
            await self.publish_now()
        except BrokerError as error:
            _log.warning("checkpoint.failed", reason=error.reason, error=error.message)
        except Exception:  # noqa: BLE001 - a defect in one round must not end all later ones
            _log.exception("checkpoint.defect")

    async def _guarded(self) -> Note | None:
        async with self._gate:
            if self._unfit is not None:
                raise self._unfit
            try:
                note = await self._round()
            except DataLossError as error:
                self._unfit = error
                self._failed(error)
                self._status = replace(self._status, unfit=f"{error.reason}: {error.message}")
                _log.error("checkpoint.unfit", reason=error.reason, error=error.message)
                self._on_unfit(error)
                raise
            except Exception as error:
                self._failed(error)
                raise
            checkpoint = None if note is None else Checkpoint.parse(note.text)
            self._status = CheckpointStatus(
                None if checkpoint is None else checkpoint.size,
                "" if checkpoint is None else checkpoint.root.hex(),
                self._clock(),
            )
            if note is not None and note != self._newest:
                self._newest = note
                self._offer(note)
            return note

    def _failed(self, error: Exception) -> None:
        what = f"{error.reason}: {error.message}" if isinstance(error, BrokerError) else type(error).__name__
        self._status = replace(self._status, failures=self._status.failures + 1, last_error=what)

    def _offer(self, note: Note) -> None:
        for delivery in (*self._publishing, *self._witnessing):
            delivery.offer(note)

    def _cosigned(self, note: Note) -> None:
        for delivery in self._publishing:
            delivery.offer(note)

    async def _round(self) -> Note | None:
        for _ in range(_ATTEMPTS):
            note, standing = await self._stand()
            if standing.covered:
                return note
            seq = standing.pending
            if seq is None:
                seq = await self._append_heads()
            signed = await self._sign(standing, seq + 1)
            try:
                await self._checkpoints.swap(note, signed, lost_from=standing.lost_from)
            except ConflictError:
                continue  # somebody else was first: does ours extend theirs? The next turn looks
            if standing.pending is None:
                return signed
        raise UnavailableError("others move the checkpoints all the time", reason="CHECKPOINT_STORE_BUSY")

    async def _stand(self) -> tuple[Note | None, Standing]:
        while True:
            note = await self._checkpoints.latest()
            try:
                standing = await self._store.read(partial(self._compare, note, ()))
                if standing.lost_from is not None:
                    # Part of the history is about to be given up: what was kept of the rest must stand.
                    kept = await self._checkpoints.history(MOST_KEPT)
                    standing = await self._store.read(partial(self._compare, note, kept))
                self._check_kept(standing)
            except DataLossError:
                # Another process may have moved both between the two readings.
                if await self._checkpoints.latest() == note:
                    raise
            else:
                return note, standing

    def _compare(self, note: Note | None, kept: Sequence[Note], tx: Transaction) -> Standing:
        standing = compare(tx, self._course, note, self._signer.key, kept=kept)
        if not standing.covered:
            # The greater part is done here, where nobody waits: the writing transaction has only what came since.
            self._agents.catch_up(tx, standing.size)
        return standing

    def _check_kept(self, standing: Standing) -> None:
        """The checkpoints never go back under a running broker."""
        seen = self._status.size
        if seen is None or standing.lost_from is not None:
            return
        if standing.checkpoint is None or standing.checkpoint.size < seen:
            raise DataLossError(
                f"a checkpoint of {seen} entries was kept, and isn't any more",
                reason="CHECKPOINTS_MISSING",
                hint="Restore the folder of checkpoints (setting checkpoint_dir), then start the broker again.",
            )

    async def _append_heads(self) -> int:
        agents, first = self._agents, self._course.size

        def work(tx: Transaction) -> int:
            there = new_heads(tx, first)
            if there is not None:
                return there  # another process has begun a checkpoint: ours is the same
            head = tx.ledger.head()
            agents.catch_up(tx, 0 if head is None else head.seq + 1)
            body: JsonObject = {"agents": len(agents.map), "root": agents.map.root().hex()}
            return self._ledger.append(tx, "heads", {"heads": body})

        try:
            return await self._store.write(work)
        except BaseException:
            # What it has read there may never have been committed.
            self._agents = _Agents()
            raise

    async def _sign(self, standing: Standing, size: int) -> Note:
        root = await self._store.read(lambda tx: self._root(tx, standing, size))
        key = self._signer.key
        text = Checkpoint(self._course.keys.origin, size, root).text()
        try:
            # It verifies what the signer gives: nothing that isn't signed right goes any further.
            signature = await asyncio.to_thread(sign, text, key, self._signer.sign)
        except NoteError as error:
            raise UnavailableError(f"the signer failed: {error}", reason="CHECKPOINT_SIGNER_FAILED") from error
        return Note(text, (signature,))

    def _root(self, tx: Transaction, standing: Standing, size: int) -> bytes:
        """The root to sign: of a tree that extends the newest checkpoint's, by a proof that a stranger would accept."""
        self._course.read(tx)
        wanted, own = self._course.keys.current, self._signer.key
        if wanted is not None and self._course.keys.key_for(size) != own:
            raise FailedPreconditionError(
                f"the ledger demands that {wanted} signs; the key file holds {own}",
                reason="CHECKPOINT_SIGNER",
                hint="Restore the key file that belongs to this ledger, or start the broker again after a change of keys.",
            )
        tree, old = Tree(tx.ledger, size), standing.checkpoint
        root = tree.root()
        if old is not None and standing.lost_from is None:
            try:
                verify_consistency(old.size, old.root, size, root, tree.consistency_proof(old.size))
            except ProofError as error:
                raise forked(self._course.size, old) from error
        return root


class _Agents:
    """The map of agents' heads over the first ``size`` entries."""

    def __init__(self) -> None:
        self.map = AgentMap()
        self._size = 0

    def catch_up(self, tx: Transaction, size: int) -> None:
        """Takes in what is new; ``size`` is the ledger's in this transaction."""
        for agent, head in tx.ledger.agent_heads(self._size):
            self.map.set(agent, head.seq, head.leaf)
        self._size = size


class _Cosigner:
    """A witness as a holder: what it signs is kept, and handed on."""

    def __init__(
        self, witness: Witness, store: Store, checkpoints: CheckpointStore, on_cosigned: Callable[[Note], None]
    ) -> None:
        self._witness = witness
        self._store = store
        self._checkpoints = checkpoints
        self._on_cosigned = on_cosigned

    @property
    def name(self) -> str:
        """See ``Publisher``."""
        return self._witness.name

    async def publish(self, note: Note) -> None:
        """See ``Publisher``."""
        key = self._witness.key
        if any((one.name, one.key_id) == (key.name, key.key_id) for one in note.signatures):
            return
        size = Checkpoint.parse(note.text).size

        async def proof(old: int) -> Sequence[bytes]:
            return await self._store.read(lambda tx: Tree(tx.ledger, size).consistency_proof(old))

        cosigned = note.with_signature(await self._witness.cosign(note, proof))
        kept = await self._checkpoints.replace_cosigned(cosigned)
        if kept is not None:
            self._on_cosigned(kept)
