"""A real gRPC server over mutual TLS that answers by script: for what a client must bear from odd and hostile brokers.

Each test gives the answers; the sockets, the TLS and the certificates are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from broker.v1 import administration_pb2, blob_pb2, call_pb2, sessions_pb2, tool_broker_pb2, tool_pb2
from broker.v1.administration_pb2_grpc import AdministrationServicer, add_AdministrationServicer_to_server
from broker.v1.approvals_pb2_grpc import ApprovalsServicer, add_ApprovalsServicer_to_server
from broker.v1.ledger_pb2_grpc import LedgerServicer, add_LedgerServicer_to_server
from broker.v1.sessions_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server
from broker.v1.tool_broker_pb2_grpc import ToolBrokerServicer, add_ToolBrokerServicer_to_server

CALL = "calls/call_00000000000000000000000001"


@dataclass(frozen=True)
class Authority:
    """A CA made for one test run."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, *, server: bool = False) -> tuple[bytes, bytes]:
        """Certificate and key as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self.certificate.subject, key)
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return (
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def write(self, folder: Path, name: str) -> Path:
        """An identity's folder with ``cert.pem`` and ``key.pem``."""
        certificate, key = self.issue(name)
        folder.mkdir(parents=True)
        (folder / "cert.pem").write_bytes(certificate)
        (folder / "key.pem").write_bytes(key)
        return folder


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )


class Refuse(Exception):  # noqa: N818 - an answer, not an error of the test
    """An answer: a status with details."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str = "refused",
        *,
        reason: str = "",
        domain: str = "broker.v1",
        metadata: dict[str, str] | None = None,
        fields: dict[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        details = []
        if reason:
            details.append(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {}))
        if fields:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=name, description=text)
                for name, text in fields.items()
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        if retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(retry_after_s * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            item = any_pb2.Any()
            item.Pack(detail)
            packed.append(item)
        self.status = status_pb2.Status(code=code.value[0], message=message, details=packed)
        self.bare = None if details else code
        self.trailers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Script:
    """What the server answers: per method a list of answers, used up one by one; the last one stays.

    An answer is a message, a list of messages for a stream, a ``Refuse``, or a function of the request that gives one
    of these. A list for a stream may end with a ``Refuse``.
    """

    answers: dict[str, list[object]] = field(default_factory=dict)
    requests: list[tuple[str, object]] = field(default_factory=list)
    hung: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a stream has reached its ``HANG``."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a stream that hung has been ended by the client."""

    def on(self, method: str, *answers: object) -> None:
        self.answers[method] = list(answers)

    def sent(self, method: str) -> list:
        """The requests of a method so far."""
        return [request for name, request in self.requests if name == method]

    def next(self, method: str, request: object) -> object:
        self.requests.append((method, request))
        answers = self.answers.get(method)
        if not answers:
            raise Refuse(grpc.StatusCode.UNIMPLEMENTED, f"no script for {method}", reason="NO_SCRIPT")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(request) if callable(answer) else answer


HANG = object()
"""In a stream's list: wait until the client ends the stream."""


async def abort(context: grpc.aio.ServicerContext, refusal: Refuse) -> None:
    """Ends a request with an answer that is a refusal."""
    if refusal.bare is not None:
        await context.abort(refusal.bare, str(refusal), refusal.trailers)
    await context.abort_with_status(rpc_status.to_status(refusal.status))


def _unary(method: str) -> Callable:
    async def handle(self: _Servicer, request: object, context: grpc.aio.ServicerContext) -> object:
        try:
            answer = self.script.next(method, request)
            if answer is HANG:
                self.script.hung.set()
                await asyncio.Event().wait()
            if isinstance(answer, Refuse):
                raise answer
        except Refuse as refusal:
            await abort(context, refusal)
        return answer

    return handle


def _stream(method: str) -> Callable:
    async def handle(self: _Servicer, request: object, context: grpc.aio.ServicerContext) -> AsyncIterator[object]:
        try:
            answer = self.script.next(method, request)
            for item in answer if isinstance(answer, list) else [answer]:
                if item is HANG:
                    self.script.hung.set()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        self.script.ended.set()
                if isinstance(item, Refuse):
                    raise item
                yield item
        except Refuse as refusal:
            await abort(context, refusal)

    return handle


class _Servicer:
    def __init__(self, script: Script) -> None:
        self.script = script


class _Tools(_Servicer, ToolBrokerServicer):
    ListTools = _unary("ListTools")
    GetTool = _unary("GetTool")
    CreateToolCall = _unary("CreateToolCall")
    RunToolCall = _stream("RunToolCall")
    WatchToolCall = _stream("WatchToolCall")
    GetToolCall = _unary("GetToolCall")
    ListToolCalls = _unary("ListToolCalls")
    CancelToolCall = _unary("CancelToolCall")
    DownloadBlob = _stream("DownloadBlob")

    async def UploadBlob(self, requests: AsyncIterator, context: grpc.aio.ServicerContext) -> blob_pb2.Blob:  # noqa: N802
        received = []
        try:
            early = self.script.answers.get("UploadBlobEarly")
            if early:
                raise early[0]
            async for request in requests:
                received.append(request)  # noqa: PERF401 - an asynchronous comprehension would read no better
            answer = self.script.next("UploadBlob", received)
            if isinstance(answer, Refuse):
                raise answer
        except Refuse as refusal:
            await abort(context, refusal)
        return answer


