"""Who must agree before something is done, as a value: how many people, of which roles, by which channels, how soon.

Data may ask for more than the floor that stands here, and never for less.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.ids import NAME_PATTERN
from broker.domain.tier import APPROVAL_REQUIRED_FROM, Tier
from broker.errors import FieldViolation, InvalidArgumentError

TIER_4_PEOPLE = 2
"""Fewest people who agree to an action of Tier 4."""

MAX_PEOPLE = 64
"""Most people that one requirement can ask for, and most roles that it can name."""

MAX_EXPIRY_S = 7 * 86400.0
"""Longest time, in seconds, after which a request that isn't agreed to is denied."""

MAX_PENDING = 100
"""Most requests of one agent that can wait at one time."""

EVERYBODY = frozenset({"agent", "human"})
"""Roles that are held without a grant: to ask for one of them is to name nobody."""


class Channel(enum.StrEnum):
    """How a vote comes in."""

    CLI = "cli"
    """Signed with the approver's own key."""
    SLACK = "slack"
    """Carried by the bot, which attests who gave it."""


@dataclass(frozen=True, slots=True)
class RoleCount:
    """So many people of a role; ``role`` is its name in the policy, without ``role:``."""

    role: str
    people: int


@dataclass(frozen=True, slots=True)
class Requirement:
    """What it takes until something is agreed to.

    Each of the people holds one of ``roles``, and counts once, for one of them. Those beyond the sum of the roles'
    counts may hold any of them.

    Nothing is checked here: what comes from outside goes through ``parse``, and all that is used goes through ``floor``
    or ``workflow_floor``.
    """

    people: int
    """How many people agree."""
    roles: tuple[RoleCount, ...]
    """How many of them hold which role; nobody else counts."""
    channels: frozenset[Channel]
    """Ways by which a vote for it may come; a vote against it may come by any."""
    min_signed: int
    """How many of them sign with their own key."""
    expiry_s: float
    """After so many seconds without agreement it is denied."""
    cooldown_s: float
    """For so many seconds after a denial the same agent may not ask again."""
    max_pending: int
    """How many requests of one agent may wait at one time."""
    exclude_tool_owner: bool
    """Whether the owner of the tool is kept out, besides everybody in the request's lineage."""

    def json(self) -> JsonObject:
        """The same as JSON, which ``parse`` reads; equal requirements give equal values."""
        roles: list[JsonValue] = [
            {"role": item.role, "people": item.people} for item in sorted(self.roles, key=lambda item: item.role)
        ]
        channels: list[JsonValue] = [channel.value for channel in sorted(self.channels)]
        return {
            "people": self.people,
            "roles": roles,
            "channels": channels,
            "min_signed": self.min_signed,
            "expiry_s": _seconds(self.expiry_s),
            "cooldown_s": _seconds(self.cooldown_s),
            "max_pending": self.max_pending,
            "exclude_tool_owner": self.exclude_tool_owner,
        }


ADMINISTRATIVE = Requirement(
    people=2,
    roles=(RoleCount("approver", 2),),
    channels=frozenset({Channel.CLI}),
    min_signed=2,
    expiry_s=86400.0,
    cooldown_s=0.0,
    max_pending=20,
    exclude_tool_owner=False,
)
"""Who has to agree to administration. Code, and no data: nobody weakens it by an edit."""


def _seconds(value: float) -> int | float:
    # A whole number has one form in JSON, whoever writes it.
    return int(value) if float(value).is_integer() else value


_KEYS = frozenset(
    {
        "people",
        "roles",
        "channels",
        "min_signed",
        "expiry_s",
        "cooldown_s",
        "max_pending",
        "exclude_tool_owner",
    }
)


def parse(value: JsonObject) -> Requirement:
    """Reads what ``json`` wrote; roles come out by name.

    What it lets through is sound, but may be too weak for a tier: ``floor`` says that.

    Raises:
        InvalidArgumentError: ``REQUIREMENT_INVALID``: a key is missing or unknown, or a value isn't exactly of its kind and
            within its bounds. Each violation's field is the key.
    """
    if not isinstance(value, dict):
        raise _refuse([FieldViolation("", "must be an object")], "REQUIREMENT_INVALID")
    wrong = [FieldViolation(key, "is missing") for key in sorted(_KEYS - value.keys())]
    wrong += [FieldViolation(str(key)[:80], "is unknown") for key in value.keys() - _KEYS]
    if not wrong:
        roles, channels = _roles(value["roles"]), _channels(value["channels"])
        if roles is None:
            wrong.append(
                FieldViolation("roles", "must be a list of objects with `role` and `people`, and nothing else")
            )
        if channels is None:
            wrong.append(FieldViolation("channels", "must be a list that names cli or slack, each once"))
        if roles is not None and channels is not None:
            # The kinds of the other values are looked at by ``_faults``: no reading of them here could let one in.
            found = Requirement(
                people=cast("int", value["people"]),
                roles=roles,
                channels=channels,
                min_signed=cast("int", value["min_signed"]),
                expiry_s=cast("float", value["expiry_s"]),
                cooldown_s=cast("float", value["cooldown_s"]),
                max_pending=cast("int", value["max_pending"]),
                exclude_tool_owner=cast("bool", value["exclude_tool_owner"]),
            )
            wrong.extend(_faults(found))
            if not wrong:
                return replace(found, expiry_s=float(found.expiry_s), cooldown_s=float(found.cooldown_s))
    raise _refuse(wrong, "REQUIREMENT_INVALID")


