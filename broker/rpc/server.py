"""The gRPC server: which services there are, the mutual-TLS listener, and the one that is unsafe by name."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.pipeline.pipeline import Pipeline
from broker.rpc import methods
from broker.rpc.administration import AdministrationService
from broker.rpc.approvals import ApprovalsService
from broker.rpc.dispatch import Service
from broker.rpc.gate import CertificateGate
from broker.rpc.health import HealthService
from broker.rpc.ledger import LedgerService
from broker.rpc.sessions import SessionsService
from broker.rpc.tool_broker import ToolBrokerService
from broker.rpc.workspaces_service import WorkspacesService

_TRANSPORT_MARGIN = 4
"""The transport takes messages that much longer than we do, so that the refusal is ours and says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM texts of the listener: the server's key and chain, and the CA that clients' certificates must come from."""

    server_key: bytes
    server_chain: bytes
    client_ca: bytes


def services(
    pipeline: Pipeline,
    sessions: SessionsService,
    administration: AdministrationService,
    ledger: LedgerService,
    approvals: ApprovalsService,
    *,
    workspaces: WorkspacesService,
    gate: CertificateGate,
    max_arguments_bytes: int,
) -> list[Service]:
    """Every service that is served, reflection and health included."""
    ours = [
        Service(
            methods.TOOL_BROKER,
            ToolBrokerService(pipeline, max_arguments_bytes=max_arguments_bytes),
        ),
        Service(methods.SESSIONS, sessions),
        Service(methods.ADMINISTRATION, administration),
        Service(methods.LEDGER, ledger),
        Service(methods.APPROVALS, approvals),
        Service(methods.WORKSPACES, workspaces),
    ]
    names = frozenset(item.descriptor.full_name for item in ours)
    shown = sorted(service.full_name for service in methods.SERVED)
    return [
        *ours,
        Service(methods.HEALTH, HealthService(gate, names), while_closed=True),
        Service(methods.REFLECTION, ReflectionServicer(service_names=shown), takes_caller=False),
    ]


class Server:
    """The listeners, as ``async with``: entering binds and starts, leaving waits for open requests."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], *, max_request_bytes: int) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_request_bytes * _TRANSPORT_MARGIN),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 1024),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ],
        )
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def listen(self, address: str, tls: TlsFiles) -> str:
        """Binds the mutual-TLS listener and returns its address with the real port.

        Raises:
            FailedPreconditionError: the port is taken, or the address can't be bound.
        """
        credentials = grpc.ssl_server_credentials(
            [(tls.server_key, tls.server_chain)], root_certificates=tls.client_ca, require_client_auth=True
        )
        return self._bind(address, lambda: self._server.add_secure_port(address, credentials))

    def listen_unsafe_plaintext(self, address: str) -> str:
        """Binds a listener without TLS and authentication, on loopback only.

        Raises:
            InvalidArgumentError: the address is not on loopback.
            FailedPreconditionError: as ``listen``.
        """
        host = address.rpartition(":")[0].strip("[]")
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise InvalidArgumentError(
                f"unsafe_plaintext_listen {address!r} is not a loopback address",
                reason="UNSAFE_LISTENER",
                hint="Only 127.0.0.0/8 and [::1] may be served without TLS.",
            )
        return self._bind(address, lambda: self._server.add_insecure_port(address))

    @staticmethod
    def _bind(address: str, bind: Callable[[], int]) -> str:
        try:
            port = bind()
        except RuntimeError:
            port = 0
        if not port:
            raise FailedPreconditionError(
                f"can't listen on {address}: the port is taken, or the address isn't this machine's",
                reason="ADDRESS_IN_USE",
                hint="Stop what listens there, or choose another with `listen` in settings.yaml or --listen.",
                metadata={"address": address},
            )
        return f"{address.rpartition(':')[0]}:{port}"

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(grace=5.0)
