"""``broker workspaces``: the trees of files that tools read and change; what there is, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import typer
from rich.text import Text

from broker.cli.call_view import print_fields, print_table, say, short_time
from broker.cli.output import OutputModel, console, emit, printable
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.client import AsyncBroker
from broker.client.workspace_models import Workspace
from broker.domain.outside import read_path
from broker.domain.tree import Change, Entry, TreeFile, TreeLink
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="The trees of workspaces: look at them, bring them in, take them out.")

NameArgument = Annotated[str, typer.Argument(help="Name of the workspace.")]
PathOption = Annotated[
    list[str] | None,
    typer.Option(
        "--path", "-p", help="Only paths that fit: * and ? stay within a part, ** is any number of folders. Repeatable."
    ),
]
AtOption = Annotated[
    str,
    typer.Option("--at", help="State, sha256:..., that an effect in this workspace names. Default: the present one."),
]

_COLOURS = {"added": "green", "removed": "red", "changed": "yellow", "mode": "yellow", "type": "yellow"}
_SIGNS = {"added": "A", "removed": "D", "changed": "M", "mode": "m", "type": "T"}


class WorkspaceOutput(OutputModel):
    """A workspace's tree as it stands. ``change_call`` is empty where it was brought in, or, where the tree is a directory of
    the broker's host, found changed there.
    """

    name: str
    state: str
    files: int
    bytes: int
    change_seq: int
    changed: datetime | None
    change_call: str
    host_directory: bool


class WorkspacesOutput(OutputModel):
    """The workspaces that have a tree and are open to the caller, by name."""

    items: list[WorkspaceOutput]


class EntryOutput(OutputModel):
    """What lies at a path: a file, with ``size``, ``mode`` (octal) and ``digest``, or a link, with ``target``."""

    path: str
    kind: Literal["file", "link"]
    size: int | None = None
    mode: str | None = None
    digest: str | None = None
    target: str | None = None


class FilesOutput(OutputModel):
    """What lies in a tree, in the order of the paths' bytes. ``more`` says that the limit cut the list."""

    workspace: str
    items: list[EntryOutput]
    more: bool


class ChangeOutput(OutputModel):
    """One path, before and after; null where nothing is there."""

    path: str
    kind: Literal["added", "removed", "changed", "mode", "type"]
    before: EntryOutput | None
    after: EntryOutput | None
    renamed_from: str
    """Path of a file with the same bytes that went; empty where there is none."""


class DiffOutput(OutputModel):
    """What makes the state ``after`` of the state ``before``."""

    workspace: str
    before: str
    after: str
    changes: list[ChangeOutput]


