"""The part of the approvers' text that says what a call changes in its workspace: each path, as a real difference."""

from __future__ import annotations

from broker.domain.canonical import canonical, digest
from broker.domain.reading import Members
from broker.domain.sheet import Sheet
from broker.domain.tree import FORMAT

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
_TITLES = {
    "added": "ADDED",
    "changed": "CHANGED",
    "removed": "REMOVED",
    "mode": "MODE",
    "type": "OF ANOTHER KIND",
}
_SHOWN = frozenset({"diff", "binary", "entry"})


def effect_section(effect: Members, sheet: Sheet, salt: str) -> None:
    """Writes what a call changes.

    Args:
        effect: the effect, in the approval's envelope.
        sheet: where it is written.
        salt: of the call's own envelope: the effect's digest is made again with it.

    Raises:
        InvalidArgumentError: ``ENVELOPE_MALFORMED``.
    """
    sheet.heading("WHAT IT CHANGES, TO THE LAST BYTE: IT HAS RUN ON A COPY, AND THIS IS WHAT IS APPLIED")
    summary, changes = effect.members("summary"), effect.objects("changes")
    for label, member in _COUNTS:
        sheet.field(label, str(summary.whole(member)))
    bound = effect.members("bound")
    undoes = bound.texts("undoes")
    for call in undoes:
        sheet.field("Takes back the call", call)
    sheet.field("State of the files", bound.text("base"))
    sheet.field("What the tool was given", bound.text("selection"))
    sheet.field("Digest of the changes", bound.text("digest"))
    sheet.field("What takes it back", bound.text("artifact"))
    body = []
    for change in changes:
        _change(change, sheet)
        body.append({name: change.any(name) for name in ("path", "before", "after")})
    if digest(canonical({"format": FORMAT, "salt": salt, "changes": body})) != bound.text("digest"):
        bound.refuse("digest", "is not that of the changes that are shown")


def _side(change: Members, name: str, sheet: Sheet) -> None:
    """What is at the path, before or after; modes as people know them."""
    if change.nothing(name):
        sheet.words(f"  {name}", "nothing")
        return
    side = change.members(name)
    if side.has("link"):
        sheet.field(f"  {name}, a link to", side.text("link"))
        return
    sheet.field(f"  {name}, a file", side.text("file"))
    sheet.field("    bytes", str(side.whole("size")))
    sheet.field("    mode", f"{side.whole('mode'):04o}")


def _change(change: Members, sheet: Sheet) -> None:
    kind = change.text("kind")
    if kind not in _TITLES:
        change.refuse("kind", f"must be one of {', '.join(_TITLES)}")
    sheet.field(_TITLES[kind], change.text("path"))
    source = change.text("from")
    if source:
        sheet.field("  the same bytes as", source)
    _side(change, "before", sheet)
    _side(change, "after", sheet)
    shown, text = change.text("shown"), change.text("text")
    if shown not in _SHOWN:
        change.refuse("shown", f"must be one of {', '.join(sorted(_SHOWN))}")
    if shown == "diff":
        sheet.block("  Difference", text)
    elif text:
        change.refuse("text", "must be empty where no difference is shown")
    elif shown == "binary":
        sheet.words("  Difference", "BINARY: know it by its digest, or don't approve")
