"""Every way in which the broker refuses or fails, and the gRPC status of each.

    BrokerError
    ├── InvalidArgumentError      the request itself is wrong; the same request fails again
    ├── UnauthenticatedError      the caller could not be identified
    ├── PermissionDeniedError     the caller is known, and may not
    ├── NotFoundError             no such thing, or none that this caller may see
    ├── ConflictError             the name or request id is taken by something else
    ├── FailedPreconditionError   right request, wrong moment or state
    ├── OutOfRangeError           an offset or page outside what is kept
    ├── ResourceExhaustedError    a limit or quota; carries a retry delay when waiting helps
    ├── CancelledCallError        the call was cancelled by somebody
    ├── DeadlineError             the caller's deadline passed
    ├── UnavailableError          a part of ours is away (engine, store, draining); safe to retry later
    ├── DataLossError             a record of ours is missing or doesn't verify
    └── InternalError             a defect of ours; the text says nothing of its inside

This module knows no gRPC: ``STATUS_CODES`` holds the code numbers of ``google.rpc.Code``, and the same table read
backwards turns a status into an exception in the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

DOMAIN = "broker.v1"
"""``ErrorInfo.domain`` of every error that the broker makes."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is wrong: ``field`` is a request path or a JSON pointer, ``description`` says why."""

    field: str
    description: str


class BrokerError(Exception):
    """The root. ``str(error)`` is a sentence for a person; ``reason`` is a constant for a program.

    Args:
        message: what was refused and which rule or field says so.
        reason: UPPER_SNAKE_CASE constant; defaults to the class's own.
        hint: what the caller can do next; empty when there is nothing.
        metadata: further facts as strings, sent as ``ErrorInfo.metadata``.
        violations: fields that are wrong, sent as ``BadRequest``.
        retry_after_s: seconds after which a retry makes sense, sent as ``RetryInfo``.
    """

    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.hint = hint
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata or {}))
        self.violations = violations
        self.retry_after_s = retry_after_s


class InvalidArgumentError(BrokerError):
    """The request itself is wrong."""

    default_reason = "INVALID_ARGUMENT"


class UnauthenticatedError(BrokerError):
    """The caller could not be identified."""

    default_reason = "UNAUTHENTICATED"


class PermissionDeniedError(BrokerError):
    """The caller is known, and may not do this."""

    default_reason = "POLICY_DENIED"


class NotFoundError(BrokerError):
    """No such thing, or none that this caller may see: the two are never told apart."""

    default_reason = "NOT_FOUND"


class ConflictError(BrokerError):
    """The name or request id already stands for something else."""

    default_reason = "ALREADY_EXISTS"


class FailedPreconditionError(BrokerError):
    """The request is right, but not in the present state."""

    default_reason = "FAILED_PRECONDITION"


class OutOfRangeError(BrokerError):
    """The offset or page lies outside what is kept."""

    default_reason = "OUT_OF_RANGE"


class ResourceExhaustedError(BrokerError):
    """A limit or quota is reached."""

    default_reason = "QUOTA_EXCEEDED"


class CancelledCallError(BrokerError):
    """The call was cancelled, by its caller or by an operator."""

    default_reason = "CANCELLED"


class DeadlineError(BrokerError):
    """The caller's deadline passed before there was an answer."""

    default_reason = "DEADLINE_EXCEEDED"


class UnavailableError(BrokerError):
    """A part that the broker needs is away; nothing was done."""

    default_reason = "UNAVAILABLE"


class DataLossError(BrokerError):
    """A record of ours is missing, damaged or doesn't verify."""

    default_reason = "DATA_LOSS"


class InternalError(BrokerError):
    """A defect of the broker's own."""

    default_reason = "INTERNAL"


STATUS_CODES: Mapping[type[BrokerError], int] = MappingProxyType(
    {
        CancelledCallError: 1,
        InvalidArgumentError: 3,
        DeadlineError: 4,
        NotFoundError: 5,
        ConflictError: 6,
        PermissionDeniedError: 7,
        ResourceExhaustedError: 8,
        FailedPreconditionError: 9,
        OutOfRangeError: 11,
        InternalError: 13,
        UnavailableError: 14,
        DataLossError: 15,
        UnauthenticatedError: 16,
    },
)
"""Exception class -> number of ``google.rpc.Code``."""

_CLASSES: Mapping[int, type[BrokerError]] = MappingProxyType({code: cls for cls, code in STATUS_CODES.items()})


def status_code(error: BrokerError) -> int:
    """The ``google.rpc.Code`` number of an error; a class outside the table is INTERNAL."""
    for cls in type(error).__mro__:
        if cls in STATUS_CODES:
            return STATUS_CODES[cls]
    return STATUS_CODES[InternalError]


def class_for_code(code: int) -> type[BrokerError]:
    """The exception class of a status code; a code that the broker never sends is an ``InternalError``."""
    return _CLASSES.get(code, InternalError)
