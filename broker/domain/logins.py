"""Names under which the broker logs in at databases."""

from __future__ import annotations

MAX_BYTES = 63
"""Of a name in UTF-8. PostgreSQL cuts what is longer, and would take one name for another."""


def is_login_name(text: str) -> bool:
    """Whether a text can be the name of a database or of a user: printable, 1 to 63 bytes, without space at its ends."""
    return text.isprintable() and text == text.strip() and 0 < len(text.encode()) <= MAX_BYTES
