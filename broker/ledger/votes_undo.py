"""Calls that people let be taken back by themselves, where their end would not be known."""

from __future__ import annotations

from broker.domain.canonical import JsonObject
from broker.ledger.votes_reading import FindingError, part, words


class SelfUndos:
    """Which calls may be, by the intents that name people's agreement."""

    def __init__(self) -> None:
        self._agreed: dict[str, str] = {}

    def copy(self) -> SelfUndos:
        """The same, to go on from without changing this one."""
        made = SelfUndos()
        made._agreed = dict(self._agreed)
        return made

    def began(self, entry: JsonObject) -> None:
        """Takes in an intent to which people agreed."""
        effect = entry.get("effect")
        outside = effect.get("outside") if isinstance(effect, dict) else None
        if isinstance(outside, dict) and outside.get("on_failure") == "undo":
            self._agreed[words(entry, "call_id")] = words(outside, "undo", "effect.outside.undo")

    def taken_back(self, entry: JsonObject) -> None:
        """Lets an entry pass by which a call is taken back by itself, once.

        Raises:
            FindingError: nobody agreed to that, or to something else.
        """
        undo = part(entry, "undo")
        if self._agreed.pop(words(entry, "call_id"), "") != words(undo, "digest", "undo.digest"):
            raise FindingError("undo.digest", "is not what people agreed to, should the call's end not be known")
