"""Statuses become exceptions: the broker's own, the library's, and those of odd servers."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest
from grpc import StatusCode

from broker import errors
from broker.client import AsyncBroker, CallContext, RetryPolicy, wire
from broker.errors import STATUS_CODES, BrokerError, FieldViolation
from broker.v1 import call_pb2, tool_broker_pb2
from tests.fake_broker import CALL, HANG, Authority, FakeBroker, Refuse, call, fake_broker, tool

NUMBERS = {code.value[0]: code for code in StatusCode}
ONCE = RetryPolicy(attempts=1)
AGAIN = "again"


@pytest.mark.parametrize(("cls", "number"), STATUS_CODES.items())
async def test_each_status_of_the_broker_becomes_its_class(
    fake: FakeBroker, broker: AsyncBroker, cls: type[BrokerError], number: int
) -> None:
    fake.script.on(
        "CancelToolCall",
        Refuse(
            NUMBERS[number],
            "a sentence",
            reason="SOME_REASON",
            metadata={"rule": "r1", "hint": "do this"},
            fields={"arguments/code": "is wrong"},
        ),
    )
    with pytest.raises(cls) as caught:
        await broker.cancel_call(CALL)
    error = caught.value
    assert type(error) is cls
    assert (str(error), error.reason, error.hint) == ("a sentence", "SOME_REASON", "do this")
    assert error.metadata == {"rule": "r1"}
    assert error.violations == (FieldViolation("arguments/code", "is wrong"),)


async def test_a_retry_delay_is_carried(fake: FakeBroker, broker: AsyncBroker) -> None:
    full = Refuse(StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL", retry_after_s=9)
    fake.script.on("CreateToolCall", full)
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        await broker.create_call("python.run", {})
    assert caught.value.retry_after_s == 9
    # Waiting that long isn't worth it under this policy, so it wasn't tried again.
    assert len(fake.script.sent("CreateToolCall")) == 1


async def test_details_of_another_domain_say_nothing(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("GetToolCall", Refuse(StatusCode.NOT_FOUND, "x", reason="POLICY_DENIED", domain="evil.example"))
    with pytest.raises(errors.InternalError) as caught:
        await broker.get_call(CALL)
    assert caught.value.reason == "TRANSPORT_FAILED"


async def test_details_that_contradict_the_status_say_nothing(fake: FakeBroker, broker: AsyncBroker) -> None:
    lie = Refuse(StatusCode.PERMISSION_DENIED, "no", reason="POLICY_DENIED")
    lie.trailers = (("grpc-status-details-bin", lie.status.SerializeToString()),)
    lie.bare = StatusCode.ABORTED
    fake.script.on("GetToolCall", lie)
    with pytest.raises(errors.InternalError) as caught:
        await broker.get_call(CALL)
    assert caught.value.reason == "TRANSPORT_FAILED"


async def test_details_that_cannot_be_read_say_nothing(fake: FakeBroker, broker: AsyncBroker) -> None:
    broken = Refuse(StatusCode.PERMISSION_DENIED, "no")
    broken.trailers = (("grpc-status-details-bin", b"\xff\xff\xff"),)
    fake.script.on("GetToolCall", broken)
    with pytest.raises(errors.InternalError):
        await broker.get_call(CALL)


@pytest.mark.parametrize(
    ("code", "cls", "reason"),
    [
        (StatusCode.UNAVAILABLE, errors.UnavailableError, "CONNECTION_LOST"),
        (StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError, "DEADLINE_EXCEEDED"),
        (StatusCode.CANCELLED, errors.CancelledCallError, "CANCELLED"),
        (StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError, "MESSAGE_TOO_LARGE"),
        (StatusCode.UNIMPLEMENTED, errors.InternalError, "UNIMPLEMENTED"),
        (StatusCode.UNKNOWN, errors.InternalError, "TRANSPORT_FAILED"),
        (StatusCode.PERMISSION_DENIED, errors.InternalError, "TRANSPORT_FAILED"),
    ],
)
async def test_a_status_without_details_gets_a_reason_of_ours(
    fake: FakeBroker, broker: AsyncBroker, code: StatusCode, cls: type[BrokerError], reason: str
) -> None:
    fake.script.on("GetToolCall", Refuse(code, "said the library"))
    with pytest.raises(cls) as caught:
        await broker.get_call(CALL)
    assert type(caught.value) is cls
    assert caught.value.reason == reason


async def test_nobody_at_the_address(authority: Authority, identity: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with AsyncBroker.connect(address, identity=identity, ca=authority.pem, retry=ONCE) as client:
            with pytest.raises(errors.UnavailableError) as caught:
                await client.status()
    assert caught.value.reason == "BROKER_UNREACHABLE"
    assert "broker serve" in caught.value.hint


async def test_a_server_of_another_ca_is_not_believed(fake: FakeBroker, identity: Path) -> None:
    other = Authority.make("other")
    async with AsyncBroker.connect(fake.address, identity=identity, ca=other.pem) as client:
        with pytest.raises(errors.UnavailableError) as caught:
            await client.status()
    assert caught.value.reason == "TLS_HANDSHAKE_FAILED"
    assert not fake.script.requests


async def test_a_certificate_of_another_ca_is_refused(fake: FakeBroker, tmp_path: Path) -> None:
    stranger = Authority.make("other").write(tmp_path / "id", "bot")
    async with AsyncBroker.connect(fake.address, identity=stranger, ca=fake.authority.pem, retry=ONCE) as client:
        with pytest.raises(errors.UnavailableError) as caught:
            await client.status()
    assert "certificate" in caught.value.hint
    assert not fake.script.requests


async def test_tls_is_never_given_up_for_a_plaintext_server(authority: Authority, identity: Path) -> None:
    async with fake_broker(authority, plaintext=True) as server:
        async with AsyncBroker.connect(server.address, identity=identity, ca=authority.pem, retry=ONCE) as client:
            with pytest.raises(errors.UnavailableError):
                await client.status()
        assert not server.script.requests


async def test_plaintext_works_where_it_is_asked_for(authority: Authority) -> None:
    async with fake_broker(authority, plaintext=True) as server:
        server.script.on("ListTools", tool_broker_pb2.ListToolsResponse(tools=[tool()]))
        async with AsyncBroker.connect(server.address, unsafe_plaintext=True) as client:
            assert [item.short_name async for item in client.list_tools("demo")] == ["python.run"]


async def test_a_message_beyond_the_limit_is_told(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("GetToolCall", call(arguments_json='{"x": "' + "y" * (17 * 2**20) + '"}'))
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        await broker.get_call(CALL)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


async def test_a_question_that_gets_no_answer_ends_at_its_deadline(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("GetToolCall", HANG)
    with pytest.raises(errors.DeadlineError):
        await broker.get_call(CALL, timeout_s=0.2)


@pytest.mark.parametrize(
    "message",
    [
        call_pb2.ToolCall(name=CALL, state=99),
        call_pb2.ToolCall(name=CALL),
        call_pb2.ToolCall(name="", state=7),
        call(arguments_json="{"),
        call(arguments_json="[1]"),
        call(tier=77),
        call(outcome=call_pb2.Outcome(cause=99)),
        call(outcome=call_pb2.Outcome(cause_source=99)),
        call(outcome=call_pb2.Outcome(result_json="{")),
    ],
)
async def test_an_answer_that_no_broker_gives_is_refused(
    fake: FakeBroker, broker: AsyncBroker, message: call_pb2.ToolCall
) -> None:
    fake.script.on("GetToolCall", message)
    with pytest.raises(errors.InternalError) as caught:
        await broker.get_call(CALL)
    assert caught.value.reason == "PROTOCOL_ERROR"


async def test_a_page_token_that_comes_twice_ends_the_list(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("ListTools", tool_broker_pb2.ListToolsResponse(tools=[tool()], next_page_token=AGAIN))
    with pytest.raises(errors.InternalError) as caught:
        [item async for item in broker.list_tools()]
    assert caught.value.reason == "PROTOCOL_ERROR"
    assert len(fake.script.sent("ListTools")) == 2


async def test_reads_are_tried_again_and_changes_are_not(
    fake: FakeBroker, broker: AsyncBroker, quick: RetryPolicy
) -> None:
    away = Refuse(StatusCode.UNAVAILABLE, "Socket closed")
    fake.script.on("GetToolCall", away, call())
    fake.script.on("StartSession", away)
    fake.script.on("CreateToolCall", away)
    assert (await broker.get_call(CALL)).name == CALL
    with pytest.raises(errors.UnavailableError):
        await broker.start_session("bot")
    with pytest.raises(errors.UnavailableError):
        await broker.create_call("python.run", {})
    assert len(fake.script.sent("StartSession")) == 1
    created = fake.script.sent("CreateToolCall")
    assert len(created) == quick.attempts
    assert len({item.request_id for item in created}) == 1


@pytest.mark.parametrize(
    ("work", "field"),
    [
        (lambda broker: broker.get_tool(""), "name"),
        (lambda broker: broker.get_tool("calls/x"), "name"),
        (lambda broker: broker.create_call("python.run", {"x": float("nan")}), "arguments"),
        (lambda broker: broker.create_call("python.run", {"x": object()}), "arguments"),
    ],
)
async def test_wrong_input_is_refused_before_anything_is_sent(
    fake: FakeBroker, broker: AsyncBroker, work: Callable[[AsyncBroker], Awaitable[object]], field: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        await work(broker)
    assert caught.value.violations[0].field == field
    assert not fake.script.requests


async def test_a_workspace_is_required(fake: FakeBroker, identity: Path) -> None:
    async with AsyncBroker.connect(fake.address, identity=identity, ca=fake.authority.pem) as client:
        with pytest.raises(errors.InvalidArgumentError) as caught:
            await client.create_call("python.run", {})
    assert caught.value.violations[0].field == "context.workspace"


async def test_a_call_overrides_the_fields_that_it_sets(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("CreateToolCall", call("QUEUED"))
    await broker.create_call("python.run", {}, context=CallContext(purpose="another", session="ses_1"))
    context = fake.script.sent("CreateToolCall")[0].tool_call.context
    assert (context.workspace, context.purpose, context.session) == ("demo", "another", "sessions/ses_1")


async def test_a_closed_client_says_so(identity: Path, authority: Authority) -> None:
    client = AsyncBroker.connect("127.0.0.1:1", identity=identity, ca=authority.pem)
    with pytest.raises(BrokerError) as caught:
        await client.status()
    assert caught.value.reason == "CLIENT_CLOSED"


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError):
        wire.timestamp(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
