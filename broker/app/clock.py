"""The broker's clock."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
