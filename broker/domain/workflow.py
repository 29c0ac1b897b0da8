"""A workflow: what an agent does and for whom, with all that it may use for it.

It is data that an operator writes and the named roles of its tier approve. Its digest covers every field, so a change of
any is a new version, which has to be approved again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator

from broker.domain.call import CallContext
from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.spec import TOOL_NAME
from broker.domain.spec_parts import Label, Shown, SpecPart, Text, Whole, refuse_places
from broker.domain.tier import Tier
from broker.errors import FieldViolation

MAX_ITEMS = 64
"""Most workspaces, models, prompt versions, tools or data classes of one workflow."""

# No `*` and nothing that looks like another character: what is listed is compared whole.
_EXACT = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,255}$"
_CLASS = r"^[a-z][a-z0-9_-]{0,62}$"
_LISTS = ("workspaces", "models", "prompt_versions", "tools", "data_classes")

Exact = Annotated[Text, Field(pattern=_EXACT)]
SomeOf = Field(min_length=1, max_length=MAX_ITEMS)


class WorkflowSpec(SpecPart):
    """One workflow."""

    name: Label
    """Its name, which calls give; unique in the broker."""
    description: Annotated[Text, Field(min_length=10, max_length=4000), Shown]
    """What is done and for whom, for the people who approve it."""
    owner: Label
    """Name of the human who answers for it."""
    workspaces: Annotated[tuple[Label, ...], SomeOf]
    """Workspaces in which it may run."""
    tier: Annotated[Whole, Field(ge=0, le=4)]
    """Its risk tier, 0 to 4: it says who approves it, and a call runs at the higher of this and its tool's."""
    models: Annotated[tuple[Exact, ...], SomeOf]
    """Models that it may use, by the exact names that calls give."""
    prompt_versions: Annotated[tuple[Exact, ...], SomeOf]
    """Versions of prompts that it may use, by the exact names that calls give."""
    tools: Annotated[tuple[Annotated[Text, Field(pattern=TOOL_NAME)], ...], SomeOf]
    """Tools that it may call."""
    data_classes: Annotated[tuple[Annotated[Text, Field(pattern=_CLASS)], ...], Field(max_length=MAX_ITEMS)]
    """Classes of data that it may touch; empty where it touches none."""
    notes: Annotated[Text, Field(max_length=4000), Shown] = ""
    """What changed in this version and why, for people."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        lists = ((name, getattr(self, name)) for name in _LISTS)
        refuse_places(((name,), "names one twice") for name, items in lists if len(set(items)) != len(items))
        return self

    def normalised(self) -> JsonObject:
        """All fields, with defaults filled in and each list sorted, as its order says nothing."""
        value: JsonObject = self.model_dump(mode="json")
        return value | {name: sorted(getattr(self, name)) for name in _LISTS}

    def digest(self) -> str:
        """The version: ``sha256:`` over the RFC 8785 form of all fields."""
        return digest(canonical({"format": "broker.workflow.v1", "workflow": self.normalised()}))

    @property
    def risk(self) -> Tier:
        """The tier as the pipeline compares it."""
        return Tier(self.tier)


def outside(
    workflow: WorkflowSpec, *, context: CallContext, tool: str, data_classes: Iterable[str]
) -> tuple[FieldViolation, ...]:
    """What of a call lies outside its workflow; each violation's field is the request's.

    A call that doesn't name its model or prompt version is outside too.

    Args:
        workflow: the version in force.
        context: what the caller says of its call.
        tool: name of the tool.
        data_classes: all classes that the call touches, whoever named them: caller, tool, workspace or input file.
    """
    where = "tool_call.context"
    found = [
        *_not_among(f"{where}.workspace", context.workspace, workflow.workspaces),
        *_not_among("tool_call.tool", tool, workflow.tools),
        *_not_among(f"{where}.model", context.model, workflow.models),
        *_not_among(f"{where}.prompt_version", context.prompt_version, workflow.prompt_versions),
    ]
    for item in sorted(set(data_classes)):
        found.extend(_not_among(f"{where}.data_classes", item, workflow.data_classes))
    return tuple(found)


def _not_among(field: str, value: str, allowed: tuple[str, ...]) -> Iterator[FieldViolation]:
    if value in allowed:
        return
    said = f"is {value[:80]!a}" if value else "is empty"
    yield FieldViolation(field, f"{said}, and the workflow has: {', '.join(allowed) or 'none'}")


def run_tier(tool_tier: Tier, workflow_tier: Tier | None) -> Tier:
    """The tier at which a call runs: the higher of its tool's and its workflow's, which is ``None`` without one."""
    return tool_tier if workflow_tier is None else max(tool_tier, workflow_tier)
