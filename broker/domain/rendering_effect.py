"""The part of the approvers' text that says what a call changes, in its workspace or outside: each path, as a real difference."""

from __future__ import annotations

from broker.domain.canonical import canonical, digest
from broker.domain.outside import ITEM_MODE
from broker.domain.reading import Members
from broker.domain.sheet import Sheet
from broker.domain.tree import FORMAT, OUTSIDE

_COUNTS = (
    ("Added", "added"),
    ("Changed", "changed"),
    ("Removed", "removed"),
    ("Mode alone", "mode"),
    ("Of another kind", "type"),
    ("Of these, renamed", "renamed"),
    ("Bytes before", "bytes_before"),
    ("Bytes after", "bytes_after"),
)
_OF_FILES = frozenset({"mode", "type", "renamed"})
"""Counts that say nothing of items outside."""
_TITLES = {
    "added": "ADDED",
    "changed": "CHANGED",
    "removed": "REMOVED",
    "mode": "MODE",
    "type": "OF ANOTHER KIND",
}
_INSIDE = "WHAT IT CHANGES, TO THE LAST BYTE: IT HAS RUN ON A COPY, AND THIS IS WHAT IS APPLIED"
_OUTSIDE = "WHAT IT CHANGES OUTSIDE, ITEM BY ITEM, BY ITS DRY RUN: THIS IS WHAT IS APPLIED, AND NOTHING ELSE"
_SHOWN = frozenset({"diff", "binary", "entry"})


def effect_section(effect: Members, sheet: Sheet, salt: str, on_failure: str) -> None:
    """Writes what a call changes.

    Args:
        effect: the effect, in the approval's envelope.
        sheet: where it is written.
        salt: of the call's own envelope: the effect's digest is made again with it.
        on_failure: what the envelope says of a failure; the effect has to say the same.

    Raises:
        InvalidArgumentError: ``ENVELOPE_MALFORMED``.
    """
    bound = effect.members("bound")
    outside = bound.members("outside") if bound.has("outside") else None
    sheet.heading(_INSIDE if outside is None else _OUTSIDE)
    summary, changes = effect.members("summary"), effect.objects("changes")
    for label, member in _COUNTS:
        if outside is not None and member in _OF_FILES:
            continue
        sheet.field(label, str(summary.whole(member)))
    for call in bound.texts("undoes"):
        sheet.field("Takes back the call", call)
    if outside is not None:
        _outside(outside, sheet)
    if (outside.text("on_failure") if outside is not None else "none") != on_failure:
        effect.refuse("bound", "says otherwise of a failure than the envelope")
    sheet.field("State of the files", bound.text("base") or "(it has to do with none)")
    sheet.field("What the tool was given", bound.text("selection"))
    sheet.field("Digest of the changes", bound.text("digest"))
    sheet.field("What takes it back", bound.text("artifact"))
    body = []
    for change in changes:
        _change(change, sheet, "" if outside is None else f"{OUTSIDE}/{outside.text('tool')}/")
        body.append({name: change.any(name) for name in ("path", "before", "after")})
    if digest(canonical({"format": FORMAT, "salt": salt, "changes": body})) != bound.text("digest"):
        bound.refuse("digest", "is not that of the changes that are shown")


def _outside(outside: Members, sheet: Sheet) -> None:
    """How what lies outside is applied."""
    sheet.field("Items of the tool", outside.text("tool"))
    sheet.field("Step that applies it", outside.text("step"))
    sheet.field("Its version", outside.text("version"))
    sheet.field("Its job", outside.text("frames"))
    sheet.field("Its undo's job", outside.text("undo_frames"))
    sheet.field("Digest of its undo", outside.text("undo"))


def _side(change: Members, name: str, sheet: Sheet, *, inside: bool) -> None:
    """What is at the path, before or after; modes as people know them."""
    if change.nothing(name):
        sheet.words(f"  {name}", "nothing")
        return
    side = change.members(name)
    if not inside:
        if side.has("link") or side.whole("mode") != ITEM_MODE:
            side.refuse("mode", "is not that of an item")
        sheet.field(f"  {name}", side.text("file"))
        sheet.field("    bytes", str(side.whole("size")))
        return
    if side.has("link"):
        sheet.field(f"  {name}, a link to", side.text("link"))
        return
    sheet.field(f"  {name}, a file", side.text("file"))
    sheet.field("    bytes", str(side.whole("size")))
    sheet.field("    mode", f"{side.whole('mode'):04o}")


def _change(change: Members, sheet: Sheet, prefix: str) -> None:
    kind = change.text("kind")
    if kind not in _TITLES:
        change.refuse("kind", f"must be one of {', '.join(_TITLES)}")
    if not change.text("path").startswith(prefix):
        change.refuse("path", f"must begin with {prefix}")
    sheet.field(_TITLES[kind], change.text("path").removeprefix(prefix))
    source = change.text("from")
    if source:
        sheet.field("  the same bytes as", source)
    _side(change, "before", sheet, inside=not prefix)
    _side(change, "after", sheet, inside=not prefix)
    shown, text = change.text("shown"), change.text("text")
    if shown not in _SHOWN:
        change.refuse("shown", f"must be one of {', '.join(sorted(_SHOWN))}")
    if shown == "diff":
        sheet.block("  Difference", text)
    elif text:
        change.refuse("text", "must be empty where no difference is shown")
    elif shown == "binary":
        sheet.words("  Difference", "BINARY: know it by its digest, or don't approve")
