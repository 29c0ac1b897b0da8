"""An effect as people read it: one real difference a path. Pure, and slow on long files: not for the event loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.tree import Change, Effect, Entry, TreeFile, entry_body
from broker.rollback.differing import Steps, unified

MAX_TEXT = 1 << 20
"""Bytes of the longest file whose difference is worked out line by line."""
MAX_LINES = 20_000
"""Most lines of it."""
MAX_SHOWN = 2 << 20
"""Bytes of all differences of one effect together."""


@dataclass(frozen=True, slots=True)
class NotShown:
    """A path whose change can't be shown whole, and why."""

    path: str
    why: str


def summary(effect: Effect) -> JsonObject:
    """How many paths are added, changed and so on, and the bytes of files before and after."""
    kinds = dict.fromkeys(("added", "changed", "removed", "mode", "type"), 0)
    for change in effect.changes:
        kinds[change.kind] += 1
    return {
        **kinds,
        "renamed": len(effect.renames()),
        "bytes_before": sum(_size(change.before) for change in effect.changes),
        "bytes_after": sum(_size(change.after) for change in effect.changes),
    }


def _size(entry: Entry | None) -> int:
    return entry.size if isinstance(entry, TreeFile) else 0


def _contents(change: Change) -> tuple[TreeFile, ...]:
    if change.kind == "mode":
        return ()
    return tuple(side for side in (change.before, change.after) if isinstance(side, TreeFile))


def shown_changes(effect: Effect, content: Callable[[str], bytes]) -> tuple[list[JsonValue], list[NotShown]]:
    """Each change with what people see of it, and those of which not all can be shown.

    Args:
        effect: the effect.
        content: gives the bytes of a file by its digest, of those of no more than ``MAX_TEXT`` bytes.
    """
    renames = effect.renames()
    changes: list[JsonValue] = []
    missing: list[NotShown] = []
    room, steps = MAX_SHOWN, Steps()
    for change in effect.changes:
        how, text = _difference(change, content, steps) if room >= 0 else ("long", "")
        room -= len(text.encode())
        if how == "long" or room < 0:
            missing.append(NotShown(change.path, "its difference is too long to be shown whole"))
            how, text = "long", ""
        changes.append(
            {
                "path": change.path,
                "kind": change.kind,
                "from": renames.get(change.path, ""),
                "before": entry_body(change.before),
                "after": entry_body(change.after),
                "shown": how,
                "text": text,
            }
        )
    return changes, missing


def _difference(change: Change, content: Callable[[str], bytes], steps: Steps) -> tuple[str, str]:
    sides = _contents(change)
    if not sides:
        return "entry", ""
    if any(side.size > MAX_TEXT for side in sides):
        return "long", ""
    data = [content(side.digest) for side in sides]
    if any(b"\x00" in item for item in data):
        return "binary", ""
    try:
        texts = [item.decode("utf-8") for item in data]
    except UnicodeDecodeError:
        return "binary", ""
    lines = [_lines(text) for text in texts]
    if any(len(item) > MAX_LINES for item in lines):
        return "long", ""
    before = lines[0] if isinstance(change.before, TreeFile) else []
    after = lines[-1] if isinstance(change.after, TreeFile) else []
    return "diff", "".join(_ended(piece) for piece in unified(before, after, steps))


def _lines(text: str) -> list[str]:
    # At line feeds alone: other ends of lines are content, which the reader must see.
    *whole, last = text.split("\n")
    return [*(f"{line}\n" for line in whole), *([last] if last else [])]


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ no line feed at the end\n"
