"""``broker replay timeline``: what happened, in causal order, at a terminal, as JSON, or as one HTML page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.output import ExitCode, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.replay_case import BundleOption, Case, open_case
from broker.cli.replay_span import SinceOption, UntilOption, moment_of
from broker.cli.timeline_output import timeline_output
from broker.cli.timeline_view import render_timeline
from broker.errors import FieldViolation, InvalidArgumentError, NotFoundError
from broker.ledger.bundle_zip import new_file
from broker.private_file import write_over
from broker.replay.naming import KnownNames
from broker.replay.timeline.kept_texts import KeptTexts
from broker.replay.timeline.making import Limits, make_timeline
from broker.replay.timeline.model import Timeline
from broker.replay.timeline.page import write_page
from broker.replay.timeline.selecting import Selection
from broker.replay.timeline.texts import DisclosedTexts, NoTexts, Texts
from broker.settings import DEFAULT_STATE

_UNFOLDED = 1


def timeline(
    *,
    call: Annotated[str, typer.Option("--call", help="This call.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="What this agent did, by name or id.")] = "",
    session: Annotated[str, typer.Option("--session", help="What was done in this session.")] = "",
    workflow: Annotated[str, typer.Option("--workflow", help="What was done in this workflow.")] = "",
    person: Annotated[
        str,
        typer.Option(
            "--person",
            help="What this person owned, started, had done on their behalf, voted on, or did, by name or id.",
        ),
    ] = "",
    tool: Annotated[str, typer.Option("--tool", help="Calls of this tool.")] = "",
    data_class: Annotated[str, typer.Option("--data-class", help="Calls that touched this class of data.")] = "",
    host: Annotated[str, typer.Option("--host", help="Calls that wanted to reach this host.")] = "",
    file: Annotated[
        str,
        typer.Option(
            "--file", help="Calls that were given a file of this path, made or changed one; * and ? fit more."
        ),
    ] = "",
    workspace: Annotated[str, typer.Option("--workspace", help="What was done in this workspace.")] = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=5000, help="Most calls, acts and approvals, the newest of each.")
    ] = 200,
    unfold: Annotated[
        bool | None,
        typer.Option("--all/--fold", help="Show all entries, or a line for each call; default: all of a single one."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one page, with a picture of the lanes.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a page that is there.")] = False,
    bundle: BundleOption = None,
    server: Annotated[
        bool, typer.Option("--server", help="Ask the running broker, which shows what you may see.")
    ] = False,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show what happened, in causal order: decisions, votes, egress, effects, undos, and what was in force.

    All selectors that are given have to fit. Each entry names those that it came of. The ledger is verified as it is read; one that
    doesn't verify is shown as far as it can be, loudly, and the exit code is 6.

    Example: broker replay timeline --agent scout --since 2h --html incident.html
    """
    now = datetime.now(UTC)
    wanted = Selection(
        call=call.removeprefix("calls/"),
        session=session.removeprefix("sessions/"),
        workflow=workflow,
        tool=tool.removeprefix("tools/"),
        data_class=data_class,
        host=host,
        file=file,
        workspace=workspace,
        since=_time("--since", since, now),
        until=_time("--until", until, now),
    )
    _check(wanted, bundle, server=server)
    limits = Limits(groups=limit)
    if server:
        from broker.cli.timeline_remote import timeline_of_server  # noqa: PLC0415 - files need no client

        made = timeline_of_server(Remote(address, identity, ca, state), wanted, agent, person, limits)
        _show(made, _Naming({}), html, force=force, unfold=unfold, as_json=as_json)
        return
    with open_case(state, bundle, as_json=as_json) as opened:
        texts, case = _texts(opened, bundle)
        wanted = replace(wanted, agent=_who(case, "--agent", agent), person=_who(case, "--person", person))
        _check_call(case, wanted.call)
        look = texts.look if isinstance(texts, KeptTexts) else None
        made = make_timeline(case.casebook, wanted, name=case.who, texts=texts, look=look, limits=limits)
        _show(made, case.who, html, force=force, unfold=unfold, as_json=as_json)


class _Naming:
    """Names by id; who has none is shown by id."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def __call__(self, identity: str) -> str:
        return self._names.get(identity) or identity


def _show(
    made: Timeline, name: Callable[[str], str], html: Path | None, *, force: bool, unfold: bool | None, as_json: bool
) -> None:
    if html is not None:
        _write(html, write_page(made, name).encode(), force=force)
    written = "" if html is None else str(html)
    identities = {event.who for event in made.events}
    for group in made.groups:
        story = group.call
        if story is not None:
            identities |= {
                story.agent,
                story.owner,
                story.starter,
                story.on_behalf_of,
                *(who for who, _ in story.votes),
            }
    names = {who: name(who) for who in sorted(identities - {""}) if name(who) != who}
    selected = sum(group.call is None or group.call.selected for group in made.groups)
    whole = selected <= _UNFOLDED if unfold is None else unfold
    emit(
        timeline_output(made, names, written),
        as_json=as_json,
        render=lambda _: render_timeline(made, name, unfold=whole, html=written),
    )
    if not made.mark.sound:
        raise typer.Exit(ExitCode.OURS)


def _write(path: Path, data: bytes, *, force: bool) -> None:
    # What was kept sealed stands in it in plain text: it is its owner's alone.
    if force:
        write_over(path, data)
        return
    with new_file(path) as stream:
        stream.write(data)


def _texts(case: Case, bundle: Path | None) -> tuple[Texts, Case]:
    """Where texts are; and the case with the names that a bundle discloses."""
    if case.local is not None:
        return KeptTexts(case.local.read, case.local.vault), case
    if bundle is None:
        return NoTexts(), case
    disclosed = DisclosedTexts(bundle)
    return disclosed, replace(case, names=KnownNames(disclosed.names)) if disclosed.names else case


def _who(case: Case, option: str, name: str) -> str:
    """The id of somebody: one that stands in the ledger counts even where nobody has a name."""
    if not name or (not case.names.find(name) and case.casebook.number(name) is not None):
        return name
    return case.named(option, name)


def _check_call(case: Case, call: str) -> None:
    if call and case.casebook.one("SELECT id FROM call WHERE name = ?", call) is None:
        raise NotFoundError(
            f"no entry is about a call {call[:80]!a}",
            reason="CALL_NOT_FOUND",
            hint="See which there are with `broker calls list`, or `broker replay timeline --agent NAME`.",
        )


def _check(wanted: Selection, bundle: Path | None, *, server: bool) -> None:
    if server and bundle is not None:
        raise _refused("--bundle", "can't be given with --server: the broker has the ledger")
    if wanted.file and (server or bundle is not None):
        raise _refused(
            "--file",
            "needs the state directory: no entry holds the name of a file, only sealed content does, and that isn't in a "
            "bundle, nor shown by a running broker",
        )
    if wanted.since is not None and wanted.until is not None and wanted.since > wanted.until:
        raise _refused("--since", "is after --until: nothing can fit")


def _time(option: str, text: str, now: datetime) -> int | None:
    return moment_of(text, option=option, now=now) if text else None


def _refused(option: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{option} {why}", reason="USAGE", violations=(FieldViolation(option, why),))
