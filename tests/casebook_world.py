"""A ledger with the entries that questions are asked about: two workflows, people who agree, hosts, effects and undos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.domain.canonical import JsonObject
from broker.ledger.held import Held
from broker.ledger.source_kinds import how_to_open, open_source
from broker.ledger.verifier import Known
from broker.replay.casebook import Casebook
from broker.replay.making import open_casebook
from broker.tlog.checkpoint import Checkpoint
from tests.bundle_world import World

OLD_POLICY, NEW_POLICY = "sha256:" + "a" * 64, "sha256:" + "b" * 64
WORKFLOW = "sha256:" + "c" * 64
TOOL = "sha256:" + "d" * 64


def decision(call: str, tool: str, **members: object) -> JsonObject:
    """What the entry of a decision says."""
    inputs: JsonObject = {
        "subject": "agt_a", "workspace": "shop", "object": tool, "action": "call", "tier": "1", "roles": "role:agent",
    }  # fmt: skip
    policy: JsonObject = {"digest": OLD_POLICY, "rule": "rule-1", "decision": "allow", "inputs": inputs}
    body = {
        "call_id": call,
        "workspace": "shop",
        "workflow": {"id": "support", "version": WORKFLOW},
        "model": "model-1",
        "prompt_version": "p/1",
        "feature": "",
        "team": "",
        "lineage": {"owner": "hum_o", "starter": "hum_s", "on_behalf_of": "", "proofs": ["session:ses_1"]},
        "data_classes": ["customer.email", "internal"],
        "tool": {"name": tool, "version": TOOL, "image_digest": ""},
        "tier": 1,
        "policy": policy,
        **members,
    }
    return json.loads(json.dumps(body))  # type: ignore[no-any-return]  # plain JSON


def asked(world: World, approval: str, call: str, *people: str) -> list[int]:
    """An approval, with a vote of each person; the entries of the votes."""
    world.append(
        "approval.requested",
        {
            "approval": {"id": approval, "kind": "CALL", "subject": call, "obj": "files.clean", "requester": "agt_a"},
            "call_id": call,
            "workspace": "shop",
            "tier": 4,
        },
        "agt_a",
    )
    votes = []
    for number, person in enumerate(people):
        statement = json.dumps({"decision": "approve", "key": f"key_{person}"})
        state = "APPROVED" if number == len(people) - 1 else "PENDING"
        body: JsonObject = {
            "approval": {"id": approval, "kind": "CALL", "state": state},
            "call_id": call,
            "channel": "cli",
            "person": person,
            "vote": {"number": number + 1, "statement": statement, "signature": ""},
        }
        votes.append(world.append("vote", body))
    closed: JsonObject = {"id": approval, "kind": "CALL", "state": "USED", "votes": list(votes)}
    world.append("approval.closed", {"approval": closed, "call_id": call})
    return votes


def run_call(world: World, call: str, tool: str, **outcome: object) -> None:
    """A call that nobody had to agree to."""
    world.append("decision", decision(call, tool), "agt_a")
    intent = world.append("intent", decision(call, tool), "agt_a")
    ended = {"call_id": call, "intent_seq": intent, "outcome": {"state": "SUCCEEDED", "exit_code": 0}, **outcome}
    world.append("outcome", json.loads(json.dumps(ended)), "agt_a")


def refusals(world: World) -> None:
    """One that came five times."""
    refused: JsonObject = {"tool": {"name": "shell.run"}, "refused": {"reason": "POLICY_DENIED", "rule": "no-shell"}}
    world.append("decision", refused, "agt_a")
    world.append("decision", {**refused, "repeated": {"count": 4}}, "agt_a")


def clean_up(world: World, call: str, *people: str, undoes: str = "", removed: int = 3) -> None:
    """A call of tier 4 that removes files, after people agreed; or one that takes another back."""
    members: dict[str, object] = {"tier": 4, "data_classes": ["internal"]}
    world.append("decision", decision(call, "files.clean", **members), "agt_a")
    world.append("plan.intent", decision(call, "files.clean", **members), "agt_a")
    world.append("plan.outcome", {"call_id": call, "reversibility": "exact"}, "agt_a")
    votes = asked(world, f"apv_{call}", call, *people)
    agreed: JsonObject = {"id": f"apv_{call}", "votes": list(votes)}
    intent = world.append("intent", {**decision(call, "files.clean", **members), "approvals": [agreed]}, "agt_a")
    effect: JsonObject = {"added": 0, "changed": 0, "removed": removed, "undoes": [undoes] if undoes else []}
    body: JsonObject = {"call_id": call, "intent_seq": intent, "outcome": {"state": "SUCCEEDED"}, "effect": effect}
    world.append("outcome", body, "agt_a")


def tell(world: World) -> None:
    """The whole story."""
    world.append("policy.changed", {"policy_digest": OLD_POLICY, "rules": 3})
    world.append("spec.registered", {"tool": {"name": "files.read", "version": TOOL}, "tier": 1})
    world.append("workflow.approved", {"workflow": {"id": "support", "version": WORKFLOW}, "workspace": "shop"})
    host: JsonObject = {"host": "api.example", "port": 443, "kind": "https", "verdict": "ALLOWED"}
    numbers: JsonObject = {"count": 2, "sent": 100, "received": 900}
    run_call(world, "call_1", "files.read", egress=[{**host, **numbers}])
    run_call(world, "call_2", "files.read")
    refusals(world)
    clean_up(world, "call_3", "hum_a", "hum_b")
    clean_up(world, "call_4", "hum_b", "hum_c", undoes="call_3", removed=0)
    world.publish()


@contextmanager
def casebook(folder: Path, world: World | None = None, kept: Path | None = None) -> Iterator[Casebook]:
    """The casebook of the ledger in a folder, with the checkpoints of its world."""
    notes = [] if world is None else world.notes
    held = tuple(Held("kept", note, Checkpoint.parse(note.text)) for note in notes)
    how = how_to_open(str(folder / "broker.db"))
    with open_casebook(lambda: open_source(how), Known(held=held), kept) as found:
        yield found
