"""One way to answer for all commands: a model as JSON or rendered for a person, and errors with exit codes.

Exit codes, for scripts:

====  ==============================================================================================================
code  when
====  ==============================================================================================================
0     done; for a call: the tool succeeded
1     the tool failed, or its call was cancelled; for `policy diff`: it touches the two-person rule; for `replay whatif`:
      what `--fail-on` names
2     the request itself has to change: wrong usage or arguments, no such thing, a name that is taken, a wrong state,
      an offset that is no longer kept, a limit that waiting doesn't lift
3     denied: by the policy, by the people asked, for want of a valid certificate, or because nobody decided in time
4     it waits for approval, or needs one that somebody has to ask for
5     the broker can't be reached, or is too busy or not ready; nothing was done, and the same may succeed later
6     our own failure: a defect, a damaged record, or an outcome that isn't known
130   ended by Ctrl-C (143 by SIGTERM, 129 by SIGHUP, 141 by a closed pipe)
====  ==============================================================================================================
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from broker.domain.call import CallState
from broker.domain.run import EndCause
from broker.errors import (
    BrokerError,
    CancelledCallError,
    DataLossError,
    DeadlineError,
    InternalError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)

_WIDE = 400
"""Columns of what isn't a terminal: a program that reads a pipe must never get a table that is cut or folded."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
"""Standard output; plain where it isn't a terminal."""

errors = Console(stderr=True, highlight=False)
"""Standard error: progress and refusals."""


class ExitCode(enum.IntEnum):
    """What a command's end says to a script; the module's docstring has the whole table."""

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
    """Which exit code an error has. Errors that aren't listed here ask for another request."""
    match error:
        case PermissionDeniedError() | UnauthenticatedError():
            return ExitCode.DENIED
        case UnavailableError() | DeadlineError():
            return ExitCode.UNREACHABLE
        case ResourceExhaustedError() if error.retry_after_s is not None:
            return ExitCode.UNREACHABLE
        case InternalError() | DataLossError():
            return ExitCode.OURS
        case CancelledCallError():
            return ExitCode.TOOL_FAILED
    # A class that is added later and not thought of here is the root's own: that is a defect of ours.
    rest = ExitCode.OURS if type(error) is BrokerError else ExitCode.USAGE
    return ExitCode.WAITING if error.reason == "APPROVAL_REQUIRED" else rest


def state_exit_code(state: CallState, cause: EndCause | None = None) -> ExitCode:
    """Which exit code a call has that stands in ``state``; ``cause`` is who ended its run."""
    match state:
        case CallState.SUCCEEDED | CallState.UNDONE:
            return ExitCode.DONE
        case CallState.FAILED | CallState.CANCELLED:
            return ExitCode.OURS if cause is EndCause.ENGINE else ExitCode.TOOL_FAILED
        case CallState.DENIED | CallState.EXPIRED:
            return ExitCode.DENIED
        case CallState.PENDING_APPROVAL:
            return ExitCode.WAITING
        case _:
            return ExitCode.OURS


def printable(text: str) -> str:
    """A text from elsewhere with control and bidirectional characters made visible: it can't move the cursor or lie."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def error_output(error: BrokerError) -> ErrorOutput:
    """The model of an error."""
    return ErrorOutput(
        error=error.message,
        reason=error.reason,
        hint=error.hint,
        metadata=dict(error.metadata),
        fields={item.field: item.description for item in error.violations},
    )


def report(error: BrokerError, *, as_json: bool) -> None:
    """Prints an error: what was refused, which rule or field, and what to do next."""
    if as_json:
        sys.stdout.write(error_output(error).model_dump_json() + "\n")
        sys.stdout.flush()
        return
    code = exit_code(error)
    word = {ExitCode.UNREACHABLE: "unavailable", ExitCode.OURS: "failed"}.get(code, "refused")
    errors.print(word, style="red", end=" ")
    errors.print(printable(f"{error.reason}: {error.message}"), markup=False, soft_wrap=True)
    for item in error.violations:
        errors.print(printable(f"  {item.field}: {item.description}"), markup=False, soft_wrap=True)
    for key, value in error.metadata.items():
        errors.print(printable(f"  {key}: {value}"), markup=False, style="dim", soft_wrap=True)
    if error.hint:
        errors.print(printable(f"  {error.hint}"), markup=False, style="bold", soft_wrap=True)
