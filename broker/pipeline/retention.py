"""The end of what is kept: objects whose time is over lose their keys, and the ledger says so in the same transaction.

How long a call's request, events, output and artifacts are kept is its tool's ``retention`` (30 days where the
specification says nothing); uploads have the setting ``blob_ttl_s``, or the retention of the calls that use them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from broker.domain.canonical import JsonObject
from broker.domain.ports import DESTROYED, Recorder, Store, Transaction
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
        for object_id in tx.vault.expired(now, BATCH):
            row, call = tx.vault.get(object_id), tx.calls.get(object_id)
            if row is None:
                continue
            if row.wrapped == DESTROYED:
                left.append(object_id)
            elif call is not None and call.ended is None:
                tx.vault.extend(object_id, now + _LONGER)  # it still goes on: its content is needed
            else:
                over.append(object_id)
                kinds[row.kind] += 1
                if call is not None:
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