class _Sessions(_Servicer, SessionsServicer):
    StartSession = _unary("StartSession")
    EndSession = _unary("EndSession")
    GetSession = _unary("GetSession")
    ListSessions = _unary("ListSessions")
    CreateSchedule = _unary("CreateSchedule")


class _Administration(_Servicer, AdministrationServicer):
    GetBrokerStatus = _unary("GetBrokerStatus")
    GetSandboxStatus = _unary("GetSandboxStatus")
    ReloadPolicy = _unary("ReloadPolicy")
    ListIdentities = _unary("ListIdentities")
    RevokeIdentity = _unary("RevokeIdentity")


@dataclass
class FakeBroker:
    """A running server."""

    address: str
    script: Script
    server: grpc.aio.Server
    authority: Authority
    loop: asyncio.AbstractEventLoop

    def wait(self, event: asyncio.Event) -> bool:
        """Waits, in another thread than the server's, for something that the server sees."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(event.wait(), 20), self.loop).result(30)


@contextlib.asynccontextmanager
async def fake_broker(
    authority: Authority,
    *,
    port: int = 0,
    plaintext: bool = False,
    ledger: LedgerServicer | None = None,
    approvals: ApprovalsServicer | None = None,
) -> AsyncIterator[FakeBroker]:
    """A server in the running event loop; without a ledger or approvals it doesn't know that service."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    script = Script()
    add_ToolBrokerServicer_to_server(_Tools(script), server)
    add_SessionsServicer_to_server(_Sessions(script), server)
    add_AdministrationServicer_to_server(_Administration(script), server)
    if ledger is not None:
        add_LedgerServicer_to_server(ledger, server)
    if approvals is not None:
        add_ApprovalsServicer_to_server(approvals, server)
    address = f"127.0.0.1:{port}"
    if plaintext:
        bound = server.add_insecure_port(address)
    else:
        certificate, key = authority.issue("server", server=True)
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=authority.pem, require_client_auth=True
        )
        bound = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield FakeBroker(f"127.0.0.1:{bound}", script, server, authority, asyncio.get_running_loop())
    finally:
        await server.stop(None)


@contextlib.contextmanager
def fake_broker_in_thread(
    authority: Authority, ledger: LedgerServicer | None = None, approvals: ApprovalsServicer | None = None
) -> Iterator[FakeBroker]:
    """A server in a thread, for synchronous clients and programs."""
    started = threading.Event()
    found: list[FakeBroker] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with fake_broker(authority, ledger=ledger, approvals=approvals) as broker:
            found.append(broker)
            started.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait(30)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


# Messages that tests need often.


def tool(name: str = "python.run") -> tool_pb2.Tool:
    return tool_pb2.Tool(
        name=f"tools/{name}",
        version="sha256:" + "1" * 64,
        description="Runs Python.",
        tier=tool_pb2.TIER_INTERNAL,
        arguments_schema_json='{"type": "object"}',
    )


def call(state: str = "SUCCEEDED", **values: object) -> call_pb2.ToolCall:
    message = call_pb2.ToolCall(
        name=CALL,
        tool="tools/python.run",
        state=call_pb2.ToolCallState.Value(f"TOOL_CALL_STATE_{state}"),
        tier=tool_pb2.TIER_INTERNAL,
        arguments_json="{}",
    )
    if state in {"SUCCEEDED", "FAILED"}:
        message.outcome.exited = True
        message.outcome.exit_code = 0 if state == "SUCCEEDED" else 7
        message.outcome.cause = call_pb2.END_CAUSE_TOOL
    message.MergeFrom(call_pb2.ToolCall(**values))
    return message


def _event(response: type, number: int, **payload: object) -> object:
    return response(event=call_pb2.ToolCallEvent(number=number, **payload))


def events(response: type, first: int, *payloads: object) -> list[object]:
    """Events from ``first`` on: a state's name, bytes of stdout, or the call as a result; others pass as they are."""
    result: list[object] = []
    number = first
    for payload in payloads:
        match payload:
            case str():
                state = call_pb2.StateChange(state=call_pb2.ToolCallState.Value(f"TOOL_CALL_STATE_{payload}"))
                result.append(_event(response, number, state_change=state))
            case bytes():
                result.append(_event(response, number, stdout=call_pb2.OutputChunk(data=payload)))
            case call_pb2.ToolCall():
                result.append(_event(response, number, result=payload))
            case _:
                result.append(payload)
                continue
        number += 1
    return result


def run(*payloads: object) -> list[object]:
    return events(tool_broker_pb2.RunToolCallResponse, 1, *payloads)


def watch(first: int, *payloads: object) -> list[object]:
    return events(tool_broker_pb2.WatchToolCallResponse, first, *payloads)


def session() -> sessions_pb2.Session:
    return sessions_pb2.Session(name="sessions/ses_1", agent="bot", workspace="demo", starter="hum_1")


def status() -> administration_pb2.BrokerStatus:
    return administration_pb2.BrokerStatus(version="0.1.0", tools=4, ledger_seq=12)
