"""How values lie in columns: times as fixed-width UTC text that sorts, lists as JSON text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from broker.errors import InternalError


def time_text(moment: datetime) -> str:
    """A moment as 27 characters, ``2026-01-31T23:59:59.000000Z``: text order is time order.

    Raises:
        InternalError: the moment has no time zone.
    """
    if moment.tzinfo is None:
        raise InternalError("a time without a zone can't be stored", reason="NAIVE_TIME")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def optional_time_text(moment: datetime | None) -> str | None:
    """Like ``time_text``; ``None`` stays."""
    return None if moment is None else time_text(moment)


def read_time(text: str) -> datetime:
    """Reads what ``time_text`` wrote."""
    return datetime.fromisoformat(text)


def read_optional_time(text: str | None) -> datetime | None:
    """Like ``read_time``; ``None`` stays."""
    return None if text is None else read_time(text)


def list_text(values: Iterable[str] | Iterable[int]) -> str:
    """Values as a JSON array."""
    return json.dumps(list(values), separators=(",", ":"))
