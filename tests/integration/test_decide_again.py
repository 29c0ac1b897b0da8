"""A call that waited is decided again, on what is in force when its turn comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.client import AsyncBroker
from broker.client.models import Call, InputFile, Stdout
from broker.domain.call import CallState
from broker.domain.run import EndCause
from broker.errors import InvalidArgumentError
from tests.served import OPERATOR, Served, command, command_json, ledger, make_state, serving

pytestmark = pytest.mark.docker

_ENDLESS = {"code": "import time\nprint('up', flush=True)\nwhile True: time.sleep(3600)\n"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_state(path, agents={"scout": OPERATOR, "rover": OPERATOR}, settings={"max_running": 1, "drain_s": 0})
    return path


async def _running(client: AsyncBroker) -> Call:
    call = await client.create_call("python.run", _ENDLESS)
    async for event in client.watch(call):
        if isinstance(event, Stdout):
            return call
    raise AssertionError("the tool never spoke")


async def _end_of(client: AsyncBroker, call: Call) -> Call:
    async for _ in client.watch(call):
        pass
    return await client.get_call(call)


def _deny_python(state: Path) -> None:
    policy = state / "policy" / "policy.csv"
    rule = "p, no-python-today, *, demo, python.run, call, 4, deny, closed for today\n"
    policy.write_text(policy.read_text("utf-8") + rule, "utf-8")


async def test_a_policy_that_came_meanwhile_stops_a_waiting_call(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as client, served.human() as operator:
            first = await _running(client)
            waiting = await client.create_call("python.run", {"code": "print(1)"})
            _deny_python(state)
            assert await operator.reload_policy()
            await client.cancel_call(first)
            ended = await _end_of(client, waiting)
    assert ended.state is CallState.DENIED
    assert ended.outcome is not None
    assert ended.outcome.cause is EndCause.POLICY
    assert "closed for today" in ended.outcome.detail
    entries = ledger(state, "--call", waiting.name.removeprefix("calls/"))
    assert [item["type"] for item in entries] == ["decision", "outcome"]
    changed = [item for item in ledger(state) if item["type"] == "policy.changed"]
    assert len(changed) == 2


async def test_a_revocation_that_came_meanwhile_stops_a_waiting_call(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as client, served.client("rover") as rover, served.human() as owner:
            first = await _running(client)
            waiting = await rover.create_call("python.run", {"code": "print(1)"})
            command_json(state, "identity", "revoke", "agent", "rover", "--reason", "gone")
            await client.cancel_call(first)
            ended = await _end_of(owner, waiting)
    assert ended.state is CallState.DENIED
    assert ended.outcome is not None
    assert "REVOKED" in ended.outcome.detail
    types = [item["type"] for item in ledger(state, "--call", waiting.name.removeprefix("calls/"))]
    assert types == ["decision", "outcome"]


async def test_a_session_that_ended_meanwhile_stops_a_waiting_call(state: Path) -> None:
    with serving(state) as served:
        session = await _session(served)
        async with served.client() as client, served.client(session=session) as proven, served.human() as owner:
            first = await _running(client)
            waiting = await proven.create_call("python.run", {"code": "print(1)"})
            await owner.end_session(session)
            await client.cancel_call(first)
            ended = await _end_of(client, waiting)
    assert ended.state is CallState.DENIED
    assert ended.outcome is not None
    assert "SESSION_INVALID" in ended.outcome.detail


async def test_what_is_kept_of_a_waiting_call_makes_the_envelope_that_was_admitted(state: Path) -> None:
    with serving(state) as served:
        session = await _session(served)
        async with served.client() as client, served.client(session=session) as proven:
            first = await _running(client)
            code = {"code": "print('\u00fc \U0001f600', 1.5)"}
            waiting = [
                await client.create_call("python.run", code),
                await client.create_call("python.run", code, files=[InputFile("a/\u00fc.bin", b"bytes")]),
                await proven.create_call("python.run", code, request_id="req-of-mine"),
            ]
            await client.cancel_call(first)
            ended = [await _end_of(client, call) for call in waiting]
    assert [call.state for call in ended] == [CallState.SUCCEEDED] * len(waiting), [call.outcome for call in ended]


async def _session(served: Served) -> str:
    async with served.human() as owner:
        return (await owner.start_session("scout", "demo")).name


async def test_a_bad_policy_changes_nothing_and_is_reported(state: Path) -> None:
    policy = state / "policy" / "policy.csv"
    good = policy.read_text("utf-8")
    with serving(state) as served:
        async with served.client() as client, served.human() as operator:
            before = (await operator.status()).policy_digest
            policy.write_text(good + "p, broken, *, demo, python.run, call, 4, Deny, odd\n", "utf-8")
            with pytest.raises(InvalidArgumentError) as caught:
                await operator.reload_policy()
            assert caught.value.reason == "POLICY_INVALID"
            assert "line" in caught.value.violations[0].field
            assert (await operator.status()).policy_digest == before
            assert (await client.run("python.run", {"code": "print(1)"})).succeeded


async def test_lineage_is_proved_by_session_and_delegation(state: Path) -> None:
    token = command(
        state, "delegations", "sign", "--agent", "scout", "--workspace", "demo", "--as", OPERATOR, "--json"
    ).stdout
    delegation = json.loads(token)["token"]
    with serving(state) as served:
        session = await _session(served)
        async with served.client(session=session, delegation=delegation) as client:
            call = await client.run("python.run", {"code": "print(1)"})
    assert call.lineage is not None
    assert call.lineage.proven
    assert call.lineage.starter == call.lineage.on_behalf_of == call.lineage.owner
    assert call.lineage.starter.startswith("hum_")
