"""A call's events in order: each once, no gap, and over a broken connection if need be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import grpc

from broker.client import convert
from broker.client.models import Event, Finished
from broker.client.retry import may_retry
from broker.client.transport import Deadline, Transport
from broker.errors import BrokerError, DataLossError
from broker.v1 import call_pb2, tool_broker_pb2

_CANCEL_TIMEOUT_S = 5.0


class EventStream(AsyncIterator[Event]):
    """The events of one call; iterate over it, best inside ``async with``.

    Leaving it before the last event ends the stream, and cancels the call if the stream is that of ``stream()``.
    """

    def __init__(self, source: AsyncGenerator[Event, None], request_id: str = "") -> None:
        self._source = source
        self.request_id = request_id
        """Request id under which the call was created; empty for a watched call."""

    async def __anext__(self) -> Event:
        return await anext(self._source)

    async def aclose(self) -> None:
        """Ends the stream."""
        await self._source.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


_Response: TypeAlias = tool_broker_pb2.RunToolCallResponse | tool_broker_pb2.WatchToolCallResponse


class _Stream(Protocol):
    """What RunToolCall and WatchToolCall have in common on the client's side."""

    def __aiter__(self) -> AsyncIterator[_Response]: ...

    def cancel(self) -> bool: ...


async def watch_events(
    transport: Transport, name: str, first_event: int, timeout_s: float | None
) -> AsyncGenerator[Event, None]:
    """The events of a call from a number on; the call goes on whatever becomes of the stream.

    Raises:
        OutOfRangeError: the first event wanted is no longer kept.
        DataLossError: an event is missing, or the stream ended without the last one.
        BrokerError: the broker's refusal, or a connection that stays away for longer than the retry policy bears.
    """
    deadline = Deadline(transport.timeouts.call_s if timeout_s is None else timeout_s)

    async def start(number: int) -> _Stream:
        request = tool_broker_pb2.WatchToolCallRequest(name=name, first_event=number)
        return transport.tools.WatchToolCall(request, timeout=deadline.remaining())

    async with aclosing(_follow(transport, start, max(1, first_event), deadline)) as events:
        async for event in events:
            yield event


async def run_events(
    transport: Transport,
    tool_call: call_pb2.ToolCall,
    request_id: str,
    timeout_s: float | None,
) -> AsyncGenerator[Event, None]:
    """Runs a call and yields its events; ending the generator early cancels the call.

    A stream that breaks before its first event is asked for again under the same request id, which gives the same call.
    One that breaks later goes on as a watch from the next event.

    Raises:
        DataLossError: an event is missing, or the stream ended without the last one.
        BrokerError: the broker's refusal, or a connection that stays away for longer than the retry policy bears.
    """
    deadline = Deadline(transport.timeouts.call_s if timeout_s is None else timeout_s)
    name = ""

    async def find(within_s: float) -> str:
        # Events don't carry the call's name; asking for the same request again gives the call that it made.
        again = tool_broker_pb2.CreateToolCallRequest(tool_call=tool_call, request_id=request_id)
        return (await transport.ask(transport.tools.CreateToolCall, again, timeout_s=within_s, always=True)).name

    async def start(number: int) -> _Stream:
        nonlocal name
        if number == 1:
            request = tool_broker_pb2.RunToolCallRequest(tool_call=tool_call, request_id=request_id, join_events=True)
            return transport.tools.RunToolCall(request, timeout=deadline.remaining())
        name = name or await find(deadline.remaining())
        watch = tool_broker_pb2.WatchToolCallRequest(name=name, first_event=number)
        return transport.tools.WatchToolCall(watch, timeout=deadline.remaining())

    async def cancel() -> None:
        with suppress(BrokerError):  # what ended the stream is the error to be told, not this
            request = tool_broker_pb2.CancelToolCallRequest(name=name or await find(_CANCEL_TIMEOUT_S))
            await transport.ask(transport.tools.CancelToolCall, request, timeout_s=_CANCEL_TIMEOUT_S, always=True)

    admitted = finished = False
    try:
        async with aclosing(_follow(transport, start, 1, deadline)) as events:
            async for event in events:
                admitted, finished = True, isinstance(event, Finished)
                yield event
    except (GeneratorExit, asyncio.CancelledError):
        # The broker leaves a caller whose stream ends some seconds to come back. This one won't.
        if admitted and not finished:
            await cancel()
        raise
    except BrokerError:
        # A run that goes on as a watch is no longer bound to its stream.
        if name:
            await cancel()
        raise


async def _follow(
    transport: Transport,
    start: Callable[[int], Awaitable[_Stream]],
    first: int,
    deadline: Deadline,
) -> AsyncGenerator[Event, None]:
    expected, failures = first, 0
    while True:
        await transport.ready(deadline)
        stream = await start(expected)
        try:
            async for response in stream:
                for message in _events_of(response):
                    event = convert.event(message)
                    _check_number(event.number, expected)
                    expected, failures = expected + 1, 0
                    yield event
                    if isinstance(event, Finished):
                        return
            raise DataLossError(
                f"the broker ended the stream before the call's last event, after event {expected - 1}",
                reason="STREAM_CUT",
                hint="Look the call up with `broker calls show`; what is kept can be watched again.",
            )
        except grpc.aio.AioRpcError as error:
            failure = transport.error(error)
            failures += 1
            pause = transport.retry.pause(failures, failure)
            if not may_retry(failure) or failures >= transport.retry.attempts or pause >= deadline.remaining():
                raise failure from error
        finally:
            stream.cancel()
        await asyncio.sleep(pause)


def _events_of(response: _Response) -> Iterator[call_pb2.ToolCallEvent]:
    yield response.event
    if isinstance(response, tool_broker_pb2.RunToolCallResponse):
        yield from response.more_events


def _check_number(number: int, expected: int) -> None:
    if number != expected:
        raise DataLossError(
            f"event {expected} of the call was to come, and the broker sent event {number}",
            reason="EVENT_GAP",
            hint="Watch the call again from its first event.",
            metadata={"expected": str(expected), "received": str(number)},
        )
