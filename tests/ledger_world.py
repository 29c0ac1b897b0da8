"""A ledger with real entries of every type, signed and hashed as the broker does it, for attacks on its verifier."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.ledger.encoding import encode
from broker.ledger.held import Held
from broker.ledger.ledger import Ledger
from broker.ledger.reader import open_ledger
from broker.ledger.source import Row
from broker.ledger.tree import Tree
from broker.store.database import Database
from broker.tlog.agent_map import AgentMap
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import recovered_line
from broker.tlog.merkle import CompactRange, leaf_hash
from broker.tlog.note import Note
from tests.signing_support import ORIGIN, NumberedSigner, signed, text_of

FIRST, SECOND = NumberedSigner(1), NumberedSigner(2)
"""The ledger's keys: the second takes over before the end."""

_HEX = "0123456789abcdef" * 4
_DIGEST = f"sha256:{_HEX}"
_LINEAGE: JsonObject = {
    "owner": "hum_01", "registrar": "hum_02", "starter": "hum_03", "on_behalf_of": "",
    "proofs": ["session:ses_01", f"delegation:{_DIGEST}"],
}  # fmt: skip
_CALL: JsonObject = {"call_id": "call_01", "workspace": "demo", "tool": {"name": "python.run", "version": _DIGEST}}
_POLICY: JsonObject = {
    "digest": _DIGEST, "rule": "agents-call", "decision": "allow",
    "inputs": {"roles": "role:agent", "tier": "1", "text": 'ünï\u2028code \U0001f600 "quoted" \\ \n'},
}  # fmt: skip
_OUTCOME: JsonObject = {
    "outcome": {"state": "SUCCEEDED", "cause": "TOOL", "exit_code": 0, "signal": None, "wall_us": 12_345},
    "output": {"stdout": {"commit": _HEX, "bytes": 2, "kept": 2, "truncated": False}, "stderr": None, "files": 0},
    "egress": [{"host": "api.example.com", "port": 443, "kind": "https", "verdict": "ALLOWED", "count": 1}],
    "artifacts": [],
}
_APPROVAL: JsonObject = {"approval": {"id": "apr_01", "envelope_digest": _DIGEST, "shown_digest": _DIGEST}}

