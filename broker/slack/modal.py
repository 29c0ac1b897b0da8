"""The modal in which one person looks at an approval and decides: its content whole, or not at all. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from broker.client import Approval
from broker.domain.approval import VoteDecision
from broker.domain.requirement import Channel
from broker.errors import BrokerError
from broker.slack.blocks import (
    MAX_BLOCKS,
    MAX_METADATA,
    MAX_VIEW_BYTES,
    Block,
    box,
    head,
    line,
    literal,
    moment,
    note,
    pieces,
    view_bytes,
    words,
)
from broker.slack.messages import place_text, tier_text, vote_text

DECIDE = "broker_decide"
"""``callback_id`` of the modal that can be submitted."""
DECISION, REASON = "decision", "reason"
"""``block_id`` and ``action_id`` of its two inputs."""
MAX_REASON = 1000
"""Characters of a reason, so that it fits the broker's limit in bytes whatever they are."""

_MOST_VOTES = 8
_MOST_TOLD = 20
_WORDS = {
    VoteDecision.APPROVE: "Approve: this exact action may be done",
    VoteDecision.DENY: "Deny: it must not be done",
    VoteDecision.WITHDRAW: "Take my vote back",
}


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a modal was opened for. It goes with the modal as ``private_metadata``; the bot keeps its own copy."""

    approval: str
    """Its id."""
    envelope_digest: str
    rendering_digest: str
    person: str
    """Id of the person whom the broker knows the account as."""
    team: str
    user: str
    channel: str
    """Where the button was."""
    choices: tuple[VoteDecision, ...]
    """What the modal offered."""

    def encode(self) -> str:
        """As JSON text."""
        return json.dumps(
            {name: list(value) if isinstance(value, tuple) else value for name, value in self._items()},
            separators=(",", ":"),
            sort_keys=True,
        )

    @classmethod
    def decode(cls, text: str) -> Self:
        """Reads what ``encode`` wrote, and nothing else: it is for the bot's own file."""
        value = json.loads(text)
        return cls(**{**value, "choices": tuple(VoteDecision(item) for item in value["choices"])})

    def _items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__slots__]


@dataclass(frozen=True, slots=True)
class Decision:
    """A modal, and whether it shows the content and lets approve."""

    view: Block
    ticket: Ticket
    whole: bool
    """Is the content in it, every letter?"""
    hidden: Decision | None = None
    """The same without content, where there is any."""


def waiting_view(text: str = "Asking the broker ...") -> Block:
    """A modal that says to wait."""
    return _view([note(text)])


def told_view(title: str, *texts: str, command: str = "") -> Block:
    """A modal that only tells something; ``title`` is a constant of ours, the texts may be anybody's."""
    told = [piece for text in texts for piece in pieces(text)]
    left_out = sum(len(piece.text) for piece in told[_MOST_TOLD:])
    return _view(
        [
            head(title),
            *(line(literal(piece.text or " ")) for piece in told[:_MOST_TOLD]),
            *([note(f"{left_out} more characters aren't shown.")] if left_out else []),
            *_command(command),
        ]
    )


def refusal_view(error: BrokerError, *, title: str, command: str = "") -> Block:
    """A modal that says why something was refused, and what can be done."""
    fields = [f"{item.field}: {item.description}" for item in error.violations]
    return told_view(title, f"{error.reason}: {error.message}", *fields, *filter(None, [error.hint]), command=command)


def decision_view(approval: Approval, *, person: str, team: str, user: str, channel: str, doubt: str = "") -> Decision:
    """The modal in which a person who may vote decides.

    Where the content doesn't fit whole, or is doubtful (``doubt`` says why), none of it is shown and approving isn't
    offered. To deny needs no content.
    """
    hidden = _decision(approval, person=person, team=team, user=user, channel=channel, shown=False, doubt=doubt)
    if doubt:
        return hidden
    whole = _decision(approval, person=person, team=team, user=user, channel=channel, shown=True)
    if fits(whole.view) and _showable(approval.rendering):
        return replace(whole, hidden=hidden)
    return hidden


def fits(view: Block) -> bool:
    """Does Slack take it as it is?"""
    return (
        len(view["blocks"]) <= MAX_BLOCKS
        and view_bytes(view) <= MAX_VIEW_BYTES
        and len(view.get("private_metadata", "")) <= MAX_METADATA
    )


def choices(approval: Approval, person: str, *, shown: bool) -> tuple[VoteDecision, ...]:
    """What a person may decide here: no approval without the content, or by a channel that the broker doesn't take."""
    own = [vote for vote in approval.votes if vote.person == person]
    standing = own[-1].decision if own else None
    offered = [VoteDecision.DENY]
    if shown and Channel.SLACK in approval.requirement.channels and standing is not VoteDecision.APPROVE:
        offered.insert(0, VoteDecision.APPROVE)
    if standing is VoteDecision.APPROVE:
        offered.append(VoteDecision.WITHDRAW)
    return tuple(offered)


