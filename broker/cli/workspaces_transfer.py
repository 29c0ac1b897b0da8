"""``broker workspaces import`` and ``export``: folders on their way into a workspace's tree and out of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from broker.cli.call_view import say
from broker.cli.output import OutputModel, emit, errors
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.workspaces import (
    AtOption,
    NameArgument,
    PathOption,
    WorkspaceOutput,
    render_workspace,
    workspace_output,
)
from broker.client import AsyncBroker
from broker.client.workspace_models import Imported
from broker.client.workspace_models import Progress as Told
from broker.settings import DEFAULT_STATE

_SHOWN = 8
_DAY_S = 24 * 3600.0
"""A person who waits decides by Ctrl-C how long."""


class ImportOutput(OutputModel):
    """The tree as it stands then, and the folders with nothing in them, which no tree keeps."""

    tree: WorkspaceOutput
    empty_folders: list[str]


class ExportOutput(OutputModel):
    """What was written."""

    workspace: str
    state: str
    folder: str
    files: int
    bytes: int


def import_folder(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="Folder whose files and links are brought in.")],
    *,
    over: Annotated[
        str,
        typer.Option("--over", help="The present state, sha256:..., that is replaced. Default: there is no tree yet."),
    ] = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Put a folder's files and links into a workspace: all of them, or nothing. Only people may.

    Example: broker workspaces import sales ./sales-files --identity human/olivia
    """

    async def work(broker: AsyncBroker) -> Imported:
        with _progress(f"into {name}", shown=not as_json) as told:
            return await broker.workspaces.import_folder(
                name, folder, expected_state=over, progress=told, timeout_s=_DAY_S
            )

    done = Remote(address, identity, ca, state).run(work)
    output = ImportOutput(tree=workspace_output(done.tree), empty_folders=list(done.empty_folders))
    emit(output, as_json=as_json, render=_render_import)


def export_folder(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to write to: an empty one, or one that isn't there yet.")],
    *,
    path: PathOption = None,
    at: AtOption = "",
    unsafe_links: Annotated[
        bool,
        typer.Option(
            "--unsafe-links",
            help="Write links, too, that are absolute or lead out of the folder: who follows one leaves it.",
        ),
    ] = False,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Write a workspace's tree, or some of its paths, into a folder, and check that it is whole.

    Example: broker workspaces export sales ./out --path 'reports/**' --identity human/olivia
    """

    async def work(broker: AsyncBroker) -> ExportOutput:
        with _progress(f"out of {name}", shown=not as_json) as told:
            done = await broker.workspaces.export_folder(
                name,
                folder,
                patterns=path or (),
                state=at,
                unsafe_links=unsafe_links,
                progress=told,
                timeout_s=_DAY_S,
            )
        return ExportOutput(workspace=name, state=done.state, folder=str(folder), files=done.files, bytes=done.bytes)

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render)


def _render_import(output: ImportOutput) -> None:
    render_workspace(output.tree)
    if output.empty_folders:
        shown = ", ".join(output.empty_folders[:_SHOWN]) + (", ..." if len(output.empty_folders) > _SHOWN else "")
        say(f"{len(output.empty_folders)} folders have nothing in them and are not kept: {shown}")


def _render(output: ExportOutput) -> None:
    say(f"{output.files} files of {output.bytes} bytes are in {output.folder}, as of {output.state}")


@contextmanager
def _progress(what: str, *, shown: bool) -> Iterator[Told | None]:
    """Says on a terminal how far it is."""
    if not shown or not errors.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[files]} files"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(what, total=None, files=0)
        yield lambda files, size: bar.update(task, completed=size, files=files)