BODIES: dict[str, JsonObject] = {
    "identity.issued": {"identity": "agt_1", "kind": "agent", "change": "issued", "by": "hum_01", "name_commit": _HEX},
    "identity.revoked": {"identity": "agt_9", "kind": "agent", "change": "revoked", "by": "hum_01"},
    "session.started": {
        "session": "ses_01",
        "workspace": "demo",
        "lineage": _LINEAGE,
        "expires": "2026-01-02T00:00:00Z",
    },
    "session.ended": {"session": "ses_01", "workspace": "demo", "lineage": _LINEAGE},
    "schedule.registered": {"schedule": "sch_01", "workspace": "demo", "weekdays": [1, 2, 5], "lineage": _LINEAGE},
    "spec.registered": {"tool": {"name": "python.run", "version": _DIGEST}, "tier": 1},
    "workflow.approved": {"workflow": {"id": "nightly", "version": _DIGEST}, "by": ["hum_01", "hum_02"]},
    "decision": {**_CALL, "policy": _POLICY, "lineage": _LINEAGE, "tier": 4, "data_classes": ["internal"]},
    "plan.intent": {**_CALL, "plan": "pln_01"},
    "plan.outcome": {**_CALL, "plan": "pln_01", "effect_digest": _DIGEST},
    "approval.requested": {**_CALL, **_APPROVAL, "quorum": {"rule": "two-of", "need": 2}},
    "vote": {
        **_CALL,
        **_APPROVAL,
        "decision": "approve",
        "approver": "hum_02",
        "signature": "b" * 86,
        "load_percent": 25,
    },
    "approval.closed": {**_CALL, **_APPROVAL, "result": "approved", "votes": [11]},
    "intent": {**_CALL, "policy": _POLICY, "lineage": _LINEAGE, "egress_allowed": ["https api.example.com:443"]},
    "outcome": {**_CALL, **_OUTCOME, "intent_seq": 14},
    "unknown": {**_CALL, **_OUTCOME, "intent_seq": -1},
    "artifact": {**_CALL, "artifact": {"digest": _DIGEST, "bytes": "9007199254740993", "kind": "output"}},
    "undo.intent": {**_CALL, "undoes": "call_00"},
    "undo.outcome": {**_CALL, "undoes": "call_00", "restored": True},
    "policy.changed": {"policy_digest": _DIGEST, "before": _DIGEST, "rules": 12},
    "settings.changed": {"settings_digest": _DIGEST, "names": ["call_timeout_s"]},
    "key.enrolled": {"identity": "hum_02", "key": "ed25519:" + "a" * 43},
    "key.revoked": {"identity": "hum_02", "key": "ed25519:" + "a" * 43, "reason_commit": _HEX},
    "frozen": {"scope": "agent", "subject": "agt_1", "by": "hum_01"},
    "unfrozen": {"scope": "agent", "subject": "agt_1", "by": ["hum_01", "hum_02"]},
    "workspace.imported": {
        "workspace": "demo",
        "by": "hum_01",
        "base": "",
        "after": _DIGEST,
        "files": 2,
        "bytes": 12,
        "at": "2026-01-01T00:00:00.000000Z",
    },
    "undo.drill": {
        "workspace": "demo",
        "by": "hum_01",
        "live": 3,
        "tried": 2,
        "passed": 1,
        "failed": [{"call": "call_1", "artifact": _DIGEST, "reason": "ARTIFACT_DAMAGED"}],
    },
    "erased": {"subject_commit": _HEX, "objects": 3, "artifacts": [_DIGEST]},
    "approver.accepted": {
        "person": "hum_02",
        "key": {"id": _DIGEST},
        "founding_digest": _DIGEST,
        "statement": "{}",
        "signature": "b" * 88,
    },
    "founding.completed": {"founding_digest": _DIGEST, "people": ["hum_01", "hum_02", "hum_03"]},
    "vote.attested": {
        **_CALL,
        "approval": {"id": "apr_01", "kind": "CALL", "state": "PENDING"},
        "person": "hum_03",
        "channel": "slack",
        "vote": {"number": 2, "statement": "{}", "signature": "b" * 88},
    },
    "account.mapped": {
        "person": "hum_03",
        "sealed": {"index": 1, "commit": _HEX},
        "by": "hum_01",
        "approval": "apr_02",
    },
    "account.unmapped": {
        "person": "hum_03",
        "sealed": {"index": 2, "commit": _HEX},
        "by": "hum_01",
        "approval": "apr_03",
    },
    "administration": {"action": "identity.issue", "by": "hum_01", "approvals": [{"id": "apr_04", "votes": [12]}]},
    "heartbeat": {"software": "agent-broker 1", "policy_digest": _DIGEST, "tools": 12},
}
"""What entries of these types hold; the others' follow from the ledger itself."""


def make_ledger(folder: Path, *, recovered: bool = False) -> Path:
    """A database with entries of every type (``recovered`` only where asked for); returns its path."""
    path = folder / "broker.db"
    Database.create(path)
    clock = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(1000))
    ledger = Ledger(ORIGIN, "boot_01", lambda: next(clock))
    with Database.open_sync(path) as database:

        def append(kind: str, body: Callable[[Transaction], JsonObject], agent: str = "") -> None:
            database.write_sync(lambda tx: ledger.append(tx, kind, body(tx), agent=agent))

        append("genesis", lambda _: {"checkpoint_key": str(FIRST.key), "software": "agent-broker 1"})
        for number, (kind, body) in enumerate(BODIES.items()):
            append(kind, lambda _, body=body: body, agent=f"agt_{number % 2}" if number % 3 else "")
        append("heads", heads_body)
        append("signer.rotated", rotated_body)
        append("signer.revoked", lambda _: {"key": str(FIRST.key), "reason_commit": _HEX})
        append("heads", heads_body)
        if recovered:
            append("recovered", _recovered_body)
        append("outcome", lambda _: BODIES["outcome"], "agt_1")
    return path


