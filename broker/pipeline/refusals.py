"""Refused requests on the record: the first of a kind at once, its repetitions as one counted entry."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

from broker.domain.canonical import JsonObject, canonical
from broker.domain.ports import Refusal, Transaction
from broker.pipeline.parts import Parts


class Refusals:
    """Keeps one agent from filling the ledger with the same refusal; the count is durable at every moment."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def record(self, agent: str, body: JsonObject) -> None:
        """Records one refusal of an agent; durable on return."""
        data = canonical(body)
        key = hashlib.sha256(data).hexdigest()
        now = self._parts.clock()

        def work(tx: Transaction) -> None:
            if tx.refusals.bump(agent, key, now, data) == 1:
                self._parts.ledger.append(tx, "decision", body, agent=agent)

        await self._parts.store.write(work)

    async def flush(self, *, everything: bool = False) -> int:
        """Writes counted entries for windows that are over (or all), and returns how many."""
        now = self._parts.clock()
        age = timedelta(0) if everything else timedelta(seconds=self._parts.bounds.refusal_window_s)

        def work(tx: Transaction) -> int:
            written = 0
            for item in tx.refusals.due(now - age + (timedelta(seconds=1) if everything else timedelta(0))):
                if item.count > 1:
                    self._parts.ledger.append(tx, "decision", _counted(item), agent=item.agent)
                    written += 1
                tx.refusals.remove(item.agent, item.key)
            return written

        return await self._parts.store.write(work)


def _counted(item: Refusal) -> JsonObject:
    body: JsonObject = json.loads(item.body)
    return {
        **body,
        "repeated": {"count": item.count - 1, "first": item.first.isoformat(), "last": item.last.isoformat()},
    }
