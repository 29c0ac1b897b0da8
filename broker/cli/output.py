"""One way to answer for all commands: a model as JSON or rendered for a person, and errors with exit codes."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from broker.errors import (
    BrokerError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)

console = Console(highlight=False)
"""Standard output; plain where it isn't a terminal."""

errors = Console(stderr=True, highlight=False)
"""Standard error: progress and refusals."""


class ExitCode(enum.IntEnum):
    """What a command's end says to a script."""

    DONE = 0
    TOOL_FAILED = 1
    USAGE = 2
    DENIED = 3
    WAITING = 4
    UNREACHABLE = 5
    OURS = 6


class OutputModel(BaseModel):
    """Base of what a command prints with ``--json``: one object, its schema in ``docs/cli/``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorOutput(OutputModel):
    """What a failed command prints with ``--json``, on standard output."""

    error: str
    reason: str
    hint: str = ""
    metadata: dict[str, str] = {}
    fields: dict[str, str] = {}


Model = TypeVar("Model", bound=BaseModel)


def emit(result: Model, *, as_json: bool, render: Callable[[Model], None]) -> None:
    """Prints the result: as one line of JSON, or through ``render``."""
    if as_json:
        sys.stdout.write(result.model_dump_json() + "\n")
        sys.stdout.flush()
    else:
        render(result)


def exit_code(error: BrokerError) -> ExitCode:
    """Which exit code an error has."""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return ExitCode.DENIED
    if isinstance(error, UnavailableError):
        return ExitCode.UNREACHABLE
    if error.reason == "INTERNAL":
        return ExitCode.OURS
    return ExitCode.USAGE if isinstance(error, InvalidArgumentError) else ExitCode.OURS


def report(error: BrokerError, *, as_json: bool) -> None:
    """Prints an error: what was refused, which rule or field, and what to do next."""
    if as_json:
        output = ErrorOutput(
            error=error.message,
            reason=error.reason,
            hint=error.hint,
            metadata=dict(error.metadata),
            fields={item.field: item.description for item in error.violations},
        )
        sys.stdout.write(output.model_dump_json() + "\n")
        sys.stdout.flush()
        return
    errors.print(f"[red]refused[/red] {error.reason}: ", end="")
    errors.print(error.message, markup=False)
    for item in error.violations:
        errors.print(f"  {item.field}: {item.description}", markup=False)
    for key, value in error.metadata.items():
        errors.print(f"  {key}: {value}", markup=False, style="dim")
    if error.hint:
        errors.print(f"  {error.hint}", markup=False, style="bold")
