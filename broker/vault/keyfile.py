"""The vault's key in a file: 32 random bytes, readable by their owner alone."""

from __future__ import annotations

import secrets
from pathlib import Path

from broker.domain.secret import Secret
from broker.errors import ConflictError, DataLossError
from broker.private_file import make_private_dir, read_private, write_new

KEY_BYTES = 32
"""AES-256."""


def make_key_file(path: Path) -> Secret:
    """Writes a fresh key with mode 0600, durable when this returns, and gives it back.

    Raises:
        ConflictError: there is a file already; a key is never overwritten, since all that it opens would be lost.
    """
    make_private_dir(path.parent)
    key = secrets.token_bytes(KEY_BYTES)
    try:
        write_new(path, key)
    except ConflictError as error:
        raise ConflictError(
            f"{path} is there already; a key is never overwritten",
            reason="KEY_EXISTS",
            hint="Keep it: all encrypted content depends on it.",
        ) from error
    return Secret(key)


def read_key_file(path: Path) -> Secret:
    """Reads the key.

    Raises:
        FailedPreconditionError: there is no such file, it is no regular file, or others than its owner may read it.
        DataLossError: it doesn't hold exactly 32 bytes.
    """
    key = read_private(
        path,
        what="vault key",
        most_bytes=KEY_BYTES,
        missing="Run `broker init` for a new state directory; for an old one, restore the key from its backup.",
    )
    if len(key) != KEY_BYTES:
        raise DataLossError(
            f"the vault key {path} must hold exactly {KEY_BYTES} bytes",
            reason="KEY_DAMAGED",
            hint="Restore it from its backup.",
        )
    return Secret(key)
