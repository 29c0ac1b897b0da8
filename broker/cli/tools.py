"""``broker tools``: what may be called, and whether tool specs are right."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import JsonValue

from broker.cli.call_view import print_fields, print_table
from broker.cli.egress_view import EgressRuleOutput, rule_output, rule_sentence
from broker.cli.lazy import Lazy, lazy_group
from broker.cli.output import OutputModel, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption, WorkspaceOption
from broker.client import AsyncBroker, Tool
from broker.settings import DEFAULT_STATE

app = typer.Typer(
    cls=lazy_group(
        {
            "lint": Lazy("broker.cli.tools_lint:lint", "Check tool specs, with line and column."),
            "approve": Lazy("broker.cli.tools_approve:approve", "Ask for a tool that is held to be accepted."),
        }
    ),
    no_args_is_help=True,
    help="List and show tools; check tool specs; have one accepted.",
)


class LimitsOutput(OutputModel):
    """What one run may use."""

    cpu_cores: float
    memory_bytes: int
    processes: int
    wall_s: float
    output_bytes: int
    disk_bytes: int
    inodes: int


class ToolFilesOutput(OutputModel):
    """Which files go in, and which come out."""

    max_input_files: int
    max_input_bytes: int
    outputs: list[str]
    max_output_files: int
    max_output_bytes: int


class ToolWorkspaceOutput(OutputModel):
    """Which paths of its workspace's tree it gets, and may change, as patterns; the limits are 0 where it changes nothing."""

    reads: list[str]
    writes: list[str]
    max_changes: int
    max_change_bytes: int


class ToolOutput(OutputModel):
    """A tool, with the JSON Schemas of its arguments and of its result (null where it has none)."""

    name: str
    version: str
    description: str
    owner: str
    tier: int
    arguments_schema: dict[str, JsonValue]
    result_schema: dict[str, JsonValue] | None
    limits: LimitsOutput
    files: ToolFilesOutput
    data_classes: list[str]
    reversibility: str
    retention_s: float
    image_digest: str
    egress: list[EgressRuleOutput]
    runtime: str
    """Empty is the engine's own choice."""
    effects: str
    """NONE, or WORKSPACE; empty where the broker doesn't say."""
    workspace: ToolWorkspaceOutput | None
    """Null where it has nothing to do with the workspace's files."""
    held: str
    """Why it runs at a higher tier than its specification says; empty where it doesn't."""


class ToolsOutput(OutputModel):
    """Tools, by name."""

    workspace: str
    items: list[ToolOutput]


def _output(tool: Tool) -> ToolOutput:
    limits, files = tool.limits, tool.files
    return ToolOutput(
        name=tool.name,
        version=tool.version,
        description=tool.description,
        owner=tool.owner,
        tier=int(tool.tier),
        arguments_schema=tool.arguments_schema,
        result_schema=tool.result_schema,
        limits=LimitsOutput(
            cpu_cores=limits.cpu_cores,
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            wall_s=limits.wall_s,
            output_bytes=limits.output_bytes,
            disk_bytes=limits.disk_bytes,
            inodes=limits.inodes,
        ),
        files=ToolFilesOutput(
            max_input_files=files.max_input_files,
            max_input_bytes=files.max_input_bytes,
            outputs=list(files.outputs),
            max_output_files=files.max_output_files,
            max_output_bytes=files.max_output_bytes,
        ),
        data_classes=list(tool.data_classes),
        reversibility=tool.reversibility,
        retention_s=tool.retention_s,
        image_digest=tool.image_digest,
        egress=[rule_output(rule) for rule in tool.egress],
        runtime=tool.runtime,
        effects=tool.effects,
        workspace=None
        if tool.workspace is None
        else ToolWorkspaceOutput(
            reads=list(tool.workspace.reads),
            writes=list(tool.workspace.writes),
            max_changes=tool.workspace.max_changes,
            max_change_bytes=tool.workspace.max_change_bytes,
        ),
        held=tool.held,
    )


@app.command("list")
def list_tools(
    *,
    workspace: WorkspaceOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List the tools that you may call in a workspace.

    Example: broker tools list -w demo --identity agent/reporter
    """

    async def work(broker: AsyncBroker) -> ToolsOutput:
        return ToolsOutput(workspace=workspace, items=[_output(tool) async for tool in broker.list_tools(workspace)])

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_list)


def _render_list(output: ToolsOutput) -> None:
    rows = [
        [item.name.removeprefix("tools/"), str(item.tier), _first_sentence(item.description)] for item in output.items
    ]
    print_table(["tool", "tier", "description"], rows)


def _first_sentence(text: str) -> str:
    words = " ".join(text.split())
    sentence, dot, _ = words.partition(". ")
    return sentence + "." if dot else words


@app.command()
def show(
    tool: Annotated[str, typer.Argument(help="The tool, such as data.query.")],
    *,
    workspace: WorkspaceOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show a tool: what it does, its schemas, limits, files and hosts.

    Example: broker tools show data.query -w demo --json
    """
    found = Remote(address, identity, ca, state).run(lambda broker: broker.get_tool(tool, workspace))
    emit(_output(found), as_json=as_json, render=_render_tool)


def _render_tool(item: ToolOutput) -> None:
    limits, files = item.limits, item.files
    print_fields(
        {
            "tool": item.name.removeprefix("tools/"),
            "version": item.version,
            "description": item.description.strip(),
            "owner": item.owner,
            "tier": f"{item.tier}, {item.held}" if item.held else str(item.tier),
            "reversibility": item.reversibility,
            "data classes": ", ".join(item.data_classes),
            "limits": f"{limits.wall_s:g} s, {limits.cpu_cores:g} cores, {limits.memory_bytes} bytes of memory,"
            f" {limits.processes} processes, {limits.output_bytes} bytes of each output stream,"
            f" {limits.disk_bytes} bytes and {limits.inodes or 'any number of'} files on disk",
            "files in": f"{files.max_input_files} at the most, {files.max_input_bytes} bytes",
            "files out": ", ".join(files.outputs),
            "workspace": _workspace_sentence(item.workspace),
            "hosts": "; ".join(rule_sentence(rule) for rule in item.egress) or "none: it has no network",
            "kept for": f"{item.retention_s / 86400:g} days",
            "image": item.image_digest,
            "runtime": item.runtime,
            "arguments": json.dumps(item.arguments_schema, ensure_ascii=False, indent=2),
            "result": ""
            if item.result_schema is None
            else json.dumps(item.result_schema, ensure_ascii=False, indent=2),
        }
    )


def _workspace_sentence(chosen: ToolWorkspaceOutput | None) -> str:
    if chosen is None:
        return "nothing of its files"
    reads = f"reads {', '.join(chosen.reads)}" if chosen.reads else ""
    if not chosen.writes:
        return f"{reads}; changes nothing"
    writes = f"reads and changes {', '.join(chosen.writes)}, by a plan that is shown and applied: at the most"
    most = f"{chosen.max_changes} paths and {chosen.max_change_bytes} bytes a call"
    return "; ".join(part for part in (reads, f"{writes} {most}") if part)
