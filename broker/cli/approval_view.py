"""An approval as commands print it: the model behind ``--json``, and the canonical text with what stands beside it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from pydantic import JsonValue

from broker.cli.call_view import print_fields, print_table, say, short_time
from broker.cli.output import ExitCode, OutputModel, console, printable
from broker.client.approval_models import Approval, Vote
from broker.domain.approval import ApprovalKind, ApprovalState, VoteDecision
from broker.domain.requirement import Channel

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_SAID = {VoteDecision.APPROVE: "approved", VoteDecision.DENY: "denied", VoteDecision.WITHDRAW: "took their vote back"}
_STYLES = {
    ApprovalState.PENDING: "yellow",
    ApprovalState.APPROVED: "green",
    ApprovalState.USED: "green",
    ApprovalState.DENIED: "red",
    ApprovalState.EXPIRED: "red",
}
LAST = 6
"""Characters of a digest that a person types."""


class RoleOutput(OutputModel):
    """People of a role who must be among those who agree."""

    role: str
    people: int


class RequirementOutput(OutputModel):
    """Who has to agree."""

    people: int
    roles: list[RoleOutput]
    channels: list[Channel]
    min_signed: int


class VoteOutput(OutputModel):
    """A vote. ``attested_by`` is the bot's key where a bot says that it was given: it isn't signed by the person then."""

    number: int
    person: str
    person_name: str
    decision: VoteDecision
    channel: Channel
    key: str
    attested_by: str
    cast: datetime | None
    reason: str
    seq: int
    counts: bool
    why_not: str


class ApprovalFileOutput(OutputModel):
    """A file that is in what is approved."""

    path: str
    blob: str
    size: int
    digest: str


class ApprovalOutput(OutputModel):
    """An approval; ``rendering`` is the canonical text, empty in lists and once it is no longer kept.

    ``left_s`` are the seconds until it is denied by itself; null once it is closed.
    """

    name: str
    kind: ApprovalKind
    state: ApprovalState
    summary: str
    subject: str
    workspace: str
    object: str
    tier: int | None
    requester: str
    requester_name: str
    requirement: RequirementOutput
    envelope_digest: str
    rendering_digest: str
    rendering: str
    files: list[ApprovalFileOutput]
    votes: list[VoteOutput]
    missing: list[str]
    may_vote: bool
    why_not: str
    created: datetime | None
    expires: datetime | None
    left_s: float | None
    closed: datetime | None
    held: str
    result: dict[str, JsonValue] | None


class ApprovalsOutput(OutputModel):
    """Approvals, newest first, without their content. ``more`` says that the limit cut the list."""

    items: list[ApprovalOutput]
    more: bool


def approval_output(item: Approval, now: datetime | None = None) -> ApprovalOutput:
    """The model of an approval."""
    needed = item.requirement
    open_ = item.state in {ApprovalState.PENDING, ApprovalState.APPROVED}
    left = (item.expires - (now or datetime.now(UTC))).total_seconds() if open_ and item.expires is not None else None
    return ApprovalOutput(
        name=item.name,
        kind=item.kind,
        state=item.state,
        summary=item.summary,
        subject=item.subject,
        workspace=item.workspace,
        object=item.object,
        tier=item.tier,
        requester=item.requester,
        requester_name=item.requester_name,
        requirement=RequirementOutput(
            people=needed.people,
            roles=[RoleOutput(role=role.role, people=role.people) for role in needed.roles],
            channels=list(needed.channels),
            min_signed=needed.min_signed,
        ),
        envelope_digest=item.envelope_digest,
        rendering_digest=item.rendering_digest,
        rendering=item.rendering,
        files=[
            ApprovalFileOutput(path=file.path, blob=file.blob, size=file.size, digest=file.digest)
            for file in item.files
        ],
        votes=[_vote_output(vote) for vote in item.votes],
        missing=list(item.missing),
        may_vote=item.may_vote,
        why_not=item.why_not,
        created=item.created,
        expires=item.expires,
        left_s=None if left is None else max(left, 0.0),
        closed=item.closed,
        held=item.held,
        result=item.result,
    )


def _vote_output(vote: Vote) -> VoteOutput:
    return VoteOutput(
        number=vote.number,
        person=vote.person,
        person_name=vote.person_name,
        decision=vote.decision,
        channel=vote.channel,
        key=vote.key,
        attested_by=vote.key if vote.attested else "",
        cast=vote.cast,
        reason=vote.reason,
        seq=vote.seq,
        counts=vote.counts,
        why_not=vote.why_not,
    )


def state_code(state: ApprovalState) -> ExitCode:
    """Which exit code a request has that stands in ``state``: 0 once it is done, 4 while it waits, 3 where it won't be."""
    match state:
        case ApprovalState.USED:
            return ExitCode.DONE
        case ApprovalState.PENDING | ApprovalState.APPROVED:
            return ExitCode.WAITING
        case _:
            return ExitCode.DENIED


