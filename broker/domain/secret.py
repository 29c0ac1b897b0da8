"""Secrets in a type of their own: neither a log line nor a traceback shows them."""

from __future__ import annotations

import hmac
from typing import Final


class Secret:
    """Bytes that must not be seen. ``reveal`` is the only way to them, so that each use can be found by its name."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value: Final = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes, redacted)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret is a fact about it

    def __reduce__(self) -> str:
        message = "a secret is not pickled"
        raise TypeError(message)
