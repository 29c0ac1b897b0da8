"""``broker calls``: looks at calls, follows them, cancels them, fetches their files."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.call_view import (
    CallOutput,
    RunOutput,
    SavedOutput,
    call_output,
    print_fields,
    print_table,
    run_output,
    say,
    short_time,
    summarise,
)
from broker.cli.egress_view import EGRESS_COLUMNS, egress_rows, recording_sentence
from broker.cli.following import Followed, Interrupt, follow, interrupts, save_files
from broker.cli.output import OutputModel, console, emit, printable, state_exit_code
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.client import AsyncBroker, Call, CallFilter, CallState
from broker.errors import FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="List, show, watch and cancel calls.")

CallArgument = Annotated[str, typer.Argument(help="The call, calls/call_... or call_....")]
_MOMENTS = ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"]


class CallsOutput(OutputModel):
    """Calls, newest first, without arguments and results. ``more`` says that the limit cut the list."""

    items: list[CallOutput]
    more: bool


class FilesOutput(OutputModel):
    """Result files that were written."""

    call: str
    saved: list[SavedOutput]


@app.command("list")
def list_calls(
    *,
    agent: Annotated[str, typer.Option("--agent", help="Agent, by id or name.")] = "",
    tool: Annotated[str, typer.Option("--tool", help="Tool, such as data.query.")] = "",
    states: Annotated[
        list[CallState] | None, typer.Option("--call-state", case_sensitive=False, help="State; may be repeated.")
    ] = None,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Workspace.")] = "",
    workflow: Annotated[str, typer.Option("--workflow", help="Workflow.")] = "",
    since: Annotated[
        datetime | None, typer.Option("--since", formats=_MOMENTS, help="Created then or later: 2026-01-31T08:00:00Z.")
    ] = None,
    before: Annotated[datetime | None, typer.Option("--before", formats=_MOMENTS, help="Created before then.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Most calls to list.")] = 100,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List calls, newest first: an agent's own, or those that a human may see.

    Example: broker calls list --tool python.run --call-state FAILED --since 2026-01-31T00:00:00Z
    """
    chosen = CallFilter(
        agent=agent,
        tool=tool,
        states=tuple(states or ()),
        workflow=workflow,
        workspace=workspace,
        created_from=since,
        created_before=before,
    )

    async def work(broker: AsyncBroker) -> CallsOutput:
        found: list[CallOutput] = []
        async for call in broker.list_calls(chosen, page_size=min(limit + 1, 1000)):
            if len(found) == limit:
                return CallsOutput(items=found, more=True)
            found.append(call_output(call))
        return CallsOutput(items=found, more=False)

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_list)


def _render_list(output: CallsOutput) -> None:
    rows = [
        [item.name, item.state, item.tool.removeprefix("tools/"), item.context.workspace, short_time(item.created)]
        for item in output.items
    ]
    print_table(["call", "state", "tool", "workspace", "created"], rows)
    if output.more:
        say("there are more; raise --limit or narrow the filter")