def print_text(text: str) -> None:
    """The canonical text. What it holds it shows; what a false one might hold beyond that is made visible here."""
    sys.stdout.write(printable(text if text.endswith("\n") else f"{text}\n"))
    sys.stdout.flush()


def render_approval(item: ApprovalOutput) -> None:
    """An approval for a person: its text, then how it stands."""
    if item.rendering:
        print_text(item.rendering)
        console.print()
    render_standing(item)


def render_standing(item: ApprovalOutput) -> None:
    """How an approval stands: what was decided, by whom, what is missing, and how long it may take."""
    console.print(printable(item.summary or item.name), style="bold", markup=False, soft_wrap=True)
    print_fields({"approval": item.name})
    console.print("state     ", style="bold", end="")
    console.print(item.state.value, style=_STYLES.get(item.state, ""))
    print_fields(
        {
            "asked by": item.requester_name,
            "created ": short_time(item.created),
            "closed  ": short_time(item.closed),
            "left    ": left_words(item.left_s),
            "held by ": item.held,
        }
    )
    for vote in item.votes:
        _render_vote(vote)
    for sentence in item.missing:
        console.print(printable(f"  missing: {sentence}"), style="yellow", markup=False, soft_wrap=True)
    if item.result is not None:
        print_fields({"result  ": str(item.result)})
    if item.left_s is not None:
        print_fields(
            {
                "you     ": "may vote on it"
                if item.may_vote
                else f"may not vote on it: {item.why_not or 'no reason given'}"
            }
        )
    render_digest(item.rendering_digest)


def render_digest(digest: str) -> None:
    """The digest of the canonical text, with the characters at its end that a person types."""
    console.print("digest of the text  ", style="bold", end="")
    console.print(printable(digest[:-LAST]), markup=False, end="", soft_wrap=True)
    console.print(printable(digest[-LAST:]), markup=False, style="bold cyan", soft_wrap=True)


def render_list(output: ApprovalsOutput) -> None:
    """Approvals as a table."""
    rows = [
        [
            item.name.removeprefix("approvals/"),
            item.state.value,
            item.summary,
            item.requester_name,
            f"{_agreeing(item)} of {item.requirement.people}",
            left_words(item.left_s),
            "yours to decide" if item.may_vote else "",
        ]
        for item in output.items
    ]
    print_table(["approval", "state", "what", "asked by", "agree", "left", ""], rows)
    if output.more:
        say("there are more; raise --limit or narrow the filter")


def _agreeing(item: ApprovalOutput) -> int:
    return len({vote.person for vote in item.votes if vote.counts and vote.decision is VoteDecision.APPROVE})


def vote_words(vote: VoteOutput) -> str:
    """A vote in one line."""
    how = f"attested by bot {vote.key}, not signed by the person" if vote.attested_by else f"signed with {vote.key}"
    line = (
        f"{vote.person_name or vote.person} {_SAID[vote.decision]} at {short_time(vote.cast)} by {vote.channel}, {how}"
    )
    if vote.reason:
        line += f": {vote.reason}"
    return line if vote.counts else f"{line} (does not count: {vote.why_not or 'no reason given'})"


def left_words(seconds: float | None) -> str:
    """Time that is left, in words: the two largest units."""
    if seconds is None:
        return ""
    left = int(seconds)
    if left <= 0:
        return "none: its time is over"
    words: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit}" if count == 1 else f"{count} {unit}s")
        if len(words) == 2 or (words and not count):
            break
    return " ".join(words)


def _render_vote(vote: VoteOutput) -> None:
    style = "dim" if not vote.counts else "green" if vote.decision is VoteDecision.APPROVE else "red"
    text = printable(f"  {vote.number}. {' '.join(vote_words(vote).split())}")
    console.print(text, style=style, markup=False, soft_wrap=True)
