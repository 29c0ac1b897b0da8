"""The risk tiers as data: what each demands, what a call must carry, who must agree, what is logged at the least."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from broker.domain.call import CallContext
from broker.domain.canonical import JsonObject, JsonValue, canonical, digest
from broker.domain.requirement import (
    MAX_EXPIRY_S,
    MAX_PENDING,
    MAX_PEOPLE,
    Channel,
    Requirement,
    RoleCount,
    floor,
    workflow_floor,
)
from broker.domain.spec_parts import Duration, Label, Place, SpecPart, Text, Whole, refuse_places
from broker.domain.tier import APPROVAL_REQUIRED_FROM, WORKFLOW_REQUIRED_FROM, Tier
from broker.errors import InvalidArgumentError
from broker.specs.files import is_there
from broker.specs.findings import Finding, findings_at, model_problems, read_yaml, refusal, violation
from broker.specs.shipped import shipped_folder

TIERS_FILE = "tiers.yaml"
"""Name of the file, in a folder of specifications."""

ALL_RISKS = MappingProxyType({"chat_only_allowed": True, "slack_allowed": True})
"""What ``Tiers`` is told where only that is wrong which no setting allows."""

Lines = Annotated[tuple[Annotated[Text, Field(min_length=1)], ...], Field(min_length=1)]
Carried = Literal["workflow", "session", "purpose", "model", "prompt_version", "sources", "delegation"]
"""Fields of a call's context that a tier can demand."""

_SPANS = frozenset({"expires", "cool_down"})
"""Keys whose values are spans of time."""

_KEYS = MappingProxyType(
    {
        "min_signed": "signed",
        "expiry_s": "expires",
        "cooldown_s": "cool_down",
        "max_pending": "pending_per_agent",
    }
)
"""Field of a requirement -> its key in the file, where that is another."""


class RoleEntry(SpecPart):
    """So many people of one role."""

    role: Label
    """Name of a role in the policy, without `role:`."""
    people: Annotated[Whole, Field(ge=1, le=MAX_PEOPLE)]
    """How many people who hold it."""


Roles = Annotated[tuple[RoleEntry, ...], Field(min_length=1, max_length=MAX_PEOPLE)]
People = Annotated[Whole, Field(ge=1, le=MAX_PEOPLE)]


def _with_unit(value: object) -> object:
    # "15" may have been meant as minutes: read as seconds it would be a weaker cool-down.
    if not isinstance(value, str):
        raise ValueError("must be a number with a unit (ms, s, m, h or d), such as 15m")  # noqa: TRY004 - pydantic's way
    return value


Span = Annotated[Duration, BeforeValidator(_with_unit)]
Expiry = Annotated[Span, Field(gt=0, le=MAX_EXPIRY_S)]


class CallApproval(SpecPart):
    """Who agrees to each call of a tier; there is no default, so that nothing is agreed to by a key left out."""

    people: People
    """How many people agree; at least the sum of the roles' counts is taken."""
    roles: Roles
    """How many of them hold which role; nobody else counts."""
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]
    """Ways by which a vote for it may come: `cli`, signed by the person; `slack`, attested by the bot."""
    signed: Annotated[Whole, Field(ge=0, le=MAX_PEOPLE)]
    """How many of the people sign with their own key."""
    expires: Expiry
    """After so long without agreement the call is denied; 7d at the most."""
    cool_down: Annotated[Span, Field(ge=0, le=MAX_EXPIRY_S)]
    """For so long after a denial the same agent may not ask again."""
    pending_per_agent: Annotated[Whole, Field(ge=1, le=MAX_PENDING)]
    """How many requests of one agent may wait at one time."""
    exclude_tool_owner: Annotated[bool, Strict()]
    """Whether the tool's owner is kept out, besides everybody in the request's lineage."""

    def requirement(self) -> Requirement:
        """The same as code takes it; the floor isn't looked at here."""
        return Requirement(
            people=self.people,
            roles=_counts(self.roles),
            channels=frozenset(self.channels),
            min_signed=self.signed,
            expiry_s=self.expires,
            cooldown_s=self.cool_down,
            max_pending=self.pending_per_agent,
            exclude_tool_owner=self.exclude_tool_owner,
        )


