"""The ToolBroker service: thin, from wire to pipeline and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import TypeVar

from broker.domain.call import CallRequest
from broker.domain.events import CallEvent, CallView
from broker.domain.identity import Caller
from broker.domain.ids import ID_PATTERN
from broker.domain.ports import CallQuery
from broker.domain.spec_parts import SpecWorkspace
from broker.errors import InvalidArgumentError, NotFoundError
from broker.pipeline.calls import Told
from broker.pipeline.pipeline import Pipeline
from broker.rpc import wire
from broker.rpc.dispatch import Context
from broker.rpc.egress_wire import rule_messages
from broker.specs.catalogue import Tool
from broker.v1 import blob_pb2, call_pb2, tool_broker_pb2, tool_pb2

T = TypeVar("T")
_DEADLINE_SLACK_S = 0.5
"""The caller's clock runs ahead of ours: its cancellation at the deadline may reach us shortly before."""
_MAX_CHUNK = 1 << 20
_MAX_JOINED = 256 * 1024
"""Bytes of the events that one response holds together."""
_PARSED_IN_PLACE = 32 * 1024
"""Longer arguments are read in another thread: a megabyte takes tens of milliseconds, which all others would wait."""


class ToolBrokerService:
    """Answers the methods of ``broker.v1.ToolBroker`` for callers that the gate let in."""

    def __init__(self, pipeline: Pipeline, *, max_arguments_bytes: int) -> None:
        self._pipeline = pipeline
        self._max_arguments_bytes = max_arguments_bytes

    async def ListTools(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.ListToolsRequest, _: Context
    ) -> tool_broker_pb2.ListToolsResponse:
        """The tools that the caller may call in a workspace, by name."""
        size = wire.page_size(request.page_size)
        tools = self._pipeline.tools(caller, _workspace(request.workspace))
        rest = [tool for tool in tools if tool.spec.name > request.page_token]
        page, token = _page(rest, size)
        return tool_broker_pb2.ListToolsResponse(
            tools=[self._tool(tool) for tool in page], next_page_token=token.spec.name if token else ""
        )

    async def GetTool(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.GetToolRequest, _: Context
    ) -> tool_pb2.Tool:
        """One tool; one that the caller may not call there is not found."""
        name = wire.resource_id(request.name, "tools")
        tool = self._pipeline.tool(caller, name, _workspace(request.workspace))
        if tool is None:
            raise NotFoundError(
                f"there is no tool {name[:80]!r} that {caller.subject} may call in {request.workspace[:80]!r}",
                reason="TOOL_NOT_FOUND",
                hint="ListTools shows what there is.",
            )
        return self._tool(tool)

    def _tool(self, tool: Tool) -> tool_pb2.Tool:
        return tool_message(tool, self._pipeline.image_digest(tool))

    async def CreateToolCall(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.CreateToolCallRequest, _: Context
    ) -> call_pb2.ToolCall:
        """Admits a call."""
        call = await self._request(request)
        return wire.view_message(await self._pipeline.create(caller, call))

    async def _request(
        self, request: tool_broker_pb2.CreateToolCallRequest | tool_broker_pb2.RunToolCallRequest
    ) -> CallRequest:
        call, request_id, limit = request.tool_call, request.request_id, self._max_arguments_bytes
        if len(call.arguments_json) <= _PARSED_IN_PLACE:
            return wire.call_request(call, request_id, limit)
        return await asyncio.to_thread(wire.call_request, call, request_id, limit)

    async def RunToolCall(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.RunToolCallRequest, context: Context
    ) -> AsyncGenerator[tool_broker_pb2.RunToolCallResponse, None]:
        """Admits a call and streams its events."""
        call = await self._request(request)

        loop = asyncio.get_running_loop()
        remaining = context.time_remaining()
        deadline = None if remaining is None else loop.time() + remaining

        def deadline_passed() -> bool:
            return deadline is not None and loop.time() >= deadline - _DEADLINE_SLACK_S

        made = Made()
        async with aclosing(self._pipeline.run(caller, call, deadline_passed, made.foresee)) as events:
            async for told in events:
                messages = [made.message(event, view) for event, view in told]
                for first, *more in joined(messages, _MAX_JOINED if request.join_events else 0):
                    yield tool_broker_pb2.RunToolCallResponse(event=first, more_events=more)

    async def WatchToolCall(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.WatchToolCallRequest, _: Context
    ) -> AsyncGenerator[tool_broker_pb2.WatchToolCallResponse, None]:
        """Streams a call's events from a number on."""
        call_id = wire.resource_id(request.name, "calls")
        async with aclosing(self._pipeline.calls.watch(caller, call_id, request.first_event)) as events:
            async for told in events:
                for event, view in told:
                    yield tool_broker_pb2.WatchToolCallResponse(event=wire.event_message(event, view))

    async def GetToolCall(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.GetToolCallRequest, _: Context
    ) -> call_pb2.ToolCall:
        """A call as it stands."""
        call_id = wire.resource_id(request.name, "calls")
        return wire.view_message(await self._pipeline.calls.get(caller, call_id))

    async def ListToolCalls(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.ListToolCallsRequest, _: Context
    ) -> tool_broker_pb2.ListToolCallsResponse:
        """Calls that the caller may see, newest first."""
        size = wire.page_size(request.page_size)
        wanted = request.filter
        if request.page_token and not ID_PATTERN.fullmatch(request.page_token):
            raise wire.refuse("page_token", "is not one that ListToolCalls gave", "INVALID_PAGE_TOKEN")
        query = CallQuery(
            tool=wire.resource_id(wanted.tool, "tools", "filter.tool") if wanted.tool else "",
            states=frozenset(wire.state_of(state) for state in wanted.states),
            workspace=wanted.workspace,
            workflow=wanted.workflow,
            created_from=wire.moment(wanted.create_time_from, "filter.create_time_from")
            if wanted.HasField("create_time_from")
            else None,
            created_before=wire.moment(wanted.create_time_before, "filter.create_time_before")
            if wanted.HasField("create_time_before")
            else None,
            before=request.page_token,
            limit=size + 1,
        )
        views = await self._pipeline.calls.search(caller, query, wanted.agent)
        page, token = _page(views, size)
        return tool_broker_pb2.ListToolCallsResponse(
            tool_calls=[wire.view_message(view, full=False) for view in page],
            next_page_token=token.id if token else "",
        )

    async def CancelToolCall(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.CancelToolCallRequest, _: Context
    ) -> call_pb2.ToolCall:
        """Ends a call."""
        call_id = wire.resource_id(request.name, "calls")
        return wire.view_message(await self._pipeline.cancel(caller, call_id))

    async def UploadBlob(  # noqa: N802 - the wire's name
        self, caller: Caller, requests: AsyncIterator[tool_broker_pb2.UploadBlobRequest], _: Context
    ) -> blob_pb2.Blob:
        """Keeps a file."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("payload") != "header":
            raise InvalidArgumentError(
                "an upload begins with a header; the stream ended or brought bytes instead",
                reason="UPLOAD_WITHOUT_HEADER",
                hint="Send UploadBlobRequest.header first, then the chunks, then half-close.",
            )
        header = first.header
        row = await self._pipeline.blobs.upload(
            caller,
            _chunks(requests),
            size=header.size,
            digest=header.digest,
            data_classes=wire.classes(header.data_classes, "header.data_classes"),
        )
        return wire.blob_message(row)

    async def DownloadBlob(  # noqa: N802 - the wire's name
        self, caller: Caller, request: tool_broker_pb2.DownloadBlobRequest, _: Context
    ) -> AsyncGenerator[tool_broker_pb2.DownloadBlobResponse, None]:
        """Streams a file from an offset on."""
        blob_id = wire.resource_id(request.name, "blobs")
        async for offset, chunk in self._pipeline.blobs.download(caller, blob_id, request.offset):
            yield tool_broker_pb2.DownloadBlobResponse(offset=offset, chunk=chunk)


class Made:
    """Messages of events, made while these become durable."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[CallEvent, call_pb2.ToolCallEvent]] = {}

    def foresee(self, told: Told) -> None:
        """Makes ready what is to be said, should these events come."""
        self._made = {event.number: (event, wire.event_message(event, view)) for event, view in told}

    def message(self, event: CallEvent, view: CallView | None) -> call_pb2.ToolCallEvent:
        """The message of an event that has come."""
        foreseen, message = self._made.pop(event.number, (None, None))
        return message if message is not None and foreseen is event else wire.event_message(event, view)