@app.command("list")
def list_workspaces(
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List the workspaces that have a tree and are open to you.

    Example: broker workspaces list --identity human/olivia
    """

    async def work(broker: AsyncBroker) -> WorkspacesOutput:
        return WorkspacesOutput(items=[workspace_output(item) async for item in broker.workspaces.list()])

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_list)


@app.command()
def show(
    name: NameArgument,
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show a workspace's tree as it stands: its state, its size, and what changed it last.

    Example: broker workspaces show sales --identity human/olivia
    """
    found = Remote(address, identity, ca, state).run(lambda broker: broker.workspaces.get(name))
    emit(workspace_output(found), as_json=as_json, render=render_workspace)


@app.command()
def files(
    name: NameArgument,
    *,
    path: PathOption = None,
    at: AtOption = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Most paths to list.")] = 1000,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List what lies in a workspace's tree.

    Example: broker workspaces files sales --path 'reports/**' --identity human/olivia
    """

    async def work(broker: AsyncBroker) -> FilesOutput:
        found: list[EntryOutput] = []
        async for where, entry in broker.workspaces.files(name, path or (), state=at):
            if len(found) == limit:
                return FilesOutput(workspace=name, items=found, more=True)
            found.append(entry_output(where, entry))
        return FilesOutput(workspace=name, items=found, more=False)

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_files)


@app.command()
def diff(
    name: NameArgument,
    before: Annotated[str, typer.Argument(help="State before, sha256:...", metavar="A")],
    after: Annotated[str, typer.Argument(help="State after; default: the present one.", metavar="[B]")] = "",
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Say which paths differ between two states of a workspace's tree.

    Example: broker workspaces diff sales sha256:4f0c... --identity human/olivia
    """

    async def work(broker: AsyncBroker) -> DiffOutput:
        found = await broker.workspaces.diff(name, before, after)
        changes = [change_output(item, found.renames.get(item.path, "")) for item in found.changes]
        return DiffOutput(workspace=name, before=found.before, after=found.after, changes=changes)

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_diff)


def workspace_output(item: Workspace) -> WorkspaceOutput:
    """The model of a tree as it stands."""
    return WorkspaceOutput(
        name=item.name,
        state=item.state,
        files=item.files,
        bytes=item.bytes,
        change_seq=item.change_seq,
        changed=item.changed,
        change_call=item.change_call,
        host_directory=item.host_directory,
    )


def render_workspace(item: WorkspaceOutput) -> None:
    """A tree as it stands, for a person."""
    print_fields(
        {
            "workspace": item.name,
            "state": item.state,
            "files": str(item.files),
            "bytes": str(item.bytes),
            "changed": short_time(item.changed),
            "by": item.change_call
            or ("somebody, in its directory on the host" if item.host_directory else "an import"),
            "ledger entry": str(item.change_seq),
        }
    )


def _render_list(output: WorkspacesOutput) -> None:
    rows = [
        [
            item.name,
            str(item.files),
            str(item.bytes),
            short_time(item.changed),
            item.change_call or ("directory" if item.host_directory else "import"),
            item.state,
        ]
        for item in output.items
    ]
    print_table(["workspace", "files", "bytes", "changed", "by", "state"], rows)


def _render_files(output: FilesOutput) -> None:
    rows = [[item.mode or "link", "" if item.size is None else str(item.size), _shown(item)] for item in output.items]
    print_table(["mode", "bytes", "path"], rows)
    if output.more:
        say("there are more; raise --limit or narrow it with --path")


def _render_diff(output: DiffOutput) -> None:
    render_changes(output.changes)
    if console.is_terminal:
        say(f"{len(output.changes)} paths differ")


def render_changes(changes: Sequence[ChangeOutput]) -> None:
    """What differs, a line a path."""
    if not console.is_terminal:
        print_table([], [[_SIGNS[item.kind], _named(item.path), item.renamed_from] for item in changes])
        return
    for item in changes:
        line = Text(f"{_SIGNS[item.kind]} {printable(_named(item.path))}", style=_COLOURS[item.kind])
        line.append(f"  {_difference(item)}", style="dim")
        console.print(line, soft_wrap=True)


def _named(path: str) -> str:
    tool, item = read_path(path)
    return f"{tool}: {item}" if tool else item


def _difference(item: ChangeOutput) -> str:
    if item.renamed_from:
        return f"the bytes of {printable(item.renamed_from)}, which went"
    before, after = _brief(item.before), _brief(item.after)
    return f"{before} -> {after}" if before and after else before or after


def _brief(item: EntryOutput | None) -> str:
    if item is None:
        return ""
    return f"link to {printable(item.target or '')}" if item.kind == "link" else f"{item.size} bytes, {item.mode}"


def _shown(item: EntryOutput) -> str:
    return item.path if item.target is None else f"{item.path} -> {item.target}"


def change_output(change: Change, renamed_from: str) -> ChangeOutput:
    """The model of one path, before and after."""

    def side(entry: Entry | None) -> EntryOutput | None:
        return None if entry is None else entry_output(change.path, entry)

    return ChangeOutput.model_validate(
        {
            "path": change.path,
            "kind": change.kind,
            "before": side(change.before),
            "after": side(change.after),
            "renamed_from": renamed_from,
        }
    )


def entry_output(path: str, entry: Entry) -> EntryOutput:
    """The model of what lies at a path."""
    match entry:
        case TreeFile(digest, size, mode):
            return EntryOutput(path=path, kind="file", size=size, mode=f"{mode:04o}", digest=digest)
        case TreeLink(target):
            return EntryOutput(path=path, kind="link", target=target)