def _roles(value: object) -> tuple[RoleCount, ...] | None:
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and item.keys() == {"role", "people"} and isinstance(item["role"], str) for item in value
    ):
        return None
    return tuple(sorted((RoleCount(item["role"], item["people"]) for item in value), key=lambda item: item.role))


def _channels(value: object) -> frozenset[Channel] | None:
    names = {channel.value for channel in Channel}
    if not isinstance(value, list) or not all(isinstance(item, str) and item in names for item in value):
        return None
    return frozenset(map(Channel, value)) if len(set(value)) == len(value) else None


def floor(
    requirement: Requirement, tier: Tier, *, chat_only_allowed: bool = False, slack_allowed: bool = False
) -> Requirement:
    """The requirement for a call of a tier, where it isn't below the floor; ``people`` is at least the roles' sum.

    At Tier 4 it asks for two people at the least, one of whom signs with a key, and no vote for it comes by Slack.

    Args:
        requirement: what data asks for, however it was made.
        tier: of the call.
        chat_only_allowed: whether the operator has taken the risk that nobody signs at Tier 4.
        slack_allowed: whether the operator has taken the risk that votes for Tier 4 come by Slack.

    Raises:
        InvalidArgumentError: ``REQUIREMENT_TOO_WEAK``, with each field that is below it.
    """
    wrong = list(_faults(requirement))
    if not wrong:
        requirement = _raised(requirement)
        if tier >= APPROVAL_REQUIRED_FROM:
            wrong.extend(_below_tier_4(requirement, chat_only_allowed=chat_only_allowed, slack_allowed=slack_allowed))
    if wrong:
        raise _refuse(wrong, "REQUIREMENT_TOO_WEAK")
    return requirement


def _below_tier_4(
    requirement: Requirement, *, chat_only_allowed: bool, slack_allowed: bool
) -> Iterator[FieldViolation]:
    if requirement.people < TIER_4_PEOPLE:
        yield FieldViolation("people", f"must be at least {TIER_4_PEOPLE} at Tier 4")
    if requirement.min_signed < 1 and not chat_only_allowed:
        yield FieldViolation("min_signed", "must be at least 1 at Tier 4: nobody would sign with a key of their own")
    if Channel.SLACK in requirement.channels and not slack_allowed:
        yield FieldViolation(
            "channels", "must not hold slack at Tier 4: such a vote is the bot's word, not the person's"
        )


def workflow_floor(requirement: Requirement) -> Requirement:
    """The requirement for a workflow, where it isn't below the floor: each vote is signed with the voter's own key.

    Raises:
        InvalidArgumentError: ``REQUIREMENT_TOO_WEAK``, with each field that is below it.
    """
    wrong = list(_faults(requirement))
    if not wrong:
        requirement = _raised(requirement)
        if requirement.min_signed < requirement.people:
            wrong.append(
                FieldViolation("min_signed", "must be the number of people: each vote on a workflow is signed")
            )
        if requirement.channels != {Channel.CLI}:
            wrong.append(FieldViolation("channels", "must be cli alone: each vote on a workflow is signed"))
    if wrong:
        raise _refuse(wrong, "REQUIREMENT_TOO_WEAK")
    return requirement


def weaker(old: Requirement, new: Requirement) -> tuple[str, ...]:
    """In which respects ``new`` asks for less than ``old``, a sentence each; empty where it asks for the same or more."""
    return tuple(_weaker(_raised(old), _raised(new)))


def _weaker(old: Requirement, new: Requirement) -> Iterator[str]:
    if new.people < old.people:
        yield f"people: {new.people} agree instead of {old.people}"
    yield from _weaker_roles(old, new)
    for channel in sorted(new.channels - old.channels):
        yield f"channels: votes for it may come by {channel} too"
    if new.min_signed < old.min_signed:
        yield f"min_signed: {new.min_signed} sign with a key instead of {old.min_signed}"
    if new.expiry_s > old.expiry_s:
        yield f"expiry_s: it may be agreed to for {new.expiry_s:g} seconds instead of {old.expiry_s:g}"
    if new.cooldown_s < old.cooldown_s:
        yield f"cooldown_s: an agent may ask again after {new.cooldown_s:g} seconds instead of {old.cooldown_s:g}"
    if new.max_pending > old.max_pending:
        yield f"max_pending: {new.max_pending} of an agent may wait instead of {old.max_pending}"
    if old.exclude_tool_owner and not new.exclude_tool_owner:
        yield "exclude_tool_owner: the owner of the tool may agree"