class WorkflowApproval(SpecPart):
    """Who approves a workflow of a tier; each of them signs with their own key."""

    people: People
    """How many people approve; at least the sum of the roles' counts is taken."""
    roles: Roles
    """How many of them hold which role; nobody else counts."""
    expires: Expiry
    """After so long without approval the request for it ends; 7d at the most."""

    def requirement(self) -> Requirement:
        """The same as code takes it; the floor isn't looked at here."""
        roles = _counts(self.roles)
        people = max(self.people, sum(item.people for item in roles))
        return Requirement(
            people=people,
            roles=roles,
            channels=frozenset({Channel.CLI}),
            min_signed=people,
            expiry_s=self.expires,
            cooldown_s=0.0,
            max_pending=MAX_PENDING,
            exclude_tool_owner=False,
        )


def _counts(roles: tuple[RoleEntry, ...]) -> tuple[RoleCount, ...]:
    return tuple(RoleCount(item.role, item.people) for item in sorted(roles, key=lambda item: item.role))


class TierRow(SpecPart):
    """One tier."""

    tier: Annotated[Whole, Field(ge=0, le=4)]
    """Its number."""
    name: Annotated[Text, Field(min_length=1)]
    """Its name."""
    example: Annotated[Text, Field(min_length=1)]
    """What belongs to it."""
    required_controls: Lines
    """What must be in place."""
    logging_minimum: Lines
    """What is recorded at the least."""
    must_carry: tuple[Carried, ...] = ()
    """What a call has to say of itself; from Tier 4 on its workflow in any case."""
    call_approval: CallApproval | None = None
    """Who agrees to each call; absent where nobody has to. Tier 4 has it."""
    workflow_approval: WorkflowApproval
    """Who approves a workflow."""
    irreversible: Annotated[bool, Strict()] = False
    """May tools run here that say of themselves that nothing takes back what they do? Where absent they may not."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        # A table that doesn't allow them has the digest that it had before anybody could.
        value: JsonObject = handler(self)
        if not self.irreversible:
            del value["irreversible"]
        return value

    @model_validator(mode="after")
    def _above_the_floor(self, info: ValidationInfo) -> Self:
        problems = list(self.below_floor(**(info.context or {})))
        if len(set(self.must_carry)) != len(self.must_carry):
            problems.append((("must_carry",), "names a field twice"))
        refuse_places(problems)
        return self

    def below_floor(
        self, *, chat_only_allowed: bool = False, slack_allowed: bool = False
    ) -> Iterator[tuple[Place, str]]:
        """Where it asks for less than code allows, and what would do; the arguments are those of ``floor``."""
        try:
            if self.call_approval is not None:
                floor(
                    self.call_approval.requirement(),
                    Tier(self.tier),
                    chat_only_allowed=chat_only_allowed,
                    slack_allowed=slack_allowed,
                )
            elif self.tier >= APPROVAL_REQUIRED_FROM:
                yield (), f"the key 'call_approval' is missing: two people agree to each call of Tier {self.tier}"
        except InvalidArgumentError as error:
            yield from _places("call_approval", self.call_approval, error)
        try:
            workflow_floor(self.workflow_approval.requirement())
        except InvalidArgumentError as error:
            yield from _places("workflow_approval", self.workflow_approval, error)

    def call_requirement(self) -> Requirement | None:
        """What a call of this tier needs besides the policy's word; ``None``: nobody has to agree to it."""
        if self.call_approval is None and self.tier < APPROVAL_REQUIRED_FROM:
            return None
        if self.call_approval is None:
            raise InvalidArgumentError(f"Tier {self.tier} says of nobody who must agree", reason="REQUIREMENT_TOO_WEAK")
        # The risks were weighed when the table was read; what no setting allows is looked at once more.
        return floor(self.call_approval.requirement(), Tier(self.tier), **ALL_RISKS)

    def workflow_requirement(self) -> Requirement:
        """What a workflow of this tier needs."""
        return workflow_floor(self.workflow_approval.requirement())

    def missing(self, context: CallContext) -> list[str]:
        """The fields of ``must_carry`` that a call doesn't carry, by their names in its context.

        From Tier 4 on a workflow is among them, whatever the table says.
        """
        floor_of_code: tuple[Carried, ...] = ("workflow",) if self.tier >= WORKFLOW_REQUIRED_FROM else ()
        return [name for name in dict.fromkeys((*floor_of_code, *self.must_carry)) if not _carries(context, name)]


