"""The asynchronous client."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

from broker.client import blobs, convert, models
from broker.client.administration import AdministrationMethods
from broker.client.approvals import ApprovalMethods
from broker.client.events import EventStream, run_events, watch_events
from broker.client.models import Arguments, Blob, Call, CallContext, CallFilter, CompletedCall, InputFile, OutputFile
from broker.client.sessions import SessionMethods
from broker.client.wire import arguments_json, resource
from broker.domain.ids import new_id
from broker.errors import DataLossError
from broker.v1 import call_pb2, tool_broker_pb2

_UPLOADS_AT_ONCE = 4


class AsyncBroker(SessionMethods, AdministrationMethods, ApprovalMethods):
    """A connection to a broker as one identity, in one event loop.

    Make it with ``AsyncBroker.connect(...)`` and use it in ``async with``. Every method raises the exceptions of
    ``broker.errors`` (see ``broker.client.errors``); ``timeout_s`` is a deadline in seconds, ``None`` takes the client's
    default. Cancelling the task that waits cancels the request.
    """

    # Tools

    async def list_tools(
        self, workspace: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[models.Tool]:
        """The tools that the caller may call in a workspace (default: the context's), by name; pages by itself."""
        where = self._workspace(workspace)

        async def ask(token: str) -> tool_broker_pb2.ListToolsResponse:
            request = tool_broker_pb2.ListToolsRequest(workspace=where, page_size=page_size, page_token=token)
            return await self._rpc.ask(self._rpc.tools.ListTools, request, timeout_s=timeout_s)

        async for tool in self._rpc.pages(ask, lambda page: page.tools):
            yield convert.tool(tool)

    async def get_tool(self, name: str, workspace: str = "", *, timeout_s: float | None = None) -> models.Tool:
        """One tool, by ``data.query`` or ``tools/data.query``."""
        request = tool_broker_pb2.GetToolRequest(name=resource("tools", name), workspace=self._workspace(workspace))
        return convert.tool(await self._rpc.ask(self._rpc.tools.GetTool, request, timeout_s=timeout_s))

    # Calls

    async def create_call(
        self,
        tool: str,
        arguments: Arguments,
        *,
        files: Sequence[InputFile] = (),
        context: CallContext | None = None,
        tool_version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Call:
        """Has a call admitted and returns at once; the call goes on without the caller.

        Args:
            tool: ``data.query`` or ``tools/data.query``.
            arguments: what the tool's schema asks for.
            files: files to go in; paths and bytes are uploaded first.
            context: fields that are set win over the client's own context.
            tool_version: version that is meant; another one than the present is refused.
            request_id: makes the request idempotent: the same id with the same content gives the same call. Made up
                where empty, so that trying again never runs a tool twice.
            timeout_s: deadline of the request in seconds, uploads not included.

        Raises:
            InvalidArgumentError: arguments, files or context are wrong; ``violations`` name the fields.
            PermissionDeniedError: the policy refuses; ``metadata`` names the rule.
            ConflictError: the request id stands for something else.
            ResourceExhaustedError: a quota or the queue is full.
        """
        message = await self._message(tool, arguments, files, context, tool_version)
        request = tool_broker_pb2.CreateToolCallRequest(tool_call=message, request_id=request_id or new_id("req"))
        return convert.call(await self._rpc.ask(self._rpc.tools.CreateToolCall, request, timeout_s=timeout_s))

    def stream(
        self,
        tool: str,
        arguments: Arguments,
        *,
        files: Sequence[InputFile] = (),
        context: CallContext | None = None,
        tool_version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> EventStream:
        """Runs a call and yields its events up to ``Finished``; arguments as those of ``create_call``.

        Ending the stream early, cancelling the task or reaching the deadline cancels the call. A connection that breaks
        is taken up again: no event is lost or doubled. A tool that fails raises nothing: its outcome says so.

        Raises:
            BrokerError: while iterating, as ``create_call``; DataLossError where an event is missing.
        """
        chosen = request_id or new_id("req")
        make = partial(self._message, tool, arguments, files, context, tool_version)
        return EventStream(self._run(make, chosen, timeout_s), chosen)

    async def _run(
        self, make: Callable[[], Awaitable[call_pb2.ToolCall]], request_id: str, timeout_s: float | None
    ) -> AsyncGenerator[models.Event, None]:
        async with aclosing(run_events(self._rpc, await make(), request_id, timeout_s)) as events:
            async for event in events:
                yield event

    async def run(
        self,
        tool: str,
        arguments: Arguments,
        *,
        files: Sequence[InputFile] = (),
        context: CallContext | None = None,
        tool_version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> CompletedCall:
        """Runs a call to its end and returns it with its output; arguments as those of ``create_call``.

        A tool that fails raises nothing: look at ``succeeded``, ``state`` and ``outcome``. Cancelling the task, or the
        deadline, cancels the call.

        Raises:
            BrokerError: as ``create_call``; DataLossError where an event is missing.
        """
        async with self.stream(
            tool,
            arguments,
            files=files,
            context=context,
            tool_version=tool_version,
            request_id=request_id,
            timeout_s=timeout_s,
        ) as events:
            return await collect(events)

    def watch(self, call: Call | str, *, first_event: int = 1, timeout_s: float | None = None) -> EventStream:
        """The events of a call from ``first_event`` on, past ones first; leaving it leaves the call alone.

        Raises:
            OutOfRangeError: while iterating: that event is no longer kept.
            BrokerError: while iterating, as the broker refuses.
        """
        return EventStream(self._watch(_name(call), first_event, timeout_s))

    async def _watch(self, name: str, first_event: int, timeout_s: float | None) -> AsyncGenerator[models.Event, None]:
        async with aclosing(watch_events(self._rpc, name, first_event, timeout_s)) as events:
            async for event in events:
                yield event

    async def get_call(self, call: Call | str, *, timeout_s: float | None = None) -> Call:
        """A call as it stands."""
        request = tool_broker_pb2.GetToolCallRequest(name=_name(call))
        return convert.call(await self._rpc.ask(self._rpc.tools.GetToolCall, request, timeout_s=timeout_s))

    async def list_calls(
        self, chosen: CallFilter | None = None, *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Call]:
        """Calls, newest first, without arguments and results; pages by itself."""
        filter_message = convert.filter_message(chosen or CallFilter())

        async def ask(token: str) -> tool_broker_pb2.ListToolCallsResponse:
            request = tool_broker_pb2.ListToolCallsRequest(filter=filter_message, page_size=page_size, page_token=token)
            return await self._rpc.ask(self._rpc.tools.ListToolCalls, request, timeout_s=timeout_s)

        async for call in self._rpc.pages(ask, lambda page: page.tool_calls):
            yield convert.call(call)

    async def cancel_call(self, call: Call | str, *, timeout_s: float | None = None) -> Call:
        """Cancels a call and returns it; one that has ended is returned as it is."""
        request = tool_broker_pb2.CancelToolCallRequest(name=_name(call))
        return convert.call(await self._rpc.ask(self._rpc.tools.CancelToolCall, request, timeout_s=timeout_s))

    # Blobs

    async def upload(
        self,
        source: Path | bytes | AsyncIterable[bytes],
        *,
        data_classes: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Blob:
        """Uploads a file, bytes or what an iterator yields, and checks that the broker keeps the very bytes.

        An upload that breaks isn't tried again by itself.

        Raises:
            InvalidArgumentError: the file can't be read.
            ResourceExhaustedError: the caller's quota is used up.
            DataLossError: the broker's digest is another.
        """
        return await blobs.upload(self._rpc, source, tuple(data_classes), timeout_s)

    def read(self, blob: Blob | OutputFile | str, *, timeout_s: float | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob, in pieces; size and digest are checked after the last piece, so trust none before it.

        A bare name (``blobs/...``) brings neither size nor digest, and nothing but the order of pieces is checked.
        """
        return blobs.read(self._rpc, blob, timeout_s)

    async def download(
        self, blob: Blob | OutputFile | str, to: Path, *, overwrite: bool = False, timeout_s: float | None = None
    ) -> Path:
        """Downloads a blob to a file: all of it, checked, or nothing.

        Raises:
            ConflictError: the file exists, and ``overwrite`` wasn't asked for.
            DataLossError: size or digest is another.
        """
        async with aclosing(self.read(blob, timeout_s=timeout_s)) as pieces:
            return await blobs.save(pieces, to, overwrite=overwrite)

    async def _message(
        self,
        tool: str,
        arguments: Arguments,
        files: Sequence[InputFile],
        context: CallContext | None,
        tool_version: str,
    ) -> call_pb2.ToolCall:
        chosen = self._context.with_overrides(context)
        self._workspace(chosen.workspace)
        message = call_pb2.ToolCall(
            tool=resource("tools", tool),
            tool_version=tool_version,
            arguments_json=arguments_json(arguments),
            context=convert.context_message(chosen),
        )
        at_once = asyncio.Semaphore(_UPLOADS_AT_ONCE)

        async def bring(file: InputFile) -> call_pb2.InputFile:
            content = file.content
            if not isinstance(content, Blob):
                async with at_once:
                    content = await self.upload(content)
            return call_pb2.InputFile(path=file.path, blob=content.name, executable=file.executable)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(bring(file)) for file in files]
        except BaseExceptionGroup as errors:
            # The first refusal is the one to tell; the group has cancelled the other uploads.
            raise errors.exceptions[0] from errors
        message.files.extend(task.result() for task in tasks)
        return message


async def collect(events: AsyncIterator[models.Event]) -> CompletedCall:
    """Reads events to the last one: the call with all of its output that was kept.

    Raises:
        DataLossError: the last event is missing.
    """
    output: dict[type[models.Stdout | models.Stderr], list[bytes]] = {models.Stdout: [], models.Stderr: []}
    async for event in events:
        match event:
            case models.Stdout() | models.Stderr():
                output[type(event)].append(event.data)
            case models.Finished(call=call):
                values = {field.name: getattr(call, field.name) for field in dataclasses.fields(call)}
                return CompletedCall(
                    **values, stdout=b"".join(output[models.Stdout]), stderr=b"".join(output[models.Stderr])
                )
            case models.StateChanged():
                pass
    raise DataLossError("the call's last event is missing", reason="STREAM_CUT")


def _name(call: Call | str) -> str:
    return call.name if isinstance(call, Call) else resource("calls", call)