def _weaker_roles(old: Requirement, new: Requirement) -> Iterator[str]:
    counts = {item.role: item.people for item in new.roles}
    for item in old.roles:
        if item.role not in counts:
            yield f"roles: nobody of the role {item.role} need agree any more"
        elif counts[item.role] < item.people:
            yield f"roles: {counts[item.role]} of the role {item.role} instead of {item.people}"
    named = {item.role for item in old.roles}
    others = sorted(counts.keys() - named)
    # Whoever holds a role that is new may take each seat that isn't kept for a role that was there before.
    kept = sum(count for role, count in counts.items() if role in named)
    if others and kept < old.people:
        yield f"roles: {', '.join(others)} may stand in for the roles of before"


def _raised(requirement: Requirement) -> Requirement:
    return replace(requirement, people=max(requirement.people, sum(item.people for item in requirement.roles)))


def _faults(requirement: Requirement) -> Iterator[FieldViolation]:
    """What is wrong with a requirement at any tier. Believes no annotation: a value may have come from anywhere."""
    yield from _wrong_count("people", requirement.people, 1, MAX_PEOPLE)
    yield from _wrong_roles(requirement.roles)
    channels: object = requirement.channels
    if not isinstance(channels, frozenset) or not channels or not all(isinstance(item, Channel) for item in channels):
        yield FieldViolation("channels", "must name at least one of cli and slack")
    yield from _wrong_count("min_signed", requirement.min_signed, 0, MAX_PEOPLE)
    yield from _wrong_time("expiry_s", requirement.expiry_s, above_zero=True)
    yield from _wrong_time("cooldown_s", requirement.cooldown_s, above_zero=False)
    yield from _wrong_count("max_pending", requirement.max_pending, 1, MAX_PENDING)
    if type(requirement.exclude_tool_owner) is not bool:
        yield FieldViolation("exclude_tool_owner", "must be true or false")
    yield from _never_met(requirement)


def _wrong_count(field: str, value: object, least: int, most: int) -> Iterator[FieldViolation]:
    # ``True`` is an int to Python and 1 in a comparison, and is no number of people.
    if type(value) is not int or not least <= value <= most:
        yield FieldViolation(field, f"must be a whole number from {least} to {most}")


def _wrong_time(field: str, value: object, *, above_zero: bool) -> Iterator[FieldViolation]:
    number = value if type(value) in {int, float} else math.nan
    # Whatever a comparison with NaN says is false, so only what is said to fit does.
    fits = 0 <= cast("float", number) <= MAX_EXPIRY_S and not (above_zero and number == 0)
    if not fits:
        least = "more than 0" if above_zero else "0"
        yield FieldViolation(field, f"must be seconds, from {least} to {MAX_EXPIRY_S:g} (7 days)")


def _wrong_roles(roles: object) -> Iterator[FieldViolation]:
    if not isinstance(roles, tuple) or not 0 < len(roles) <= MAX_PEOPLE:
        yield FieldViolation("roles", f"must name 1 to {MAX_PEOPLE} roles: nobody could agree without")
        return
    seen: set[str] = set()
    for index, item in enumerate(roles):
        if not isinstance(item, RoleCount) or type(item.role) is not str or not NAME_PATTERN.fullmatch(item.role):
            yield FieldViolation(f"roles/{index}/role", "must be a role's name, without `role:`")
            continue
        if item.role in EVERYBODY:
            yield FieldViolation(
                f"roles/{index}/role", f"is {item.role}, which everybody of that kind holds: name a role"
            )
        if item.role in seen:
            yield FieldViolation(f"roles/{index}/role", f"names {item.role} a second time")
        seen.add(item.role)
        yield from _wrong_count(f"roles/{index}/people", item.people, 1, MAX_PEOPLE)


def _never_met(requirement: Requirement) -> Iterator[FieldViolation]:
    roles: object = requirement.roles
    counts = [getattr(item, "people", None) for item in roles] if isinstance(roles, tuple) else [None]
    if not all(type(count) is int for count in (*counts, requirement.people, requirement.min_signed)):
        return  # said above
    people = _raised(requirement).people
    if people > MAX_PEOPLE >= requirement.people:
        yield FieldViolation("roles", f"ask for {people} people together; the most is {MAX_PEOPLE}")
    if requirement.min_signed > people:
        yield FieldViolation("min_signed", f"is {requirement.min_signed}, more than the people, who are {people}")
    if requirement.min_signed > 0 and requirement.channels == {Channel.SLACK}:
        yield FieldViolation("channels", "must hold cli: a vote by Slack isn't signed with a key")


def _refuse(wrong: list[FieldViolation], reason: str) -> InvalidArgumentError:
    first = wrong[0]
    return InvalidArgumentError(
        f"who must agree is not said well enough: {first.field} {first.description}",
        reason=reason,
        violations=tuple(wrong),
        hint="Change tiers.yaml; `broker tools lint` says where.",
    )