def _carries(context: CallContext, name: Carried) -> bool:
    if name == "sources":
        return any(source.uri.strip() for source in context.sources)
    return bool(str(getattr(context, name)).strip())


def _places(
    key: str, approval: CallApproval | WorkflowApproval | None, error: InvalidArgumentError
) -> Iterator[tuple[Place, str]]:
    for item in error.violations:
        parts = item.field.split("/")
        place = (key, _KEYS.get(parts[0], parts[0]), *(int(part) if part.isdigit() else part for part in parts[1:]))
        if parts[0] == "roles" and len(parts) > 1 and approval is not None:
            # The requirement has its roles by name, the file in its own order.
            role = approval.requirement().roles[int(parts[1])].role
            index = max(n for n, entry in enumerate(approval.roles) if entry.role == role)
            place = (key, "roles", index, *parts[2:])
        yield place, item.description


class Tiers(SpecPart):
    """The table: one row for each of the tiers 0 to 4, in order."""

    tiers: tuple[TierRow, ...]
    """The rows."""

    @model_validator(mode="after")
    def _all_in_order(self) -> Self:
        if [row.tier for row in self.tiers] != [int(tier) for tier in Tier]:
            raise ValueError("`tiers` must hold the tiers 0, 1, 2, 3 and 4, once each and in order")
        return self

    def row(self, tier: Tier) -> TierRow:
        """The row of a tier."""
        return self.tiers[tier]

    @property
    def digest(self) -> str:
        """``sha256:`` over the RFC 8785 form of the table, with its defaults filled in and times in seconds."""
        return digest(canonical({"format": "broker.tiers.v1", **self.model_dump(mode="json")}))


def tiers_of(table: JsonObject) -> Tiers:
    """The table again from its JSON, as ``model_dump(mode="json")`` gave it when it was in force.

    Raises:
        InvalidArgumentError: ``TIERS_INVALID``: it is none, or is below what no setting allows.
    """
    try:
        return Tiers.model_validate(_with_units(table), context=dict(ALL_RISKS))
    except ValidationError as error:
        raise InvalidArgumentError(
            f"the table of tiers that was in force is none any more: {error.errors()[0]['msg']}", reason="TIERS_INVALID"
        ) from error


def _with_units(value: JsonValue) -> JsonValue:
    # The file has spans of time with a unit, their JSON has seconds.
    if isinstance(value, list):
        return [_with_units(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"{item}s" if key in _SPANS and isinstance(item, int | float) else _with_units(item)
        for key, item in value.items()
    }


def load_tiers(folder: Path | None = None, *, chat_only_allowed: bool = False, slack_allowed: bool = False) -> Tiers:
    """Reads the table: ``tiers.yaml`` of a folder, or else the shipped one.

    Args:
        folder: the operator's own specifications; a table in it takes the place of the shipped one, whole.
        chat_only_allowed: the setting ``unsafe_chat_only_quorum``: Tier 4 may do without a signed vote.
        slack_allowed: the setting ``unsafe_slack_approves_tier4``: votes for Tier 4 may come by Slack.

    Raises:
        InvalidArgumentError: ``TIERS_INVALID``: a table that is there can't be read, isn't one, or is below the floor; each
            violation's field is ``file:line:column``.
    """
    own = None if folder is None else folder / TIERS_FILE
    path = shipped_folder() / TIERS_FILE if own is None or not is_there(own) else own
    return read_tiers(path, chat_only_allowed=chat_only_allowed, slack_allowed=slack_allowed)


def read_tiers(path: Path, *, chat_only_allowed: bool = False, slack_allowed: bool = False) -> Tiers:
    """Reads a file that holds a table; arguments and errors are those of ``load_tiers``."""
    document = read_yaml(path)
    found: tuple[Finding, ...]
    if isinstance(document, Finding):
        found = (document,)
    else:
        context = {"chat_only_allowed": chat_only_allowed, "slack_allowed": slack_allowed}
        tiers, problems = model_problems(Tiers, document, context)
        if tiers is not None:
            return tiers
        found = findings_at(path, document, problems)
    raise refusal(
        [violation(item) for item in found],
        what="the table of tiers",
        reason="TIERS_INVALID",
        hint=f"run `broker tools lint {path}`",
    )
