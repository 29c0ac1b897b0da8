"""What the commands share by which a person signs: who they are, where their key is, and its passphrase.

A key is ``--key``, else ``NAME.pem`` in ``$XDG_CONFIG_HOME/agent-broker/keys`` (``~/.config`` where that isn't set), where
NAME is that of ``--as``, or of the identity; else the only key there. The passphrase is asked for on the terminal, or comes
from ``--passphrase-file``.
"""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.remote import Remote
from broker.domain.ids import NAME_PATTERN
from broker.domain.secret import Secret
from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from broker.signing import Ed25519Signer, check_passphrase, load_key_file, read_passphrase

AsOption = Annotated[
    str,
    typer.Option(
        "--as", help="Who you are: takes the identity human/NAME, and the key NAME.pem, unless others are given."
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", envvar="BROKER_KEY", help="Your signing key. Default: NAME.pem in your keys folder."),
]
PassphraseOption = Annotated[
    str,
    typer.Option(
        "--passphrase-file",
        envvar="BROKER_KEY_PASSPHRASE_FILE",
        help="Where the key's passphrase is, for scripts: a file, or env:NAME. Default: asked on the terminal.",
    ),
]
_WHAT = "signing key"
_HINT = "Give it by --passphrase-file FILE, or --passphrase-file env:NAME."


@dataclass(frozen=True, slots=True)
class Person:
    """Who signs, as the options said it."""

    name: str = ""
    key: Path | None = None
    passphrase: str = ""

    def identity(self, given: str) -> str:
        """The identity to connect as: what was given, or the human of ``--as``.

        Raises:
            InvalidArgumentError: ``--as`` is no name.
        """
        if self.name and NAME_PATTERN.fullmatch(self.name) is None:
            raise _wrong("--as", f"{self.name[:80]!a} is no name of a human")
        return given or (f"human/{self.name}" if self.name else "")

    def key_file(self, remote: Remote) -> Path:
        """Where the key is.

        Raises:
            InvalidArgumentError: nothing says which of several, or there is none.
        """
        if self.key is not None:
            return self.key
        folder = keys_folder()
        name = self.name or remote.identity.rstrip("/").rpartition("/")[2]
        if name and (self.name or (folder / f"{name}.pem").is_file()):
            return folder / f"{name}.pem"
        found = sorted(folder.glob("*.pem"))
        if len(found) == 1:
            return found[0]
        why = f"{folder} has {len(found)} keys" if found else f"{folder} has no key"
        raise InvalidArgumentError(
            f"which key is yours? {why}",
            reason="KEY_NOT_GIVEN",
            hint="Give --as NAME or --key FILE; `broker keys new NAME` makes one.",
            violations=(FieldViolation("--key", "is needed"),),
        )

    def signer(self, remote: Remote) -> Ed25519Signer:
        """The key, opened. Asks for its passphrase, three times at the most.

        Raises:
            BrokerError: as ``load_key_file`` and ``read_passphrase``.
        """
        path = self.key_file(remote)
        if self.passphrase:
            return load_key_file(path, read_passphrase(self.passphrase, what=_WHAT, hint=_HINT))
        tries = 3
        while True:
            tries -= 1
            try:
                return load_key_file(path, _ask(f"Passphrase of {path}: "))
            except FailedPreconditionError as error:
                if error.reason not in {"PASSPHRASE_WRONG", "PASSPHRASE_UNFIT"} or not tries:
                    raise
                sys.stderr.write(f"{error.message}\n")


def new_passphrase(source: str) -> Secret:
    """The passphrase of a key that is made: from its source, or asked for twice.

    Raises:
        FailedPreconditionError: there is none, it is unfit, or the two differ (``PASSPHRASES_DIFFER``).
    """
    if source:
        return read_passphrase(source, what=_WHAT, hint=_HINT)
    first = _ask("Passphrase for the new key: ")
    if _ask("The same again: ") != first:
        raise FailedPreconditionError(
            "the two passphrases differ", reason="PASSPHRASES_DIFFER", hint="Nothing was made. Try again."
        )
    return first


def keys_folder() -> Path:
    """Where a person's keys are if nobody says otherwise.

    Raises:
        InvalidArgumentError: the user has no home.
    """
    config = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        base = Path(config) if config.startswith("/") else Path("~/.config").expanduser()
    except RuntimeError as error:
        raise _wrong("--key", "is needed: you have no home folder") from error
    return base / "agent-broker" / "keys"


def _ask(prompt: str) -> Secret:
    if not sys.stdin.isatty():
        raise FailedPreconditionError(
            "the key's passphrase is needed, and there is no terminal to ask for it",
            reason="PASSPHRASE_MISSING",
            hint=_HINT,
        )
    return check_passphrase(getpass.getpass(prompt).encode("utf-8", "surrogateescape"), "use")


def _wrong(option: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{option}: {why}", reason="CONNECTION_OPTIONS_INVALID", violations=(FieldViolation(option, why),)
    )
