"""Durations as people write them: ``90s``, ``30m``, ``8h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta

from broker.errors import FieldViolation, InvalidArgumentError

_DURATION = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str, *, option: str) -> timedelta:
    """Reads a number with a unit; ``option`` names it in the error.

    Raises:
        InvalidArgumentError: any other text (``DURATION_INVALID``).
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        why = f"{text[:40]!a} is not a duration such as 90s, 30m, 8h or 7d"
        raise InvalidArgumentError(
            f"{option}: {why}", reason="DURATION_INVALID", violations=(FieldViolation(option, why),)
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
