"""Nothing that a person wrote is in the ledger; and what is erased can't be had, from a broker that serves or its files."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.client import CallContext, InputFile
from broker.client.models import CompletedCall, Source
from broker.errors import BrokerError, NotFoundError, PermissionDeniedError
from broker.vault.sealing import KEYS_BYTES
from tests.served import Served, command, command_json, issue, ledger, make_state, serving

pytestmark = pytest.mark.docker

ID = re.compile(rb"[a-z]{2,5}_[0-9a-hjkmnp-tv-z]{26}")
"""Identifiers are random, and may look like a mark by chance."""
MARK = re.compile(rb"q[xz]7[a-z0-9]*", re.IGNORECASE)
"""Each text of a person in these tests has such a word in it."""
OWNER, DELEGATOR, AGENT, OTHER = "qz7owner", "qz7delegator", "qz7agent", "qz7other"
CODE = """
import os, pathlib, sys
os.makedirs("out", exist_ok=True)
pathlib.Path("out/qx7outfile.txt").write_text("qx7content of " + open("qx7infile.txt").read())
print("qx7stdout", sys.argv[1:])
print("qx7stderr", file=sys.stderr)
"""


@dataclass
class Acted:
    """A broker under which everybody has said something."""

    served: Served
    agent: str
    human: str
    session: str
    call: CompletedCall
    blobs: list[str]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_state(path)
    issue(path, {OWNER: "", DELEGATOR: "", AGENT: OWNER, OTHER: OWNER})
    return path


@pytest.fixture
def served(state: Path) -> Iterator[Served]:
    with serving(state) as running:
        yield running


async def act(served: Served, agent: str = AGENT) -> Acted:
    """A session by a human, a call with a delegation, files, output, and a call that is refused."""
    token = command(
        served.state, "delegations", "sign", "--agent", agent, "--workspace", "demo", "--as", DELEGATOR, "--json"
    ).stdout
    async with served.connect("human", OWNER, CallContext(workspace="demo")) as human:
        session = (await human.start_session(agent, "demo")).name.removeprefix("sessions/")
    context = CallContext(
        workspace="demo",
        purpose="qx7purpose of it",
        session=session,
        delegation=json.loads(token)["token"],
        sources=(Source("mail://qx7source", ""),),
    )
    async with served.connect("agent", agent, context) as client:
        blob = await client.upload(b"qx7inside")
        call = await client.run(
            "python.run",
            {"code": CODE, "args": ["qx7argument"]},
            files=[InputFile("qx7infile.txt", blob)],
            request_id="qx7request",
        )
        with pytest.raises(PermissionDeniedError):
            await client.run("shell.run", {"script": "echo qx7script"})
        with pytest.raises(BrokerError):
            await client.run("python.run", {"code": "qx7wrong", "qx7unknown": 1})
        await client.run("python.run", {"code": "raise SystemExit('qx7failure')"})
    assert call.stdout.startswith(b"qx7stdout")
    assert call.outcome is not None
    items = {
        (item["kind"], item["name"]): item["id"] for item in command_json(served.state, "identity", "list")["items"]
    }
    blobs = [blob.name.removeprefix("blobs/"), *(item.blob.removeprefix("blobs/") for item in call.outcome.files)]
    return Acted(served, items["agent", agent], items["human", DELEGATOR], session, call, blobs)


def revoke(state: Path, kind: str, name: str) -> None:
    command_json(state, "identity", "revoke", kind, name, "--reason", "qx7left us")


def erase(state: Path, subject: str, *options: str) -> dict[str, Any]:
    return command_json(
        state, "ledger", "erase", "--subject", subject, "--yes", "--reason", "qx7asked for it", *options
    )


def refused(state: Path, subject: str, *options: str) -> str:
    result = command(state, "ledger", "erase", "--subject", subject, *options, "--json", check=False)
    assert result.returncode != 0
    return str(json.loads(result.stdout)["reason"])


def file_bytes(state: Path) -> bytes:
    return b"".join(path.read_bytes() for path in state.glob("broker.db*"))


def wrapped(state: Path, *ids: str) -> list[bytes]:
    """The sealed keys of objects, as they are in the file."""
    with closing(sqlite3.connect(f"file:{state}/broker.db?mode=ro", uri=True)) as database:
        rows = [database.execute("SELECT wrapped FROM vault_object WHERE id = ?", (name,)).fetchone() for name in ids]
    assert all(rows)
    return [row[0][-KEYS_BYTES:] for row in rows]


def verified(state: Path) -> None:
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"


async def test_no_text_of_a_person_is_in_any_entry(served: Served) -> None:
    acted = await act(served)
    state = served.state
    revoke(state, "agent", OTHER)
    revoke(state, "human", DELEGATOR)
    erase(state, acted.call.name)
    with closing(sqlite3.connect(f"file:{state}/broker.db?mode=ro", uri=True)) as database:
        entries = [bytes(row[0]) for row in database.execute("SELECT data FROM ledger_entry ORDER BY seq")]
    types = {json.loads(entry)["type"] for entry in entries}
    assert types >= {
        "genesis", "identity.issued", "identity.revoked", "session.started", "decision", "intent", "outcome", "erased",
        "spec.registered", "policy.changed", "heartbeat",
    }  # fmt: skip
    found = {
        (json.loads(entry)["type"], match.group()) for entry in entries for match in MARK.finditer(ID.sub(b"", entry))
    }
    assert found == set()
    verified(state)


async def test_an_erased_call_is_gone_with_its_files_and_who_did_it_stays(served: Served) -> None:
    acted = await act(served)
    state, call_id = served.state, acted.call.name.removeprefix("calls/")
    keys = wrapped(state, call_id, *acted.blobs)
    assert all(key in file_bytes(state) for key in keys)
    before = ledger(state, "--call", call_id)
    plan = command_json(state, "ledger", "erase", "--subject", call_id, "--plan")
    assert (plan["objects"], plan["kinds"], plan["blocked"]) == (3, {"blob": 2, "call": 1}, "")
    assert refused(state, call_id) == "CONFIRMATION_MISSING"
    assert all(key in file_bytes(state) for key in keys)

    output = erase(state, call_id)
    assert (output["objects"], output["scrubbed"], output["planned"]) == (3, True, False)
    assert not any(key in file_bytes(state) for key in keys)
    assert b"qx7request" not in file_bytes(state)
    async with served.client(AGENT) as client:
        gone = await client.get_call(call_id)
        assert (gone.content_erased, gone.arguments, gone.request_id) == (True, None, "")
        for blob in acted.blobs:
            with pytest.raises(NotFoundError):
                await client.download(blob, state.parent / "downloaded")
        again = await client.run("python.run", {"code": "print(1)"}, request_id="qx7request")
        assert again.name != acted.call.name
    after = ledger(state, "--call", call_id)
    assert after[: len(before)] == before
    assert [item["type"] for item in after[len(before) :]] == ["erased"]
    assert sorted(after[-1]["ids"]) == sorted([call_id, *acted.blobs])
    assert erase(state, call_id)["entries"] == []
    verified(state)


async def test_an_agent_is_erased_with_its_name_once_it_is_revoked(served: Served) -> None:
    mine, other = await act(served), await act(served, OTHER)
    state = served.state
    assert refused(state, mine.agent, "--yes") == "IDENTITY_VALID"
    assert AGENT.encode() in file_bytes(state)
    revoke(state, "agent", AGENT)
    keys = wrapped(state, mine.agent, mine.call.name.removeprefix("calls/"), *mine.blobs)

    output = erase(state, mine.agent)
    assert output["name"]
    assert output["folder"] == str(state / "identities" / "agent" / AGENT)
    data = file_bytes(state)
    assert not any(key in data for key in keys)
    assert AGENT.encode() not in data
    assert not list(state.rglob(AGENT))
    names = {item["id"]: item["name"] for item in command_json(state, "identity", "list")["items"]}
    assert names[mine.agent] == mine.agent
    async with served.connect("human", OWNER, CallContext(workspace="demo")) as owner:
        assert (await owner.get_call(mine.call.name)).content_erased
        kept = await owner.get_call(other.call.name)
        assert kept.arguments is not None
    # The running broker has forgotten the name too; somebody else may have it.
    command_json(state, "identity", "issue", "agent", AGENT, "--owner", OWNER)
    async with served.client(AGENT) as client:
        assert (await client.run("python.run", {"code": "print(2)"})).stdout == b"2\n"
        assert [call async for call in client.list_calls()] != []
    verified(state)


async def test_a_human_is_erased_with_what_bears_their_name(served: Served) -> None:
    acted = await act(served)
    state = served.state
    revoke(state, "human", DELEGATOR)
    output = erase(state, acted.human)
    # The call that they delegated, and its neighbour in the same session, hold their signed word.
    assert output["calls"] == 2
    assert DELEGATOR.encode() not in file_bytes(state)
    assert not list(state.rglob(DELEGATOR))
    decision = next(item for item in ledger(state, "--call", acted.call.name.removeprefix("calls/")))
    assert decision["lineage"]["on_behalf_of"] == acted.human
    verified(state)


async def test_a_session_is_erased_once_it_has_ended(served: Served) -> None:
    acted = await act(served)
    state = served.state
    async with served.client(AGENT) as client:
        apart = await client.run("python.run", {"code": "print('apart')"})
    assert refused(state, acted.session, "--yes") == "SESSION_OPEN"
    async with served.connect("human", OWNER, CallContext(workspace="demo")) as human:
        await human.end_session(acted.session)
    assert erase(state, acted.session)["calls"] == 2
    async with served.client(AGENT) as client:
        assert (await client.get_call(acted.call.name)).content_erased
        assert not (await client.get_call(apart.name)).content_erased
    verified(state)


async def test_a_workspace_is_erased_and_used_again_under_a_fresh_key(served: Served) -> None:
    acted = await act(served)
    state = served.state
    async with served.client(AGENT) as client:
        running = await client.create_call("python.run", {"code": "import time; time.sleep(3600)"})
        plan = command_json(state, "ledger", "erase", "--subject", "demo", "--plan")
        assert (plan["blocked"], plan["active"]) == ("CALLS_ACTIVE", [running.name.removeprefix("calls/")])
        assert refused(state, "demo", "--yes") == "CALLS_ACTIVE"
        assert not (await client.get_call(acted.call.name)).content_erased
        await client.cancel_call(running.name)
        with closing(sqlite3.connect(f"file:{state}/broker.db?mode=ro", uri=True)) as database:
            (key,) = database.execute("SELECT wrapped FROM workspace_key WHERE workspace = 'demo'").fetchone()
        assert key in file_bytes(state)
        output = erase(state, "demo")
        assert output["workspace_key"]
        assert key not in file_bytes(state)
        assert (await client.get_call(acted.call.name)).content_erased
        # The broker that serves had the old key in memory: what comes now is sealed under another, and stays readable.
        call = await client.run("python.run", {"code": "print('fresh')"})
    assert served.stop() == 0
    with serving(state) as again:
        async with again.client(AGENT) as client:
            assert (await client.get_call(call.name)).arguments is not None
    verified(state)


def test_what_nobody_knows_is_not_erased(state: Path) -> None:
    for subject in ("call_00000000000000000000000000", "agt_1", "nowhere", "../x", ""):
        assert refused(state, subject, "--yes") in {"SUBJECT_UNKNOWN", "USAGE"}
