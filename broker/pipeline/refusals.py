"""Refused requests on the record: the first of a kind at once, its repetitions as one counted entry."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

from broker.domain.canonical import JsonObject, canonical
from broker.domain.ports import Refusal, Transaction
from broker.pipeline.parts import Parts

MAX_KINDS = 20
"""Different refusals of one agent within a window that get entries of their own; all others are counted as one."""
_OTHER = "other"


class Refusals:
    """Keeps one agent from filling the ledger with refusals; the count is durable at every moment."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def record(self, agent: str, body: JsonObject) -> None:
        """Records one refusal of an agent; durable on return."""
        key = hashlib.sha256(canonical(body)).hexdigest()
        now = self._parts.clock()

        def work(tx: Transaction) -> None:
            kinds = tx.refusals.keys(agent)
            if key in kinds or len(kinds) < MAX_KINDS:
                chosen, entry = key, body
            else:
                chosen, entry = _OTHER, _other(body)
            if tx.refusals.bump(agent, chosen, now, canonical(entry)) == 1:
                self._parts.ledger.append(tx, "decision", entry, agent=agent)

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


def _other(body: JsonObject) -> JsonObject:
    return {
        "workspace": "?",
        "tool": {"name": "?"},
        "lineage": body.get("lineage"),
        "refused": {"reason": "MANY_REFUSALS", "rule": ""},
    }


def _counted(item: Refusal) -> JsonObject:
    body: JsonObject = json.loads(item.body)
    return {
        **body,
        "repeated": {"count": item.count - 1, "first": item.first.isoformat(), "last": item.last.isoformat()},
    }
