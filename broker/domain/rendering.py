"""The one text that every channel shows to approvers, made from the approval's envelope alone.

Whoever has the envelope makes the same text again, byte for byte, and so can tell whether what was shown is what would be
done. Two envelopes never have the same text. What this module doesn't know of an envelope is shown too, under FURTHER.
"""

from __future__ import annotations

import json
import re
from datetime import datetime

from broker.domain.canonical import MAX_SAFE_INTEGER, JsonObject, JsonValue, canonical, digest
from broker.domain.reading import Members, refuse
from broker.domain.rendering_call import CallSections
from broker.domain.rendering_effect import effect_section
from broker.domain.sheet import Sheet
from broker.domain.visible import Visible, name, written_out

FORMAT = "broker.approval-envelope.v1"
"""The envelopes that are rendered."""

MAX_DEPTH = 40
"""Deepest nesting of arrays and objects in an envelope; a call's arguments have at most 32 of these levels."""

_TITLES = {
    "CALL": "APPROVAL OF A CALL",
    "WORKFLOW": "APPROVAL OF A WORKFLOW",
    "ADMINISTRATION": "APPROVAL OF AN ADMINISTRATIVE ACTION",
    "RUNBOOK": "APPROVAL OF A RUNBOOK: ONE CALL, AGREED ON BEFOREHAND",
    "REVIEW": "REVIEW OF A RUNBOOK'S USE",
}
_CALLS = frozenset({"CALL", "RUNBOOK"})
_ACTIONS = frozenset({"ADMINISTRATION", "REVIEW"})

_REVERSIBILITY = {
    "no_effect": "It changes nothing that would have to be undone.",
    "exact": "It can be undone exactly.",
    "compensable": "It can't be undone, but compensated: another action makes up for it.",
    "irreversible": "IRREVERSIBLE. Nothing can take it back.",
}
_ON_FAILURE = {
    "none": "Nothing is undone by itself: what was done until then stays done.",
    "undo": "WHERE ITS END ISN'T KNOWN IT IS TAKEN BACK BY ITSELF, if all is as it was to become; else it stays done.",
}

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


def render(envelope: JsonObject) -> str:
    """The text. Lines are 100 columns wide at most and end in a line feed; the last is the envelope's digest.

    Args:
        envelope: the approval's envelope.

    Raises:
        InvalidArgumentError: ``ENVELOPE_MALFORMED``: a member is missing, or not of its kind, or doesn't fit another.
    """
    encoded = _encoded(envelope)
    return _Rendering(_as_read(encoded)).text(digest(encoded))


def rendering_digest(text: str) -> str:
    """``sha256:`` of a text: what a vote names."""
    return digest(text.encode("utf-8"))


def summary(envelope: JsonObject) -> str:
    """One line for lists and channels: kind, tool or action, workspace, tier and requester; nothing of the content.

    Raises:
        InvalidArgumentError: ``ENVELOPE_MALFORMED``.
    """
    top = Members(_as_read(_encoded(envelope)), (), [])
    kind = _kind(top)
    parts = [kind]
    if kind in _CALLS:
        call = top.members("call")
        parts += [call.members("tool").text("name"), f"in {call.text('workspace')}", f"tier {call.whole('tier')}"]
    else:
        if kind in _ACTIONS:
            parts.append(top.members("action").text("name"))
        if top.has("workflow"):
            parts.append(top.members("workflow").text("name"))
        parts.append(f"in {top.text('workspace')}")
        parts.append(f"tier {top.whole('tier')}")
    parts.append(f"asked by {top.members('requester').text('name')}")
    visible = Visible()
    return ", ".join(visible.line(part) for part in parts)


def _encoded(envelope: JsonObject) -> bytes:
    _check_depth(envelope)
    try:
        return canonical(envelope)
    except (ValueError, TypeError) as error:
        refuse((), f"has no canonical form: {error}")


def _as_read(encoded: bytes) -> JsonObject:
    # As any other reader of the bytes has it: a 1.0 in memory is a 1 there.
    value: JsonObject = json.loads(encoded, parse_int=_number)
    return value


