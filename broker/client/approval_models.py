"""What the client gives back and takes of approvals, votes, keys, the founding and freezes; frozen, times aware and in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.approval import ApprovalKind, ApprovalState, FreezeScope, VoteDecision
from broker.domain.canonical import JsonObject
from broker.domain.requirement import Channel, RoleCount
from broker.domain.tier import Tier


@dataclass(frozen=True, slots=True)
class ApprovalRequirement:
    """Who has to agree."""

    people: int
    roles: tuple[RoleCount, ...]
    channels: tuple[Channel, ...]
    """Channels by which an approving vote may come."""
    min_signed: int
    """How many of the approving votes must be signed with the person's own key."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote on an approval."""

    number: int
    person: str
    person_name: str
    decision: VoteDecision
    channel: Channel
    key: str
    """Id of the key that signed it: the person's own, or that of the bot which attests it."""
    cast: datetime | None
    reason: str
    seq: int
    counts: bool
    why_not: str

    @property
    def attested(self) -> bool:
        """Is it a bot's word, and not signed by the person?"""
        return self.channel is not Channel.CLI


@dataclass(frozen=True, slots=True)
class ApprovalFile:
    """A file that is in what is approved."""

    path: str
    blob: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for votes on one exact action. ``envelope`` and ``rendering`` are empty except from ``get_approval``."""

    name: str
    kind: ApprovalKind
    state: ApprovalState
    subject: str
    workspace: str
    object: str
    tier: Tier | None
    requester: str
    requester_name: str
    requirement: ApprovalRequirement
    envelope_digest: str
    rendering_digest: str
    envelope: bytes
    rendering: str
    files: tuple[ApprovalFile, ...]
    votes: tuple[Vote, ...]
    missing: tuple[str, ...]
    may_vote: bool
    why_not: str
    created: datetime | None
    expires: datetime | None
    closed: datetime | None
    held: str
    summary: str
    result: JsonObject | None
    """Of an administrative action that has been done."""

    @property
    def id(self) -> str:
        """The name without its collection, ``apv_...``."""
        return self.name.removeprefix("approvals/")


@dataclass(frozen=True, slots=True)
class ApprovalFilter:
    """Which approvals; what is set must fit, all of it."""

    states: tuple[ApprovalState, ...] = ()
    kinds: tuple[ApprovalKind, ...] = ()
    workspace: str = ""
    requester: str = ""
    """By id."""
    votable: bool = False
    """Only those that the caller may vote on now."""
    call: str = ""


@dataclass(frozen=True, slots=True)
class VoterKey:
    """A key that votes or attestations are taken of."""

    id: str
    """``sha256:`` and the digest of the public key."""
    holder: str
    holder_name: str
    bot: bool
    public_key: bytes
    enrolled: datetime | None
    revoked: datetime | None


@dataclass(frozen=True, slots=True)
class Founder:
    """A founder's key, and whether its holder has accepted the founding as it is now."""

    key: VoterKey
    accepted: bool


@dataclass(frozen=True, slots=True)
class FoundingChange:
    """An entry of the ledger that changed what the founding covers."""

    seq: int
    what: str


@dataclass(frozen=True, slots=True)
class Founding:
    """The founding of the two-person rule, as the broker says it; ``accept_founding`` checks it."""

    origin: str
    genesis_leaf: bytes
    """Leaf hash of the ledger's first entry, 32 bytes."""
    digest: str
    founders: tuple[Founder, ...]
    accepted: int
    needed: int
    complete: bool
    content: bytes = b""
    """All that it covers, of which ``digest`` must be the digest; see ``broker.domain.founding``. Empty where it wasn't
    asked for."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The texts that the content names by digest: ``policy``, ``settings``, ``tools``."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Id -> kind and name, on the broker's word."""
    voided: tuple[str, ...] = ()
    """Names of people who had accepted, before something changed."""
    changes: tuple[FoundingChange, ...] = ()
    """What has changed since they did."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """Nothing new starts of what it covers."""

    scope: FreezeScope
    target: str
    by: str
    created: datetime | None
    cancelled_calls: int


@dataclass(frozen=True, slots=True)
class ChatAccount:
    """A person's account in a chat service; ``person`` and ``person_name`` are the broker's words."""

    service: str
    team: str
    user: str
    person: str = ""
    person_name: str = ""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow as the broker has read it, and whether its present version is approved."""

    name: str
    digest: str
    tier: Tier | None
    approved: bool
    approval: str
    text: JsonObject
