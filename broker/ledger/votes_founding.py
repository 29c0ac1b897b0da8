"""Checks the founding from a ledger's entries alone: what stood when it was accepted, and that three people signed just that.

Part of ``broker.ledger.votes``, which knows the keys.
"""

from __future__ import annotations

from broker.domain.approval import KeyKind
from broker.domain.canonical import JsonObject
from broker.domain.founding import FoundingContent
from broker.domain.founding_state import COVERED, FoundingStanding, FoundingState
from broker.domain.projection import UnexpectedEntryError
from broker.domain.statement import AcceptanceStatement
from broker.ledger.votes_reading import FindingError, Key, part, texts, words

FOUNDERS = 3
"""People who must have accepted the founding before anything is approved."""

_AFTERWARDS = frozenset({"account.mapped", "account.unmapped"})
"""What nobody may do alone, not even before the founding: it decides whose word a bot's word is."""


class FoundingCheck:
    """How far the founding is."""

    def __init__(self) -> None:
        self.complete = ""
        """Digest of the founding that is complete; empty before."""
        self._state = FoundingState()
        self._content: FoundingContent | None = None
        """What stands, as long as nothing changes it; what stood, once it is complete."""
        self._accepted: dict[str, dict[str, int]] = {}
        """Digest -> people who have accepted it, and by which entry."""

    def entry(self, seq: int, leaf: bytes, entry: JsonObject) -> None:
        """Takes in an entry of a type in ``COVERED``, in which nothing else is wrong.

        Raises:
            FindingError: it can't be read.
        """
        if self.complete or entry["type"] not in COVERED:
            return
        self._content = None
        try:
            self._state.entry(seq, leaf, entry)
        except UnexpectedEntryError as error:
            raise FindingError("type", f"can't be read: {error}") from error

    def check_allowed(self, kind: str, entry: JsonObject, key: Key | None) -> None:
        """Lets an act pass that one person may do by themselves before the founding.

        Raises:
            FindingError: it is a bot's key, or a chat account.
        """
        if key is not None and key.kind is KeyKind.BOT:
            raise FindingError("key.kind", "is a bot's, and comes before the founding: nobody agreed to it")
        if kind in _AFTERWARDS:
            raise FindingError("type", "comes before the founding: nobody agreed to whose the account is")
        if entry.get("approval"):
            raise FindingError("approval", "is named before anything could be approved")

    def check_founded(self) -> None:
        """Lets pass once it is complete.

        Raises:
            FindingError: it isn't.
        """
        if not self.complete:
            raise FindingError("type", f"comes before {FOUNDERS} people have accepted the founding")

    def accept(self, seq: int, key: Key, statement: AcceptanceStatement) -> None:
        """Takes in an acceptance whose signature holds.

        Raises:
            FindingError: it is of something else than what stands.
        """
        content = self.content()
        if content.missing:
            raise FindingError("founding_digest", f"no entry before it names what is in force: {_named(content)}")
        if statement.founding_digest != content.digest:
            raise FindingError("founding_digest", f"is not that of what stood then, as of entry {content.last_seq}")
        self._accepted.setdefault(statement.founding_digest, {}).setdefault(key.person, seq)

    def completed(self, entry: JsonObject) -> None:
        """Takes in the end of the founding.

        Raises:
            FindingError: it is no such thing.
        """
        if self.complete:
            raise FindingError("type", "the founding was complete before")
        content, people = self.content(), set(texts(entry.get("people"), "people"))
        accepted = set(self._accepted.get(content.digest, {}))
        if words(entry, "founding_digest") != content.digest or len(accepted) < FOUNDERS or people != accepted:
            raise FindingError("people", f"{len(accepted)} people have accepted the founding that is in force here")
        self.complete = content.digest
        self._state = FoundingState()

    def content(self) -> FoundingContent:
        """What stands now, or what stood when it was completed."""
        if self._content is None:
            self._content = self._state.content()
        return self._content

    def standing(self) -> FoundingStanding:
        """How far it is."""
        content = self.content()
        accepted = self._accepted.get(content.digest, {})
        before = {} if self.complete else {who: seq for one in self._accepted.values() for who, seq in one.items()}
        voided = {who: seq for who, seq in before.items() if who not in accepted}
        changes = self._state.changes(min(voided.values())) if voided else ()
        return FoundingStanding(content, frozenset(accepted), frozenset(voided), changes)

    def copy(self) -> FoundingCheck:
        """The same, to go on from without changing this one."""
        made = FoundingCheck()
        made.complete, made._content, made._state = self.complete, self._content, self._state.copy()
        made._accepted = {which: dict(people) for which, people in self._accepted.items()}
        return made


def check_own(entry: JsonObject, key: Key, statement: AcceptanceStatement) -> None:
    """Lets an acceptance pass that is by its own person, of this ledger, and as its entry says.

    Raises:
        FindingError: it isn't.
    """
    said = part(entry, "key").get("id"), words(entry, "person"), words(entry, "founding_digest")
    if said != (key.id, key.person, statement.founding_digest) or statement.approver != key.person:
        raise FindingError("statement", "is another person's, by another key or of another founding than is said")
    if key.kind is not KeyKind.APPROVER or statement.origin != entry["origin"]:
        raise FindingError("statement", "is of another ledger, or a bot's")


def _named(content: FoundingContent) -> str:
    return ", ".join(content.missing)