async def _chunks(requests: AsyncIterator[tool_broker_pb2.UploadBlobRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("payload") != "chunk":
            raise wire.refuse("payload", "must be a chunk after the header", "UPLOAD_OUT_OF_ORDER")
        if len(request.chunk) > _MAX_CHUNK:
            raise wire.refuse("chunk", f"is {len(request.chunk)} bytes long; the limit is {_MAX_CHUNK}", "TOO_LARGE")
        yield request.chunk


def joined(messages: Sequence[call_pb2.ToolCallEvent], limit: int) -> Iterator[list[call_pb2.ToolCallEvent]]:
    """The messages in groups of at most ``limit`` bytes, or of one."""
    group: list[call_pb2.ToolCallEvent] = []
    size = 0
    for message in messages:
        size += message.ByteSize()
        if group and size > limit:
            yield group
            group, size = [], message.ByteSize()
        group.append(message)
    if group:
        yield group


def _page(items: Sequence[T], size: int) -> tuple[Sequence[T], T | None]:
    # The token is the last item of the page, where more follow.
    page = items[:size]
    return page, page[-1] if len(items) > size else None


def _workspace(name: str) -> str:
    if not name:
        raise wire.refuse("workspace", "is required")
    return name


def tool_message(tool: Tool, image_digest: str) -> tool_pb2.Tool:
    """A tool on the wire."""
    spec, limits, files = tool.spec, tool.limits, tool.spec.files
    return tool_pb2.Tool(
        name=f"tools/{spec.name}",
        version=tool.digest,
        description=spec.description,
        owner=spec.owner,
        tier=tool_pb2.Tier.ValueType(int(spec.tier) + 1),
        arguments_schema_json=json.dumps(spec.arguments, ensure_ascii=False),
        result_schema_json="" if spec.result is None else json.dumps(spec.result, ensure_ascii=False),
        limits=tool_pb2.ToolLimits(
            cpu_cores=limits.cpu_cores,
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            wall_time=wire.duration(limits.wall_s),
            output_bytes=limits.output_bytes,
            disk_bytes=limits.disk_bytes,
            inodes=limits.inodes,
        ),
        files=tool_pb2.ToolFiles(
            max_input_files=files.max_input_files,
            max_input_bytes=files.max_input_bytes,
            outputs=files.outputs,
            max_output_files=files.max_output_files,
            max_output_bytes=files.max_output_bytes,
        ),
        data_classes=spec.data_classes,
        reversibility=tool_pb2.Reversibility.Value(f"REVERSIBILITY_{spec.reversibility.upper()}"),
        retention=wire.duration(spec.retention),
        image_digest=image_digest,
        egress=rule_messages(spec.egress_rules),
        runtime=tool.runtime,
        effects=tool_pb2.ToolEffects.Value(f"TOOL_EFFECTS_{spec.effects.upper()}"),
        workspace=_workspace_message(spec.workspace),
        held=tool.held,
    )


def _workspace_message(chosen: SpecWorkspace | None) -> tool_pb2.ToolWorkspace | None:
    if chosen is None:
        return None
    changes = bool(chosen.writes)
    return tool_pb2.ToolWorkspace(
        reads=chosen.reads,
        writes=chosen.writes,
        max_changes=chosen.max_changes if changes else 0,
        max_change_bytes=chosen.max_change_bytes if changes else 0,
    )
