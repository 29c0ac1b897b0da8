"""JSON Schema (2020-12) as specifications may use it, checked before any value of an agent meets it.

Allowed is what can be checked in bounded time and without reading anything else: no remote or circular ``$ref``, no
unknown keyword (a mistyped ``maxLenght`` would let everything through), no unbounded pattern.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator, SchemaError, ValidationError, validators
from jsonschema.protocols import Validator
from referencing import Registry

from broker.domain.canonical import JsonObject, JsonValue, pointer
from broker.specs import patterns
from broker.specs.document import Path

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_EXPANDED = 2000
"""Most schemas that one schema may stand for once its references are followed."""
MAX_UNIQUE_ITEMS = 1000
"""Longest list that may be checked for equal items."""

_ONE = frozenset({"additionalProperties", "items", "contains", "not", "if", "then", "else", "propertyNames",
                  "unevaluatedItems", "unevaluatedProperties"})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"properties", "$defs", "dependentSchemas"})
_PLAIN = frozenset({
    "$schema", "$ref", "$comment", "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples",
    "type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength",
    "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains", "maxProperties",
    "minProperties", "required", "dependentRequired", "format", "contentEncoding", "contentMediaType",
})  # fmt: skip
_KEYWORDS = _ONE | _LISTS | _MAPS | _PLAIN


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong or doubtful at one place of a specification."""

    path: Path
    text: str
    warning: bool = False
    at_key: bool = False
    """Does it stand at the key, and not at the value?"""


def check_schema(schema: JsonObject, where: Path) -> tuple[Problem, ...]:
    """All problems of a schema that stands at ``where`` in a specification."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return (Problem((*where, *error.absolute_path), f"is not JSON Schema: {error.message:.200}"),)
    parts = dict(_walk(schema, ()))
    problems = [
        dataclasses.replace(problem, path=(*where, *problem.path))
        for path, part in parts.items()
        if isinstance(part, dict)
        for problem in _check_part(part, path, parts)
    ]
    if not problems:
        problems.extend(Problem(where, text) for text in _check_expansion(parts))
    return tuple(problems)


def check_arguments(schema: JsonObject) -> tuple[Problem, ...]:
    """What holds for the arguments' schema beyond any other: a closed object."""
    found = []
    if schema.get("type") != "object":
        found.append(Problem(("arguments",), "needs `type: object`"))
    if schema.get("additionalProperties") is not False and schema.get("unevaluatedProperties") is not False:
        found.append(Problem(("arguments",), "needs `additionalProperties: false`: what isn't named is refused"))
    properties = schema.get("properties")
    for name, part in properties.items() if isinstance(properties, dict) else ():
        path = ("arguments", "properties", name)
        if not (isinstance(part, dict) and part.get("description")):
            found.append(Problem(path, "has no description, which models and people choose values by", warning=True))
        if isinstance(part, dict) and part.get("type") == "string" and not {"maxLength", "enum", "const"} & set(part):
            found.append(
                Problem(path, "is text without maxLength, so only the call's own limit bounds it", warning=True)
            )
    return tuple(found)


def _walk(schema: JsonValue, path: Path) -> Iterator[tuple[Path, JsonValue]]:
    yield path, schema
    for keyword, value in schema.items() if isinstance(schema, dict) else ():
        if keyword in _ONE:
            yield from _walk(value, (*path, keyword))
        elif keyword in _LISTS and isinstance(value, list):
            for index, item in enumerate(value):
                yield from _walk(item, (*path, keyword, index))
        elif keyword in _MAPS and isinstance(value, dict):
            for name, item in value.items():
                yield from _walk(item, (*path, keyword, name))


def _check_part(part: JsonObject, path: Path, parts: dict[Path, JsonValue]) -> Iterator[Problem]:
    for keyword in part.keys() - _KEYWORDS:
        close = difflib.get_close_matches(keyword, _KEYWORDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        yield Problem((*path, keyword), f"is a keyword that specifications may not use: {keyword}{hint}", at_key=True)
    if part.get("$schema", DIALECT) != DIALECT:
        yield Problem((*path, "$schema"), f"must be {DIALECT}, or absent")
    if "$ref" in part:
        reference = part["$ref"]
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            yield Problem((*path, "$ref"), "must be local (begin with `#/`): nothing is ever fetched")
        elif _target(reference, parts) is None:
            yield Problem((*path, "$ref"), f"leads nowhere: {reference}")
    if "format" in part:
        yield Problem((*path, "format"), "is a note for people only: it is not checked", warning=True)
    yield from _check_cost(part, path)


def _check_cost(part: JsonObject, path: Path) -> Iterator[Problem]:
    length = part.get("maxLength")
    if isinstance(part.get("pattern"), str):
        if not isinstance(length, int):
            yield Problem((*path, "pattern"), "needs maxLength beside it, to bound the time that it takes")
        elif why := patterns.refusal(str(part["pattern"]), length):
            yield Problem((*path, "pattern"), why)
    if part.get("uniqueItems") is True:
        items = part.get("maxItems")
        if not isinstance(items, int) or items > MAX_UNIQUE_ITEMS:
            yield Problem((*path, "uniqueItems"), f"needs maxItems of at most {MAX_UNIQUE_ITEMS} beside it")


def _target(reference: str, parts: dict[Path, JsonValue]) -> Path | None:
    return next((path for path in parts if f"#{pointer(*path)}" == reference), None)


def _check_expansion(parts: dict[Path, JsonValue]) -> Iterator[str]:
    sizes: dict[Path, int] = {}
    open_paths: set[Path] = set()

    def size(path: Path) -> int:
        if path in open_paths:
            raise RecursionError
        if path not in sizes:
            open_paths.add(path)
            inner = [place for place, _ in _walk(parts[path], path)]
            targets = [
                target
                for place in inner
                if isinstance(part := parts[place], dict)
                and isinstance(reference := part.get("$ref"), str)
                and (target := _target(reference, parts)) is not None
            ]
            sizes[path] = len(inner) + sum(size(target) for target in targets)
            open_paths.remove(path)
        return sizes[path]

    try:
        if size(()) > MAX_EXPANDED:
            yield f"stands for more than {MAX_EXPANDED} schemas once its references are followed"
    except RecursionError:
        yield "has a `$ref` that leads back to itself"


def _bounded_pattern(
    validator: Validator, pattern: str, instance: object, schema: JsonObject
) -> Iterator[ValidationError]:
    # ``maxLength`` reports a longer text; the pattern must not be tried on it, in whatever order the keywords stand.
    length = schema.get("maxLength")
    if isinstance(instance, str) and isinstance(length, int) and len(instance) > length:
        return
    yield from _BASE["pattern"](validator, pattern, instance, schema)


def _bounded_unique(
    validator: Validator, unique: object, instance: object, schema: JsonObject
) -> Iterator[ValidationError]:
    items = schema.get("maxItems")
    if isinstance(instance, list) and isinstance(items, int) and len(instance) > items:
        return
    yield from _BASE["uniqueItems"](validator, unique, instance, schema)


_BASE: Any = Draft202012Validator.VALIDATORS
_extend: Any = validators.extend
_Bounded: Any = _extend(Draft202012Validator, {"pattern": _bounded_pattern, "uniqueItems": _bounded_unique})


def compile_schema(schema: JsonObject) -> Validator:
    """A validator of a schema that ``check_schema`` found no error in. It reads nothing but the schema."""
    validator: Validator = _Bounded(schema, registry=Registry())
    return validator
