"""Recorded decisions for what-ifs, as entries that no broker wrote, and the casebook of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.pipeline import journal
from broker.policy.snapshot import Snapshot
from broker.replay.casebook import Casebook, Mark
from broker.replay.making import extract_casebook
from broker.replay.naming import KnownNames

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCOUT, ROVER, ANN, BOB = "agt_scout", "agt_rover", "hum_ann", "hum_bob"
NAMES = KnownNames({SCOUT: "agent:scout", ROVER: "agent:rover", ANN: "human:ann", BOB: "human:bob"})
PEOPLE = {ANN: "ann", BOB: "bob"}
POLICY = """\
p, reads, role:agent, *, files.*, call, 4, allow, agents work with files
p, no-shell, *, demo, shell.run, call, 4, deny, no shell
p, may-approve, role:approver, *, *, approve, 4, allow, approvers approve
g, human:ann, role:approver, *
g, human:bob, role:approver, demo
"""
MARK = Mark("ok", "", "brk_test", 0, "", checkpoint_size=7, checkpoint_root="ab" * 32)


class History:
    """Decides by a policy and keeps what an entry says of it."""

    def __init__(self, text: str = POLICY) -> None:
        self.policy = Snapshot.load(text)
        self.entries: list[dict[str, Any]] = []

    def ask(
        self,
        agent: str = SCOUT,
        tool: str = "files.read",
        *,
        tier: int = 1,
        day: int = 0,
        times: int = 1,
        workspace: str = "demo",
        model: str = "",
    ) -> None:
        """An agent asks for a call; what the policy says is put on record, as the broker does it."""
        asked = PolicyRequest(NAMES.name(agent), workspace, tool, "call", Tier(tier))
        decision = self.policy.decide(asked)
        said = journal.decision_body(decision, agent)
        body: dict[str, Any]
        if decision.allowed:
            call = {"call_id": f"call_{len(self.entries)}", "tier": tier}
            context = {"lineage": {"owner": ANN if agent == ROVER else "hum_eve", "proofs": []}, "model": model}
            body = {"workspace": workspace, "tool": {"name": tool}, **call, **context, **said}
        else:
            refused = {"reason": "POLICY_DENIED", "rule": decision.rule, "obj": tool, "workspace": workspace}
            body = journal.refusal_body(**refused, tier=Tier(tier), owner="hum_eve", policy=said)
        repeated = {"repeated": {"count": times}} if times > 1 else {}
        self.add(body | repeated, agent, day)

    def add(self, body: dict[str, Any], agent: str, day: int = 0) -> None:
        """An entry of the type ``decision``."""
        ts = START + timedelta(days=day, seconds=len(self.entries))
        of_all = {"type": "decision", "seq": len(self.entries), "ts": ts.isoformat(timespec="microseconds")}
        self.entries.append({**of_all, "agent": {"id": agent}, **body})

    @contextmanager
    def casebook(self) -> Iterator[Casebook]:
        """The casebook of it."""
        with extract_casebook(_rows(self.entries), MARK) as casebook:
            yield casebook


def _rows(entries: Iterable[dict[str, Any]]) -> Iterator[tuple[int, bytes]]:
    for entry in entries:
        yield entry["seq"], json.dumps(entry).encode()
