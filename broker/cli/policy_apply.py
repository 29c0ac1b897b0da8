"""``broker policy apply``: puts a policy into force, and asks people first where it touches the two-person rule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from broker.approvals.authority import find_by_action
from broker.cli.local import Local, open_local
from broker.cli.output import ExitCode, OutputModel, console, emit
from broker.cli.policy import Json, local_catalogue
from broker.cli.policy_diff import DiffOutput, diff_output, render_diff
from broker.cli.remote import AddressOption, CaOption, IdentityOption, Remote
from broker.cli.requests import ReasonOption
from broker.cli.voter import AsOption, Person
from broker.client import AsyncBroker
from broker.domain.approval import ApprovalState
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.identity import files
from broker.ledger.in_force import policy_in_force
from broker.pipeline.admin_actions import WHATIF
from broker.pipeline.policy_changes import ACTION, counted_on_record, examine
from broker.pipeline.whatif_attached import check_candidate
from broker.policy.live import read_text
from broker.policy.snapshot import Snapshot
from broker.policy.whatif_report import Report, read_report
from broker.rpc.methods import served_methods
from broker.settings import DEFAULT_STATE, StatePaths
from broker.specs.tiers import ALL_RISKS, load_tiers


class ApplyOutput(OutputModel):
    """What became of it. ``state`` is ``unchanged``, ``in force``, ``at the next start`` or ``waits for people``.

    ``two_person_rule`` has the sentences for which people have to agree; ``approval`` is the request, where there is one;
    ``whatif`` is the digest of the report that was attached to it just now.
    """

    state: str
    policy_digest: str
    two_person_rule: list[str]
    approval: str
    whatif: str
    difference: DiffOutput


@dataclass(frozen=True, slots=True)
class _Present:
    """What the record says: the policy in force, whether people have to agree, and what they have been asked."""

    text: str | None
    founded: bool


def apply(
    file: Annotated[Path, typer.Argument(help="The policy file that is to go into force.")],
    *,
    reason: ReasonOption = "",
    whatif: Annotated[
        Path | None,
        typer.Option("--whatif", help="Attach this report of `broker replay whatif`: approvers see it and sign it."),
    ] = None,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: Annotated[
        Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory of the broker.")
    ] = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show what a policy file changes and widens, and put it into force, unless people have to agree to it first.

    Once the two-person rule is in force, they have to where it lets somebody approve, or call at tier 4, what they could
    not: then it is asked for (exit code 4). Run the same command again once two people agree.

    Example: broker policy apply new-policy.csv --as olivia
    """
    catalogue = local_catalogue(state)
    tiers = {tool.spec.name: tool.spec.risk for tool in catalogue.all()}
    text = read_text(file)
    new = Snapshot.load(text, known_tools=frozenset(tiers), known_rpcs=served_methods())
    report = None if whatif is None else read_report(whatif)
    if report is not None:
        check_candidate(report, new.digest)
    paths = StatePaths(state)
    remote = Remote(address, Person(who).identity(identity), ca, state)
    with open_local(state) as local:
        present = local.read(
            lambda tx: _Present(policy_in_force(tx, local.vault), local.registry.authority.founded(tx))
        )
        old = Snapshot.load(read_text(paths.policy / "policy.csv") if present.text is None else present.text)
        table = load_tiers(paths.tool_specs, **ALL_RISKS)
        counted = local.read(lambda tx: counted_on_record(tx, local.vault, table))
        change = examine(old, new, tools=tiers, counted=counted)
        needs = present.founded and bool(change.sensitive)
        asked = _asked(local, change.parameters) if needs else ("", ApprovalState.APPROVED)
    (approval, stands), carried = asked, ""
    if stands is ApprovalState.APPROVED:
        done = _put(paths, text, new.digest, remote, changed=old.digest != new.digest)
    else:
        if not approval:
            carried = "" if report is None else report.digest
            approval = remote.run(lambda broker: _request(broker, text, report, reason))
        done = "waits for people"
    output = ApplyOutput(
        state=done,
        policy_digest=new.digest,
        two_person_rule=list(change.sensitive),
        approval=approval,
        whatif=carried,
        difference=diff_output(file, old, new, change.found),
    )
    emit(output, as_json=as_json, render=_render)
    if stands is not ApprovalState.APPROVED:
        raise typer.Exit(ExitCode.WAITING)


def _asked(local: Local, parameters: JsonObject) -> tuple[str, ApprovalState]:
    """The open request for exactly this change, and where it stands; PENDING, without a name, where there is none."""

    def work(tx: Transaction) -> tuple[str, ApprovalState]:
        for state in (ApprovalState.APPROVED, ApprovalState.PENDING):
            found = find_by_action(tx, local.vault, ACTION, parameters, state=state, now=datetime.now(UTC))
            if found is not None:
                return f"approvals/{found.id}", state
        return "", ApprovalState.PENDING

    return local.read(work)


async def _request(broker: AsyncBroker, text: str, report: Report | None, reason: str) -> str:
    attached = {} if report is None else {WHATIF: report.data().decode()}
    return (await broker.request_administration(ACTION, {"text": text, **attached}, reason)).name


def _put(paths: StatePaths, text: str, digest: str, remote: Remote, *, changed: bool) -> str:
    place = paths.policy / "policy.csv"
    # Written beside and renamed over: a broker that looks at it now sees the old one or the new one.
    files.replace(place, text.encode(), mode=files.PRIVATE)
    if not paths.socket_info.is_file():
        return "at the next start" if changed else "unchanged"

    async def reload(broker: AsyncBroker) -> str:
        return (await broker.reload_policy()).policy_digest

    in_force = remote.run(reload)
    return "in force" if in_force == digest and changed else "unchanged"


def _render(output: ApplyOutput) -> None:
    render_diff(output.difference)
    for sentence in output.two_person_rule:
        console.print(Text(sentence, "bold red"), soft_wrap=True)
    console.print(Text(f"{output.state}: policy {output.policy_digest}", "bold"), soft_wrap=True)
    if output.whatif:
        console.print(Text(f"attached: what-if report {output.whatif}"), soft_wrap=True)
    if output.approval and output.state == "waits for people":
        which = output.approval.removeprefix("approvals/")
        console.print(
            Text(f"two people have to agree: broker approvals show {which}; then run the same command again"),
            soft_wrap=True,
        )
