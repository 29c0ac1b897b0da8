"""Approval envelopes as the broker makes them, to render and to change."""

from __future__ import annotations

import copy

from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.envelope import FORMAT

ADA = "hum_01k0000000000000000000000a"
BOB = "hum_01k0000000000000000000000b"
SCOUT = "agt_01k0000000000000000000000s"

ARGUMENTS: JsonObject = {"path": "etc/limits.conf", "lines": ["soft", "hard"], "count": 3, "force": False, "note": None}

REQUIREMENT: JsonObject = {
    "people": 2,
    "roles": [{"role": "approver", "people": 2}],
    "channels": ["cli"],
    "min_signed": 2,
    "expiry_s": 3600,
    "cooldown_s": 60,
    "max_pending": 5,
    "exclude_tool_owner": True,
}


def file_entry(path: str, text: str) -> JsonObject:
    """A file as the call's envelope binds it."""
    data = text.encode()
    return {"path": path, "digest": digest(data), "size": len(data), "executable": False}


def call_envelope(arguments: JsonObject | None = None, files: dict[str, str] | None = None) -> JsonObject:
    """A call's envelope."""
    given = ARGUMENTS if arguments is None else arguments
    return {
        "format": FORMAT,
        "salt": "5a" * 32,
        "call_id": "call_01k00000000000000000000001",
        "workspace": "ops",
        "workflow": "night-shift",
        "lineage": {
            "agent": SCOUT,
            "owner": ADA,
            "registrar": ADA,
            "starter": BOB,
            "on_behalf_of": "",
            "proofs": ["session:ses_01k00000000000000000000001"],
        },
        "tool": {"name": "files.write", "spec_digest": digest(b"spec")},
        "arguments": given,
        "arguments_digest": digest(canonical(given)),
        "files": [file_entry(path, text) for path, text in sorted((files or {}).items())],
        "image_digest": digest(b"image"),
        "run": {
            "kind": "argv",
            "argv": ["/usr/bin/env", "--", "tee"],
            "code_digest": digest(b""),
            "environment": {"names": ["BROKER_ARGUMENTS", "LANG"], "digest": digest(b"environment")},
            "outputs": {"patterns": ["*.txt"], "max_files": 16, "max_bytes": 2**20},
            "wants_result": True,
            "proxy": True,
            "forwards": [5432],
        },
        "runtime": "",
        "egress": [
            {
                "kind": "https",
                "host": "api.example.com",
                "port": 443,
                "methods": ["GET", "POST"],
                "paths": ["/v1/"],
                "listen": 0,
                "secret": {"name": "api-token", "header": "authorization", "prefix": "Bearer "},
            },
            {
                "kind": "tcp",
                "host": "db.example.com",
                "port": 5432,
                "methods": [],
                "paths": [],
                "listen": 5432,
                "secret": None,
            },
        ],
        "limits": {
            "cpu_cores": 1.5,
            "memory_bytes": 2**28,
            "processes": 64,
            "wall_s": 30,
            "output_bytes": 2**20,
            "disk_bytes": 2**26,
            "inodes": 4096,
            "open_files": 256,
        },
        "tier": 4,
        "decision": {"effect": "allow", "rule": "p-7"},
        "expires": "2026-11-29T04:00:00.000000Z",
    }


def approval_envelope(
    kind: str = "CALL", *, arguments: JsonObject | None = None, files: dict[str, str] | None = None
) -> JsonObject:
    """An approval's envelope; fresh, so that a test may change it."""
    calls = kind in {"CALL", "RUNBOOK"}
    made: JsonObject = {
        "format": "broker.approval-envelope.v1",
        "salt": "a5" * 32,
        "approval": "apv_01k00000000000000000000001",
        "kind": kind,
        "requester": {"id": SCOUT, "name": "agent:scout"},
        "people": {ADA: "ada", BOB: "bob", SCOUT: "scout"},
        "reason": "The limits are too low.\nSee the incident of last night.",
        "requirement": REQUIREMENT,
        "expires": "2026-11-29T04:00:00.000000Z",
        "reversibility": "irreversible" if calls else "no_effect",
        "on_failure": "none",
        "decision": {
            "rule": "p-7",
            "reason": "agents of ops may write files",
            "tier": 4,
            "policy_row": "p, agent:scout, ops, files.*, call, 4, allow, p-7",
        }
        if calls
        else None,
        "purpose": "keep the service up" if calls else "",
        "workflow": {"name": "night-shift", "digest": digest(b"workflow")},
        "call": call_envelope(arguments, files) if calls else None,
        "files": [
            {**file_entry(path, text), "shown": "text", "text": text} for path, text in sorted((files or {}).items())
        ],
        "action": None,
        "workflow_text": None,
        "difference": [],
    }
    if not calls:
        made |= {"workspace": "-", "object": "broker.admin", "tier": 4}
    if kind == "RUNBOOK":
        call = made["call"]
        assert isinstance(call, dict)
        del call["call_id"]
        call["lineage"] = None
    if kind in {"ADMINISTRATION", "REVIEW"}:
        made["action"] = {"name": "policy.change", "parameters": {"digest": digest(b"policy"), "rows": [1, "two"]}}
        made["difference"] = ["WIDENS: agent:scout may call shell.run in ops", "p-9 has another comment"]
    if kind == "WORKFLOW":
        made["workflow_text"] = {"name": "night-shift", "tools": ["files.write"], "tier": 4}
        made["difference"] = ["WIDENS: the tool files.write is new"]
    return copy.deepcopy(made)


def database_envelope() -> JsonObject:
    """An approval's envelope whose call reaches a database, and nothing else."""
    made = approval_envelope()
    call = made["call"]
    assert isinstance(call, dict)
    call["egress"] = [
        {
            "kind": "postgres",
            "host": "db.example.com",
            "port": 5432,
            "methods": [],
            "paths": [],
            "listen": 5432,
            "secret": {"name": "shop-db", "header": "", "prefix": ""},
            "database": "shop",
            "user": "broker_shop",
        }
    ]
    return made
