"""``broker policy``: check a policy file before it goes live, and ask why it says what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from broker.cli.output import ExitCode, OutputModel, console, emit
from broker.domain.call import PolicyRequest
from broker.domain.reserved import ADMINISTRATION
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError
from broker.policy import rows
from broker.policy.explain import Considered, explain
from broker.policy.lint import Finding, examine
from broker.policy.live import read_snapshot, read_text
from broker.policy.snapshot import Snapshot
from broker.rpc.methods import served_methods
from broker.settings import DEFAULT_STATE, StatePaths
from broker.specs.catalogue import Catalogue
from broker.specs.shipped import shipped_folder

app = typer.Typer(no_args_is_help=True, help="Check the policy, and ask why it allows or denies.")

MAX_FINDINGS = 200
"""Most findings that ``check`` prints; it says how many more there are."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class FindingOutput(OutputModel):
    """Something wrong (``error``) or odd (``warning``) in a policy file."""

    line: int
    column: int
    severity: str
    message: str


class CheckOutput(OutputModel):
    """What ``broker policy check`` found. ``valid`` says whether the file may go live."""

    file: str
    valid: bool
    rules: int
    grants: int
    findings: list[FindingOutput]
    omitted: int


class FailureOutput(OutputModel):
    """A condition that a rule fails."""

    condition: str
    why: str


class ConsideredOutput(OutputModel):
    """A rule about the tool or method, and the conditions that it fails; with none it matches."""

    rule: str
    line: int
    subject: str
    workspace: str
    object: str
    action: str
    tier: str
    effect: str
    reason: str
    matches: bool
    decided: bool
    fails: list[FailureOutput]


class TierOutput(OutputModel):
    """The decision at one tier."""

    tier: int
    allowed: bool
    rule: str
    reason: str


class ExplainOutput(OutputModel):
    """What the policy says of one question, and why. ``decisions`` has one item per tier asked about."""

    subject: str
    workspace: str
    object: str
    action: str
    policy_digest: str
    roles: list[str]
    decisions: list[TierOutput]
    tier: int
    summary: str
    considered: list[ConsideredOutput]
    omitted: int
    elsewhere: int


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The policy file.", show_default=False)],
    state: Annotated[
        Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory of the broker, for its own tools.")
    ] = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Check a policy file as the broker does before it goes live.

    The tools that rows may name are the shipped ones and those in the state directory's tool_specs. Exit code 0: it may
    go live, perhaps with warnings; 2: it may not.

    Example: broker policy check examples/policy/policy.csv
    """
    text = read_text(file)
    known_tools = frozenset(local_catalogue(state).names)
    examined = examine(text, known_tools, served_methods())
    if not examined.errors:
        Snapshot.load(text, known_tools=known_tools, known_rpcs=served_methods())
    shown = (*examined.errors, *examined.warnings)[:MAX_FINDINGS]
    output = CheckOutput(
        file=str(file),
        valid=not examined.errors,
        rules=len(examined.rules),
        grants=len(examined.grants),
        findings=[_finding(item) for item in sorted(shown)],
        omitted=len(examined.findings) - len(shown),
    )
    emit(output, as_json=as_json, render=_render_check)
    if examined.errors:
        raise typer.Exit(ExitCode.USAGE)


@app.command(name="explain")
def explain_command(
    *,
    agent: Annotated[str, typer.Option(help="Name of the agent that asks.", show_default=False)] = "",
    human: Annotated[str, typer.Option(help="Name of the human who asks.", show_default=False)] = "",
    tool: Annotated[str, typer.Option(help="Tool, such as data.query.", show_default=False)] = "",
    rpc: Annotated[str, typer.Option(help="RPC, such as broker.v1.ToolBroker/ListTools.", show_default=False)] = "",
    workspace: Annotated[
        str, typer.Option(help="Workspace; an RPC may have none, and broker.admin has none.", show_default=False)
    ] = "",
    action: Annotated[
        str,
        typer.Option(
            help="call or approve: may they call the tool, or approve its call? Also approves broker.workflow, "
            "broker.runbook and broker.admin. Without it call, and rpc with --rpc.",
            show_default=False,
        ),
    ] = "",
    tier: Annotated[
        int | None, typer.Option(min=0, max=4, help="Tier of the call; without it each one is asked about.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Policy file; without it the state directory's.")
    ] = None,
    state: Annotated[
        Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory of the broker.")
    ] = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Say what the policy decides, which rules were considered, and which condition each fails.

    Example: broker policy explain --agent scout --tool shell.run --workspace demo
    Example: broker policy explain --human ann --tool sql.execute --workspace demo --action approve --tier 4
    """
    subject = _one_of("--agent NAME or --human NAME", {f"agent:{agent}": agent, f"human:{human}": human})
    obj = _one_of("--tool TOOL or --rpc METHOD", {tool: tool, rpc: rpc})
    action = _action(action, rpc)
    if not workspace and action != rows.RPC and obj != ADMINISTRATION:
        raise InvalidArgumentError(f"a {action} has a workspace: give --workspace NAME", reason="MISSING_OPTION")
    snapshot = read_snapshot(policy if policy is not None else StatePaths(state).policy / "policy.csv")
    tiers = [Tier(tier)] if tier is not None else [Tier.INTERNAL] if rpc else list(Tier)
    requests = [PolicyRequest(subject, workspace or rows.NO_WORKSPACE, obj, action, item) for item in tiers]
    emit(_explain(snapshot, requests), as_json=as_json, render=_render_explain)


