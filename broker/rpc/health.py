"""The standard health service, behind the same gate as all others, and never SERVING before the ledger has verified."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from grpc_health.v1 import health_pb2

from broker.domain.identity import Caller
from broker.errors import NotFoundError
from broker.rpc.dispatch import Context, Gate

_POLL_S = 0.5


class HealthService:
    """Answers ``grpc.health.v1.Health`` from the gate's own state: there is no second truth that could lag behind."""

    def __init__(self, gate: Gate, services: frozenset[str]) -> None:
        self._gate = gate
        self._services = services

    async def Check(  # noqa: N802 - the wire's name
        self, _: Caller, request: health_pb2.HealthCheckRequest, __: Context
    ) -> health_pb2.HealthCheckResponse:
        """The present status of the whole broker (empty name) or of one service."""
        if request.service and request.service not in self._services:
            raise NotFoundError(f"there is no service {request.service[:80]!r}", reason="SERVICE_UNKNOWN")
        return self._response()

    async def Watch(  # noqa: N802 - the wire's name
        self, _: Caller, request: health_pb2.HealthCheckRequest, __: Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """The status now, and again whenever it changes."""
        if request.service and request.service not in self._services:
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            return
        last = None
        while True:
            response = self._response()
            if response.status != last:
                last = response.status
                yield response
            await asyncio.sleep(_POLL_S)

    async def List(  # noqa: N802 - the wire's name
        self, _: Caller, __: object, ___: Context
    ) -> health_pb2.HealthListResponse:
        """The status of each service."""
        return health_pb2.HealthListResponse(statuses={name: self._response() for name in ("", *self._services)})

    def _response(self) -> health_pb2.HealthCheckResponse:
        statuses = health_pb2.HealthCheckResponse
        return statuses(status=statuses.SERVING if self._gate.open else statuses.NOT_SERVING)
