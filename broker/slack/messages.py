"""The message of an approval in a channel: ids, tool, tier, a summary and who has voted; never its content. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from broker.client import Approval, Vote
from broker.domain.approval import OPEN_STATES, ApprovalKind, ApprovalState, VoteDecision
from broker.slack.blocks import Block, escape, head, line, literal, moment, note, words

NO_WORKSPACE = "-"
"""The workspace of what belongs to none."""
LOOK = "broker_look"
"""``action_id`` of the button that opens the modal."""

_MOST_VOTES = 12
_MOST_MISSING = 8
_MOST_SUMMARY = 1000

_HEADS = {
    ApprovalState.PENDING: "Waits for approval",
    ApprovalState.APPROVED: "Approved, not yet used",
    ApprovalState.DENIED: "Denied",
    ApprovalState.EXPIRED: "Expired: denied",
    ApprovalState.CANCELLED: "Withdrawn",
    ApprovalState.USED: "Approved and used",
}
_KINDS = {
    ApprovalKind.CALL: "a call",
    ApprovalKind.WORKFLOW: "a workflow",
    ApprovalKind.ADMINISTRATION: "a change of who may do what",
    ApprovalKind.RUNBOOK: "a runbook",
    ApprovalKind.REVIEW: "a review",
}
_SAID = {
    VoteDecision.APPROVE: "approves",
    VoteDecision.DENY: "denies",
    VoteDecision.WITHDRAW: "took their vote back",
}


@dataclass(frozen=True, slots=True)
class Message:
    """What ``chat.postMessage`` and ``chat.update`` take."""

    text: str
    """For notifications: escaped, and without anything that somebody outside has written."""
    blocks: list[Block]

    @property
    def fingerprint(self) -> str:
        """Equal for messages that show the same."""
        return hashlib.sha256(json.dumps([self.text, self.blocks], sort_keys=True).encode()).hexdigest()


def is_open(approval: Approval) -> bool:
    """Are votes still taken?"""
    return approval.state in OPEN_STATES


def channel_message(approval: Approval) -> Message:
    """The message that a channel shows of an approval, as it stands now."""
    title = _HEADS[approval.state]
    blocks = [
        head(title),
        line(
            literal(approval.id, bold=True),
            literal(f"  {_KINDS[approval.kind]}{place_text(approval)}"),
        ),
        line(
            literal(approval.object, bold=True),
            literal(f"  {tier_text(approval)}  {approval.subject}"),
        ),
        line(literal(_bounded(approval.summary) or "(no summary)")),
        line(literal(f"Asked for by {approval.requester_name} ({approval.requester}) at "), _time(approval.created)),
    ]
    blocks += [line(literal(f"- {vote_text(vote)}")) for vote in approval.votes[-_MOST_VOTES:]]
    if len(approval.votes) > _MOST_VOTES:
        blocks.append(note(f"{len(approval.votes) - _MOST_VOTES} earlier votes aren't shown here."))
    blocks += _standing(approval)
    return Message(text=escape(f"{title}: {approval.id}, {approval.object}"), blocks=blocks)


def tier_text(approval: Approval) -> str:
    """The tier, as people say it."""
    return "Tier unknown" if approval.tier is None else f"Tier {int(approval.tier)}"


def place_text(approval: Approval) -> str:
    """Where it belongs, with a space before it; empty for what belongs to no workspace."""
    return "" if approval.workspace == NO_WORKSPACE else f" in workspace {approval.workspace}"


def vote_text(vote: Vote) -> str:
    """A vote in a line, without its reason; one that a bot attests is never shown as one that the person signed."""
    how = (
        f"attested by the bot with key {vote.key[:19]}..., not signed by them"
        if vote.attested
        else "signed with their own key"
    )
    counts = "" if vote.counts or vote.decision is VoteDecision.WITHDRAW else "; doesn't count"
    return f"{vote.person_name} ({vote.person}) {_SAID[vote.decision]}: {how}{counts}"


def _standing(approval: Approval) -> list[Block]:
    if not is_open(approval):
        return [line(literal("Closed at "), _time(approval.closed))]
    blocks = [line(literal(f"Missing: {_bounded(text)}")) for text in approval.missing[:_MOST_MISSING]]
    if len(approval.missing) > _MOST_MISSING:
        blocks.append(note(f"{len(approval.missing) - _MOST_MISSING} more things are missing."))
    if approval.held:
        blocks.append(line(literal(f"Held up: {_bounded(approval.held)}", bold=True)))
    blocks.append(line(literal("Ends by itself, denied, at "), _time(approval.expires)))
    button: Block = {
        "type": "button",
        "action_id": LOOK,
        "text": words("Look and decide"),
        "value": approval.id,
    }
    return [*blocks, {"type": "actions", "elements": [button]}]


def _time(time: datetime | None) -> list[Block]:
    return literal("a time that is not known") if time is None else [moment(time)]


def _bounded(text: str) -> str:
    if len(text) <= _MOST_SUMMARY:
        return text
    return f"{text[:_MOST_SUMMARY]} ... ({len(text) - _MOST_SUMMARY} more characters: see `broker approvals show`)"
