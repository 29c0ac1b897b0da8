"""Reads what entries say of keys, approvals and votes. Whatever isn't as the broker writes it is a finding."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.approval import ApprovalKind, KeyKind, VoteDecision
from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.requirement import Channel, Requirement, parse
from broker.domain.statement import VoteStatement, key_id
from broker.domain.tier import APPROVAL_REQUIRED_FROM, Tier
from broker.errors import InvalidArgumentError


class FindingError(Exception):
    """Something is wrong with an entry: the member, and why."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(why)
        self.member = member


@dataclass(slots=True)
class Key:
    """A key, from the entry that enrolled it."""

    id: str
    person: str
    kind: KeyKind
    public_key: bytes
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Ballot:
    """A person's vote."""

    seq: int
    decision: VoteDecision
    key: str
    attested: bool
    channel: str
    time: datetime


@dataclass(slots=True)
class Asked:
    """An approval, from the entry that asked for it."""

    id: str
    kind: ApprovalKind
    subject: str
    envelope_digest: str
    rendering_digest: str
    requirement: Requirement
    excluded: frozenset[str]
    expires: datetime
    tier: int
    ballots: dict[str, Ballot] = field(default_factory=dict)
    """Person -> the last vote."""
    votes: int = 0
    denied: bool = False
    counted: tuple[int, ...] = ()
    """Entries of the votes that were counted when it was used."""
    acted: bool = False
    """Whether what it was for has been done."""
    act: JsonObject = field(default_factory=dict)
    """What the request of an administrative action or a workflow says that its entry will say."""
    made: str = ""
    """The identity that was registered by it."""
    issued: bool = False
    """Whether a certificate was issued by it."""

    @property
    def needed(self) -> int:
        """How many people it takes."""
        # A workflow's sponsor and a look back let nothing run: what runs under the one still takes two people.
        alone = self.kind in {ApprovalKind.REVIEW, ApprovalKind.WORKFLOW}
        least = 2 if self.tier >= APPROVAL_REQUIRED_FROM and not alone else 1
        return max(least, self.requirement.people, sum(item.people for item in self.requirement.roles))


def read_key(entry: JsonObject) -> Key:
    """The key of ``key.enrolled``.

    Raises:
        FindingError: it is no key, or not the one of its id.
    """
    said = part(entry, "key")
    try:
        kind = KeyKind(words(said, "kind", "key.kind"))
    except ValueError as error:
        raise FindingError("key.kind", "is neither approver nor bot") from error
    public_key = unbase64(said, "public_key", "key.public_key")
    which = words(said, "id", "key.id")
    if len(public_key) != 32 or key_id(public_key) != which:
        raise FindingError("key.id", "is not the digest of this public key")
    return Key(which, words(entry, "person"), kind, public_key)


def read_asked(entry: JsonObject) -> Asked:
    """The approval of ``approval.requested``.

    Raises:
        FindingError: it is none.
    """
    said, act = part(entry, "approval"), entry.get("act")
    try:
        kind = ApprovalKind(words(said, "kind", "approval.kind"))
        requirement = parse(part(said, "requirement", "approval.requirement"))
        expires = datetime.fromisoformat(words(said, "expires", "approval.expires"))
    except (ValueError, InvalidArgumentError) as error:
        raise FindingError("approval", f"can't be read: {str(error)[:200]}") from error
    if expires.tzinfo is None:
        raise FindingError("approval.expires", "has no time zone")
    tier = entry.get("tier")
    if not isinstance(tier, int) or type(tier) is not int or tier not in set(Tier):
        raise FindingError("tier", "is none")
    if _too_weak(kind, tier, requirement):
        raise FindingError("approval.requirement", "asks for less than must be asked for, whatever data says")
    return Asked(
        id=words(said, "id", "approval.id"),
        kind=kind,
        subject=words(said, "subject", "approval.subject"),
        envelope_digest=words(said, "envelope_digest", "approval.envelope_digest"),
        rendering_digest=words(said, "rendering_digest", "approval.rendering_digest"),
        requirement=requirement,
        excluded=frozenset(texts(said.get("excluded"), "approval.excluded")),
        expires=expires,
        tier=tier,
        act=act if isinstance(act, dict) else {},
    )


