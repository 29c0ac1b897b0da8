"""The Workspaces service: thin, from wire to the trees and back."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from broker.domain.identity import Caller
from broker.domain.ids import ID_PATTERN
from broker.domain.tree_stream import Piece, Total
from broker.errors import InvalidArgumentError
from broker.pipeline.tree_import import Importer
from broker.pipeline.trees import Export, WorkspaceTrees
from broker.rpc import tree_wire, wire
from broker.rpc.dispatch import Context
from broker.rpc.workspaces import METHOD_LIST
from broker.v1 import workspaces_pb2 as pb

_MOST_PATTERNS = 64
_MOST_TOKEN = 4096
_SEPARATOR = "\n"
"""Between the parts of a page token: no path and no digest holds it."""


class WorkspacesService:
    """Answers the methods of ``broker.v1.Workspaces`` for callers that the gate let into the workspace they name."""

    def __init__(self, trees: WorkspaceTrees, importer: Importer) -> None:
        self._trees = trees
        self._importer = importer

    async def ListWorkspaces(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.ListWorkspacesRequest, _: Context
    ) -> pb.ListWorkspacesResponse:
        """Workspaces with a tree in which the caller may use this method, by name."""
        size = wire.page_size(request.page_size)
        (after,) = _parts(request.page_token, 1) or ("",)
        found = await self._trees.list(caller, METHOD_LIST, after=after, limit=size + 1)
        page = found[:size]
        return pb.ListWorkspacesResponse(
            workspaces=[tree_wire.workspace_message(item) for item in page],
            next_page_token=_token(page[-1].workspace) if len(found) > size else "",
        )

    async def GetWorkspace(self, _: Caller, request: pb.GetWorkspaceRequest, __: Context) -> pb.Workspace:  # noqa: N802 - the wire's name
        """A tree as it stands."""
        return tree_wire.workspace_message(await self._trees.get(request.workspace))

    async def ListWorkspaceFiles(  # noqa: N802 - the wire's name
        self, _: Caller, request: pb.ListWorkspaceFilesRequest, __: Context
    ) -> pb.ListWorkspaceFilesResponse:
        """What lies in a tree, in the order of the paths' bytes."""
        size = wire.page_size(request.page_size)
        state, after = _parts(request.page_token, 2) or (request.state, "")
        chosen, entries = await self._trees.entries(request.workspace, state, _patterns(request.patterns))
        paths = list(entries)
        begin = bisect_right(paths, after)
        page = paths[begin : begin + size]
        return pb.ListWorkspaceFilesResponse(
            state=chosen,
            entries=[tree_wire.entry_message(path, entries[path]) for path in page],
            next_page_token=_token(chosen, page[-1]) if len(paths) > begin + size else "",
        )

    async def ImportWorkspace(  # noqa: N802 - the wire's name
        self, caller: Caller, requests: AsyncIterator[pb.ImportWorkspaceRequest], _: Context
    ) -> pb.Workspace:
        """Puts a tree into a workspace."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("payload") != "header":
            raise InvalidArgumentError(
                "an import begins with a header; the stream ended or brought something else",
                reason="IMPORT_WITHOUT_HEADER",
                hint="Send ImportWorkspaceRequest.header first, then the pieces, then the end.",
            )
        header = first.header
        done = await self._importer.replace(
            caller, header.workspace, expected=header.expected_state, incoming=_incoming(requests)
        )
        return tree_wire.workspace_message(await self._trees.standing(done, ""))

    async def ExportWorkspace(  # noqa: N802 - the wire's name
        self, _: Caller, request: pb.ExportWorkspaceRequest, __: Context
    ) -> AsyncGenerator[pb.ExportWorkspaceResponse, None]:
        """Streams a tree, or what of it fits patterns."""
        export: Export = await self._trees.export(request.workspace, request.state, _patterns(request.patterns))
        whole = export.total
        yield pb.ExportWorkspaceResponse(
            header=pb.ExportHeader(state=export.state, files=whole.files, bytes=whole.size)
        )
        for listing in tree_wire.listings(export.entries):
            yield pb.ExportWorkspaceResponse(listing=listing)
        async with aclosing(self._trees.pieces(export)) as source:
            async for message in tree_wire.joined(source):
                yield pb.ExportWorkspaceResponse(pieces=message)
        yield pb.ExportWorkspaceResponse(end=tree_wire.end_message(whole))

    async def GetWorkspaceDiff(  # noqa: N802 - the wire's name
        self, _: Caller, request: pb.GetWorkspaceDiffRequest, __: Context
    ) -> pb.GetWorkspaceDiffResponse:
        """What differs between two states, in the order of the paths' bytes."""
        size = wire.page_size(request.page_size)
        if not request.before:
            raise wire.refuse("before", "is required: a state, sha256:...")
        before, after, last = _parts(request.page_token, 3) or (request.before, request.after, "")
        found = await self._trees.diff(request.workspace, before, after)
        changes = found.effect.changes
        begin = bisect_right(changes, last, key=lambda change: change.path)
        page = changes[begin : begin + size]
        return pb.GetWorkspaceDiffResponse(
            before=found.before,
            after=found.after,
            total=len(changes),
            changes=[tree_wire.change_message(change, found.renames.get(change.path, "")) for change in page],
            next_page_token=_token(found.before, found.after, page[-1].path) if len(changes) > begin + size else "",
        )

    async def PlanUndo(  # noqa: N802 - the wire's name
        self, _: Caller, request: pb.PlanUndoRequest, __: Context
    ) -> pb.UndoPlan:
        """What taking a call back would do, and what is in its way."""
        call = request.call.removeprefix("calls/")
        if not ID_PATTERN.fullmatch(call):
            raise wire.refuse("call", "must be the id or name of a call, such as calls/call_01jx...")
        return tree_wire.undo_message(await self._trees.plan_undo(request.workspace, call, cascade=request.cascade))

    async def DrillUndo(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.DrillUndoRequest, _: Context
    ) -> pb.DrillUndoResponse:
        """Tries artifacts."""
        return tree_wire.drill_message(await self._trees.drill(caller, request.workspace, request.sample))


