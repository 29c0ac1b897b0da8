"""An agent that asks too often is told so over the wire, with a delay; others aren't, and the ledger doesn't grow."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from broker.client import RetryPolicy
from broker.errors import InvalidArgumentError
from tests.integration.test_wire import channel, create, facts
from tests.served import Served, asked

pytestmark = pytest.mark.docker

_CREATE = "/broker.v1.ToolBroker/CreateToolCall"
_BATCH = 100
_AT_MOST = 20_000
"""Requests after which a limit of 50 a second is surely not kept."""


async def _ask(opened: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    """Asks for a call whose arguments don't fit: each request counts, and none starts a container."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opened.unary_unary(_CREATE)(create('{"code": 3}'), timeout=60)
    return caught.value


async def _first_refusal(opened: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    for _ in range(_AT_MOST // _BATCH):
        errors = await asyncio.gather(*(_ask(opened) for _ in range(_BATCH)))
        late = [error for error in errors if facts(error)[1] == "AGENT_RATE"]
        if late:
            return late[-1]
        assert {facts(error)[0] for error in errors} == {grpc.StatusCode.INVALID_ARGUMENT}
    raise AssertionError("the rate was never limited")


async def test_an_agent_that_asks_too_often_is_refused_with_a_delay_and_others_are_not(served: Served) -> None:
    before = len(asked(served.state))
    async with channel(served) as opened:
        refusal = await _first_refusal(opened)
        code, _, metadata = facts(refusal)
        async with served.client("rover", retry=RetryPolicy(attempts=1)) as rover:
            with pytest.raises(InvalidArgumentError):
                await rover.create_call("python.run", {"code": 3})
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert metadata["per_second"] == "50"
    assert 0 < _delay(refusal) < 60
    assert len(asked(served.state)) == before


async def test_a_client_waits_for_the_delay_and_comes_through(served: Served) -> None:
    async with channel(served) as opened, served.client() as patient:
        await _first_refusal(opened)
        flood = asyncio.gather(*(_ask(opened) for _ in range(_BATCH)))
        with pytest.raises(InvalidArgumentError):
            await patient.create_call("python.run", {"code": 3})
        await flood


def _delay(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)
    assert status is not None
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.ToNanoseconds()) / 1e9
    raise AssertionError("the refusal names no delay")
