"""``broker undo``: takes back what a call changed in its workspace, says what that would do, or tries whether it could."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.call import Wish, make
from broker.cli.call_view import print_fields, print_table, say
from broker.cli.output import ExitCode, OutputModel, console, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption, WorkspaceOption
from broker.cli.workspaces import ChangeOutput, EntryOutput, change_output, entry_output, render_changes
from broker.client import AsyncBroker, CallContext
from broker.client.workspace_models import UndoPlan
from broker.domain.canonical import JsonObject
from broker.domain.outside import read_path
from broker.domain.tree import Entry
from broker.errors import FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

DRILL = "drill"


class ConflictOutput(OutputModel):
    """A path that is not as the call left it; null where nothing was left or is there."""

    path: str
    expected: EntryOutput | None
    present: EntryOutput | None
    changed_by: list[str]


class UndoPlanOutput(OutputModel):
    """What taking a call back would do. ``dependents`` and ``conflicts`` are in its way; lists hold a thousand at most."""

    workspace: str
    calls: list[str]
    dependents: list[str]
    changes: list[ChangeOutput]
    total: int
    conflicts: list[ConflictOutput]
    tier: int | None
    people: int


class DrilledOutput(OutputModel):
    """One artifact; ``reason`` and ``detail`` are empty where it was good."""

    call: str
    artifact: str
    reason: str
    detail: str


class DrillOutput(OutputModel):
    """What a drill came to; ``seq`` is the number of the ledger's entry about it."""

    workspace: str
    live: int
    passed: int
    seq: int
    tried: list[DrilledOutput]


def undo(
    what: Annotated[str, typer.Argument(metavar="CALL|drill", help="Call to take back; or `drill`, to try artifacts.")],
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it would do, and what is in its way; do nothing.")
    ] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Take back the calls that built on it too: all of them, or none.")
    ] = False,
    sample: Annotated[int, typer.Option("--sample", min=1, max=1000, help="With `drill`: how many to try.")] = 10,
    purpose: Annotated[str, typer.Option("--purpose", help="Why, in your own words; approvers read it.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the new call's name and don't wait.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for approval too, instead of ending with code 4.")] = False,
    workspace: WorkspaceOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Take back what a call changed in its workspace: a call of its own, which people agree to where the tier asks.

    It is refused where the files are not as the call left them, or where later calls built on it; --plan shows both.
    `drill` puts rollback artifacts back in sandboxes, chosen by chance, and records how many were good.

    Exit codes: as `broker call`; with `drill` 1 where one was not good.

    Example: broker undo call_01jxr6m4a2c3e4g5h6j7k8m9na --plan

    Example: broker undo call_01jxr6m4a2c3e4g5h6j7k8m9na --cascade --purpose "wrong customer" --wait

    Example: broker undo drill --sample 20 -w demo
    """
    remote = Remote(address, identity, ca, state)
    if what == DRILL:
        _drill(remote, workspace, sample, as_json=as_json)
        return
    call = what.removeprefix("calls/")
    where = workspace or remote.run(lambda broker: _workspace_of(broker, call))
    if plan:
        found = remote.run(lambda broker: broker.workspaces.plan_undo(where, call, cascade=cascade))
        emit(_plan_output(where, found), as_json=as_json, render=_render_plan)
        return
    arguments: JsonObject = {"call": call, **({"cascade": True} if cascade else {})}
    wish = Wish("workspace.undo", arguments, detach=detach, wait=wait, as_json=as_json)
    raise typer.Exit(make(remote, wish, CallContext(workspace=where, purpose=purpose)))


async def _workspace_of(broker: AsyncBroker, call: str) -> str:
    found = (await broker.get_call(call)).context.workspace
    if not found:
        why = "is needed: the content of the call is erased"
        raise InvalidArgumentError(
            f"--workspace {why}", violations=(FieldViolation("--workspace", why),), reason="WORKSPACE_MISSING"
        )
    return found


def _drill(remote: Remote, workspace: str, sample: int, *, as_json: bool) -> None:
    if not workspace:
        why = "is needed: artifacts are tried in one workspace"
        raise InvalidArgumentError(
            f"--workspace {why}", violations=(FieldViolation("--workspace", why),), reason="WORKSPACE_MISSING"
        )
    found = remote.run(lambda broker: broker.workspaces.drill_undo(workspace, sample))
    output = DrillOutput(
        workspace=workspace,
        live=found.live,
        passed=found.passed,
        seq=found.seq,
        tried=[
            DrilledOutput(call=item.call, artifact=item.artifact, reason=item.reason, detail=item.detail)
            for item in found.tried
        ],
    )
    emit(output, as_json=as_json, render=_render_drill)
    if found.passed < len(found.tried):
        raise typer.Exit(int(ExitCode.TOOL_FAILED))


def _plan_output(workspace: str, plan: UndoPlan) -> UndoPlanOutput:
    def side(path: str, entry: Entry | None) -> EntryOutput | None:
        return None if entry is None else entry_output(path, entry)

    return UndoPlanOutput(
        workspace=workspace,
        calls=list(plan.calls),
        dependents=list(plan.dependents),
        changes=[change_output(item, plan.renames.get(item.path, "")) for item in plan.changes],
        total=plan.total,
        conflicts=[
            ConflictOutput(
                path=item.path,
                expected=side(item.path, item.expected),
                present=side(item.path, item.present),
                changed_by=list(item.changed_by),
            )
            for item in plan.conflicts
        ],
        tier=None if plan.tier is None else int(plan.tier),
        people=plan.people,
    )


def _render_plan(output: UndoPlanOutput) -> None:
    print_fields(
        {
            "workspace": output.workspace,
            "takes back": ", ".join(output.calls),
            "paths": str(output.total),
            "tier": str(output.tier),
            "people who must agree": str(output.people),
        }
    )
    render_changes(output.changes)
    if any(read_path(item.path)[0] for item in output.changes):
        say("what is there now is looked at when the undo is asked for, by the tool's own program")
    for name in output.dependents:
        say(f"{name} built on it: take it back too, with --cascade")
    for item in output.conflicts:
        by = f"changed by {', '.join(item.changed_by)}" if item.changed_by else "changed by no call"
        say(f"CONFLICT at {item.path}: it is not as the call left it, {by}")


def _render_drill(output: DrillOutput) -> None:
    rows = [[item.call, item.reason or "good", item.detail] for item in output.tried]
    if rows or console.is_terminal:
        print_table(["call", "artifact", "why"], rows)
    say(f"{output.passed} of {len(output.tried)} good, of {output.live} live; ledger entry {output.seq}")
