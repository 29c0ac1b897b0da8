"""What tools change outside of their workspace's files: items, each before and after, told by folders of files. Pure.

A plan is a dry run that writes ``before/ITEM`` and ``after/ITEM``; what differs is the effect. It is kept, shown, digested,
agreed to and taken back as a change of files is, so an item is a change at a path that no tree can have.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from broker.domain.paths import check_path
from broker.domain.tree import OUTSIDE, Change, Effect, Entry, TreeFile
from broker.errors import DataLossError, InvalidArgumentError

BEFORE, AFTER, NOW = "before", "after", "now"
"""Folders of a step's working folder."""

ORIGIN = "origin/arguments.json"
"""Where the steps of an undo find the arguments of the call that is taken back."""

CANT_TELL = 4
"""Exit code of ``verify`` where it can't tell what is there."""

ITEM_MODE = 0o644
"""The permission bits that every item has: it has none of its own."""
_MAX_NAME = 200


class Step(enum.StrEnum):
    """What one run of a tool with outside effects is for."""

    PLAN = "plan"
    REHEARSE = "rehearse"
    APPLY = "apply"
    UNDO = "undo"
    VERIFY = "verify"


def item_path(tool: str, item: str) -> str:
    """The path of an item among the changes of an effect."""
    return f"{OUTSIDE}/{tool}/{item}"


def read_path(path: str) -> tuple[str, str]:
    """Tool and item of such a path; no tool where it is one of a tree."""
    top, _, rest = path.partition("/")
    named, _, item = rest.partition("/")
    return (named, item) if top == OUTSIDE else ("", path)


def planned_effect(tool: str, found: Effect) -> Effect:
    """The effect that a plan told of by its folders.

    Args:
        tool: name of the tool.
        found: what the plan wrote in its working folder; nothing lay there before.

    Raises:
        InvalidArgumentError: something else than items lies there (``PLAN_INVALID``), or an item's name is none.
    """
    return _effect(tool, _side(found, BEFORE), _side(found, AFTER))


def present_items(found: Effect) -> dict[str, Entry]:
    """Item -> what is there now, as a ``verify`` told by its folder.

    Raises:
        InvalidArgumentError: as ``planned_effect``.
    """
    return _side(found, NOW)


def sides(tool: str, effect: Effect) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Item -> its content, before and after, of the effect of a tool.

    Raises:
        DataLossError: the effect isn't one of that tool's (``EFFECT_FOREIGN``).
    """
    prefix = item_path(tool, "")
    before: dict[str, Entry] = {}
    after: dict[str, Entry] = {}
    for change in effect.changes:
        if not change.path.startswith(prefix):
            raise DataLossError(f"{change.path!a} is no item of {tool}", reason="EFFECT_FOREIGN")
        item = change.path.removeprefix(prefix)
        if change.before is not None:
            before[item] = change.before
        if change.after is not None:
            after[item] = change.after
    return before, after


def step_entries(tool: str, effect: Effect) -> dict[str, Entry]:
    """What lies in the working folder of a step that is given an effect."""
    before, after = sides(tool, effect)
    return {
        **{f"{BEFORE}/{item}": entry for item, entry in before.items()},
        **{f"{AFTER}/{item}": entry for item, entry in after.items()},
    }


def of_outside(effect: Effect) -> bool:
    """Is it an effect outside of the workspace's files?"""
    return any(change.path.split("/", 1)[0] == OUTSIDE for change in effect.changes)


def tool_of(effect: Effect) -> str:
    """The tool under whose name an effect's items stand; empty for one on the workspace's files.

    Raises:
        DataLossError: they stand under several (``EFFECT_FOREIGN``).
    """
    names = {read_path(change.path)[0] for change in effect.changes}
    if len(names) > 1:
        raise DataLossError("an effect has items of several tools", reason="EFFECT_FOREIGN")
    return names.pop() if names else ""


def _side(found: Effect, folder: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for change in found.changes:
        top, _, item = change.path.partition("/")
        if top not in {BEFORE, AFTER, NOW} or not isinstance(change.after, TreeFile):
            raise _invalid(f"{change.path!a} is no file of an item")
        if top != folder:
            continue
        check_path(item, "item")
        if not item.isprintable() or any(len(part.encode()) > _MAX_NAME for part in item.split("/")):
            raise _invalid(f"{item!a} is no name of an item: printable, its parts of at most {_MAX_NAME} bytes")
        entries[item] = TreeFile(change.after.digest, change.after.size, ITEM_MODE)
    return entries


def _effect(tool: str, before: Mapping[str, Entry], after: Mapping[str, Entry]) -> Effect:
    items = sorted({*before, *after})
    changes = (Change(item_path(tool, item), before.get(item), after.get(item)) for item in items)
    return Effect.of(change for change in changes if change.before != change.after)


def _invalid(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the plan can't be read: {why}", reason="PLAN_INVALID")
