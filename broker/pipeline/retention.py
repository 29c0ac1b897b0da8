"""The end of what is kept: objects whose time is over lose their keys, and the ledger says so in the same transaction.

How long a call's request, events, output and artifacts are kept is its tool's ``retention`` (30 days where the
specification says nothing), and the texts of the approval that it needed with them; uploads have the setting ``blob_ttl_s``, or the retention of the calls that use them. What a
call that goes on needs isn't touched, however long it takes: that is looked at again an hour later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.approvals.content import KIND as APPROVAL
from broker.domain.canonical import JsonObject
from broker.domain.ports import DESTROYED, CallRow, Recorder, Store, Transaction, VaultRow
from broker.pipeline.blobs import KIND as BLOB
from broker.pipeline.holdings import ACTIVE, claimed_place, find_overdue_callers
from broker.vault.destruction import destroy, drop_all
from broker.vault.sealing import ADDRESS

BATCH = 100
"""Objects that one transaction looks at; its entry names each of them."""
_LONGER = timedelta(hours=1)


class Retention:
    """Sweeps one store.

    Args:
        store: the broker's database.
        recorder: the ledger.
        clock: the time, UTC.
    """

    def __init__(self, store: Store, recorder: Recorder, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock

    async def sweep(self) -> None:
        """Erases a batch of what is past its time, and drops what destroyed objects have left behind."""
        await drop_all(self._store, await self._store.write(self._sweep))

    def _sweep(self, tx: Transaction) -> Sequence[str]:
        """Destroys keys and writes the entry; returns whose chunks are to be dropped."""
        now = self._clock()
        left, over = [], []
        kinds: Counter[str] = Counter()
        needs = _Needs(tx, now)
        for object_id in tx.vault.expired(now, BATCH):
            row = tx.vault.get(object_id)
            if row is None:
                continue
            if row.wrapped == DESTROYED:
                left.append(object_id)
            elif needs.has(row):
                tx.vault.extend(object_id, now + _LONGER)
            else:
                over.append(object_id)
                kinds[row.kind] += 1
                if (call := tx.calls.get(object_id)) is not None:
                    # An unkeyed digest of the request would outlive it, and could be tested against guesses.
                    tx.calls.replace(replace(call, request_digest=""))
        gone = destroy(tx, over, now)
        if gone.ids:
            body: JsonObject = {
                "reason": "retention",
                "objects": len(gone.ids),
                "bytes": gone.size,
                "kinds": {kind: count for kind, count in kinds.items() if kind != ADDRESS},
                "ids": [*gone.ids],
            }
            self._recorder.append(tx, "erased", body)
        return (*left, *gone.ids)


@dataclass(slots=True)
class _Needs:
    """What calls that go on need, in one sweep. All calls that go on are looked through once, if there is an upload."""

    tx: Transaction
    now: datetime
    callers: frozenset[str] | None = None

    def has(self, row: VaultRow) -> bool:
        """Does a call that goes on need this object, whose time is over?"""
        if row.kind == ADDRESS:
            return self._address(row)
        if _goes_on(self.tx.calls.get(row.id)):
            return True
        if not row.complete and row.kind != APPROVAL:
            return False  # what nothing was added to for so long is needed by nobody
        place = claimed_place(row)
        if place is not None and place.call and _goes_on(self.tx.calls.get(place.call)):
            return True
        return row.kind == BLOB and self._input(row.owner)

    def _address(self, row: VaultRow) -> bool:
        # An address lasts as long as its artifact, which may have been looked at in an earlier sweep.
        item = self.tx.vault.get(row.wrapped.decode("ascii", "replace"))
        if item is None or item.wrapped == DESTROYED or item.kind == ADDRESS:
            return False
        return item.expires is None or item.expires > self.now or self.has(item)

    def _input(self, owner: str) -> bool:
        """May an upload of this owner be one that a call works on? A human's calls may name those of their agents."""
        if self.callers is None:
            self.callers = find_overdue_callers(self.tx, self.now)
        if not self.callers:
            return False
        identity = self.tx.identities.get(owner)
        return owner in self.callers or (identity is not None and identity.owner in self.callers)


def _goes_on(call: CallRow | None) -> bool:
    return call is not None and call.state in ACTIVE
