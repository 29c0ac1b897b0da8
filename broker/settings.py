"""Settings: read once from the state directory's ``settings.yaml`` and the environment, then frozen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker.errors import FieldViolation, InvalidArgumentError

DEFAULT_STATE = Path(".state/broker")
"""Used where neither ``--state`` nor ``BROKER_STATE`` names a directory."""


class StatePaths:
    """Where things lie in a state directory (mode 0700, secrets 0600)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "settings.yaml"
        self.database = root / "broker.db"
        self.ca_certificate = root / "ca" / "ca.pem"
        self.ca_key = root / "ca" / "ca.key"
        self.server_certificate = root / "server" / "server.pem"
        self.server_key = root / "server" / "server.key"
        self.vault_key = root / "keys" / "vault.key"
        self.identities = root / "identities"
        """``identities/<kind>/<name>/{cert.pem,key.pem}`` for identities whose key the broker made."""
        self.policy = root / "policy"
        """``policy.csv``: copied from the shipped default by ``broker init``."""
        self.tool_specs = root / "tool_specs"
        """The operator's own tools, beside the shipped ones; may be absent."""
        self.lock = root / "serve.lock"
        self.socket_info = root / "serve.json"
        """Address, process id and boot id of the running broker."""


class Settings(BaseSettings):
    """All settings, each with a safe default; the environment (``BROKER_...``) wins over the file."""

    model_config = SettingsConfigDict(env_prefix="BROKER_", frozen=True, extra="forbid")

    listen: str = "127.0.0.1:7443"
    """Address of the mutual-TLS listener; port 0 takes a free one."""
    unsafe_plaintext_listen: str = ""
    """A second listener without TLS or authentication, for debugging: loopback only, off by default."""
    unsafe_plaintext_agent: str = ""
    """Name of the agent that the plaintext listener's callers are."""
    engine: str = ""
    """Address of the container engine, such as ``unix:///run/docker.sock``; empty asks the environment."""
    max_running: Annotated[int, Field(ge=1, le=1024)] = 4
    """Calls that run at one time."""
    max_queued: Annotated[int, Field(ge=1, le=65536)] = 256
    """Calls that wait at one time; more are refused with RESOURCE_EXHAUSTED."""
    max_active_per_agent: Annotated[int, Field(ge=1, le=65536)] = 128
    """Calls of one agent that run or wait."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=64 * 2**20)] = 4 * 2**20
    """Longest request message."""
    max_arguments_bytes: Annotated[int, Field(ge=2, le=16 * 2**20)] = 1 * 2**20
    """Longest arguments of a call."""
    storage_quota_bytes: Annotated[int, Field(ge=0)] = 4 * 2**30
    """Bytes of files, requests, events and output that are kept of one caller at one time."""
    blob_max_bytes: Annotated[int, Field(ge=0)] = 64 * 2**20
    """Bytes of one blob."""
    blob_ttl_s: Annotated[int, Field(ge=60)] = 24 * 3600
    """How long a blob is kept that no call uses."""
    refusal_window_s: Annotated[int, Field(ge=1)] = 60
    """Equal refusals of one agent within it become one counted ledger entry."""
    drain_s: Annotated[float, Field(ge=0)] = 60.0
    """How long running calls may go on after SIGTERM."""
    policy_poll_s: Annotated[float, Field(gt=0)] = 1.0
    """How often the policy file is looked at for changes."""
    workspace_data_classes: dict[str, tuple[str, ...]] = {}
    """Workspace -> classes of data that every call in it touches, such as ``{hr: [personal]}``."""
    identity_ttl_days: Annotated[int, Field(ge=1, le=825)] = 90
    """How long issued certificates are valid."""


def load_settings(state: Path) -> Settings:
    """Reads ``settings.yaml`` of a state directory (absent: defaults) under the environment.

    Raises:
        InvalidArgumentError: the file isn't YAML, or a key or value is wrong; names the field.
    """
    path = StatePaths(state).settings
    values: object = {}
    if path.exists():
        try:
            values = yaml.safe_load(path.read_text("utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidArgumentError(f"{path} is not YAML: {error}", reason="SETTINGS_INVALID") from error
    if not isinstance(values, dict):
        raise InvalidArgumentError(f"{path} must be a mapping of settings", reason="SETTINGS_INVALID")
    chosen = {
        key: value
        for key, value in values.items()
        if not (isinstance(key, str) and f"BROKER_{key.upper()}" in os.environ)
    }
    try:
        return Settings(**chosen)
    except ValidationError as error:
        violations = tuple(
            FieldViolation(".".join(str(part) for part in item["loc"]), item["msg"]) for item in error.errors()
        )
        first = violations[0]
        raise InvalidArgumentError(
            f"setting {first.field}: {first.description}", reason="SETTINGS_INVALID", violations=violations
        ) from error