def heads_body(tx: Transaction) -> JsonObject:
    """What an entry ``heads`` says next."""
    found = AgentMap()
    for name, head in tx.ledger.agent_heads():
        found.set(name, head.seq, head.leaf)
    return {"heads": {"agents": len(found), "root": found.root().hex()}}


def rotated_body(tx: Transaction) -> JsonObject:
    """What a rotation from the first to the second key says next."""
    checkpoint = checkpoint_of(tx, f"next-key {SECOND.key}")
    return {"old": str(FIRST.key), "new": str(SECOND.key), "checkpoint": text_of(signed(checkpoint, FIRST, SECOND))}


def checkpoint_of(tx: Transaction, *extensions: str) -> Checkpoint:
    """The tree as it is."""
    head = tx.ledger.head()
    size = 0 if head is None else head.seq + 1
    return Checkpoint(ORIGIN, size, Tree(tx.ledger, size).root(), extensions)


def _recovered_body(tx: Transaction) -> JsonObject:
    size = checkpoint_of(tx).size
    lost = Checkpoint(ORIGIN, size + 5, b"\x07" * 32)
    statement = checkpoint_of(tx, recovered_line(size, size + 4, lost))
    return {
        "lost": {"from": size, "to": size + 4},
        "checkpoint": text_of(signed(lost, SECOND)),
        "statement": text_of(signed(statement, SECOND)),
        "votes": [],
    }


def rows_of(path: Path) -> list[Row]:
    """All entries of a ledger file."""
    with open_ledger(path) as file:
        return list(file.rows())


def data_of(row: Row) -> bytes:
    """The bytes of an entry that has some."""
    assert isinstance(row.data, bytes)
    return row.data


def hold(rows: Iterable[Row], signer: NumberedSigner = SECOND, *, required: bool = True) -> Held:
    """A signed checkpoint of these entries, as somebody outside keeps it."""
    tree = CompactRange(leaf_hash(data_of(row)) for row in rows)
    return held(signed(Checkpoint(ORIGIN, tree.size, tree.root()), signer), required=required)


def held(note: Note, *, required: bool = True) -> Held:
    """A note as somebody outside keeps it."""
    return Held("held.note", note, Checkpoint.parse(note.text), required)


def row_of(seq: int, entry: dict[str, Any]) -> Row:
    """The row of an entry, all hashes made right."""
    data = encode(entry)
    return Row(seq, entry.get("prev"), leaf_hash(data), data)


def rechained(rows: list[Row], first: int, changed: dict[str, Any]) -> list[Row]:
    """What somebody with the file and our code can do: put another entry at ``first`` and make all after it right again.

    Hashes, links, agents' own chains and the agents' map, that is; not signatures.
    """
    result = list(rows[:first])
    heads: dict[str, tuple[int, str]] = {}
    for row in result:
        _note_agent(heads, json.loads(data_of(row)), row)
    for place, row in enumerate(rows[first:], first):
        entry = changed if place == first else json.loads(data_of(row))
        if isinstance(entry.get("prev"), str):
            entry["prev"] = leaf_hash(data_of(result[-1])).hex() if result else "0" * 64
        agent = entry.get("agent")
        if place != first and isinstance(agent, dict):
            number, leaf = heads.get(agent["id"], (-1, "0" * 64))
            agent["seq"], agent["prev"] = number + 1, leaf
        if place != first and entry.get("type") == "heads":
            found = AgentMap()
            for name, (number, leaf) in heads.items():
                found.set(name, number, bytes.fromhex(leaf))
            entry["heads"] = {"agents": len(found), "root": found.root().hex()}
        result.append(row_of(place, entry))
        _note_agent(heads, entry, result[-1])
    return result


def _note_agent(heads: dict[str, tuple[int, str]], entry: dict[str, Any], row: Row) -> None:
    agent = entry.get("agent")
    if isinstance(agent, dict) and isinstance(agent.get("id"), str) and type(agent.get("seq")) is int:
        heads[agent["id"]] = max(agent["seq"], 0), leaf_hash(data_of(row)).hex()
