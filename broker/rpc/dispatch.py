"""One way in for every method of every service: authenticate, decide, parse, answer, and turn errors into statuses.

Requests reach us as bytes and are parsed here, so that malformed ones get our own error. Nothing is served but what
stands in the table of services that ``handlers`` is given, each method of it behind the same gate: health and reflection
too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from broker.domain.identity import Caller
from broker.errors import BrokerError, DeadlineError, InternalError, InvalidArgumentError
from broker.rpc.guard import Check, Places, guarded, unhurried, watched
from broker.rpc.status import to_status
from broker.rpc.workspaces import named_workspace, names_workspace

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_log = structlog.get_logger(__name__)


class Gate(Protocol):
    """Who asks, and may they?"""

    async def authenticate(self, context: Context) -> Caller:
        """The caller of a connection, checked now: registry, expiry, revocation.

        Raises:
            UnauthenticatedError: says what is wrong with the certificate.
        """

    async def authorise(self, caller: Caller, method: str, workspace: str | None = None) -> None:
        """Lets a caller use a method (``broker.v1.ToolBroker/ListTools``) at all, or in a workspace.

        Raises:
            PermissionDeniedError: names the rule.
        """

    @property
    def open(self) -> bool:
        """Are new requests taken? Not before the ledger has verified, nor while draining."""

    @property
    def why_closed(self) -> BrokerError:
        """What to answer while it isn't open."""

    @property
    def unfit(self) -> BrokerError | None:
        """Why it was shut for good, if it was: open streams end then too."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service and the object whose methods, by the wire's names, answer it."""

    descriptor: ServiceDescriptor
    implementation: object
    takes_caller: bool = True
    """Ours take ``(caller, request, context)``; a library's servicer takes ``(request, context)``."""
    while_closed: bool = False
    """Is it answered while the gate is closed? Health is."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller may take up; sizes in bytes, times in seconds."""

    max_request_bytes: int
    recheck_s: float = 1.0
    """How often the caller of an open stream is checked again."""
    idle_s: float = 30.0
    """How long the caller's side of an open stream may be silent."""
    max_uploads: int = 8
    """Uploads that one caller may have open at once."""


@dataclass(frozen=True, slots=True)
class _Entered:
    """A request that was let in."""

    caller: Caller
    arguments: tuple[object, ...]
    check: Check
    """Lets the same caller pass again, or raises."""


@dataclass(slots=True)
class _Where:
    """The workspace that a request acts in, once it is known; ``None`` where it isn't about one."""

    workspace: str | None = None


def handlers(services: Sequence[Service], gate: Gate, bounds: Bounds) -> list[grpc.GenericRpcHandler]:
    """Generic handlers of all services."""
    result: list[grpc.GenericRpcHandler] = []
    places = Places(bounds.max_uploads)
    for service in services:
        methods = {
            method.name: _Method(service, method, gate, bounds, places).handler()
            for method in service.descriptor.methods
        }
        result.append(grpc.method_handlers_generic_handler(service.descriptor.full_name, methods))
    return result


