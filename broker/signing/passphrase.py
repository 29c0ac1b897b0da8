"""Passphrases of key files: how long one must be, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from broker.domain.secret import Secret
from broker.errors import FailedPreconditionError
from broker.private_file import read_private

LEAST_PASSPHRASE, MOST_PASSPHRASE = 12, 1000
"""Bytes of a passphrase."""


def check_passphrase(value: bytes, where: str) -> Secret:
    """A passphrase that is neither too short nor too long; ``where`` names its place in the error.

    Raises:
        FailedPreconditionError: ``PASSPHRASE_UNFIT``.
    """
    if not LEAST_PASSPHRASE <= len(value) <= MOST_PASSPHRASE:
        raise FailedPreconditionError(
            f"the passphrase in {where} must have {LEAST_PASSPHRASE} to {MOST_PASSPHRASE} bytes",
            reason="PASSPHRASE_UNFIT",
            hint="Take a random one, such as: openssl rand -base64 32",
        )
    return Secret(value)


def read_passphrase(
    source: str | Path, *, what: str, hint: str, environment: Mapping[str, str] | None = None, follow_links: bool = True
) -> Secret:
    """The passphrase from where somebody keeps it.

    Args:
        source: ``env:NAME``, ``file:/path``, or the path itself. A newline at the end of a file doesn't count.
        what: the key that it opens, for errors, such as ``checkpoint key``.
        hint: what to do where there is none.
        environment: the process's own unless given.
        follow_links: a file may be a link, as secrets that are mounted into a container are.

    Raises:
        FailedPreconditionError: there is none (``PASSPHRASE_MISSING``), its file is open to others (``KEY_EXPOSED``) or
            can't be read (``KEY_UNREADABLE``), or it is too short or too long (``PASSPHRASE_UNFIT``).
    """
    kind, colon, rest = source.partition(":") if isinstance(source, str) else ("", "", "")
    if colon and kind == "env":
        value = (os.environ if environment is None else environment).get(rest)
        if value is None:
            raise FailedPreconditionError(
                f"the passphrase of the {what} is missing: the environment variable {rest} isn't set",
                reason="PASSPHRASE_MISSING",
                hint=f"Set {rest}. {hint}",
            )
        return check_passphrase(os.fsencode(value), f"the environment variable {rest}")
    path = Path(rest if colon and kind == "file" else source)
    try:
        data = read_private(
            path,
            what=f"passphrase of the {what}",
            most_bytes=MOST_PASSPHRASE + 2,
            missing="",
            follow_links=follow_links,
        )
    except FailedPreconditionError as error:
        if error.reason != "KEY_MISSING":
            raise
        raise FailedPreconditionError(error.message, reason="PASSPHRASE_MISSING", hint=hint) from error
    return check_passphrase(data.removesuffix(b"\n").removesuffix(b"\r"), str(path))
