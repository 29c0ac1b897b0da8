"""``broker ask``: the questions that boards and auditors ask, each answered from the ledger in one command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from broker.cli.ask_view import CsvOption, Form, LimitOption, answer_with
from broker.cli.local import JsonOption, StateOption
from broker.cli.replay_case import BundleOption, Case
from broker.cli.replay_span import SinceOption, UntilOption, moment_of, span_of
from broker.errors import InvalidArgumentError
from broker.replay.asking.answer import Answer
from broker.replay.asking.outside import changed, irreversible, left, refused
from broker.replay.asking.paths import Wanted, done_by, ran_under, touched
from broker.replay.asking.persons import could_approve, decided_by
from broker.settings import DEFAULT_STATE

app = typer.Typer(
    no_args_is_help=True,
    help="Answer what boards and auditors ask, from the ledger, with the entries that prove each line beside it.",
)

WorkspaceOption = Annotated[str, typer.Option("--workspace", "-w", help="Only in this workspace.")]


@app.command("paths")
def ask_paths(
    *,
    data_class: Annotated[
        str, typer.Option("--data-class", help="Only this class; customer* takes all that begin so.")
    ] = "",
    model: Annotated[str, typer.Option("--model", help="Only this model.")] = "",
    workflow: Annotated[str, typer.Option("--workflow", help="Only this workflow.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Only this agent, by name or id.")] = "",
    tool: Annotated[str, typer.Option("--tool", help="Only this tool.")] = "",
    workspace: WorkspaceOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which model touched which data class when, by which workflow, and who approved that path?

    Example: broker ask paths --data-class "customer*" --since 7d
    """
    span = span_of(since, until)

    def work(case: Case) -> Answer:
        who = case.named("--agent", agent) if agent else ""
        wanted = Wanted(
            data_class=data_class, model=model, workflow=workflow, agent=who, tool=tool, workspace=workspace
        )
        return touched(case.casebook, wanted, span)

    answer_with(work, Form(state, bundle, limit, as_csv=as_csv, as_json=as_json))


@app.command("agent")
def ask_agent(
    *,
    agent: Annotated[str, typer.Argument(help="The agent, by name or id.")],
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """What did this agent do, and what was it refused?

    Example: broker ask agent scout --since 24h
    """
    span = span_of(since, until)

    def work(case: Case) -> Answer:
        who = case.named("AGENT", agent)
        return replace(done_by(case.casebook, who, span), question=f"What did {case.who(who)} do?")

    answer_with(work, Form(state, bundle, limit, as_csv=as_csv, as_json=as_json))


@app.command("person")
def ask_person(
    *,
    person: Annotated[str, typer.Argument(help="The person, by name or id.")],
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """What did this person approve or deny, and was it signed with their own key?

    Example: broker ask person ada --since 2026-01-01
    """
    span = span_of(since, until)

    def work(case: Case) -> Answer:
        who = case.named("PERSON", person)
        return replace(decided_by(case.casebook, who, span), question=f"What did {case.who(who)} approve?")

    answer_with(work, Form(state, bundle, limit, as_csv=as_csv, as_json=as_json))


@app.command("policy")
def ask_policy(
    *,
    digest: Annotated[
        str, typer.Argument(help="The policy's digest, or at least 8 characters of it; default: the one in force last.")
    ] = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """What ran under this policy, by which rule, and who put it in force?

    Example: broker ask policy sha256:3f0a91c2
    """
    span = span_of(since, until)

    def work(case: Case) -> Answer:
        return ran_under(case.casebook, _policy(case, digest), span)

    answer_with(work, Form(state, bundle, limit, as_csv=as_csv, as_json=as_json))


@app.command("egress")
def ask_egress(
    *,
    host: Annotated[str, typer.Option("--host", help="Only this host.")] = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """What left the house: to which hosts, how much, by whom, and what was stopped?

    Example: broker ask egress --since 30d --csv
    """
    span = span_of(since, until)
    answer_with(
        lambda case: left(case.casebook, host, span), Form(state, bundle, limit, as_csv=as_csv, as_json=as_json)
    )


@app.command("changes")
def ask_changes(
    *,
    removed: Annotated[bool, typer.Option("--removed", help="Only what removed something.")] = False,
    workspace: WorkspaceOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """What was changed or removed, by which call, who agreed, and was it taken back?

    Example: broker ask changes --removed --since 24h
    """
    span = span_of(since, until)
    answer_with(
        lambda case: changed(case.casebook, workspace, span, removed=removed),
        Form(state, bundle, limit, as_csv=as_csv, as_json=as_json),
    )


@app.command("irreversible")
def ask_irreversible(
    *,
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """What ran that can't be taken back, or can only be compensated?

    Example: broker ask irreversible --json
    """
    span = span_of(since, until)
    answer_with(
        lambda case: irreversible(case.casebook, span), Form(state, bundle, limit, as_csv=as_csv, as_json=as_json)
    )


@app.command("refusals")
def ask_refusals(
    *,
    since: SinceOption = "",
    until: UntilOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """What was refused, by which rule, and how often?

    Example: broker ask refusals --since 7d
    """
    span = span_of(since, until)
    answer_with(lambda case: refused(case.casebook, span), Form(state, bundle, limit, as_csv=as_csv, as_json=as_json))


@app.command("approvers")
def ask_approvers(
    *,
    on: Annotated[str, typer.Option("--on", help="At that time: a date, a time, or how long ago; default: now.")] = "",
    workspace: WorkspaceOption = "",
    limit: LimitOption = 1000,
    as_csv: CsvOption = False,
    state: StateOption = DEFAULT_STATE,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Who could approve what on a date: by the policy, the keys and the identities that were in force then?

    Example: broker ask approvers --on 2026-01-31
    """
    now = datetime.now(UTC)
    moment = moment_of(on, option="--on", now=now) if on else moment_of(now.isoformat(), option="--on", now=now)

    def work(case: Case) -> Answer:
        texts: Callable[[str], str | None] = case.policy_text
        return could_approve(case.casebook, moment, texts, case.names.name, (workspace,) if workspace else ())

    answer_with(work, Form(state, bundle, limit, as_csv=as_csv, as_json=as_json))


_LEAST = 8


def _policy(case: Case, given: str) -> str:
    """The digest of the policy that is meant."""
    rows = case.casebook.rows("SELECT DISTINCT policy FROM decision WHERE policy != 0 ORDER BY seq DESC")
    known = [case.casebook.text(row[0]) for row in rows]
    start = given if given.startswith("sha256:") else f"sha256:{given}"
    found = known[:1] if not given else [item for item in known if item.startswith(start)]
    if len(found) != 1 or (given and len(start) < len("sha256:") + _LEAST):
        raise InvalidArgumentError(
            f"POLICY: nothing was decided under {given[:80]!a}" if not found else "POLICY: more characters, please",
            reason="POLICY_UNKNOWN",
            hint="Give at least 8 characters of a digest; `broker ledger show --type policy.changed` lists them.",
        )
    return found[0]