class _Method:
    def __init__(self, service: Service, method: MethodDescriptor, gate: Gate, bounds: Bounds, places: Places) -> None:
        self._service = service
        self._name = f"{service.descriptor.full_name}/{method.name}"
        self._method = method
        self._request_class: type[Message] = GetMessageClass(method.input_type)
        self._call: Callable[..., Any] = getattr(service.implementation, method.name)
        self._gate = gate
        self._bounds = bounds
        self._places = places

    def handler(self) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of this method's shape, over bytes on both sides."""
        many_in, many_out = self._method.client_streaming, self._method.server_streaming
        if many_out:
            make = grpc.stream_stream_rpc_method_handler if many_in else grpc.unary_stream_rpc_method_handler
            return make(self._stream)
        make_unary = grpc.stream_unary_rpc_method_handler if many_in else grpc.unary_unary_rpc_method_handler
        return make_unary(self._unary)

    async def _unary(self, request: bytes | AsyncIterator[bytes], context: Context) -> bytes:
        async def answer() -> bytes:
            entered = await self._enter(request, context)
            reply: Message
            if isinstance(request, bytes):
                reply = await self._call(*entered.arguments)
            else:
                # Whoever sends nothing holds a place too: the first request is waited for in it.
                with self._places.one(entered.caller.identity.id):
                    work = self._call(*entered.arguments)
                    reply = await guarded(work, entered.check, self._bounds.recheck_s)
            return reply.SerializeToString()

        return cast("bytes", await _reporting(answer, self._name, context))

    async def _stream(self, request: bytes | AsyncIterator[bytes], context: Context) -> None:
        async def answer() -> None:
            entered = await self._enter(request, context)
            replies: AsyncGenerator[Message, None] = self._call(*entered.arguments)
            # Whoever doesn't read holds a reply up for as long as they like, but they are checked meanwhile.
            with watched(entered.check, self._bounds.recheck_s):
                async with aclosing(replies):
                    async for reply in replies:
                        await context.write(reply.SerializeToString())

        await _reporting(answer, self._name, context)

    async def _enter(self, request: bytes | AsyncIterator[bytes], context: Context) -> _Entered:
        if not self._gate.open and not self._service.while_closed:
            raise self._gate.why_closed
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineError(f"the deadline of {self._name} had passed when it arrived; nothing was done")
        caller = await self._gate.authenticate(context)
        await self._gate.authorise(caller, self._name)
        parsed: object
        if isinstance(request, bytes):
            parsed = message = self._parse(request)
            workspace = named_workspace(self._name, message)
            if workspace is not None:
                await self._gate.authorise(caller, self._name, workspace)
            check = self._check_again(context, _Where(workspace))
        else:
            where = _Where()
            check = self._check_again(context, where)
            parsed = self._parse_all(request, check)
            if names_workspace(self._name):
                parsed = self._in_workspace(parsed, caller, where)
        arguments = (caller, parsed, context) if self._service.takes_caller else (parsed, context)
        return _Entered(caller, arguments, check)

    def _parse(self, data: bytes) -> Message:
        limit = self._bounds.max_request_bytes
        if len(data) > limit:
            raise InvalidArgumentError(
                f"the request is {len(data)} bytes long; the limit is {limit}",
                reason="REQUEST_TOO_LARGE",
                hint="Send files with UploadBlob and name them in the call.",
                metadata={"limit_bytes": str(limit), "bytes": str(len(data))},
            )
        message = self._request_class()
        try:
            message.ParseFromString(data)
        except (DecodeError, RecursionError) as error:
            raise InvalidArgumentError(
                f"the request is no valid {self._method.input_type.full_name}",
                reason="MALFORMED_REQUEST",
                hint="Generate the client from the broker's protos, or ask by server reflection.",
            ) from error
        return message

    async def _parse_all(self, requests: AsyncIterator[bytes], check: Check) -> AsyncIterator[Message]:
        async with aclosing(unhurried(requests, self._bounds.idle_s, check)) as incoming:
            async for data in incoming:
                yield self._parse(data)

    async def _in_workspace(
        self, requests: AsyncIterator[Message], caller: Caller, where: _Where
    ) -> AsyncIterator[Message]:
        """The same requests; none goes on before the workspace that the first one names is decided."""
        first = await anext(requests, None)
        workspace = named_workspace(self._name, self._request_class() if first is None else first)
        if workspace is not None:
            await self._gate.authorise(caller, self._name, workspace)
            where.workspace = workspace
        if first is not None:
            yield first
        async for message in requests:
            yield message

    def _check_again(self, context: Context, where: _Where) -> Check:
        async def check() -> None:
            if self._gate.unfit is not None and not self._service.while_closed:
                raise self._gate.unfit
            caller = await self._gate.authenticate(context)
            await self._gate.authorise(caller, self._name)
            if where.workspace is not None:
                await self._gate.authorise(caller, self._name, where.workspace)

        return check


async def _reporting(answer: Callable[[], Awaitable[Any]], name: str, context: Context) -> Any:  # noqa: ANN401 - bytes or None, as the shape wants
    try:
        return await answer()
    except BrokerError as error:
        refusal = error
    except (grpc.aio.AbortError, asyncio.CancelledError):
        raise  # AbortError is an Exception; it already carries the status
    except Exception:  # noqa: BLE001 - the fail-closed boundary: a defect is told as such, without its text
        _log.exception("rpc.failed", method=name)
        refusal = InternalError(
            f"{name} failed inside the broker; nothing of the reason is sent",
            hint="The broker's log has it; a call that had started can be looked up with GetToolCall.",
        )
    await context.abort_with_status(rpc_status.to_status(to_status(refusal)))
    raise AssertionError("abort_with_status always raises")