@app.command()
def show(
    call: CallArgument,
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show a call as it stands: what was asked, why it may run, who stands behind it, how it ended.

    Example: broker calls show call_01jx0000000000000000000000
    """
    found = Remote(address, identity, ca, state).run(lambda broker: broker.get_call(call))
    emit(call_output(found), as_json=as_json, render=_render_call)


def _render_call(item: CallOutput) -> None:
    decision, lineage, outcome = item.decision, item.lineage, item.outcome
    print_fields(
        {
            "call": item.name,
            "state": item.state,
            "tool": f"{item.tool.removeprefix('tools/')} {item.tool_version}",
            "tier": "" if item.tier is None else str(item.tier),
            "workspace": item.context.workspace,
            "workflow": item.context.workflow,
            "purpose": item.context.purpose,
            "session": item.context.session,
            "agent": item.agent,
            "owner": lineage.owner if lineage is not None else "",
            "starter": (lineage.starter or "unproven") if lineage is not None else "",
            "on behalf of": lineage.on_behalf_of if lineage is not None else "",
            "decision": f"{'allowed' if decision.allowed else 'denied'} by {decision.rule}: {decision.reason}"
            if decision is not None
            else "",
            "data classes": ", ".join(item.data_classes),
            "created": short_time(item.created),
            "started": short_time(item.started),
            "ended": short_time(item.ended),
            "kept until": short_time(item.expires),
            "envelope": item.envelope_digest,
            "ledger entry": "" if item.decision_seq is None else str(item.decision_seq),
            "files": ", ".join(file.path for file in item.files),
            "arguments": "erased" if item.content_erased else json.dumps(item.arguments, ensure_ascii=False, indent=2),
        }
    )
    if outcome is None:
        return
    print_fields(
        {
            "exit code": "" if outcome.exit_code is None else str(outcome.exit_code),
            "signal": "" if outcome.signal is None else str(outcome.signal),
            "ended by": f"{outcome.cause} (by the word of {outcome.cause_source})" if outcome.cause else "",
            "detail": outcome.detail,
            "time": f"{outcome.wall_s:.3f} s" + ("" if outcome.cpu_s is None else f", {outcome.cpu_s:.3f} s of CPU"),
            "memory": "" if outcome.memory_peak_bytes is None else f"{outcome.memory_peak_bytes} bytes at the most",
            **{
                name: f"{stream.total_bytes} bytes"
                + (f", cut: {stream.kept_bytes} were kept" if stream.truncated else "")
                for name, stream in (("stdout", outcome.stdout), ("stderr", outcome.stderr))
                if stream is not None
            },
            "result": "" if outcome.result is None else json.dumps(outcome.result, ensure_ascii=False, indent=2),
            "result files": ", ".join(f"{file.path} ({file.size} bytes)" for file in outcome.files),
            "hosts' answers": "" if outcome.recording is None else f"kept: {recording_sentence(outcome.recording)}",
            "warnings": "; ".join(outcome.warnings),
        }
    )
    if outcome.egress:
        console.print()
        print_table(EGRESS_COLUMNS, egress_rows(outcome.egress))


@app.command()
def watch(
    call: CallArgument,
    *,
    first_event: Annotated[int, typer.Option("--from", min=1, help="Number of the first event.")] = 1,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for approval too, instead of ending with code 4.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary on standard error.")] = False,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Stream a call's output, from its start or from an event on, to its end.

    Ctrl-C ends the watching and leaves the call alone. The exit code is that of `broker call`.

    Example: broker calls watch call_01jx0000000000000000000000
    """

    async def work(broker: AsyncBroker) -> tuple[Followed, Interrupt]:
        seen = Followed(await broker.get_call(call))
        with interrupts() as caught:
            try:
                await follow(broker, seen, first_event=first_event, silent=as_json, wait=wait)
            except asyncio.CancelledError:
                say(f"stopped watching; {seen.call.name} goes on")
        return seen, caught

    seen, caught = Remote(address, identity, ca, state).run(work)
    if as_json:
        output: RunOutput = run_output(seen.call, seen.states, ())
        emit(output, as_json=True, render=lambda _: None)
    elif seen.call.finished and not quiet:
        summarise(seen.call)
    if caught.number:
        raise typer.Exit(caught.exit_code)
    raise typer.Exit(int(_state_code(seen.call)))


def _state_code(call: Call) -> int:
    return int(state_exit_code(call.state, call.outcome.cause if call.outcome is not None else None))


@app.command()
def cancel(
    call: CallArgument,
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Cancel a call: its container is killed. One that has ended stays as it is.

    Example: broker calls cancel call_01jx0000000000000000000000
    """
    found = Remote(address, identity, ca, state).run(lambda broker: broker.cancel_call(call))
    emit(
        call_output(found),
        as_json=as_json,
        render=lambda item: console.print(printable(f"{item.name} is {item.state}"), markup=False, soft_wrap=True),
    )


@app.command()
def files(
    call: CallArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite files there.")] = False,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Fetch a call's result files; size and digest of each are checked.

    Example: broker calls files call_01jx0000000000000000000000 --out results
    """

    async def work(broker: AsyncBroker) -> Followed:
        seen = Followed(await broker.get_call(call))
        if seen.call.outcome is None:
            why = f"is {seen.call.state} and has no result files yet"
            raise InvalidArgumentError(
                f"{seen.call.name} {why}",
                reason="CALL_NOT_ENDED",
                hint="Wait for its end with `broker calls watch`.",
                violations=(FieldViolation("call", why),),
            )
        await save_files(broker, seen, out, force=force, quiet=as_json)
        return seen

    seen = Remote(address, identity, ca, state).run(work)
    if seen.save_error is not None:
        raise seen.save_error
    emit(FilesOutput(call=seen.call.name, saved=seen.saved), as_json=as_json, render=lambda _: None)
