"""From a call's arguments to an argument vector: each value is whole elements, and never a piece of text."""

from __future__ import annotations

from collections.abc import Iterable

from broker.domain.canonical import JsonObject, JsonValue, canonical, pointer
from broker.domain.spec_parts import Placeholder
from broker.errors import FieldViolation, InvalidArgumentError

MAX_ELEMENT_BYTES = 128 * 2**10 - 1
"""Longest element of an argument vector: Linux refuses a longer one (MAX_ARG_STRLEN, its NUL included)."""

MAX_ARGV_BYTES = 2**20
"""Longest argument vector as a whole, well under what Linux allows with its default stack."""


def expand(elements: Iterable[str | Placeholder], arguments: JsonObject, *, fenced: bool) -> list[str]:
    """The elements with the values of a call in place of the placeholders.

    A value that begins with ``-`` is refused unless a literal ``--`` stands before it (or ``fenced``: nothing reads
    options there), since the program would take it for an option.

    Args:
        elements: literals and placeholders.
        arguments: the arguments, as the schema let them through.
        fenced: may values begin with ``-`` from the first element on?

    Raises:
        InvalidArgumentError: ``ARGUMENTS_INVALID``, with the JSON pointer of the value.
    """
    argv: list[str] = []
    for element in elements:
        if isinstance(element, str):
            argv.append(element)
            fenced = fenced or element == "--"
            continue
        for where, value in _values(element, arguments):
            text = _as_element(value, where)
            if text.startswith("-") and not fenced:
                raise _refuse(where, "begins with `-`, which the program would read as an option")
            argv.append(text)
    if sum(len(element.encode("utf-8")) + 1 for element in argv) > MAX_ARGV_BYTES:
        raise _refuse("arguments", f"make a command line of more than {MAX_ARGV_BYTES} bytes")
    return argv


def _values(element: Placeholder, arguments: JsonObject) -> list[tuple[str, JsonValue]]:
    if element.name not in arguments:
        if element.optional:
            return []
        raise _refuse(f"arguments{pointer(element.name)}", "is missing")
    value = arguments[element.name]
    where = f"arguments{pointer(element.name)}"
    if element.arguments is None:
        return [(where, value)]
    if not isinstance(value, list):
        raise _refuse(where, "must be a list")
    return [(f"{where}/{index}", item) for index, item in enumerate(value)]


def _as_element(value: JsonValue, where: str) -> str:
    if isinstance(value, list | dict) or value is None:
        raise _refuse(where, "must be text, a number or a boolean to stand on a command line")
    text = value if isinstance(value, str) else canonical(value).decode("ascii")
    if "\x00" in text:
        raise _refuse(where, "holds a NUL character")
    size = len(text.encode("utf-8"))
    if size > MAX_ELEMENT_BYTES:
        raise _refuse(where, f"is {size} bytes long; an element of a command line has at most {MAX_ELEMENT_BYTES}")
    return text


def _refuse(where: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{where} {why}", reason="ARGUMENTS_INVALID", violations=(FieldViolation(where, why),))
