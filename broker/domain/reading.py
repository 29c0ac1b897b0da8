"""Reads a JSON object member by member, strictly, and remembers what nobody has asked for."""

from __future__ import annotations

import re
from typing import NoReturn

from broker.domain.canonical import JsonObject, JsonValue, pointer
from broker.errors import FieldViolation, InvalidArgumentError


class Members:
    """The members of one object.

    Args:
        value: the object.
        at: parts of its place in the document.
        seen: collects every object that is read in the document, this one too.
    """

    def __init__(self, value: JsonValue, at: tuple[str | int, ...], seen: list[Members]) -> None:
        self._at = at
        if not isinstance(value, dict):
            refuse(at, "must be an object")
        self._value: JsonObject = value
        self._left = dict.fromkeys(value)
        self._seen = seen
        seen.append(self)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its members."""
        return tuple(self._value)

    def has(self, name: str) -> bool:
        """Is it there, and not null?"""
        return self._value.get(name) is not None

    def any(self, name: str) -> JsonValue:
        """A member of whatever kind.

        Raises:
            InvalidArgumentError: ``ENVELOPE_MALFORMED``, as of all these functions: it is missing or not of the kind.
        """
        if name not in self._value:
            refuse((*self._at, name), "is missing")
        self._left.pop(name, None)
        return self._value[name]

    def nothing(self, name: str) -> bool:
        """Is it null, or not there? Then it has been asked for."""
        if self.has(name):
            return False
        self._left.pop(name, None)
        return True

    def text(self, name: str) -> str:
        """A text."""
        value = self.any(name)
        if not isinstance(value, str):
            refuse((*self._at, name), "must be a text")
        return value

    def matching(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        """A text of a given form; ``what`` says which."""
        value = self.text(name)
        if not pattern.fullmatch(value):
            refuse((*self._at, name), f"must be {what}")
        return value

    def whole(self, name: str) -> int:
        """A whole number, not below 0."""
        value = self.any(name)
        if type(value) is not int or value < 0:
            refuse((*self._at, name), "must be a whole number")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.any(name)
        if not isinstance(value, bool):
            refuse((*self._at, name), "must be true or false")
        return value

    def members(self, name: str) -> Members:
        """An object."""
        return Members(self.any(name), (*self._at, name), self._seen)

    def items(self, name: str) -> list[JsonValue]:
        """A list."""
        value = self.any(name)
        if not isinstance(value, list):
            refuse((*self._at, name), "must be a list")
        return value

    def objects(self, name: str) -> list[Members]:
        """A list of objects."""
        return [Members(item, (*self._at, name, index), self._seen) for index, item in enumerate(self.items(name))]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        items = self.items(name)
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) != len(items):
            refuse((*self._at, name), "must be a list of texts")
        return texts

    def left(self) -> JsonObject:
        """The members that nobody has asked for, by their JSON pointers."""
        return {pointer(*self._at, name): self._value[name] for name in self._left}

    def refuse(self, name: str, why: str) -> NoReturn:
        """Refuses a member.

        Raises:
            InvalidArgumentError: always.
        """
        refuse((*self._at, name), why)


def refuse(at: tuple[str | int, ...], why: str) -> NoReturn:
    """Refuses an envelope.

    Raises:
        InvalidArgumentError: ``ENVELOPE_MALFORMED``.
    """
    field = f"envelope{pointer(*at)}"
    raise InvalidArgumentError(
        f"{field} {why}",
        reason="ENVELOPE_MALFORMED",
        violations=(FieldViolation(field, why),),
        hint="Don't sign. The envelope is broken, or of another version: use the client of the broker's version.",
    )
