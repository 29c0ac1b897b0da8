"""Erasing what is kept of a subject: keys, then chunks; the ledger says what went, by whom and why, in the same step.

The first step writes what can't be taken back at once: the workspace's key, or the name, and the keys of the first objects.
Others follow in batches, each with an entry of its own. Stopped anywhere, what is erased is on record, and the same
erasure again does the rest. Who did what stays: ids and signatures are in entries, and no entry is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from broker.domain.canonical import JsonObject
from broker.domain.ids import new_id
from broker.domain.ports import Recorder, Store, Transaction, Vault
from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from broker.pipeline.holdings import Holdings, Subject, SubjectKind, find_active, find_holdings
from broker.vault.destruction import destroy, drop_all, is_destroyed

BATCH = 100
"""Objects and calls of one step; its entry names each object."""
MAX_REASON = 4096
"""Bytes of the reason."""
_SHOWN = 10
_LEFT = 1000


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants what erased, and why; the reason is kept encrypted, in an object of its own."""

    subject: Subject
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: objects whose keys are gone, bytes of their chunks, and the entries that say so."""

    objects: int
    size: int
    entries: tuple[int, ...]


class Erasure:
    """Erases.

    Args:
        store: the broker's database; others may use it at the same time.
        vault: where the content is.
        recorder: the ledger.
        clock: the time, UTC.
    """

    def __init__(self, store: Store, vault: Vault, recorder: Recorder, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._vault = vault
        self._recorder = recorder
        self._clock = clock

    def check(self, tx: Transaction, subject: Subject, items: frozenset[str]) -> None:
        """Lets an erasure pass that takes nothing away from what goes on.

        Raises:
            FailedPreconditionError: the identity is valid (``IDENTITY_VALID``), the session is open
                (``SESSION_OPEN``), or calls that go on need what is to be erased (``CALLS_ACTIVE``).
        """
        identity, session = tx.identities.get(subject.id), tx.identities.session(subject.id)
        if identity is not None and identity.revoked is None:
            raise FailedPreconditionError(
                f"{identity.kind} {identity.name} is valid: what it does from now on would be kept again",
                reason="IDENTITY_VALID",
                hint=f"Revoke it first: broker identity revoke {identity.kind} {identity.name} --reason TEXT",
            )
        if session is not None and session.ended is None and session.expires > self._clock():
            raise FailedPreconditionError(
                f"sessions/{session.id} is open: what is done in it from now on would be kept again",
                reason="SESSION_OPEN",
                hint=f"End it first: broker sessions end {session.id}",
            )
        self._check_active(find_active(tx, self._vault, items, subject))

    @staticmethod
    def _check_active(active: tuple[str, ...]) -> None:
        if active:
            shown = ", ".join(active[:_SHOWN]) + (", ..." if len(active) > _SHOWN else "")
            raise FailedPreconditionError(
                f"{len(active)} calls go on that need what is to be erased: {shown}",
                reason="CALLS_ACTIVE",
                hint="Wait for them, or cancel them: broker calls cancel ID",
                metadata={"calls": str(len(active))},
            )

    async def run(self, order: Order) -> Erased:
        """Erases all that is kept of the subject; durable when it returns. The files are scrubbed by the caller.

        Raises:
            InvalidArgumentError: the reason is longer than 4096 bytes (``TOO_LARGE``).
            FailedPreconditionError: as ``check``. What earlier steps erased stays so, and is on record.
        """
        if len(order.reason.encode("utf-8", "surrogatepass")) > MAX_REASON:
            why = f"is longer than {MAX_REASON} bytes"
            violation = (FieldViolation("--reason", why),)
            raise InvalidArgumentError(f"the reason {why}", reason="TOO_LARGE", violations=violation)
        subject, now = order.subject, self._clock()
        found = await self._store.read(lambda tx: find_holdings(tx, self._vault, subject, now))
        steps = _Steps(self, order, found)
        await steps.take(found.items)
        # What came between the look and the first step; nothing of it can be opened where a workspace's key went.
        late = await self._store.read(lambda tx: find_holdings(tx, self._vault, subject, steps.moment))
        await steps.take(late.items)
        await drop_all(self._store, await self._store.read(self._left))
        return Erased(steps.objects, steps.size, tuple(steps.entries))

    def _left(self, tx: Transaction) -> list[str]:
        """What an erasure that was stopped left behind."""
        return [name for name in tx.vault.expired(self._clock(), _LEFT) if is_destroyed(tx, name)]

    def step(
        self,
        tx: Transaction,
        order: Order,
        items: Sequence[str],
        *,
        first: Holdings | None,
        note: str,
        moment: datetime,
    ) -> _Step:
        """One transaction: destroys the keys of some objects and writes the entry.

        Args:
            tx: a writing transaction.
            order: what is to be erased.
            items: ids of objects and calls.
            first: what was found, in the first step: its name and key go there.
            note: id of the object with the reason; made in the first step.
            moment: the time.

        Raises:
            FailedPreconditionError: as ``check``.
        """
        subject = order.subject
        if first is not None:
            self.check(tx, subject, frozenset(items))
        else:
            self._check_active(find_active(tx, self._vault, frozenset(items), None))
        for call in (tx.calls.get(item) for item in items):
            if call is not None:
                # What the caller wrote itself, and a digest that could be tested against guesses.
                tx.calls.replace(replace(call, request_id="", request_digest=""))
        gone = destroy(tx, items, moment)
        for account in (found for which in gone.ids for found in tx.voters.accounts(person=which)):
            tx.voters.unmap_account(account.service, account.team, account.user)
        named = keyed = False
        if first is not None:
            if keyed := first.workspace_key:
                tx.workspace_keys.delete(subject.id)
            if named := bool(first.name):
                tx.erasure.forget_name(subject.id)
        if not (gone.ids or named or keyed):
            return _Step((), 0, None)
        commit = self._explain(tx, order, note, moment)
        body: JsonObject = {
            "subject": {"kind": subject.kind.value, "id": subject.id},
            "reason": "subject",
            "by": order.by,
            "objects": len(gone.ids),
            "bytes": gone.size,
            "ids": [*gone.ids],
            "name": named,
            "workspace_key": keyed,
            "reason_commit": commit,
            "sealed": note if commit else "",
        }
        if subject.kind is SubjectKind.CALL:
            body["call_id"] = subject.id
        return _Step(gone.ids, gone.size, self._recorder.append(tx, "erased", body, agent=subject.agent))

    def _explain(self, tx: Transaction, order: Order, note: str, now: datetime) -> str:
        if not order.reason:
            return ""
        text = order.reason.encode("utf-8", "surrogatepass")
        if tx.vault.get(note) is not None:
            return self._vault.open(tx, note).commit("erased", text)
        sealed = self._vault.create(tx, object_id=note, owner=order.by, kind="erasure", now=now, expires=None)
        sealed.put(tx, {0: text})
        return sealed.commit("erased", text)

    @property
    def store(self) -> Store:
        """The database."""
        return self._store

    @property
    def clock(self) -> Callable[[], datetime]:
        """The time, UTC."""
        return self._clock


@dataclass(frozen=True, slots=True)
class _Step:
    ids: tuple[str, ...]
    size: int
    entry: int | None


class _Steps:
    """The steps of one erasure, and what they come to."""

    def __init__(self, erasure: Erasure, order: Order, found: Holdings) -> None:
        self._erasure = erasure
        self._order = order
        self._first: Holdings | None = found
        self._note = new_id("ers")
        self.moment = erasure.clock()
        self.objects = 0
        self.size = 0
        self.entries: list[int] = []

    async def take(self, items: Sequence[str]) -> None:
        """Erases items, batch by batch; the first step is taken even where there are none."""
        batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
        for batch in batches or ([()] if self._first is not None else []):
            await self._one(batch)

    async def _one(self, batch: Sequence[str]) -> None:
        erasure, first, now = self._erasure, self._first, self._erasure.clock()
        done = await erasure.store.write(
            lambda tx: erasure.step(tx, self._order, batch, first=first, note=self._note, moment=now)
        )
        if first is not None:
            self._first, self.moment = None, now
        self.objects += len(done.ids)
        self.size += done.size
        if done.entry is not None:
            self.entries.append(done.entry)
        await drop_all(erasure.store, done.ids)
