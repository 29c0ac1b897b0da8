"""Approvals for the tests of what the bot renders."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from broker.client import Approval, Tier, Vote
from broker.client.approval_models import ApprovalRequirement
from broker.domain.approval import ApprovalKind, ApprovalState, VoteDecision
from broker.domain.requirement import Channel

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ADA = "hum_00000000000000000000000001"


def approval(**changed: Any) -> Approval:  # noqa: ANN401
    """A call that waits, with these changes."""
    plain = Approval(
        name="approvals/apv_00000000000000000000000001",
        kind=ApprovalKind.CALL,
        state=ApprovalState.PENDING,
        subject="calls/call_00000000000000000000000001",
        workspace="sales",
        object="mail.send",
        tier=Tier.REGULATED,
        requester="agt_00000000000000000000000001",
        requester_name="agent:scout",
        requirement=ApprovalRequirement(2, (), (Channel.CLI, Channel.SLACK), 0),
        envelope_digest="sha256:" + "1" * 64,
        rendering_digest="sha256:" + "2" * 64,
        envelope=b"{}",
        rendering="SECRET CONTENT\n",
        files=(),
        votes=(),
        missing=("2 more people",),
        may_vote=True,
        why_not="",
        created=NOW,
        expires=NOW,
        closed=None,
        held="",
        summary="CALL, mail.send, in sales, tier 3, asked by agent:scout",
        result=None,
    )
    return replace(plain, **changed)


def vote(number: int = 1, **changed: Any) -> Vote:  # noqa: ANN401
    """A vote by Slack, with these changes."""
    plain = Vote(
        number=number,
        person=ADA,
        person_name="human:ada",
        decision=VoteDecision.APPROVE,
        channel=Channel.SLACK,
        key="sha256:" + "3" * 64,
        cast=NOW,
        reason="SECRET REASON",
        seq=7,
        counts=True,
        why_not="",
    )
    return replace(plain, **changed)
