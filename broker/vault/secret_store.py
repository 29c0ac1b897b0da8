"""Secrets that the broker adds to requests: each in a file or an environment variable, bound to the hosts it may go to.

    secrets:
      weather-key:
        source: file:/etc/broker/secrets/weather
        hosts: ["api.weather.example:443"]

Values are read at each use, so that a secret is changed by changing its file. They are never logged, and no error has one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from broker.domain.hosts import check_host
from broker.domain.secret import Secret
from broker.errors import (
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)

LEAST_BYTES = 8
"""A shorter secret stands by chance in many an answer, so that it couldn't be looked for there."""
MOST_BYTES = 4096
_VALUE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BINDING = re.compile(r"(?:\[(?P<six>[0-9a-f:]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[1-9][0-9]{0,4})")
_MAX_PORT = 65535
_ENV = "env:"
_FILE = "file:"


class SecretEntry(BaseModel):
    """Where a secret lies, and where it may go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """``env:VARIABLE``, or ``file:/absolute/path``."""
    hosts: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    """Each as ``host:port``: a name in lower case and A-labels, or an address at its shortest, IPv6 in brackets."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kind, _, rest = self.source.partition(":")
        if kind == "env":
            if not _VARIABLE.fullmatch(rest):
                raise ValueError("source names no environment variable after `env:`")
        elif kind != "file" or not Path(rest).is_absolute() or "\x00" in rest:
            raise ValueError("source is `env:VARIABLE` or `file:/absolute/path`")
        for host in self.hosts:
            _binding(host)
        return self

    def bound_to(self, host: str, port: int) -> bool:
        """Whether the secret may go to a host, in its one form, and port."""
        return (host, port) in {_binding(text) for text in self.hosts}


_ENTRIES = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")], SecretEntry])


def parse_secrets(setting: object) -> dict[str, SecretEntry]:
    """Reads the setting ``secrets``: a mapping of names to sources and hosts.

    Raises:
        InvalidArgumentError: a name, key or value is wrong (``SETTINGS_INVALID``); names the field.
    """
    try:
        return _ENTRIES.validate_python(setting)
    except ValidationError as error:
        # What was written isn't repeated: somebody may have put a secret where its source belongs.
        violations = tuple(
            FieldViolation(".".join(("secrets", *(str(part) for part in item["loc"]))), item["msg"])
            for item in error.errors(include_input=False, include_url=False)
        )
        first = violations[0]
        raise InvalidArgumentError(
            f"setting {first.field}: {first.description}", reason="SETTINGS_INVALID", violations=violations
        ) from None


class ConfiguredSecrets:
    """Implements ``broker.sandbox.egress.store.SecretStore``.

    Args:
        entries: by the secret's name.
        environment: the broker's own unless given.
    """

    def __init__(self, entries: Mapping[str, SecretEntry], environment: Mapping[str, str] | None = None) -> None:
        self._entries = dict(entries)
        self._environment = os.environ if environment is None else environment

    def __repr__(self) -> str:
        return f"ConfiguredSecrets({sorted(self._entries)})"

    def give(self, name: str, host: str, port: int) -> Secret:
        """The present value of a secret for a host. Reads a file where it lies in one: call it in a thread.

        Raises:
            NotFoundError: no setting names it, or nothing is at its source (``SECRET_MISSING``).
            PermissionDeniedError: it isn't bound to this host and port (``SECRET_NOT_BOUND``).
            FailedPreconditionError: its file may be read by others (``SECRET_EXPOSED``), can't be read
                (``SECRET_UNREADABLE``), or the value can't be used (``SECRET_UNFIT``).
        """
        entry = self._entries.get(name)
        if entry is None:
            raise NotFoundError(
                f"the settings have no secret {name!r}",
                reason="SECRET_MISSING",
                hint="Name it under `secrets` in settings.yaml, with its source and hosts.",
            )
        if not entry.bound_to(host, port):
            raise PermissionDeniedError(
                f"the secret {name!r} isn't bound to {host}, port {port}",
                reason="SECRET_NOT_BOUND",
                hint="If it shall go there, add `host:port` to its `hosts` in settings.yaml.",
            )
        if entry.source.startswith(_ENV):
            value = self._variable(name, entry.source.removeprefix(_ENV))
        else:
            value = _file(name, Path(entry.source.removeprefix(_FILE)))
        return _checked(name, value)

    def _variable(self, name: str, variable: str) -> bytes:
        value = self._environment.get(variable)
        if value is None:
            raise NotFoundError(
                f"the secret {name!r} has no value: the environment variable {variable} isn't set",
                reason="SECRET_MISSING",
                hint=f"Start the broker with {variable} set.",
            )
        return os.fsencode(value)


def _file(name: str, path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"the secret {name!r} has no value: there is no file {path}",
            reason="SECRET_MISSING",
            hint="Put the secret there, with mode 0600.",
        ) from error
    except OSError as error:
        raise _unreadable(name, path, error.strerror or "it can't be opened") from error
    try:
        _check_status(name, path, os.fstat(descriptor))
        value = os.read(descriptor, MOST_BYTES + 3)
    except OSError as error:
        raise _unreadable(name, path, error.strerror or "it can't be read") from error
    finally:
        os.close(descriptor)
    return value.removesuffix(b"\n").removesuffix(b"\r")


def _check_status(name: str, path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(name, path, "it is no regular file")
    if status.st_mode & 0o077 or status.st_uid not in {os.geteuid(), 0}:
        raise FailedPreconditionError(
            f"others than the broker's user may use the file {path} of the secret {name!r}",
            reason="SECRET_EXPOSED",
            hint=f"Replace the secret if others could have read it; then `chmod 600 {path}`, owned by the broker's user.",
        )


def _unreadable(name: str, path: Path, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the file {path} of the secret {name!r} can't be read: {why}",
        reason="SECRET_UNREADABLE",
        hint="It must be a regular file that the broker's user owns.",
    )


def _checked(name: str, value: bytes) -> Secret:
    if not LEAST_BYTES <= len(value) <= MOST_BYTES:
        raise FailedPreconditionError(
            f"the secret {name!r} must have {LEAST_BYTES} to {MOST_BYTES} bytes",
            reason="SECRET_UNFIT",
            hint="A shorter one can't be found in answers, so the broker doesn't send it.",
        )
    if not _VALUE.fullmatch(value):
        raise FailedPreconditionError(
            f"the secret {name!r} holds something other than printable ASCII, or begins or ends with a space",
            reason="SECRET_UNFIT",
            hint="Only such a value can stand in a header. One newline at the end of the file is taken off.",
        )
    return Secret(value)


def _binding(text: str) -> tuple[str, int]:
    found = _BINDING.fullmatch(text)
    if found is None or int(found["port"]) > _MAX_PORT:
        raise ValueError("an entry of hosts is no `host:port`")
    return check_host(found["six"] or found["host"]), int(found["port"])
