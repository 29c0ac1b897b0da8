"""Workspaces' trees in the asynchronous client: what there is, what differs, and folders on their way in and out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import grpc

from broker.client import workspace_models as models
from broker.client.first_status import FirstStatus
from broker.client.transport import Deadline, Transport
from broker.client.wire import protocol_error
from broker.client.workspace_folders import NO_BOUND, Export, Source, in_thread, note
from broker.client.workspace_models import Exported, Imported, Progress, UndoDrill, UndoPlan, Workspace, WorkspaceDiff
from broker.domain.tree import Change, Entry
from broker.domain.tree_stream import Intake, Total
from broker.errors import DataLossError
from broker.v1 import workspaces_pb2

_PAGE = 1000


class AsyncWorkspaces:
    """The trees of a broker's workspaces. Made by ``AsyncBroker.workspaces``.

    Args:
        transport: gives the open connection.
    """

    def __init__(self, transport: Callable[[], Transport]) -> None:
        self._transport = transport

    async def list(self, *, page_size: int = 0, timeout_s: float | None = None) -> AsyncIterator[Workspace]:
        """The workspaces that have a tree and are open to the caller, by name; pages by itself."""
        rpc = self._transport()

        async def ask(token: str) -> workspaces_pb2.ListWorkspacesResponse:
            request = workspaces_pb2.ListWorkspacesRequest(page_size=page_size, page_token=token)
            return await rpc.ask(rpc.workspaces.ListWorkspaces, request, timeout_s=timeout_s)

        async for item in rpc.pages(ask, lambda page: page.workspaces):
            yield models.workspace(item)

    async def get(self, name: str, *, timeout_s: float | None = None) -> Workspace:
        """A workspace's tree as it stands.

        Raises:
            NotFoundError: it has none (``TREE_UNKNOWN``).
        """
        rpc = self._transport()
        request = workspaces_pb2.GetWorkspaceRequest(workspace=name)
        return models.workspace(await rpc.ask(rpc.workspaces.GetWorkspace, request, timeout_s=timeout_s))

    async def files(
        self, name: str, patterns: Sequence[str] = (), *, state: str = "", timeout_s: float | None = None
    ) -> AsyncIterator[tuple[str, Entry]]:
        """Each path with what lies there, in the order of the paths' bytes; pages by itself, all of one state.

        Args:
            name: of the workspace.
            patterns: only paths that fit one of them; ``*``, ``?`` and ``[...]`` stay within a part, ``**`` is any number of
                folders. None takes all.
            state: the present one, or one that an effect in this workspace names; empty is the present one.
            timeout_s: deadline of each page in seconds.

        Raises:
            NotFoundError: there is no tree, or no such state of it (``TREE_UNKNOWN``, ``STATE_UNKNOWN``).
        """
        rpc = self._transport()

        async def ask(token: str) -> workspaces_pb2.ListWorkspaceFilesResponse:
            request = workspaces_pb2.ListWorkspaceFilesRequest(
                workspace=name, patterns=patterns, state=state, page_size=_PAGE, page_token=token
            )
            return await rpc.ask(rpc.workspaces.ListWorkspaceFiles, request, timeout_s=timeout_s)

        async for item in rpc.pages(ask, lambda page: page.entries):
            yield item.path, models.entry(item)

    async def diff(self, name: str, before: str, after: str = "", *, timeout_s: float | None = None) -> WorkspaceDiff:
        """What makes the state ``after`` (empty: the present one) of the state ``before``.

        Raises:
            NotFoundError: as ``files``.
        """
        rpc = self._transport()
        states: set[tuple[str, str]] = set()

        async def ask(token: str) -> workspaces_pb2.GetWorkspaceDiffResponse:
            request = workspaces_pb2.GetWorkspaceDiffRequest(
                workspace=name, before=before, after=after, page_size=_PAGE, page_token=token
            )
            page = await rpc.ask(rpc.workspaces.GetWorkspaceDiff, request, timeout_s=timeout_s)
            states.add((page.before, page.after))
            return page

        changes: list[Change] = []
        renames: dict[str, str] = {}
        async for item in rpc.pages(ask, lambda page: page.changes):
            changes.append(models.change(item))
            if item.renamed_from:
                renames[changes[-1].path] = item.renamed_from
        if len(states) != 1:
            raise protocol_error("the pages of a comparison are of different states")
        first, last = states.pop()
        return WorkspaceDiff(first, last, tuple(changes), renames)

    async def plan_undo(
        self, name: str, call: str, *, cascade: bool = False, timeout_s: float | None = None
    ) -> UndoPlan:
        """What taking a call back would do now, and what is in its way; nothing is changed.

        Args:
            name: of the workspace.
            call: its id or name.
            cascade: are the calls that built on it taken back too?
            timeout_s: deadline in seconds.

        Raises:
            NotFoundError: it changed nothing in this workspace (``EFFECT_NOT_FOUND``).
            FailedPreconditionError: it has been taken back (``ALREADY_UNDONE``).
        """
        rpc = self._transport()
        request = workspaces_pb2.PlanUndoRequest(workspace=name, call=call, cascade=cascade)
        return models.undo_plan(await rpc.ask(rpc.workspaces.PlanUndo, request, timeout_s=timeout_s))

    async def drill_undo(self, name: str, sample: int, *, timeout_s: float | None = None) -> UndoDrill:
        """Tries rollback artifacts that are chosen by chance, each in a sandbox; the ledger keeps how many were good.

        Args:
            name: of the workspace.
            sample: how many, 1 to 1000.
            timeout_s: deadline in seconds; the default is that of a call.
        """
        rpc = self._transport()
        request = workspaces_pb2.DrillUndoRequest(workspace=name, sample=sample)
        deadline = rpc.timeouts.call_s if timeout_s is None else timeout_s
        return models.undo_drill(await rpc.ask(rpc.workspaces.DrillUndo, request, timeout_s=deadline))

    async def import_folder(
        self,
        name: str,
        folder: Path,
        *,
        expected_state: str = "",
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Imported:
        """Puts a folder's files and links into a workspace: all of it, or nothing. Never tried again by itself.

        Args:
            name: of the workspace.
            folder: where they are; links are sent as links.
            expected_state: the present state, which is replaced; empty where the workspace has no tree yet.
            progress: is told how far it is.
            timeout_s: deadline in seconds.

        Returns:
            The tree as it stands then, which the broker has compared with what was sent, byte for byte; and the folders
            with nothing in them, which no tree keeps.

        Raises:
            ConflictError: another state is present (``STATE_MOVED``; ``metadata`` names it), or the folder was changed while
                it was read (``FOLDER_CHANGED``).
            PermissionDeniedError: the policy refuses, the caller is an agent (``NOT_A_HUMAN``), or the two-person rule
                forbids to replace a tree (``IMPORT_OVER_TREE``).
            NotFoundError, InvalidArgumentError: there is no such folder, or something in it can't be part of a tree
                (``FOLDER_MISSING``, ``FOLDER_UNFIT``).
            ResourceExhaustedError: it is larger than the broker takes (``TREE_TOO_LARGE``).
        """
        rpc = self._transport()
        deadline = Deadline(rpc.timeouts.transfer_s if timeout_s is None else timeout_s)
        header = workspaces_pb2.ImportHeader(workspace=name, expected_state=expected_state)
        await rpc.ready(deadline)
        call = rpc.workspaces.ImportWorkspace(timeout=deadline.remaining())
        status = FirstStatus(call)
        told, source = progress or _nobody, Source(folder)
        intake, whole = Intake(NO_BOUND), Total(0, 0, "")
        try:
            # A write that fails says only that the broker has ended the import; the answer below says why.
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await call.write(workspaces_pb2.ImportWorkspaceRequest(header=header))
                joining = models.Joining()
                async with aclosing(source.pieces()) as pieces:
                    async for piece in pieces:
                        note(intake, piece)
                        message = joining.add(piece)
                        if message is not None:
                            await call.write(workspaces_pb2.ImportWorkspaceRequest(pieces=message))
                            told(intake.files, intake.size)
                await call.write(workspaces_pb2.ImportWorkspaceRequest(pieces=joining.rest()))
                whole = Total.of(intake.entries)
                await call.write(workspaces_pb2.ImportWorkspaceRequest(end=models.end(whole)))
                told(whole.files, whole.size)
                await call.done_writing()
            done = models.workspace(await call)
        except grpc.aio.AioRpcError as error:
            raise rpc.error(status.error or error) from error
        finally:
            call.cancel()
        if (done.files, done.bytes) != (whole.files, whole.size):
            raise DataLossError(
                f"{name} holds {done.files} files of {done.bytes} bytes after the import, and {whole.files} of"
                f" {whole.size} bytes were sent",
                reason="IMPORT_DIFFERS",
                hint="Look at it with `broker workspaces files`, and import it again.",
            )
        return Imported(done, source.empty)

    async def export_folder(
        self,
        name: str,
        folder: Path,
        *,
        patterns: Sequence[str] = (),
        state: str = "",
        unsafe_links: bool = False,
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Exported:
        """Writes a workspace's tree into a new or empty folder, and checks that it is whole. What was written of one
        that fails stays there, for who wants to look.

        Args:
            name: of the workspace.
            folder: where to; made where there is none.
            patterns: as in ``files``.
            state: as in ``files``.
            unsafe_links: write links, too, that are absolute or lead out of the folder. Who follows one then reads or
                writes some other place on this machine.
            progress: is told how far it is.
            timeout_s: deadline in seconds.

        Raises:
            NotFoundError: as ``files``.
            ConflictError: the folder isn't empty.
            InvalidArgumentError: a link leads out of the folder, or something can't be written.
            DataLossError: what came isn't the whole tree (``EXPORT_INCOMPLETE``).
        """
        rpc = self._transport()
        deadline = Deadline(rpc.timeouts.transfer_s if timeout_s is None else timeout_s)
        await rpc.ready(deadline)
        request = workspaces_pb2.ExportWorkspaceRequest(workspace=name, patterns=patterns, state=state)
        call = rpc.workspaces.ExportWorkspace(request, timeout=deadline.remaining())
        loop, messages = asyncio.get_running_loop(), aiter(call)

        async def following() -> workspaces_pb2.ExportWorkspaceResponse | None:
            return await anext(messages, None)

        export = Export(name, lambda: asyncio.run_coroutine_threadsafe(following(), loop).result(), progress or _nobody)
        try:
            whole = await in_thread(lambda: export.write(folder, unsafe_links=unsafe_links), call.cancel)
        except grpc.aio.AioRpcError as error:
            raise rpc.error(error) from error
        finally:
            call.cancel()
        return Exported(export.state, whole.files, whole.size)


def _nobody(files: int, size: int) -> None:
    """Is told how far it is, and tells nobody."""