def show_command(approval: str) -> str:
    """The command that shows an approval, by its id."""
    return f"broker approvals show {approval}"


def vote_command(approval: str) -> str:
    """The command that approves it with one's own key."""
    return f"broker approvals approve {approval}"


def _decision(
    approval: Approval, *, person: str, team: str, user: str, channel: str, shown: bool, doubt: str = ""
) -> Decision:
    offered = choices(approval, person, shown=shown)
    ticket = Ticket(
        approval=approval.id,
        envelope_digest=approval.envelope_digest,
        rendering_digest=approval.rendering_digest,
        person=person,
        team=team,
        user=user,
        channel=channel,
        choices=offered,
    )
    blocks = [
        *_summary(approval),
        *(_content(approval.rendering) if shown else _not_shown(approval, doubt)),
        *([] if VoteDecision.APPROVE in offered or not shown else _not_here(approval, offered)),
        _radio(offered),
        _reason(),
    ]
    return Decision(_view(blocks, ticket=ticket), ticket, whole=shown)


def _summary(approval: Approval) -> list[Block]:
    earlier = len(approval.votes) - _MOST_VOTES
    expires = literal("a time that is not known") if approval.expires is None else [moment(approval.expires)]
    return [
        line(
            literal(approval.id, bold=True),
            literal(f"  {approval.object}, {tier_text(approval)}{place_text(approval)}"),
        ),
        line(literal(f"Asked for by {approval.requester_name}. Ends by itself, denied, at "), expires),
        *(line(literal(f"- {vote_text(vote)}")) for vote in approval.votes[-_MOST_VOTES:]),
        *([note(f"{earlier} earlier votes aren't shown here.")] if earlier > 0 else []),
        *([line(literal(f"Held up: {approval.held}"))] if approval.held else []),
    ]


def _content(rendering: str) -> list[Block]:
    blocks = [head("What would be done, in full")]
    parts = pieces(rendering)
    goes_on = False
    for number, part in enumerate(parts, 1):
        if len(parts) > 1:
            begins = "; it begins within the last line of the part before" if goes_on else ""
            blocks.append(note(f"Part {number} of {len(parts)}{begins}"))
        blocks.append(box(part.text))
        goes_on = part.goes_on
    return blocks


def _not_shown(approval: Approval, doubt: str) -> list[Block]:
    if doubt:
        return [
            head("It can't be believed"),
            line(literal(doubt)),
            note("None of it is shown, and it can't be approved here. It can be denied. Tell who runs the broker."),
        ]
    return [
        head("It can't be shown here in full"),
        note(
            "What would be done doesn't fit into this window whole, so none of it is shown and it can't be approved here."
            " Look at it, and decide, with the command below. It can be denied here."
        ),
        *_command(show_command(approval.id)),
        *_command(vote_command(approval.id)),
    ]


def _not_here(approval: Approval, offered: Sequence[VoteDecision]) -> list[Block]:
    if VoteDecision.WITHDRAW in offered:
        return [note("You have approved this.")]
    return [
        note("This broker takes no approval of it by Slack: approve with your own key. It can be denied here."),
        *_command(vote_command(approval.id)),
    ]


def _command(command: str) -> list[Block]:
    return [note("At a terminal:"), box(command)] if command else []


def _radio(offered: Sequence[VoteDecision]) -> Block:
    options = [{"text": words(_WORDS[decision]), "value": decision.value} for decision in offered]
    return {
        "type": "input",
        "block_id": DECISION,
        "label": words("Your decision"),
        "element": {"type": "radio_buttons", "action_id": DECISION, "options": options},
    }


def _reason() -> Block:
    return {
        "type": "input",
        "block_id": REASON,
        "optional": True,
        "label": words("Reason"),
        "element": {
            "type": "plain_text_input",
            "action_id": REASON,
            "multiline": True,
            "max_length": MAX_REASON,
        },
    }


def _view(blocks: list[Block], *, ticket: Ticket | None = None) -> Block:
    view: Block = {
        "type": "modal",
        "title": words("Approval"),
        "close": words("Close"),
        "blocks": blocks,
    }
    if ticket is not None:
        view |= {
            "callback_id": DECIDE,
            "submit": words("Vote"),
            "private_metadata": ticket.encode(),
        }
    return view


def _showable(text: str) -> bool:
    """Is every letter one that can be seen? The rendering makes others visible; what it missed isn't approved here."""
    return bool(text) and all(char.isprintable() or char == "\n" for char in text)
