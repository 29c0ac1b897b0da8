"""What the warm pool tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One profile."""

    fingerprint: str
    image: str
    runtime: str
    prewarmed: bool
    idle: int
    making: int
    """Being made, those that a call waits for included."""
    leased: int
    target: int
    """Idle ones that there should be: its share of the ceiling."""
    warm: int
    """Calls that got a waiting container."""
    cold: int
    """Calls whose container was made while they waited."""
    unfit: int
    """Waiting containers that failed their check when a call came."""
    oldest_idle_s: float
    """Age of the oldest idle one in seconds; 0 where there is none."""
    trouble: str
    """Reason of the error with which the last container couldn't be made; empty where it could."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The pool at one moment."""

    ceiling: int
    idle: int
    making: int
    leased: int
    rows: tuple[PoolRow, ...]
    calls: Mapping[str, str]
    """Call id -> container id, of the calls that hold a container."""
