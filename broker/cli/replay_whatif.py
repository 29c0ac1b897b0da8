"""``broker replay whatif``: what another policy or table of tiers would have decided otherwise."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.local import JsonOption, StateOption
from broker.cli.output import ExitCode, emit, errors
from broker.cli.policy import local_catalogue
from broker.cli.replay_case import BundleOption, Case, check_sound, open_case
from broker.cli.replay_span import SinceOption, UntilOption, span_of
from broker.cli.replay_whatif_view import render_report
from broker.domain.identity import IdentityKind
from broker.domain.ports import Transaction
from broker.ledger.in_force import policy_in_force
from broker.policy.live import read_snapshot, read_text
from broker.policy.snapshot import Snapshot
from broker.policy.whatif_report import Report
from broker.private_file import write_over
from broker.replay import whatif_making
from broker.replay.naming import NoNames
from broker.replay.whatif import ANOTHER_CHECK
from broker.replay.whatif_making import Rules, Tried, make_report
from broker.rpc.methods import served_methods
from broker.settings import DEFAULT_STATE, StatePaths, load_settings
from broker.specs.tiers import Tiers, load_tiers, read_tiers

FLIPS = 1
"""Exit code where something flips that ``--fail-on`` names."""

_NO_NAMES = "a bundle has no names: who would be asked isn't known, nor what depends on an agent's name"
_NO_PEOPLE = "a bundle doesn't say who could be asked"
_SHIPPED = "a bundle doesn't say which table of tiers was in force: it is compared with the shipped one"


class FailOn(enum.StrEnum):
    """Which flips make the command fail."""

    WIDENED = "widened"
    NARROWED = "narrowed"
    ANY = "any"


def whatif(
    policy: Annotated[Path, typer.Option("--policy", help="The policy file that is to be tried.", show_default=False)],
    *,
    tiers: Annotated[
        Path | None, typer.Option("--tiers", help="A table of tiers that is to be tried with it.", show_default=False)
    ] = None,
    since: SinceOption = "",
    until: UntilOption = "",
    fail_on: Annotated[
        FailOn | None,
        typer.Option("--fail-on", help="Exit with code 1 where something flips this way, or where that isn't known."),
    ] = None,
    allow_undecided: Annotated[
        bool,
        typer.Option("--allow-undecided", help="With --fail-on: requests that can't be decided again are no reason."),
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the report here, as RFC 8785 JSON with its own digest.")
    ] = None,
    bundle: BundleOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Decide every recorded decision again, under another policy, and say what flips, how often and who would be asked.

    It changes nothing. Exit code 0; 1 where --fail-on says so; 2 where the policy or the table may not go live; 6 where the
    ledger doesn't verify, or holds a decision that its own policy wouldn't give.

    Example: broker replay whatif --policy new-policy.csv --since 2026-01-01 --fail-on widened
    """
    span = span_of(since, until)
    tried, before = _here(policy, tiers, state) if bundle is None else _apart(policy, tiers)
    with open_case(state, bundle, as_json=as_json) as case:
        if fail_on is not None:
            check_sound(case.casebook.mark)
        present, asked, notes = _present(case, before)
        made = make_report(asked, tried, present, span, notes=notes)
    if report is not None:
        write_over(report, made.data())
    emit(made, as_json=as_json, render=render_report)
    if not made.ledger.sound:
        raise typer.Exit(ExitCode.OURS)
    if fail_on is not None and (_unknown(made, fail_on, allowed=allow_undecided) or _flips(made, fail_on)):
        raise typer.Exit(FLIPS)
    if made.control.disagree:
        raise typer.Exit(ExitCode.OURS)


def _unknown(made: Report, which: FailOn, *, allowed: bool) -> bool:
    """Says so where it isn't known whether something flips."""
    number = 0 if allowed else sum(item.requests for item in made.undecided if item.why != ANOTHER_CHECK)
    if number:
        errors.print(
            f"--fail-on {which}: {number} request(s) can't be decided again, so it isn't known that none of them flips."
            " Leave them out with --since, or accept that with --allow-undecided.",
            style="bold red",
            soft_wrap=True,
        )
    return bool(number)


def _flips(made: Report, which: FailOn) -> bool:
    widened, narrowed = bool(made.widened.flips), bool(made.narrowed.flips or made.lacking.calls)
    return {FailOn.WIDENED: widened, FailOn.NARROWED: narrowed, FailOn.ANY: widened or narrowed}[which]


def _here(policy: Path, tiers: Path | None, state: Path) -> tuple[Tried, Tiers]:
    """The policy and the table to try, checked as for this state directory, and its present table."""
    known = frozenset(local_catalogue(state).names)
    candidate = read_snapshot(policy, known_tools=known, known_rpcs=served_methods())
    settings = load_settings(state)
    chat, slack = settings.unsafe_chat_only_quorum, settings.unsafe_slack_approves_tier4
    before = load_tiers(StatePaths(state).tool_specs, chat_only_allowed=chat, slack_allowed=slack)
    table = before if tiers is None else read_tiers(tiers, chat_only_allowed=chat, slack_allowed=slack)
    return Tried(candidate, table), before


def _apart(policy: Path, tiers: Path | None) -> tuple[Tried, Tiers]:
    """The same without a state directory: which tools there are isn't known."""
    before = load_tiers()
    candidate = read_snapshot(policy, known_rpcs=served_methods())
    return Tried(candidate, before if tiers is None else read_tiers(tiers)), before


def _present(case: Case, tiers: Tiers) -> tuple[Rules, whatif_making.Case, Sequence[str]]:
    if case.local is None:
        apart = whatif_making.Case(case.casebook, case.names, {}, case.policy_text)
        return Rules(None, tiers), apart, (_NO_NAMES if isinstance(case.names, NoNames) else _NO_PEOPLE, _SHIPPED)
    local = case.local
    text = local.read(lambda tx: policy_in_force(tx, local.vault))
    in_force = Snapshot.load(read_text(local.paths.policy / "policy.csv") if text is None else text)
    asked = whatif_making.Case(case.casebook, case.names, local.read(_people), case.policy_text)
    return Rules(in_force, tiers), asked, ()


def _people(tx: Transaction) -> dict[str, str]:
    return {
        item.id: item.name
        for item in tx.identities.all()
        if item.kind is IdentityKind.HUMAN and item.revoked is None and item.name != item.id
    }
