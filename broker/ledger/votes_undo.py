"""Calls that may be taken back by themselves, where their end isn't known: by their intents, and by how they ended."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.domain.canonical import JsonObject, JsonValue
from broker.ledger.votes_reading import FindingError, part, words

ENDS = frozenset({"outcome", "unknown", "undo.outcome"})
"""Types of entries by which a call ends, or its taking back does."""


@dataclass(frozen=True, slots=True)
class _Agreed:
    seq: int
    tier: JsonValue
    tool: JsonValue
    undo: str
    unknown: bool = False


def agrees(entry: JsonObject) -> bool:
    """Does an intent say that its call is taken back by itself where its end isn't known?"""
    effect = entry.get("effect")
    outside = effect.get("outside") if isinstance(effect, dict) else None
    return isinstance(outside, dict) and outside.get("on_failure") == "undo"


def ends(kind: str, entry: JsonObject) -> bool:
    """Is it an end after which a call may be, or may no longer be, taken back by itself?"""
    return kind in ENDS and (kind != "outcome" or "effect" in entry)


class SelfUndos:
    """Which calls may be taken back so: those whose intent says so, once their end is not known, each once."""

    def __init__(self) -> None:
        self._agreed: dict[str, _Agreed] = {}

    def copy(self) -> SelfUndos:
        """The same, to go on from without changing this one."""
        made = SelfUndos()
        made._agreed = dict(self._agreed)
        return made

    def began(self, seq: int, entry: JsonObject) -> None:
        """Takes in an intent that was found right."""
        if agrees(entry):
            undo = words(part(part(entry, "effect"), "outside"), "undo", "effect.outside.undo")
            self._agreed[words(entry, "call_id")] = _Agreed(seq, entry.get("tier"), entry.get("tool"), undo)

    def ended(self, kind: str, entry: JsonObject) -> None:
        """Takes in how a call ended."""
        call = entry.get("call_id")
        agreed = self._agreed.pop(call, None) if isinstance(call, str) else None
        if agreed is not None and kind == "unknown":
            self._agreed[str(call)] = replace(agreed, unknown=True)

    def taken_back(self, entry: JsonObject) -> None:
        """Lets an entry pass by which a call is taken back by itself.

        Raises:
            FindingError: its intent didn't say that it may be, or something else; its end was known; or it was done before.
        """
        agreed = self._agreed.pop(words(entry, "call_id"), None)
        if agreed is None or agreed.undo != words(part(entry, "undo"), "digest", "undo.digest"):
            raise FindingError("undo.digest", "is not what was agreed to, should the call's end not be known")
        if not agreed.unknown:
            raise FindingError("call_id", "names a call whose end was known")
        tool = entry.get("tool")
        if (entry.get("intent_seq"), entry.get("tier")) != (agreed.seq, agreed.tier) or tool_of(tool) != tool_of(
            agreed.tool
        ):
            raise FindingError(
                "intent_seq", f"is not that of the call's intent {agreed.seq}, at its tier and of its tool"
            )


def tool_of(value: JsonValue) -> tuple[JsonValue, JsonValue]:
    """Name and version of the tool that an entry names."""
    return (value.get("name"), value.get("version")) if isinstance(value, dict) else (None, None)
