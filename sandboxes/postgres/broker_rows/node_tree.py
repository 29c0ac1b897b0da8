"""Reads the server's text of an analysed statement (``pg_node_tree``), without knowing what its nodes mean.

A name that was chosen by the author of a statement stands there like any other word, so it may look like the beginning
of a field. Fields of one name are therefore put together, and nothing that was read is ever replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_DIVIDERS = frozenset("(){}")
_BLANKS = frozenset(" \t\n")


@dataclass(slots=True)
class Node:
    """A node: its tag, and what stands behind each of its fields."""

    tag: str = ""
    fields: dict[str, list[Part]] = field(default_factory=dict)

    def word(self, name: str) -> str:
        """The first word behind a field; empty where there is none."""
        first = next(iter(self.fields.get(name, ())), "")
        return first if isinstance(first, str) else ""

    def nodes(self, name: str) -> list[Node]:
        """The nodes of the list that stands behind a field."""
        return [
            each
            for part in self.fields.get(name, ())
            if isinstance(part, list)
            for each in part
            if isinstance(each, Node)
        ]


Part = str | Node | list["Part"]


def read(text: str) -> list[Part]:
    """What a text says, as nodes, lists and words.

    Raises:
        ValueError: it isn't such a text.
    """
    top: list[Part] = []
    open_parts: list[tuple[Node | None, list[Part]]] = [(None, top)]
    for word in _words(text):
        node, parts = open_parts[-1]
        if word == "(":
            inner: list[Part] = []
            parts.append(inner)
            open_parts.append((None, inner))
        elif word == "{":
            made = Node()
            parts.append(made)
            open_parts.append((made, made.fields.setdefault("", [])))
        elif word in {")", "}"}:
            if len(open_parts) == 1 or (node is None) != (word == ")"):
                raise ValueError("unbalanced")
            open_parts.pop()
        elif node is not None and not node.tag:
            node.tag = word
        elif node is not None and word.startswith(":"):
            open_parts[-1] = (node, node.fields.setdefault(word[1:], []))
        else:
            parts.append(word)
    if len(open_parts) != 1:
        raise ValueError("unbalanced")
    return top


def walk(parts: list[Part]) -> Iterator[Node]:
    """Every node within, in no order."""
    left: list[Part] = list(parts)
    while left:
        part = left.pop()
        if isinstance(part, Node):
            yield part
            left += [each for several in part.fields.values() for each in several]
        elif isinstance(part, list):
            left += part


def numbers(parts: list[Part]) -> Iterator[int]:
    """The numbers behind a field, alone or in a list such as ``(o 96 97)``."""
    for part in parts:
        if isinstance(part, list):
            yield from numbers(part)
        elif isinstance(part, str) and part.isdecimal():
            yield int(part)


def _words(text: str) -> Iterator[str]:
    start = None
    at = 0
    while at < len(text):
        char = text[at]
        if char in _DIVIDERS or char in _BLANKS:
            if start is not None:
                yield text[start:at]
                start = None
            if char in _DIVIDERS:
                yield char
        elif start is None:
            start = at
        at += 2 if char == "\\" else 1
    if start is not None:
        yield text[start:]