def _too_weak(kind: ApprovalKind, tier: int, requirement: Requirement) -> bool:
    """Does an entry believe itself about less than code asks for? Two people change who may do what, by their own keys."""
    if kind is ApprovalKind.ADMINISTRATION:
        by_keys = requirement.channels == {Channel.CLI} and requirement.min_signed >= 2
        return tier < Tier.AUTONOMOUS or requirement.people < 2 or not by_keys
    return kind in {ApprovalKind.CALL, ApprovalKind.RUNBOOK} and tier >= Tier.AUTONOMOUS and requirement.min_signed < 1


def check_statement(entry: JsonObject, asked: Asked, statement: VoteStatement, key: Key, *, attested: bool) -> None:
    """Lets a vote's statement pass that is about this approval and by this key.

    Raises:
        FindingError: it is about something else, or by somebody else.
    """
    if statement.attested is not attested:
        raise FindingError("type", "a bot's word stands as a person's vote, or the other way round")
    if key.kind is not (KeyKind.BOT if attested else KeyKind.APPROVER):
        raise FindingError("vote.statement", f"is by a key of the kind {key.kind.value}")
    if not attested and key.person != statement.approver:
        raise FindingError("vote.statement", f"is in the name of {statement.approver}, by the key of {key.person}")
    for member, what, said, wanted in (
        ("person", "person", words(entry, "person"), statement.approver),
        ("channel", "channel", words(entry, "channel"), statement.channel.value),
        ("vote.statement", "ledger", statement.origin, words(entry, "origin")),
        ("vote.statement", "approval", statement.approval, asked.id),
        ("vote.statement", "envelope", statement.envelope_digest, asked.envelope_digest),
        ("vote.statement", "rendering", statement.rendering_digest, asked.rendering_digest),
    ):
        if said != wanted:
            raise FindingError(member, f"names the {what} {said[:200]}, not {wanted[:200]}")
    number = part(entry, "vote").get("number")
    if type(number) is not int or number != asked.votes + 1:
        raise FindingError("vote.number", f"is not {asked.votes + 1}")


def ran_of(kind: str, entry: JsonObject) -> tuple[str, str, int] | None:
    """Name and version of the tool that runs by an entry, and the tier that it says; ``None`` where nothing runs below 4."""
    tier = entry.get("tier")
    if kind not in {"intent", "undo.intent"} or type(tier) is not int or not 0 <= tier < APPROVAL_REQUIRED_FROM:
        return None
    tool = entry.get("tool")
    name, version = (tool.get("name"), tool.get("version")) if isinstance(tool, dict) else ("", "")
    return name if isinstance(name, str) else "", version if isinstance(version, str) else "", tier


def people_behind(entry: JsonObject) -> frozenset[str]:
    """The people in the lineage of a call's entry.

    Raises:
        FindingError: it has none.
    """
    lineage = part(entry, "lineage")
    people = [lineage.get(name) for name in ("owner", "registrar", "starter", "on_behalf_of")]
    return frozenset(texts(people, "lineage")) - {""}


def part(value: JsonObject, name: str, member: str = "") -> JsonObject:
    """A member that is an object.

    Raises:
        FindingError: it isn't; so do the functions below.
    """
    found = value.get(name)
    if not isinstance(found, dict):
        raise FindingError(member or name, "is missing, or no object")
    return found


def words(value: JsonObject, name: str, member: str = "") -> str:
    """A member that is a text."""
    found = value.get(name)
    if not isinstance(found, str) or not found:
        raise FindingError(member or name, "is missing, or no text")
    return found


def texts(value: JsonValue, member: str) -> list[str]:
    """A list of texts."""
    found = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(found) != len(value):
        raise FindingError(member, "is no list of texts")
    return found


def numbers(value: JsonValue, member: str) -> tuple[int, ...]:
    """A list of numbers of entries."""
    found = [item for item in value if type(item) is int] if isinstance(value, list) else []
    if not isinstance(value, list) or len(found) != len(value):
        raise FindingError(member, "is no list of entries' numbers")
    return tuple(found)


def unbase64(value: JsonObject, name: str, member: str) -> bytes:
    """Bytes."""
    try:
        return base64.b64decode(words(value, name, member), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FindingError(member, "is no base64") from error
