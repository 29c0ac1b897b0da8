"""Sizes and durations as people write them: ``256MiB``, ``10s``, ``30d``."""

from __future__ import annotations

import re
from decimal import Decimal

_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TIMES = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}

SIZE_PATTERN = r"^[0-9]{1,12}(B|KiB|MiB|GiB)$"
"""What ``parse_size`` reads, as JSON Schema writes it."""

DURATION_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h|d)$"
"""What ``parse_duration`` reads, as JSON Schema writes it."""

_SIZE = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")


def parse_size(text: str) -> int:
    """Bytes of a text such as ``256MiB``; the unit is B, KiB, MiB or GiB, and never missing.

    Raises:
        ValueError: any other text.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r:.40} is not a size; write a whole number and B, KiB, MiB or GiB, such as 256MiB")
    return int(match[1]) * _SIZES[match[2]]


def parse_duration(text: str) -> float:
    """Seconds of a text such as ``10s``; the unit is ms, s, m, h or d, and never missing.

    Raises:
        ValueError: any other text.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r:.40} is not a duration; write a number and ms, s, m, h or d, such as 10s or 30d")
    return float(Decimal(match[1]) * _TIMES[match[2]])
