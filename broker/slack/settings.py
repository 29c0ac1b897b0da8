"""Settings of the bot: read once from its own YAML file and the environment, then frozen; secrets are named, not held."""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker.domain.secret import Secret
from broker.domain.urls import parse_url
from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from broker.private_file import read_private

PREFIX = "BROKER_SLACK_"
DEFAULT_SETTINGS = Path("slack.yaml")
"""Used where neither ``--settings`` nor ``BROKER_SLACK_SETTINGS`` names a file."""
OTHERS = "*"
"""In ``channels``: every workspace that isn't named."""

_MOST_SECRET = 4096
_SOURCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/[^\0]+")
_SECRET = re.compile(rb"[\x21-\x7e]{8,4096}")
_LISTEN = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}")


def _source(text: str) -> str:
    if text and not _SOURCE.fullmatch(text):
        # What was written isn't repeated: somebody may have put the secret itself here.
        raise ValueError("must be env:NAME (a variable of the bot's environment) or file:/ABSOLUTE/PATH")
    return text


def _api_url(text: str) -> str:
    parse_url(text)
    return text if text.endswith("/") else f"{text}/"


def _listen(text: str) -> str:
    if not _LISTEN.fullmatch(text) or int(text.rpartition(":")[2]) > 65535:
        raise ValueError("must be host:port, such as 127.0.0.1:3000")
    return text


class Mode(enum.StrEnum):
    """How Slack reaches the bot."""

    HTTP = "http"
    """Slack posts to an address of the bot's, and signs what it posts."""
    SOCKET = "socket"
    """The bot opens a connection to Slack; no address of its own is needed."""


class SlackSettings(BaseSettings):
    """All settings of the bot; the environment (``BROKER_SLACK_...``) wins over the file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    mode: Mode = Mode.SOCKET
    """``http`` or ``socket``."""
    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:3000"
    """In mode ``http``: the address to listen on; a proxy with TLS stands before it. Port 0 takes a free one."""
    bot_token: Annotated[str, AfterValidator(_source), Field(min_length=1)]
    """Where the token ``xoxb-...`` comes from: ``env:NAME`` or ``file:/absolute/path``."""
    app_token: Annotated[str, AfterValidator(_source)] = ""
    """In mode ``socket``: where the token ``xapp-...`` comes from."""
    signing_secret: Annotated[str, AfterValidator(_source)] = ""
    """In mode ``http``: where the app's signing secret comes from."""
    api_url: Annotated[str, AfterValidator(_api_url)] = "https://slack.com/api/"
    """Slack's Web API: ``https``, or ``http`` on loopback."""
    team: Annotated[str, Field(pattern=r"^[TE][A-Z0-9]{2,31}$")]
    """Id of the Slack team that the bot is installed in; a token of another one is refused at the start."""
    channels: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^(\*|-|[a-z][a-z0-9-]{0,62})$")],
            Annotated[str, Field(pattern=r"^[CG][A-Z0-9]{2,31}$")],
        ],
        Field(min_length=1),
    ]
    """Workspace of the broker -> id of the channel for its approvals; ``-`` is what belongs to no workspace, ``*`` the rest."""
    broker: Annotated[str, Field(min_length=1)]
    """The broker's ``host:port``."""
    identity: Path
    """Folder with the bot's ``cert.pem`` and ``key.pem``."""
    ca: Path
    """Certificate of the CA that vouches for the broker."""
    key: Path
    """File of the bot's own signing key, made by ``broker keys new``."""
    key_passphrase: Annotated[str, AfterValidator(_source), Field(min_length=1)]
    """Where the passphrase of that file comes from."""
    state: Path = Path("slack.db")
    """File in which the bot remembers which message belongs to which approval."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.mode is Mode.HTTP and not self.signing_secret:
            raise ValueError("signing_secret is required in mode http: without it anybody could post votes")
        if self.mode is Mode.SOCKET and not self.app_token:
            raise ValueError("app_token is required in mode socket")
        return self

    def channel(self, workspace: str) -> str:
        """Id of the channel for a workspace's approvals; empty where none is named."""
        return self.channels.get(workspace) or self.channels.get(OTHERS, "")


