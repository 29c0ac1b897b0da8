"""What stands of a tool: what people accepted of it, and at which tier it therefore runs.

Before the founding an operator's word registers tools. After it two people accept each tool that is new, that asks for a
lower tier, or that may do something else than before; until they do, it runs at Tier 4, or at the tier that they accepted.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from broker.domain.canonical import JsonObject, JsonValue, canonical, digest
from broker.domain.tier import Tier

SURFACE_FORMAT = "broker.tool-surface.v1"
WORDS = frozenset({"description", "notes", "tier"})
"""Members of a specification that change nothing in what a tool may do; its tier is compared by itself."""
CONFINED = frozenset({"name", "owner", "image", "runtime", "data_classes", "reversibility", "egress", "workspace"})
"""Of a tool that reaches no host and changes no workspace, those that decide what it may do: whatever else it does stays in its sandbox."""


class Hold(enum.StrEnum):
    """Why a tool runs at a higher tier than its specification says."""

    NEW = "new"
    CHANGED = "changed"
    LOWERED = "lowered"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was accepted of a tool last."""

    tier: int
    surface: str
    version: str


@dataclass(frozen=True, slots=True)
class Registered:
    """What an entry says of a tool: its version, the tier that it runs at, the one that it asks for, and its surface."""

    name: str
    version: str
    tier: int
    declared: int
    surface: str


@dataclass(frozen=True, slots=True)
class ToolStanding:
    """What the ledger says of a tool: how it runs, and what was accepted of it, ``None`` for nothing."""

    last: Registered
    accepted: Accepted | None
    agreed: str = ""
    """The surface that people have agreed to last, by the founding or by name. A tool that asks for Tier 4 runs without that, as
    people agree to each call."""


def surface(spec: JsonObject, files: Mapping[str, bytes]) -> str:
    """``sha256:`` over whatever decides what a tool may do.

    Of a tool that reaches hosts or changes a workspace that is all but its words: it can do so by any of its parts.

    Args:
        spec: the specification, normalised.
        files: name -> content of each file that it names.
    """
    if spec.get("egress") or spec.get("effects", "none") != "none":
        kept: JsonObject = {name: value for name, value in spec.items() if name not in WORDS}
        named: dict[str, JsonValue] = {name: digest(data) for name, data in files.items()}
    else:
        kept, named = {name: value for name, value in spec.items() if name in CONFINED}, {}
    return digest(canonical({"format": SURFACE_FORMAT, "files": named, "spec": kept}))


def least_tier(accepted: Accepted | None, which: str) -> int:
    """The lowest tier at which a tool of that surface runs without anybody's further agreement, once there is a founding."""
    if accepted is None or accepted.surface != which:
        return int(Tier.AUTONOMOUS)
    return accepted.tier


def held(accepted: Accepted | None, declared: int, which: str, *, unseen: bool = False) -> Hold | None:
    """Why a tool runs higher than at the tier that it asks for, or not at all; ``None`` where it does as it asks.

    Args:
        accepted: what people accepted of it last.
        declared: the tier that it asks for.
        which: its surface.
        unseen: does it reach hosts in its plan, before anybody is asked about the call, and has nobody agreed to it as it is?
    """
    if declared >= least_tier(accepted, which) and not unseen:
        return None
    if accepted is None or (unseen and accepted.surface == which):
        return Hold.NEW  # one of Tier 4 stands by its registration, and nobody has looked at it
    if unseen:
        return Hold.CHANGED
    return Hold.LOWERED if accepted.surface == which else Hold.CHANGED


def words_of(hold: Hold, name: str) -> str:
    """Why, for people, and what to do."""
    why = {
        Hold.NEW: "registered after the founding, unapproved",
        Hold.CHANGED: "changed after the founding in what it may do, unapproved",
        Hold.LOWERED: "given a lower tier after the founding, unapproved",
    }[hold]
    return f"{why}; broker tools approve {name}"


def tools_text(tools: Mapping[str, ToolStanding]) -> JsonObject:
    """All tools that were ever registered: the tier that each runs at, and its surface."""
    tiers: dict[str, JsonValue] = {name: item.last.tier for name, item in tools.items()}
    return {"tools": tiers, "surfaces": {name: item.last.surface for name, item in tools.items()}}


def tools_digest(tools: Mapping[str, ToolStanding]) -> str:
    """``sha256:`` of that text, by which starts and the founding name it."""
    return digest(canonical(tools_text(tools)))
