"""That an agent's entries are all there: the newest entry that commits the heads of all agents, and a proof from it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from broker.domain.canonical import JsonObject
from broker.domain.ports import Head, LedgerTable
from broker.errors import DataLossError, FailedPreconditionError
from broker.ledger.bundle_format import is_heads_entry
from broker.tlog.agent_map import AgentMap

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class HeadsEntry:
    """The entry and the root of the map over all entries before it."""

    seq: int
    root: str


def find_heads(table: LedgerTable, size: int) -> HeadsEntry:
    """The newest ``heads`` entry among the first ``size`` entries.

    Raises:
        FailedPreconditionError: ``NO_HEADS``: there is none.
    """
    end = size
    while end > 0:
        first = max(0, end - _PAGE)
        for row in reversed(table.entries(first, end - first)):
            if is_heads_entry(row.data):
                return HeadsEntry(row.seq, str(json.loads(row.data)["heads"]["root"]))
        end = first
    raise FailedPreconditionError(
        "no entry commits yet where the agents' chains end, so an agent's entries can't be shown to be all",
        reason="NO_HEADS",
        hint="Start the broker: it writes one before each checkpoint.",
    )


def heads_file(table: LedgerTable, heads: HeadsEntry, agent: str) -> JsonObject:
    """What ``heads.json`` says: where the agent's chain ended before the entry, and the proof of it.

    Raises:
        DataLossError: ``LEDGER_HEADS_WRONG``: the agents' heads aren't those that the entry commits.
    """
    agents = AgentMap()
    found = _heads_before(table, heads.seq)
    for name, head in found.items():
        agents.set(name, head.seq, head.leaf)
    if agents.root().hex() != heads.root:
        raise DataLossError(
            f"the agents' heads in the database aren't those that entry {heads.seq} commits",
            reason="LEDGER_HEADS_WRONG",
            hint="Run `broker ledger verify`, then `broker ledger rebuild`.",
        )
    return {"agent": agent, "seq": heads.seq, "proof": agents.prove(agent)}


def _heads_before(table: LedgerTable, seq: int) -> dict[str, Head]:
    """Each agent's head as it was before entry ``seq``.

    The table has them as they are now; the first entry of an agent from ``seq`` on says what was before it.
    """
    found = dict(table.agent_heads())
    before: set[str] = set()
    changed = {name for name, _ in table.agent_heads(changed_from=seq)}
    first = seq
    while before != changed and (page := table.entries(first, _PAGE)):
        for row in page:
            agent = json.loads(row.data).get("agent")
            if not isinstance(agent, dict) or agent["id"] in before:
                continue
            before.add(agent["id"])
            if agent["seq"] == 0:
                found.pop(agent["id"], None)
            else:
                found[agent["id"]] = Head(agent["seq"] - 1, bytes.fromhex(agent["prev"]))
        first = page[-1].seq + 1
    return found