@dataclass(frozen=True, slots=True)
class SlackSecrets:
    """The values of the secrets; those that the mode doesn't need are ``None``."""

    bot_token: Secret
    app_token: Secret | None
    signing_secret: Secret | None


def load_settings(path: Path) -> SlackSettings:
    """Reads the bot's file under the environment; paths in it are taken from its folder. An absent file is an empty one.

    Raises:
        InvalidArgumentError: the file can't be read, isn't YAML, or a key or value is wrong (``SETTINGS_INVALID``).
    """
    values: object = {}
    try:
        if path.exists():
            values = yaml.safe_load(path.read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise _refuse(str(path), f"can't be read as YAML: {type(error).__name__}") from error
    if not isinstance(values, dict):
        raise _refuse(str(path), "must be a mapping of settings")
    chosen = {
        key: value
        for key, value in values.items()
        if not (isinstance(key, str) and f"{PREFIX}{key.upper()}" in os.environ)
    }
    try:
        settings = SlackSettings(**chosen)
    except ValidationError as error:
        violations = tuple(
            FieldViolation(
                ".".join(str(part) for part in item["loc"]) or "mode", item["msg"].removeprefix("Value error, ")
            )
            for item in error.errors(include_input=False, include_url=False)
        )
        raise _refuse(violations[0].field, violations[0].description, violations) from None
    base = path.parent
    return settings.model_copy(
        update={name: base / getattr(settings, name) for name in ("identity", "ca", "key", "state")}
    )


def read_secrets(settings: SlackSettings) -> SlackSecrets:
    """Reads the secrets that the mode needs.

    Raises:
        FailedPreconditionError: one is missing (``SECRET_MISSING``), can't be one (``SECRET_UNFIT``), or its file is open
            to others (``KEY_EXPOSED``).
    """
    http = settings.mode is Mode.HTTP
    return SlackSecrets(
        bot_token=_read("bot_token", settings.bot_token, b"xoxb-"),
        app_token=None if http else _read("app_token", settings.app_token, b"xapp-"),
        signing_secret=_read("signing_secret", settings.signing_secret, b"") if http else None,
    )


def _read(name: str, source: str, beginning: bytes) -> Secret:
    kind, _, rest = source.partition(":")
    if kind == "env":
        text = os.environ.get(rest)
        if text is None:
            raise _missing(name, f"the environment variable {rest} isn't set")
        value = os.fsencode(text)
    else:
        try:
            # A link is taken, as secrets that are mounted into a container are links.
            value = read_private(
                Path(rest), what=f"file of {name}", most_bytes=_MOST_SECRET + 2, missing="", follow_links=True
            )
        except FailedPreconditionError as error:
            if error.reason != "KEY_MISSING":
                raise
            raise _missing(name, f"there is no file {rest}") from error
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not _SECRET.fullmatch(value) or not value.startswith(beginning):
        raise FailedPreconditionError(
            f"{name} can't be used: what {kind}:{rest} holds is none",
            reason="SECRET_UNFIT",
            hint=f"It begins with {beginning.decode()} and is one word; docs/slack.md says where Slack shows it."
            if beginning
            else "It is one word; docs/slack.md says where Slack shows it.",
        )
    return Secret(value)


def _missing(name: str, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{name} is missing: {why}",
        reason="SECRET_MISSING",
        hint=f"Set it, or change the setting {name}; docs/slack.md says where Slack shows it.",
    )


def _refuse(field: str, why: str, violations: tuple[FieldViolation, ...] = ()) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"Slack setting {field}: {why}",
        reason="SETTINGS_INVALID",
        hint="docs/slack.md shows a whole file.",
        violations=violations,
    )
