"""The listener of a broker that must not work: health says NOT_SERVING, and every other method why.

A ledger that is behind its checkpoints may be an old backup, in which somebody who has been revoked since is valid. So
nothing in it is believed here, not even who asks: whoever has a certificate of the CA gets the same answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from broker.errors import BrokerError
from broker.rpc import methods
from broker.rpc.status import to_status

_HEALTH = f"/{methods.HEALTH.full_name}/"


class UnfitHandler(grpc.GenericRpcHandler):
    """Answers every method there is, and every one that there isn't."""

    def __init__(self, why: BrokerError) -> None:
        self._status = rpc_status.to_status(to_status(why))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a method; each takes bytes and streams alike."""
        answer = self._health if details.method in (f"{_HEALTH}Check", f"{_HEALTH}Watch") else self._refuse
        return grpc.stream_stream_rpc_method_handler(answer)

    async def _refuse(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort_with_status(self._status)

    async def _health(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        response = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
        await context.write(response.SerializeToString())
