"""What a check says."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Status(enum.StrEnum):
    """``fail``: the broker won't start, or isn't safe. ``warn``: it works, and somebody should look."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about the machine: what was found, and how to mend it where it wants mending."""

    check: str
    status: Status
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, found)


def warn(check: str, found: str, mend: str) -> Finding:
    """It works, and somebody should look."""
    return Finding(check, Status.WARN, found, mend)


def fail(check: str, found: str, mend: str) -> Finding:
    """The broker won't start, or isn't safe."""
    return Finding(check, Status.FAIL, found, mend)


def worst(findings: Iterable[Finding]) -> Status:
    """The gravest status; ``ok`` where there is none."""
    order = list(Status)
    return max((finding.status for finding in findings), key=order.index, default=Status.OK)
