"""The dispatch over a real server: an open stream whose caller falls silent."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from grpc_status import rpc_status

from broker.domain.identity import Caller, Certificate, Identity, IdentityKind
from broker.rpc import methods
from broker.rpc.dispatch import Bounds, Context, Service, handlers

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Everybody:
    """A gate that lets everybody in, as one agent."""

    open = True

    async def authenticate(self, _: Context) -> Caller:
        identity = Identity("agt_1", IdentityKind.AGENT, "scout", "hum_1", "hum_1", _NOW)
        return Caller(identity, Certificate("f", "agt_1", b"", _NOW, _NOW))

    async def authorise(self, caller: Caller, method: str, workspace: str | None = None) -> None:
        """Everybody may do everything."""


async def test_a_stream_that_falls_silent_ends_with_an_error_of_ours() -> None:
    service = Service(methods.REFLECTION, ReflectionServicer(service_names=["x"]), takes_caller=False)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(tuple(handlers([service], Everybody(), Bounds(1 << 20, idle_s=0.2))))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=20)
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert (await stream.read()).list_services_response.service[0].name == "x"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
    finally:
        await server.stop(None)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    status, info = rpc_status.from_call(caught.value), error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert info.reason == "STREAM_IDLE"
