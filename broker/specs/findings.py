"""What is wrong with a file, and where in it."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from broker.domain.canonical import pointer
from broker.errors import FieldViolation, InvalidArgumentError
from broker.specs.document import Document, DocumentError, Path, read_document
from broker.specs.files import FileRefusedError, read_file
from broker.specs.schemas import Problem

ModelT = typing.TypeVar("ModelT", bound=BaseModel)
MAX_VIOLATIONS = 100
"""Most findings that a refusal names."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One fault, or one doubt, at a place of a file. ``field`` is a JSON pointer into the document."""

    path: str
    line: int
    column: int
    message: str
    field: str = ""
    warning: bool = False

    def __str__(self) -> str:
        """``file:line:column: error: message``, which editors can jump to."""
        kind = "warning" if self.warning else "error"
        where = f" {self.field}" if self.field else ""
        return f"{self.path}:{self.line}:{self.column}: {kind}:{where} {self.message}"


def read_yaml(path: FilePath) -> Document | Finding:
    """The document of a file, or the finding that says why it can't be read."""
    try:
        return read_document(read_file(path.parent, path.name))
    except FileRefusedError as error:
        return Finding(str(path), 1, 1, str(error))
    except DocumentError as error:
        return Finding(str(path), error.position.line, error.position.column, str(error))


def violation(finding: Finding) -> FieldViolation:
    """A finding as a refusal names it: its field is ``file:line:column``."""
    return FieldViolation(
        f"{finding.path}:{finding.line}:{finding.column}", f"{finding.field} {finding.message}".strip()
    )


def refusal(found: typing.Sequence[FieldViolation], *, what: str, reason: str, hint: str) -> InvalidArgumentError:
    """The refusal of files for what was found in them, which is something; ``what`` names the files, in the plural."""
    return InvalidArgumentError(
        f"{len(found)} fault(s) in {what}; the first: {found[0].field} {found[0].description}",
        reason=reason,
        hint=hint,
        violations=tuple(found[:MAX_VIOLATIONS]),
    )


def model_problems(
    model: type[ModelT], document: Document, context: Mapping[str, bool] | None = None
) -> tuple[ModelT | None, list[Problem]]:
    """A document as a model, or else what is wrong with it; ``context`` is what the model's own checks are told."""
    if not isinstance(document.value, dict):
        return None, [Problem((), "must be a mapping of fields")]
    try:
        return model.model_validate(document.value, context=context), []
    except ValidationError as error:
        return None, [problem for item in error.errors() for problem in _translate(model, item)]


def _translate(model: type[BaseModel], item: ErrorDetails) -> Iterator[Problem]:
    # Pydantic puts the names of union members into the place; they are no keys of the file.
    path = tuple(part for part in item["loc"] if part not in {"literal", "placeholder", "[key]"})
    context = item.get("ctx", {})
    message = item["msg"].removeprefix("Value error, ")
    if "places" in context:
        texts = context.get("texts", [message] * len(context["places"]))
        for place, text in zip(context["places"], texts, strict=True):
            yield Problem((*path, *place), text)
    elif item["type"] == "extra_forbidden":
        key, known = str(path[-1]), _fields_at(model, path[:-1])
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known))}"
        yield Problem(path, f"unknown key {key!r}; {hint}", at_key=True)
    elif item["type"] == "missing":
        yield Problem(path, f"the key {str(path[-1])!r} is missing")
    else:
        yield Problem(path, message)


def _fields_at(model: type[BaseModel], path: Path) -> list[str]:
    current = model
    for part in path:
        if isinstance(part, int):
            continue
        inner = current.model_fields.get(part)
        found = None if inner is None else _model_in(inner.annotation)
        if found is None:
            return []
        current = found
    return list(current.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part)) is not None), None)


def findings_at(path: FilePath, document: Document, problems: Iterable[Problem]) -> tuple[Finding, ...]:
    """Problems as findings, each once and in order of place."""
    found = set()
    for problem in problems:
        position = document.locate_key(problem.path) if problem.at_key else document.locate(problem.path)
        found.add(
            Finding(
                str(path), position.line, position.column, problem.text, pointer(*problem.path), warning=problem.warning
            )
        )
    return tuple(sorted(found))
