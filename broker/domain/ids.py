"""Identifiers: a prefix that says what is named, then 26 characters that sort by time of birth."""

from __future__ import annotations

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26
_TIME_BITS = 48
_RANDOM_BITS = 80

ID_PATTERN = re.compile(r"[a-z]{2,5}_[0-9a-hjkmnp-tv-z]{26}")
"""What every identifier of the broker matches in full."""

NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,62}")
"""Names of agents, humans and workspaces: a DNS label, so that they fit a SPIFFE path and a file name."""


def new_id(prefix: str) -> str:
    """A fresh identifier such as ``call_01jx...``: 48 bits of Unix milliseconds, then 80 random bits."""
    number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return f"{prefix}_{''.join(reversed(digits))}"