def _number(digits: str) -> int | float:
    # RFC 8785 writes a float without a fraction like an integer, also where no integer is that large.
    number = int(digits)
    return number if abs(number) <= MAX_SAFE_INTEGER else float(digits)


def _check_depth(envelope: JsonValue) -> None:
    level: list[JsonValue] = [envelope]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for value in level
            if isinstance(value, (dict, list))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    refuse((), f"is nested deeper than {MAX_DEPTH} levels")


def _kind(top: Members) -> str:
    if top.text("format") != FORMAT:
        top.refuse("format", f"must be {FORMAT}")
    kind = top.text("kind")
    if kind not in _TITLES:
        top.refuse("kind", f"must be one of {', '.join(_TITLES)}")
    return kind


class _Rendering:
    """One text in the making."""

    def __init__(self, envelope: JsonObject) -> None:
        self._seen: list[Members] = []
        self._top = Members(envelope, (), self._seen)
        self._sheet = Sheet(Visible())
        people = self._top.members("people")
        self._people = {person: people.text(person) for person in people.names}

    def text(self, envelope_digest: str) -> str:
        top, sheet = self._top, self._sheet
        kind = _kind(top)
        sheet.heading(_TITLES[kind])
        sheet.field("Approval", top.text("approval"))
        call = self._call(kind)
        if call is not None:
            call.what()
            if top.has("effect"):
                effect_section(top.members("effect"), sheet, top.members("call").text("salt"), top.text("on_failure"))
        else:
            self._place()
        self._action(kind)
        self._workflow_text(kind)
        self._difference()
        self._who(call)
        self._why()
        if call is not None:
            call.how(top.objects("files"))
        elif top.items("files"):
            top.refuse("files", "belong to a call, and there is none")
        self._effect(kind)
        self._decision(kind)
        self._requirement()
        self._until()
        self._further()
        self._characters()
        sheet.heading("DIGEST OF THE ENVELOPE, WHICH BINDS ALL THIS")
        sheet.heading(envelope_digest)
        return sheet.text()

    def _call(self, kind: str) -> CallSections | None:
        if not self._there("call", needed=kind in _CALLS):
            return None
        return CallSections(self._top.members("call"), self._sheet, self._person, runbook=kind == "RUNBOOK")

    def _place(self) -> None:
        # A call says this of itself.
        sheet = self._sheet
        sheet.heading("WHAT")
        sheet.field("Object", self._top.text("object"))
        sheet.field("Workspace", self._top.text("workspace"))
        sheet.field("Tier", str(self._top.whole("tier")))

    def _action(self, kind: str) -> None:
        if not self._there("action", needed=kind in _ACTIONS):
            return
        sheet = self._sheet
        sheet.heading("ACTION")
        action = self._top.members("action")
        sheet.field("Action", action.text("name"))
        parameters = action.any("parameters")
        if not isinstance(parameters, dict):
            action.refuse("parameters", "must be an object")
        sheet.tree("Parameters", parameters)
        if action.has("act"):
            sheet.tree("In the ledger", action.any("act"))

    def _workflow_text(self, kind: str) -> None:
        if not self._there("workflow_text", needed=kind == "WORKFLOW"):
            return
        self._sheet.heading("WORKFLOW")
        text = self._top.any("workflow_text")
        if not isinstance(text, dict):
            self._top.refuse("workflow_text", "must be an object")
        self._sheet.tree("Text", text)

    def _difference(self) -> None:
        sentences = self._top.texts("difference")
        if sentences:
            self._sheet.heading("WHAT IT CHANGES")
        for sentence in sentences:
            widens = sentence.lstrip().upper().startswith("WIDENS")
            self._sheet.field("!! WIDENS" if widens else "Change", sentence)

    def _who(self, call: CallSections | None) -> None:
        sheet = self._sheet
        sheet.heading("WHO ASKS")
        requester = self._top.members("requester")
        sheet.field("Requester", requester.text("name"))
        sheet.field("Requester's id", requester.text("id"))
        if call is not None:
            call.who()
        for person, called in sorted(self._people.items()):
            sheet.field("Named here", person)
            sheet.field("  is", called)

    def _why(self) -> None:
        top, sheet = self._top, self._sheet
        sheet.heading("WHY")
        for label, member in (("Purpose", "purpose"), ("Reason", "reason")):
            text = top.text(member)
            if text:
                sheet.block(label, text)
            else:
                sheet.words(label, "none is given")
        if self._there("workflow"):
            workflow = top.members("workflow")
            sheet.field("Workflow", workflow.text("name"))
            sheet.field("Workflow's version", workflow.text("digest"))
        else:
            sheet.words("Workflow", "none")

    def _effect(self, kind: str) -> None:
        self._one_of("CAN IT BE UNDONE", "reversibility", _REVERSIBILITY, needed=kind in _CALLS)
        self._one_of("IF IT FAILS", "on_failure", _ON_FAILURE, needed=kind in _CALLS)

    def _one_of(self, title: str, member: str, known: dict[str, str], *, needed: bool) -> None:
        if not self._there(member, needed=needed):
            return
        top, sheet = self._top, self._sheet
        value = top.text(member)
        if value not in known:
            top.refuse(member, f"must be one of {', '.join(known)}")
        sheet.heading(title)
        sheet.words(value, known[value])

    def _decision(self, kind: str) -> None:
        if not self._there("decision", needed=kind in _CALLS):
            return
        sheet = self._sheet
        decision = self._top.members("decision")
        sheet.heading("BY WHICH RULE")
        sheet.field("Rule", decision.text("rule"))
        sheet.field("As written", decision.text("policy_row"))
        sheet.field("In words", decision.text("reason"))
        sheet.field("Tier", str(decision.whole("tier")))

    def _requirement(self) -> None:
        sheet = self._sheet
        sheet.heading("WHO MUST AGREE")
        requirement = self._top.members("requirement")
        sheet.field("People", str(requirement.whole("people")))
        for role in requirement.objects("roles"):
            sheet.field("Of the role", role.text("role"))
            sheet.field("  at least", str(role.whole("people")))
        for channel in requirement.texts("channels"):
            sheet.field("Votes come by", channel)
        sheet.field("Signed by themselves", str(requirement.whole("min_signed")))
        for label, member in (
            ("Seconds to agree", "expiry_s"),
            ("Pause after denial, s", "cooldown_s"),
            ("Most that may wait", "max_pending"),
            ("Tool's owner kept out", "exclude_tool_owner"),
        ):
            sheet.value(label, requirement.any(member))

    def _until(self) -> None:
        sheet = self._sheet
        sheet.heading("UNTIL WHEN")
        until = self._top.matching("expires", _TIME, "a time such as 2026-01-31T08:00:00Z, in UTC")
        try:
            datetime.fromisoformat(until)
        except ValueError:
            self._top.refuse("expires", "is no time")
        sheet.field("UTC", until)
        sheet.words("Then", "it is denied, unless enough people have agreed")

    def _further(self) -> None:
        sheet = self._sheet
        sheet.heading("FURTHER")
        sheet.field("Salt", self._top.text("salt"))
        left: JsonObject = {}
        for members in self._seen:
            left |= members.left()
        if left:
            sheet.words("NOT KNOWN HERE", "this text was made by a program that doesn't know what these decide:")
            sheet.tree("Members", left)

    def _characters(self) -> None:
        sheet = self._sheet
        found = sheet.visible.found
        sheet.heading("CHARACTERS THAT ARE WRITTEN OUT ABOVE")
        if not found:
            sheet.words("None", "all characters are shown as they are")
        for char, count in found:
            sheet.words(written_out(char), f"{name(char)}, {count} times" if count > 1 else name(char))

    def _there(self, member: str, *, needed: bool = False) -> bool:
        """Is a member more than null? Missing it may not be, and where it is needed not null."""
        if self._top.any(member) is None and needed:
            self._top.refuse(member, "must not be null")
        return self._top.has(member)

    def _person(self, label: str, person: str) -> None:
        if person:
            self._sheet.field(label, person)
        else:
            self._sheet.words(label, "nobody is proved")
        if person in self._people:
            self._sheet.field("  is", self._people[person])


__all__ = ["FORMAT", "MAX_DEPTH", "render", "rendering_digest", "summary"]
