"""The synchronous client behaves as the asynchronous one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from broker.client import Broker, CallContext, CallState, Finished, RetryPolicy, StateChanged, Stdout
from broker.errors import BrokerError, PermissionDeniedError
from broker.v1 import blob_pb2, sessions_pb2, tool_broker_pb2
from tests.fake_broker import (
    CALL,
    HANG,
    Authority,
    FakeBroker,
    Refuse,
    call,
    fake_broker_in_thread,
    run,
    session,
    status,
    tool,
    watch,
)

MORE = "2"
AWAY = Refuse(StatusCode.UNAVAILABLE, "Socket closed")


@pytest.fixture
def server(authority: Authority) -> Iterator[FakeBroker]:
    with fake_broker_in_thread(authority) as fake:
        yield fake


@pytest.fixture
def client(server: FakeBroker, identity: Path, quick: RetryPolicy) -> Iterator[Broker]:
    context = CallContext(workspace="demo")
    with Broker.connect(
        server.address, identity=identity, ca=server.authority.pem, context=context, retry=quick
    ) as broker:
        yield broker


def test_run_resumes_like_the_asynchronous_client(server: FakeBroker, client: Broker) -> None:
    server.script.on("RunToolCall", run("RUNNING", b"one", AWAY))
    server.script.on("CreateToolCall", call("RUNNING"))
    server.script.on("WatchToolCall", watch(3, b"two", call()))
    done = client.run("python.run", {})
    assert (done.state, done.stdout_text) == (CallState.SUCCEEDED, "onetwo")


def test_events_come_one_by_one(server: FakeBroker, client: Broker) -> None:
    server.script.on("RunToolCall", run("RUNNING", b"x", call()))
    with client.stream("python.run", {}) as events:
        assert [type(event) for event in events] == [StateChanged, Stdout, Finished]


def test_leaving_a_stream_ends_it(server: FakeBroker, client: Broker) -> None:
    server.script.on("RunToolCall", run("RUNNING", HANG))
    with client.stream("python.run", {}) as events:
        next(events)
        assert server.wait(server.script.hung)
    assert server.wait(server.script.ended)


def test_lists_are_ordinary_iterators(server: FakeBroker, client: Broker) -> None:
    server.script.on(
        "ListTools",
        tool_broker_pb2.ListToolsResponse(tools=[tool("a.b")], next_page_token=MORE),
        tool_broker_pb2.ListToolsResponse(tools=[tool("c.d")]),
    )
    assert [item.short_name for item in client.list_tools()] == ["a.b", "c.d"]
    server.script.on("ListToolCalls", tool_broker_pb2.ListToolCallsResponse(tool_calls=[call()]))
    assert [item.name for item in client.list_calls()] == [CALL]
    server.script.on("ListSessions", sessions_pb2.ListSessionsResponse(sessions=[session()]))
    assert [item.agent for item in client.list_sessions()] == ["bot"]


def test_errors_are_the_same(server: FakeBroker, client: Broker) -> None:
    server.script.on("GetToolCall", Refuse(StatusCode.PERMISSION_DENIED, "no", reason="POLICY_DENIED"))
    with pytest.raises(PermissionDeniedError):
        client.get_call(CALL)


def test_a_generator_can_be_uploaded(server: FakeBroker, client: Broker) -> None:
    def keep(requests: list[tool_broker_pb2.UploadBlobRequest]) -> blob_pb2.Blob:
        data = b"".join(item.chunk for item in requests[1:])
        return blob_pb2.Blob(name="blobs/1", size=len(data), digest=f"sha256:{hashlib.sha256(data).hexdigest()}")

    server.script.on("UploadBlob", keep)
    assert client.upload(part for part in (b"a", b"b")).size == 2


def test_threads_may_share_it(server: FakeBroker, client: Broker) -> None:
    server.script.on("GetBrokerStatus", status())
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(client.status().tools)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [4] * 8


def test_closing_twice_is_harmless_and_ends_the_thread(server: FakeBroker, identity: Path) -> None:
    # Told apart by identity: threads of other tests may end meanwhile, so a count would say nothing.
    before = set(threading.enumerate())
    broker = Broker.connect(server.address, identity=identity, ca=server.authority.pem)
    own = [one for one in threading.enumerate() if one not in before and one.name == "broker-client"]
    assert len(own) == 1
    broker.close()
    broker.close()
    assert not own[0].is_alive()
    with pytest.raises(BrokerError) as caught:
        broker.status()
    assert caught.value.reason == "CLIENT_CLOSED"