def local_catalogue(state: Path) -> Catalogue:
    """The tools that rows may name: the shipped ones and those in the state directory's tool_specs."""
    own = StatePaths(state).tool_specs
    return Catalogue.load([shipped_folder(), *([own] if own.is_dir() else [])])


def _action(given: str, rpc: str) -> str:
    fitting = (rows.RPC,) if rpc else (rows.CALL, rows.APPROVE)
    if given and given not in fitting:
        with_what = "--rpc" if rpc else "--tool"
        raise InvalidArgumentError(f"with {with_what} the action is {' or '.join(fitting)}", reason="MISSING_OPTION")
    return given or fitting[0]


def _one_of(wanted: str, choices: dict[str, str]) -> str:
    given = [value for value, typed in choices.items() if typed]
    if len(given) != 1:
        raise InvalidArgumentError(f"give exactly one of {wanted}", reason="MISSING_OPTION")
    return given[0]


def _explain(snapshot: Snapshot, requests: list[PolicyRequest]) -> ExplainOutput:
    first = requests[0]
    found = explain(snapshot, first)
    decisions = [(request.tier, snapshot.decide(request)) for request in requests]
    return ExplainOutput(
        subject=first.subject,
        workspace=first.workspace,
        object=first.obj,
        action=first.action,
        policy_digest=snapshot.digest,
        roles=list(found.roles),
        decisions=[
            TierOutput(tier=tier, allowed=decision.allowed, rule=decision.rule, reason=decision.reason)
            for tier, decision in decisions
        ],
        tier=first.tier,
        summary=found.summary,
        considered=[_considered(item) for item in found.considered],
        omitted=found.omitted,
        elsewhere=found.elsewhere,
    )


def _finding(item: Finding) -> FindingOutput:
    return FindingOutput(line=item.line, column=item.column, severity=item.severity.value, message=item.message)


def _considered(item: Considered) -> ConsideredOutput:
    rule = item.rule
    return ConsideredOutput(
        rule=rule.id,
        line=rule.line,
        subject=rule.subject,
        workspace=rule.workspace,
        object=rule.obj,
        action=rule.action,
        tier=rule.tier,
        effect=rule.effect,
        reason=rule.reason,
        matches=item.matches,
        decided=item.decided,
        fails=[FailureOutput(condition=failure.condition, why=failure.why) for failure in item.failures],
    )


def _render_check(output: CheckOutput) -> None:
    for item in output.findings:
        style = "red" if item.severity == "error" else "yellow"
        where = f"{output.file}:{item.line}:{item.column}: "
        console.print(Text.assemble(where, (item.severity, style), f": {item.message}"), soft_wrap=True)
    if output.omitted:
        console.print(f"... and {output.omitted} more", markup=False)
    verdict = ("may go live", "green") if output.valid else ("may not go live", "red")
    console.print(Text.assemble(f"{output.file} ", verdict, f": {output.rules} rules, {output.grants} grants"))


def _render_explain(output: ExplainOutput) -> None:
    question = f"{output.subject} {output.action} {output.object} in {output.workspace}"
    console.print(Text.assemble((question, "bold"), f"   (policy {output.policy_digest[:19]})"), soft_wrap=True)
    console.print(Text(f"roles there: {' '.join(output.roles) or 'none'}"), soft_wrap=True)
    for item in output.decisions:
        verdict = ("allowed", "green") if item.allowed else ("denied", "red")
        console.print(Text.assemble(f"tier {item.tier}: ", verdict, f" by {item.rule}: {item.reason}"), soft_wrap=True)
    console.print(Text(f"At tier {output.tier}: {output.summary}"), soft_wrap=True)
    for rule in output.considered:
        fails = "; ".join(f"{item.condition}: {item.why}" for item in rule.fails)
        mark = "decides" if rule.decided else "matches" if rule.matches else f"doesn't match: {fails}"
        row = f"  line {rule.line}: {rule.effect} {rule.subject} {rule.workspace} {rule.object} tier {rule.tier} ({rule.rule}) "
        console.print(Text.assemble(row, (mark, "bold" if rule.matches else "dim")), soft_wrap=True)
    if output.omitted:
        console.print(f"  {output.omitted} more such rules are not shown", markup=False)
    console.print(f"  {output.elsewhere} rules are about other tools or methods", markup=False)
