"""Reads the YAML of a specification into JSON values, and remembers where each value stands.

Only what a specification needs: one document of mappings with text keys, lists and scalars of the YAML 1.2 core schema.
Tags, anchors, aliases and merge keys are refused, so nothing is built, expanded or repeated behind the reader's back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from broker.domain.canonical import MAX_DEPTH, JsonValue

MAX_BYTES = 128 * 2**10
"""Longest specification."""

MAX_NODES = 5000
"""Most values in one specification."""

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indexes that lead to a value."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file, both numbers from 1."""

    line: int
    column: int


class DocumentError(ValueError):
    """The text can't be read as a specification; ``position`` says where."""

    def __init__(self, message: str, position: Position) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True)
class Document:
    """The value of a document, and the places of its values and keys."""

    value: JsonValue
    values: Mapping[Path, Position]
    keys: Mapping[Path, Position]

    def locate(self, path: Path) -> Position:
        """Where the value stands, or else the innermost value around it that exists."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return Position(1, 1)

    def locate_key(self, path: Path) -> Position:
        """Where the key of the value stands; for an item of a list, the item."""
        return self.keys.get(path) or self.locate(path)


@dataclass(slots=True)
class _Open:
    """A mapping or list that has begun and not ended."""

    container: dict[str, JsonValue] | list[JsonValue]
    path: Path
    key: str | None = None


@dataclass(slots=True)
class _Builder:
    root: list[JsonValue] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    values: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)
    nodes: int = 0
    documents: int = 0

    def take(self, event: Any) -> None:  # noqa: ANN401 - ruamel.yaml's events have no common typed base
        position = Position(event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, AliasEvent):
            raise DocumentError("aliases are not allowed; write the value out", position)
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            self.stack.pop()
        elif isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise DocumentError("a second document begins; a file holds one specification", position)
        elif isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent):
            self._node(event, position)

    def _node(self, event: Any, position: Position) -> None:  # noqa: ANN401 - as above
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise DocumentError(f"more than {MAX_NODES} values", position)
        if event.anchor is not None:
            raise DocumentError(f"anchors are not allowed: &{event.anchor}", position)
        # A plain or quoted value without a tag of its own is "implicit" in one of its two senses.
        implicit = any(event.implicit) if isinstance(event, ScalarEvent) else event.implicit
        if not implicit:
            raise DocumentError(f"tags are not allowed: {event.tag}", position)
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.container, dict) and top.key is None:
            self._key(top, event, position)
            return
        if isinstance(event, ScalarEvent):
            self._place(_scalar(event, position), position)
            return
        if len(self.stack) >= MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels", position)
        container: dict[str, JsonValue] | list[JsonValue] = {} if isinstance(event, MappingStartEvent) else []
        self.stack.append(_Open(container, self._place(container, position)))

    def _key(self, top: _Open, event: Any, position: Position) -> None:  # noqa: ANN401 - as above
        if not isinstance(event, ScalarEvent):
            raise DocumentError("a key must be text", position)
        key = event.value
        if event.style is None and (key == "<<" or not isinstance(_scalar(event, position), str)):
            raise DocumentError(f"the key {key!r} must be text; put it in quotes if it is", position)
        if key in top.container:
            first = self.keys[(*top.path, key)]
            raise DocumentError(f"the key {key!r} stands twice; first on line {first.line}", position)
        self.keys[(*top.path, key)] = position
        top.key = key

    def _place(self, value: JsonValue, position: Position) -> Path:
        if not self.stack:
            self.root.append(value)
            path: Path = ()
        else:
            top = self.stack[-1]
            if isinstance(top.container, dict):
                # ``take`` hands a value over only after its key.
                path = (*top.path, top.key or "")
                top.container[top.key or ""] = value
                top.key = None
            else:
                path = (*top.path, len(top.container))
                top.container.append(value)
        self.values[path] = position
        return path


def _scalar(event: Any, position: Position) -> JsonValue:  # noqa: ANN401 - as above
    text: str = event.value
    if event.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if text.lstrip("+-").startswith("0") and text not in {"0", "-0", "+0"}:
            raise DocumentError(
                "a number that begins with 0 is read in two ways; write it without, or in quotes", position
            )
        if len(text) > 16:
            raise DocumentError("an integer this long is not the same number everywhere; put it in quotes", position)
        return int(text)
    if not _FLOAT.fullmatch(text):
        return text
    number = float(text)
    if not math.isfinite(number):
        raise DocumentError("a number beyond the range of a double", position)
    return number


def read_document(data: bytes) -> Document:
    """Reads one YAML document.

    Raises:
        DocumentError: it is too long, not UTF-8, not YAML, or uses what a specification may not.
    """
    start = Position(1, 1)
    if len(data) > MAX_BYTES:
        raise DocumentError(f"{len(data)} bytes long; a specification has at most {MAX_BYTES}", start)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError("not UTF-8", Position(line, 1)) from error
    builder = _Builder()
    try:
        # Events come one by one, so a bomb ends at the first thing in it that isn't allowed.
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = start if mark is None else Position(mark.line + 1, mark.column + 1)
        raise DocumentError(f"not YAML: {error.problem or error.context}", where) from error
    except YAMLError as error:
        raise DocumentError(f"not YAML: {str(error).splitlines()[0]}", start) from error
    if not builder.root:
        raise DocumentError("empty", start)
    return Document(builder.root[0], builder.values, builder.keys)
