"""The channel's message in each state, and the modal: what they show, what they offer, and what they never hold."""

from __future__ import annotations

import json

import pytest

from broker.client import Tier
from broker.client.approval_models import ApprovalRequirement
from broker.domain.approval import OPEN_STATES, ApprovalKind, ApprovalState, VoteDecision
from broker.domain.requirement import Channel
from broker.errors import FieldViolation, InvalidArgumentError
from broker.slack.blocks import MAX_BLOCKS, MAX_VIEW_BYTES, joined, pieces, view_bytes
from broker.slack.messages import channel_message, vote_text
from broker.slack.modal import Decision, Ticket, choices, decision_view, refusal_view, told_view, waiting_view
from tests.slack_limits import check_message, check_view, shown
from tests.unit.slack.slack_values import ADA, approval, vote


def decision(**changed: object) -> Decision:
    found = decision_view(approval(**changed), person=ADA, team="T1", user="U1", channel="C1")
    check_view(found.view)
    return found


@pytest.mark.parametrize("kind", list(ApprovalKind))
@pytest.mark.parametrize("state", list(ApprovalState))
def test_every_state_has_a_message_without_content(state: ApprovalState, kind: ApprovalKind) -> None:
    votes = tuple(vote(number) for number in range(1, 40))
    message = channel_message(approval(state=state, kind=kind, votes=votes, missing=("x",) * 30, held="a freeze"))
    check_message({"text": message.text, "blocks": message.blocks})
    text = json.dumps(message.blocks) + message.text
    assert ("Look and decide" in text) is (state in OPEN_STATES)
    assert "SECRET" not in text
    for word in ("apv_00000000000000000000000001", "mail.send", "Tier 3", "sales", "call_0000", "agent:scout"):
        assert word in text
    assert "27 earlier votes" in text


def test_a_long_summary_says_how_much_is_left_out() -> None:
    message = channel_message(approval(summary="x" * 1500, missing=("y" * 5000,), held="z" * 5000))
    check_message({"text": message.text, "blocks": message.blocks})
    assert "500 more characters" in json.dumps(message.blocks)


def test_the_fingerprint_is_of_what_is_shown() -> None:
    one, same = channel_message(approval()), channel_message(approval(rendering="other", may_vote=False))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != channel_message(approval(votes=(vote(),))).fingerprint


def test_a_vote_that_a_bot_attests_is_not_shown_as_signed() -> None:
    assert "attested by the bot with key sha256:333333333333..." in vote_text(vote())
    assert "signed with their own key" not in vote_text(vote())
    assert "signed with their own key" in vote_text(vote(channel=Channel.CLI))
    assert "doesn't count" in vote_text(vote(counts=False))
    assert "doesn't count" not in vote_text(vote(counts=False, decision=VoteDecision.WITHDRAW))


def test_an_unknown_tier_is_said() -> None:
    assert "Tier unknown" in json.dumps(channel_message(approval(tier=None)).blocks)
    assert "Tier 4" in json.dumps(channel_message(approval(tier=Tier.AUTONOMOUS)).blocks)


def test_the_modal_shows_the_content_whole() -> None:
    text = "".join(f"line {number} <b> &amp; `x` :smile:\n" for number in range(2000))
    found = decision(rendering=text)
    assert found.whole
    assert "\n".join(shown(found.view, decoding=True)) == text
    assert joined(pieces(text)) == text


@pytest.mark.parametrize("text", ["x" * 200_000, "x\n" * 200_000, "<" * 60_000, "&\n" * 40_000, "\u00e9" * 45_000])
def test_what_does_not_fit_is_not_shown_at_all(text: str) -> None:
    found = decision(rendering="SECRET" + text)
    assert not found.whole
    assert found.ticket.choices == (VoteDecision.DENY,)
    assert "SECRET" not in json.dumps(found.view)
    assert "broker approvals show apv_00000000000000000000000001" in json.dumps(found.view)


@pytest.mark.parametrize("letter", ["x", "<", "\u00e9"])
def test_at_the_border_it_is_whole_or_nothing(letter: str) -> None:
    seen = set()
    for characters in range(10_000, 160_000, 2_000):
        found = decision(rendering=letter * characters)
        seen.add(found.whole)
        assert found.whole == (letter * 500 in json.dumps(found.view, ensure_ascii=False))
        assert len(found.view["blocks"]) <= MAX_BLOCKS
        assert view_bytes(found.view) <= MAX_VIEW_BYTES
    assert seen == {True, False}


@pytest.mark.parametrize("char", ["\u202e", "\u200b", "\x00", "\x1b", "\r", "\t", "\u2028", "\ufeff"])
def test_letters_that_can_not_be_seen_are_not_approved_here(char: str) -> None:
    assert not decision(rendering=f"a{char}b").whole


def test_no_content_is_nothing_to_approve() -> None:
    assert decision(rendering="").ticket.choices == (VoteDecision.DENY,)


def test_doubtful_content_is_neither_shown_nor_approved() -> None:
    found = decision_view(approval(), person=ADA, team="T1", user="U1", channel="C1", doubt="DIGEST_DIFFERS: why")
    check_view(found.view)
    assert "SECRET" not in json.dumps(found.view)
    assert "DIGEST_DIFFERS: why" in json.dumps(found.view)
    assert found.ticket.choices == (VoteDecision.DENY,)


def test_what_may_be_decided() -> None:
    cli_only = ApprovalRequirement(2, (), (Channel.CLI,), 1)
    approve, deny, withdraw = VoteDecision.APPROVE, VoteDecision.DENY, VoteDecision.WITHDRAW
    assert choices(approval(), ADA, shown=True) == (approve, deny)
    assert choices(approval(), ADA, shown=False) == (deny,)
    assert choices(approval(requirement=cli_only), ADA, shown=True) == (deny,)
    assert choices(approval(votes=(vote(),)), ADA, shown=True) == (deny, withdraw)
    assert choices(approval(votes=(vote(person="hum_2"),)), ADA, shown=True) == (approve, deny)
    taken_back = (vote(), vote(2, decision=withdraw))
    assert choices(approval(votes=taken_back), ADA, shown=True) == (approve, deny)


def test_a_ticket_comes_back_as_it_was() -> None:
    ticket = decision().ticket
    assert Ticket.decode(ticket.encode()) == ticket
    assert (ticket.approval, ticket.person, ticket.team, ticket.user) == (
        "apv_00000000000000000000000001",
        ADA,
        "T1",
        "U1",
    )


def test_windows_that_only_tell_fit_whatever_they_tell() -> None:
    error = InvalidArgumentError("m" * 9000, hint="h" * 9000, violations=(FieldViolation("f", "<!channel>"),))
    for view in (waiting_view(), told_view("Done"), refusal_view(error, title="Not cast", command="broker x")):
        check_view(view)
        assert "submit" not in view
    check_view(told_view("Much", "x" * 1_000_000))
