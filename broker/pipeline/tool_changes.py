"""Tools that a start brings along, compared with what people accepted of them: what runs higher, and what they are shown."""

from __future__ import annotations

from collections.abc import Iterator

from broker.domain.administration import TOOL
from broker.domain.canonical import JsonObject, JsonValue, digest
from broker.domain.tool_standing import Accepted, Hold, Registered, ToolStanding, held, least_tier, surface, words_of
from broker.pipeline.standing import Held, leaves
from broker.specs.catalogue import Tool

_WIDENS = "WIDENS, and touches the two-person rule"


def registered(tool: Tool, standing: ToolStanding | None, *, founded: bool, agreed: bool = False) -> Registered:
    """How a tool is to run: before the founding, and where people agree, as its specification says.

    Args:
        tool: as its specification has it.
        standing: what the ledger says of it.
        founded: whether the two-person rule is in force.
        agreed: whether two people have agreed to this very specification.
    """
    which = surface(tool.spec.normalised(), tool.files)
    declared = int(tool.spec.risk)
    free = agreed or not founded
    tier = declared if free else max(declared, least_tier(None if standing is None else standing.accepted, which))
    return Registered(tool.spec.name, tool.digest, tier, declared, which)


def held_tool(
    tool: Tool, said: Registered, accepted: Accepted | None, before: JsonObject | None, agreed: str = ""
) -> Held | None:
    """What waits for people of a tool; ``None`` where it runs at the tier that it asks for, and reaches no host unseen.

    Args:
        tool: as its specification has it.
        said: how it runs.
        accepted: what people accepted of it last.
        before: the text of the specification that they accepted, ``None`` where there is none, or it can't be read.
        agreed: the surface that people agreed to last.
    """
    unseen = tool.spec.reaches_first and agreed != said.surface
    why = held(accepted, said.declared, said.surface, unseen=unseen)
    if why is None or (said.tier == said.declared and not unseen):
        return None
    parameters: JsonObject = {
        "tool": said.name,
        "digest": said.version,
        "tier": said.declared,
        "surface": said.surface,
        "before": "" if accepted is None else accepted.version,
        "tier_before": said.tier,
    }
    weaker = f"{said.name} would be of tier {said.declared} instead of {said.tier}"
    if said.tier == said.declared:
        weaker = f"{said.name} would reach its hosts in its plans, before people are asked about a call"
    return Held(
        action=TOOL,
        parameters=parameters,
        weaker=(f"{weaker}: {words_of(why, said.name)}",),
        difference=(f"{_WIDENS}: {weaker}", *_difference(tool, why, accepted, before)),
        tool=said.name,
        why=words_of(why, said.name),
    )


def spec_text(tool: Tool) -> JsonObject:
    """What is kept of a specification, beside its version: all of its fields, and the text of its files."""
    files: dict[str, JsonValue] = {name: data.decode("utf-8", "backslashreplace") for name, data in tool.files.items()}
    return {"spec": tool.spec.normalised(), "files": files}


def _difference(tool: Tool, why: Hold, accepted: Accepted | None, before: JsonObject | None) -> Iterator[str]:
    if why is Hold.CHANGED and before is None and accepted is not None:
        yield f"The specification that was accepted, {accepted.version}, can't be shown; this is the new one, whole"
    yield from leaves(_shown(before), _shown(spec_text(tool)), "")


def _shown(text: JsonObject | None) -> JsonValue:
    """Fields as they are, files by their digests: whoever agrees looks at their own copy of them."""
    if text is None:
        return {}
    files = text.get("files")
    named = {name: digest(str(data).encode()) for name, data in files.items()} if isinstance(files, dict) else {}
    spec = text.get("spec")
    return {**(spec if isinstance(spec, dict) else {}), "code": dict(named)}
