"""Entries about workspaces' files in one line: plans, effects, drills and imports. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.cli.entry_parts import brief, listed, part, text
from broker.domain.canonical import JsonObject

_CALLS = 3
"""Calls that are named in a line."""


def effect_words(entry: JsonObject) -> str:
    """What a call changed, behind other words; empty where the entry says nothing of it."""
    effect = part(entry, "effect")
    if not effect:
        return ""
    back = [item for item in listed(effect, "undoes") if isinstance(item, str)]
    more = f" and {len(back) - _CALLS} more" if len(back) > _CALLS else ""
    undoes = f", takes back {', '.join(back[:_CALLS])}{more}" if back else ""
    numbers = [
        f"{effect[name]} {name}" for name in ("added", "changed", "removed") if isinstance(effect.get(name), int)
    ]
    counts = f", {', '.join(numbers)}" if numbers else ""
    return f"{counts}{undoes}, effect {brief(effect, 'digest')}"


def _planned(entry: JsonObject) -> str:
    return f"{_tool(entry)} runs on a copy, started by {text(part(entry, 'lineage'), 'starter') or 'nobody'}"


def _plan(entry: JsonObject) -> str:
    tried = "tried" if entry.get("rehearsed") is True else "not tried"
    what = brief(part(entry, "effect"), "artifact")
    return f"{_tool(entry)} has a plan{effect_words(entry)}; {what} takes it back, {tried}"


def _drill(entry: JsonObject) -> str:
    good = f"{entry.get('passed', '?')} of {entry.get('tried', '?')} artifacts are good"
    return f"{good}, of {entry.get('live', '?')} live in {text(entry, 'workspace')}, by {text(entry, 'by')}"


def _imported(entry: JsonObject) -> str:
    over = f", in place of {brief(entry, 'base')}" if text(entry, "base") else ""
    size = f"{entry.get('files', '?')} files, {entry.get('bytes', '?')} bytes"
    by = "found in its directory" if text(entry, "reason") == "host directory" else f"by {text(entry, 'by')}"
    return f"{text(entry, 'workspace')} is {brief(entry, 'after')}{over}: {size}, {by}"


def _tool(entry: JsonObject) -> str:
    return text(part(entry, "tool"), "name") or "?"


EFFECT_TELLERS: Mapping[str, Callable[[JsonObject], str]] = {
    "plan.intent": _planned,
    "plan.outcome": _plan,
    "undo.drill": _drill,
    "workspace.imported": _imported,
}
"""Type -> what tells an entry of it."""
