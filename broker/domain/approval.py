"""An approval: people who have to agree before something happens. Its states, the moves between them, and its values.

Nothing is approved but one exact action: the envelope says all that decides it, the rendering is the one text that every
channel shows, and a vote names the digests of both.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from broker.domain.requirement import Channel, Requirement
from broker.errors import InternalError


class ApprovalKind(enum.StrEnum):
    """What people are asked about."""

    CALL = "CALL"
    """One call of a tool."""
    WORKFLOW = "WORKFLOW"
    """A version of a workflow."""
    ADMINISTRATION = "ADMINISTRATION"
    """A change of who may do what: keys, identities, accounts, policy, tiers, settings, the end of a freeze."""
    RUNBOOK = "RUNBOOK"
    """A call that is agreed on beforehand, for an emergency."""
    REVIEW = "REVIEW"
    """A look back at the use of a runbook."""


class ApprovalState(enum.StrEnum):
    """Where an approval stands; the words are those of the wire, without their prefix."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    """Enough people agree; they are counted again when it is used."""
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    USED = "USED"


_S = ApprovalState

APPROVAL_MOVES: Mapping[ApprovalState, frozenset[ApprovalState]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.APPROVED, _S.DENIED, _S.EXPIRED, _S.CANCELLED}),
        _S.APPROVED: frozenset({_S.PENDING, _S.DENIED, _S.EXPIRED, _S.CANCELLED, _S.USED}),
        _S.DENIED: frozenset(),
        _S.EXPIRED: frozenset(),
        _S.CANCELLED: frozenset(),
        _S.USED: frozenset(),
    },
)
"""State -> the states that may follow it. No other move exists. One that is used is used once."""

OPEN_STATES = frozenset({_S.PENDING, _S.APPROVED})
"""States in which votes are taken."""


def check_approval_move(old: ApprovalState, new: ApprovalState) -> None:
    """Lets a legal move pass.

    Raises:
        InternalError: ``new`` may not follow ``old``.
    """
    if new not in APPROVAL_MOVES[old]:
        message = f"an approval can't go from {old} to {new}"
        raise InternalError(message, reason="ILLEGAL_STATE_MOVE")


class VoteDecision(enum.StrEnum):
    """What a vote says."""

    APPROVE = "approve"
    DENY = "deny"
    WITHDRAW = "withdraw"
    """Takes the person's own vote back, while the approval isn't used."""


class KeyKind(enum.StrEnum):
    """Whose key it is, and so what it may sign."""

    APPROVER = "approver"
    """A person's: it signs votes."""
    BOT = "bot"
    """A bot's: it attests that a person has voted in a chat, and casts nothing of its own."""


@dataclass(frozen=True, slots=True)
class VoterKey:
    """A public Ed25519 key that the broker takes votes or attestations of."""

    id: str
    """``sha256:`` and the digest of the 32 bytes of the public key."""
    holder: str
    """Id of the human (of the bot's agent) that it was enrolled for."""
    kind: KeyKind
    public_key: bytes
    """32 bytes."""
    enrolled: datetime
    enrolled_seq: int
    """Number of the ledger entry that enrolled it."""
    revoked: datetime | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for votes. Texts and names lie sealed under its id; here are ids, digests and numbers."""

    id: str
    kind: ApprovalKind
    subject: str
    """Id of the call; ``NAME`` of the workflow; name of the administrative action; id of the runbook under review."""
    workspace: str
    """``-`` for what belongs to none; several, with a space between them, for a workflow that runs in several."""
    obj: str
    """What approvers must be allowed to approve: a tool, ``broker.workflow``, ``broker.admin``, ``broker.runbook``."""
    tier: int
    requester: str
    """Id of the identity that asked."""
    excluded: tuple[str, ...]
    """Ids of the people who may not vote on it: the request's lineage, and whom the action concerns."""
    state: ApprovalState
    requirement: Requirement
    envelope_digest: str
    rendering_digest: str
    created: datetime
    expires: datetime
    requested_seq: int
    closed: datetime | None = None
    closed_seq: int | None = None

    @property
    def workspaces(self) -> tuple[str, ...]:
        """The workspaces that it is about: whoever votes on it must be allowed to in each."""
        return tuple(self.workspace.split(" "))


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote as it was cast; a later one of the same person takes its place."""

    approval: str
    number: int
    """From 1, in the order in which they came."""
    person: str
    key: str
    """Id of the key that signed it: the person's own, or the bot's that attests it."""
    decision: VoteDecision
    channel: Channel
    cast: datetime
    seq: int
    """Number of its ledger entry."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A person's signed word that they know the founding: the ledger's first entry and everybody's first keys."""

    person: str
    key: str
    founding_digest: str
    seq: int


class FreezeScope(enum.StrEnum):
    """What a freeze holds up."""

    AGENT = "agent"
    TOOL = "tool"
    WORKSPACE = "workspace"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Freeze:
    """Nothing new starts of what it covers, votes are not used, and what ran is cancelled."""

    scope: FreezeScope
    target: str
    """Id of the agent, name of the tool or workspace; empty for all."""
    by: str
    since: datetime
    seq: int


@dataclass(frozen=True, slots=True)
class ChatAccount:
    """A person's account in a chat service, by which a bot knows them."""

    service: str
    """``slack``."""
    team: str
    user: str
    person: str
    seq: int = field(default=-1, compare=False)
    """Number of the ledger entry that mapped it; -1 for one that is yet to be mapped."""


@dataclass(frozen=True, slots=True)
class ApprovedWorkflow:
    """A version of a workflow that the people of its tier have agreed to."""

    name: str
    digest: str
    tier: int
    approval: str
    approved: datetime
    seq: int
