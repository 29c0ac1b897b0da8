"""Attacks on what is decided in a workspace: RPCs where a rule closes it, and sessions of agents that are somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from broker.client import CallFilter
from broker.errors import NotFoundError, PermissionDeniedError
from broker.v1 import call_pb2, sessions_pb2, tool_broker_pb2
from tests.integration.test_wire import channel, facts
from tests.served import AGENT, OPERATOR, Served, command_json, issue, ledger, make_state, serving

pytestmark = pytest.mark.docker

_TOOL_BROKER = "broker.v1.ToolBroker"
_SESSIONS = "broker.v1.Sessions"
_ACTING = {
    f"{_TOOL_BROKER}/ListTools": "agent",
    f"{_TOOL_BROKER}/GetTool": "agent",
    f"{_TOOL_BROKER}/CreateToolCall": "agent",
    f"{_TOOL_BROKER}/RunToolCall": "agent",
    f"{_SESSIONS}/StartSession": "human",
    f"{_SESSIONS}/CreateSchedule": "human",
}
_NAMES = {"agent": AGENT, "human": OPERATOR}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("broker") / "state"
    make_state(state)
    issue(state, {"hugo": "", "theirs": "hugo"})
    closed = [
        f"p, closed-{number}, *, closed, {method}, rpc, 4, deny, the workspace is closed\n"
        for number, method in enumerate([*_ACTING, f"{_TOOL_BROKER}/ListToolCalls"])
    ]
    with (state / "policy" / "policy.csv").open("a", encoding="utf-8") as policy:
        # An agent has a tool in the closed workspace: only the rules about the RPCs stand in its way.
        policy.write("g, role:agent, role:analyst, closed\n")
        policy.writelines(closed)
    with serving(state) as broker:
        yield broker


def _request(method: str, workspace: str) -> Message:
    call = call_pb2.ToolCall(tool="tools/python.run", arguments_json='{"code":"print(1)"}')
    call.context.workspace = workspace
    schedule = sessions_pb2.Schedule(agent=AGENT, workspace=workspace, until_minute=1440)
    schedule.session_ttl.FromTimedelta(timedelta(hours=1))
    schedule.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    return {
        "ListTools": tool_broker_pb2.ListToolsRequest(workspace=workspace),
        "GetTool": tool_broker_pb2.GetToolRequest(name="tools/python.run", workspace=workspace),
        "CreateToolCall": tool_broker_pb2.CreateToolCallRequest(tool_call=call),
        "RunToolCall": tool_broker_pb2.RunToolCallRequest(tool_call=call),
        "StartSession": sessions_pb2.StartSessionRequest(agent=AGENT, workspace=workspace),
        "CreateSchedule": sessions_pb2.CreateScheduleRequest(schedule=schedule),
    }[method.rpartition("/")[2]]


async def _ask(served: Served, method: str, workspace: str) -> None:
    kind = _ACTING[method]
    request = _request(method, workspace).SerializeToString()
    async with channel(served, kind, _NAMES[kind]) as opened:
        if method.endswith("RunToolCall"):
            async for _ in opened.unary_stream(f"/{method}")(request, timeout=60):
                pass
        else:
            await opened.unary_unary(f"/{method}")(request, timeout=60)


@pytest.mark.parametrize("method", _ACTING)
async def test_a_rule_that_closes_a_workspace_to_an_rpc_holds(served: Served, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _ask(served, method, "closed")
    code, reason, metadata = facts(caught.value)
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "POLICY_DENIED")
    assert metadata["rule"].startswith("closed-")
    assert metadata["workspace"] == "closed"
    await _ask(served, method, "demo")


@pytest.mark.parametrize("workspace", ["-", "*", "Closed", "closed ", "", "clos\u0435d"])
@pytest.mark.parametrize("method", _ACTING)
async def test_a_look_alike_of_a_workspace_slips_past_no_rule(served: Served, method: str, workspace: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _ask(served, method, workspace)
    assert facts(caught.value)[0] is grpc.StatusCode.INVALID_ARGUMENT
    status, wrong = rpc_status.from_call(caught.value), error_details_pb2.BadRequest()
    assert status is not None
    assert any(detail.Unpack(wrong) for detail in status.details)
    assert wrong.field_violations[0].field.endswith("workspace")


async def test_a_refused_rpc_is_on_record_with_its_workspace(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await _ask(served, f"{_TOOL_BROKER}/ListTools", "closed")
    found = [entry for entry in ledger(served.state) if entry["type"] == "decision" and entry["workspace"] == "closed"]
    assert found


async def test_a_filter_by_workspace_still_shows_an_agent_its_own_calls(served: Served) -> None:
    async with served.client() as client:
        await client.run("python.run", {"code": "print(1)"})
        assert [call async for call in client.list_calls(CallFilter(workspace="demo"))]
        assert not [call async for call in client.list_calls(CallFilter(workspace="closed"))]


async def test_a_human_lends_their_name_to_nobody_elses_agent(served: Served) -> None:
    async with served.human("hugo") as hugo:
        with pytest.raises(PermissionDeniedError) as caught:
            await hugo.start_session(AGENT, "demo")
        assert caught.value.reason == "NOT_IN_LINEAGE"
        with pytest.raises(PermissionDeniedError) as caught:
            await hugo.create_schedule(AGENT, "demo", session_ttl_s=3600, expires=datetime.now(UTC) + timedelta(days=1))
        assert caught.value.reason == "NOT_IN_LINEAGE"
        assert (await hugo.start_session("theirs", "demo")).agent == "theirs"


async def test_an_operator_sees_and_ends_a_rogue_session_and_nobody_else_does(served: Served) -> None:
    command_json(served.state, "identity", "issue", "human", "helga")
    async with served.human("hugo") as hugo, served.human() as operator, served.human("helga") as stranger:
        session = await hugo.start_session("theirs", "demo")
        with pytest.raises(NotFoundError):
            await stranger.get_session(session.name)
        with pytest.raises(NotFoundError):
            await stranger.end_session(session.name)
        assert not [item async for item in stranger.list_sessions("theirs")]
        assert (await operator.get_session(session.name)).name == session.name
        assert session.name in [item.name async for item in operator.list_sessions("theirs")]
        assert session.name in [item.name async for item in operator.list_sessions()]
        await operator.end_session(session.name)
        assert (await hugo.get_session(session.name)).ended is not None
    async with served.client("theirs", session=session.name) as client:
        with pytest.raises(PermissionDeniedError) as caught:
            await client.run("python.run", {"code": "print(1)"})
    assert caught.value.reason == "SESSION_INVALID"
