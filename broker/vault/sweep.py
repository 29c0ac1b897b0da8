"""Erases objects whose time is over."""

from __future__ import annotations

from datetime import datetime

from broker.domain.ports import Store, Transaction

BATCH = 32
"""Objects erased in one transaction: other writers wait for no more than these."""


async def sweep(store: Store, now: datetime) -> int:
    """Destroys keys and chunks of all objects that expired at or before ``now``; returns how many there were."""

    def erase_some(tx: Transaction) -> int:
        over = tx.vault.expired(now, BATCH)
        for object_id in over:
            tx.vault.delete(object_id)
        return len(over)

    total = 0
    while erased := await store.write(erase_some):
        total += erased
    return total
