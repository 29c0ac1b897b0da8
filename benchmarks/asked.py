"""A ledger as questions are asked of it: calls by many agents, of many tools, with models, data classes, workflows, hosts,
effects, and people who agree.

Of twenty-five calls one is agreed to by two people and changes files, which each second such call takes back; three reach a
host; of five requests one is refused. The bodies are those of ``benchmarks.entries``; each names who and what it is about.
"""

from __future__ import annotations

import json
from collections.abc import Generator

from benchmarks.entries import Entry, calls
from broker.domain.canonical import JsonObject

AGENTS, TOOLS, WORKFLOWS, MODELS, CLASSES, HOSTS, PEOPLE, RULES = 200, 60, 40, 12, 25, 30, 12, 150
POLICY_EVERY = 50_000
"""Calls under one policy."""
_AGREED_EVERY, _HOST_EVERY, _REFUSED_EVERY = 25, 8, 4

Steps = Generator[Entry, int, int]
"""Entries, each of which is told its number in the ledger; gives back that of the last."""


def person_of(turn: int) -> str:
    """Id of one of the people who agree."""
    return f"hum_{turn % PEOPLE:026d}"


def agent_of(turn: int) -> str:
    """Id of the agent that calls."""
    return f"agt_{turn * 7 % AGENTS:026d}"


def class_of(turn: int) -> str:
    """A class of data that a call touches; one in five is about customers."""
    number = turn * 11 % CLASSES
    return f"customer.{number}" if not number % 5 else f"internal.{number}"


def policy_of(turn: int) -> str:
    """Digest of the policy that decides a call."""
    return f"sha256:{turn // POLICY_EVERY:064d}"


def asked_entries() -> Generator[Entry, int, None]:
    """The endless entries of such a ledger."""
    made = calls(0)
    decided, begun, ended = next(made).body, made.send(0).body, made.send(0).body
    turn = 0
    while True:
        if not turn % POLICY_EVERY:
            yield Entry("policy.changed", {"policy_digest": policy_of(turn), "rules": RULES, "by": person_of(0)}, "")
        yield from _call(turn, decided, begun, ended)
        if not turn % _REFUSED_EVERY:
            yield _refused(turn)
        turn += 1


def _of(turn: int, body: JsonObject) -> JsonObject:
    """What an entry says of a call, and by what it was decided."""
    tool, workflow = turn * 13 % TOOLS, turn * 3 % WORKFLOWS
    said = {
        "call_id": f"call_{turn:026d}",
        "workspace": f"w{turn % 10}",
        "model": f"model-{turn * 5 % MODELS}",
        "workflow": {"id": f"workflow-{workflow}", "version": f"sha256:{workflow:064d}"},
        "tool": {"name": f"tool.{tool}", "version": f"sha256:{tool:064d}", "image_digest": f"sha256:{tool:064x}"},
        "tier": 4 if not turn % _AGREED_EVERY else 1,
        "data_classes": sorted({class_of(turn), class_of(turn + 1)}),
        "policy": _policy(turn, "allow"),
    }
    own: JsonObject = json.loads(json.dumps(said))
    return {**body, **own}


def _policy(turn: int, decision: str) -> JsonObject:
    inputs: JsonObject = {
        "subject": agent_of(turn), "roles": "role:agent", "workspace": f"w{turn % 10}", "action": "call", "tier": "1",
        "object": f"tool.{turn * 13 % TOOLS}",
    }  # fmt: skip
    return {"decision": decision, "digest": policy_of(turn), "rule": f"rule-{turn % RULES}", "inputs": inputs}


def _call(turn: int, decided: JsonObject, begun: JsonObject, ended: JsonObject) -> Steps:
    agent, call = agent_of(turn), f"call_{turn:026d}"
    seq = yield Entry("decision", _of(turn, decided), agent)
    agreed: JsonObject = {}
    if not turn % _AGREED_EVERY:
        votes = yield from _approval(turn)
        agreed = {"approvals": [{"id": f"apv_{turn:026d}", "votes": list(votes)}]}
    intent = yield Entry("intent", {**_of(turn, begun), "decision_seq": seq, **agreed}, agent)
    body: JsonObject = {**ended, "call_id": call, "intent_seq": intent}
    if agreed:
        takes_back = [f"call_{turn - _AGREED_EVERY:026d}"] if turn % (2 * _AGREED_EVERY) else []
        body["effect"] = {"added": turn % 3, "changed": 2, "removed": turn % 4, "undoes": list(takes_back)}
    if not turn % _HOST_EVERY:
        host: JsonObject = {
            "host": f"host{turn * 7 % HOSTS}.example",
            "port": 443,
            "kind": "https",
            "verdict": "ALLOWED",
        }
        body["egress"] = [{**host, "count": 2, "sent": 100, "received": 900}]
    return (yield Entry("outcome", body, agent))


def _approval(turn: int) -> Generator[Entry, int, list[int]]:
    """A run on a copy, and an approval of its effect by two people; the numbers of their votes."""
    call, agent = f"call_{turn:026d}", agent_of(turn)
    approval: JsonObject = {"id": f"apv_{turn:026d}", "kind": "CALL", "subject": call}
    of: JsonObject = {"call_id": call, "workspace": f"w{turn % 10}", "tier": 4}
    reversibility = ("exact", "compensable", "irreversible")[turn // _AGREED_EVERY % 3]
    yield Entry("plan.outcome", {**of, "reversibility": reversibility}, agent)
    yield Entry("approval.requested", {**of, "approval": {**approval, "requester": agent}}, agent)
    votes = []
    for number in range(2):
        person = person_of(turn // _AGREED_EVERY + number)
        statement = json.dumps({"decision": "approve", "key": f"key-of-{person}"})
        state = "APPROVED" if number else "PENDING"
        body: JsonObject = {
            **of,
            "approval": {**approval, "state": state},
            "channel": "cli",
            "person": person,
            "vote": {"statement": statement, "signature": "b" * 86},
        }
        votes.append((yield Entry("vote", body, "")))
    yield Entry("approval.closed", {**of, "approval": {**approval, "state": "USED"}}, "")
    return votes


def _refused(turn: int) -> Entry:
    body: JsonObject = {
        "workspace": f"w{turn % 10}",
        "tool": {"name": f"tool.{turn * 13 % TOOLS}"},
        "tier": 1,
        "lineage": {"owner": person_of(turn)},
        "refused": {"reason": "POLICY_DENIED", "rule": f"rule-{turn % RULES}"},
        "policy": _policy(turn, "deny"),
    }
    return Entry("decision", body, agent_of(turn))