async def _incoming(requests: AsyncIterator[pb.ImportWorkspaceRequest]) -> AsyncIterator[Piece | Total]:
    """Pieces, and last the total; what comes after that is refused.

    Raises:
        InvalidArgumentError: something is out of its place, or can't be read.
    """
    ended = False
    async for request in requests:
        match request.WhichOneof("payload"):
            case "pieces" if not ended:
                for piece in tree_wire.pieces(request.pieces):
                    yield piece
            case "end" if not ended:
                ended = True
                yield tree_wire.total(request.end)
            case _:
                raise wire.refuse("payload", "must be pieces, and then one end", "IMPORT_OUT_OF_ORDER")


def _patterns(patterns: object) -> tuple[str, ...]:
    found = tuple(str(item) for item in patterns)  # type: ignore[attr-defined]  # a protobuf repeated field
    if len(found) > _MOST_PATTERNS:
        raise wire.refuse("patterns", f"has {len(found)} items; the limit is {_MOST_PATTERNS}", "TOO_LARGE")
    return found


def _token(*parts: str) -> str:
    return base64.urlsafe_b64encode(_SEPARATOR.join(parts).encode()).decode()


def _parts(token: str, count: int) -> tuple[str, ...]:
    """The parts of a page token; none where there is no token."""
    if not token:
        return ()
    try:
        found = tuple(base64.urlsafe_b64decode(token.encode()).decode().split(_SEPARATOR))
    except (binascii.Error, UnicodeError):
        found = ()
    if len(found) != count or len(token) > _MOST_TOKEN:
        raise wire.refuse("page_token", "is not one that this method gave", "INVALID_PAGE_TOKEN")
    return found
