"""Settings: read once from the state directory's ``settings.yaml`` and the environment, then frozen."""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker.domain.urls import parse_url
from broker.errors import FieldViolation, InvalidArgumentError
from broker.tlog.note import COSIGNATURE, VerifierKey

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
        self.checkpoint_key = root / "keys" / "checkpoint.key"
        self.next_checkpoint_key = root / "keys" / "checkpoint.key.next"
        """The key that a rotation brings in, until it is in force."""
        self.checkpoint_passphrase = root / "keys" / "checkpoint.passphrase"
        self.checkpoints = root / "checkpoints"
        """Signed checkpoints, unless the setting ``checkpoint_dir`` puts them elsewhere."""
        self.identities = root / "identities"
        """``identities/<kind>/<name>/{cert.pem,key.pem}`` for identities whose key the broker made."""
        self.policy = root / "policy"
        """``policy.csv``: copied from the shipped default by ``broker init``."""
        self.tool_specs = root / "tool_specs"
        """The operator's own tools, beside the shipped ones; may be absent."""
        self.workflows = root / "workflows"
        """The operator's workflows; may be absent."""
        self.workspaces = root / "workspaces"
        """What workspaces' trees consist of, unless the setting ``workspaces_dir`` puts it elsewhere."""
        self.workspace_folders = root / "workspace_folders"
        """Of each directory that is a workspace's tree: what is remembered of it, and the journal of an effect on it."""
        self.replays = root / "replays"
        """Scratch folders of replays that are at work, or were killed; see ``broker replay``."""
        self.casebook = root / "casebook.db"
        """What ``broker ask`` and ``broker replay`` have filed of the ledger; can be made anew at any time."""
        self.lock = root / "serve.lock"
        self.socket_info = root / "serve.json"
        """Address, process id and boot id of the running broker."""


_BOUND = re.compile(r"(?:\[[0-9a-f:]+\]|[a-z0-9.-]{1,253}):([1-9][0-9]{0,4})")
_SOURCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/[^\0]+")
_MAX_PORT = 65535


def _source(text: str) -> str:
    if not _SOURCE.fullmatch(text):
        raise ValueError("must be env:NAME (a variable of the broker's environment) or file:/ABSOLUTE/PATH")
    return text


def _database(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme != "postgresql" or not parts.path.strip("/")):
        raise ValueError("must be postgresql://USER@HOST:PORT/NAME, or empty for the file in the state directory")
    given = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.password is not None or given & {"password", "passfile", "sslpassword"}:
        raise ValueError("must hold no password, which would be seen wherever the address is; use database_password")
    # What the driver itself makes of the address is looked at when it is used; this only says the same sooner.
    if given & {"hostaddr", "service", "servicefile"}:
        raise ValueError("must name the server by its host alone, not by hostaddr or a service")
    hosts = [parts.netloc, *(value for name, value in parse_qsl(parts.query) if name in {"host", "port"})]
    if any("," in unquote(item) for item in hosts):
        raise ValueError("must name one server, not several")
    return text


def _source_or_none(text: str) -> str:
    return _source(text) if text else text


def _bound_host(text: str) -> str:
    found = _BOUND.fullmatch(text)
    if found is None or int(found[1]) > _MAX_PORT:
        raise ValueError(f"{text!r} must be host:port as specifications name it, such as api.example.com:443")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} must be a network such as 10.1.0.0/16 or fd00::/8: {error}") from error


def _runtime(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9._-]{0,62}", text):
        raise ValueError(f"{text!r} must be a container runtime by the engine's name for it, such as runsc")
    return text


def _loopback(text: str) -> str:
    if not text:
        return text
    host, colon, port = text.rpartition(":")
    try:
        plain = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        fit = bool(colon) and (":" in plain) == (plain != host) and ipaddress.ip_address(plain).is_loopback
        fit = fit and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT
    except ValueError:
        fit = False
    if not fit:
        raise ValueError(
            "must be a loopback address with a port, such as 127.0.0.1:9464: anybody who reaches it may read"
        )
    return text


def _absolute(text: str) -> str:
    if text and not Path(text).is_absolute():
        raise ValueError("must be the absolute path of a PEM file")
    return text


def _folder(text: str) -> str:
    if text and not Path(text).is_absolute():
        raise ValueError("must be the absolute path of a folder")
    return text


def _directory(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or str(path) != text or path == path.parent:
        raise ValueError("must be the absolute path of a directory, such as /srv/shop, without `..` and not `/` itself")
    return text


def _address(text: str) -> str:
    parse_url(text)
    return text


def _witness_key(text: str) -> str:
    key = VerifierKey.parse(text)
    if key.algorithm != COSIGNATURE:
        raise ValueError(f"{key.name} is no witness: its key is not of type 0x04")
    return text


class WitnessSetting(BaseModel):
    """Who checks that the ledger only grows, and cosigns its checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_address)]
    """Its submission prefix: ``/add-checkpoint`` is added."""
    key: Annotated[str, AfterValidator(_witness_key)]
    """Its ``vkey``, of type 0x04."""


class WebhookSetting(BaseModel):
    """Who is told of approvals, and the secret that it knows the broker by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_address)]
    """``https``, or ``http`` on loopback."""
    secret: Annotated[str, AfterValidator(_source)]
    """``env:NAME`` or ``file:/absolute/path``."""


class SecretSetting(BaseModel):
    """Where a secret comes from, and where it may go; its value is read when it is used and stands in no setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, AfterValidator(_source)]
    """``env:NAME`` or ``file:/absolute/path``."""
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_bound_host)], ...], Field(min_length=1, max_length=256)]
    """``host:port`` of each host that it may be sent to."""


class Settings(BaseSettings):
    """All settings, each with a safe default; the environment (``BROKER_...``) wins over the file."""

    model_config = SettingsConfigDict(env_prefix="BROKER_", frozen=True, extra="forbid")

    listen: str = "127.0.0.1:7443"
    """Address of the mutual-TLS listener; port 0 takes a free one."""
    unsafe_plaintext_listen: str = ""
    """A second listener without TLS or authentication, for debugging: loopback only, off by default."""
    unsafe_plaintext_agent: str = ""
    """Name of the agent that the plaintext listener's callers are."""
    unsafe_chat_only_quorum: bool = False
    """Lets ``tiers.yaml`` ask for no signed vote at Tier 4. The risk: no approver's own key stands behind an action, so
    whoever controls the chat or its bot can do anything that Tier 4 can do."""
    unsafe_slack_approves_tier4: bool = False
    """Lets ``tiers.yaml`` name ``slack`` among the channels of Tier 4. The risk: such a vote is the bot's word, so whoever
    controls the chat or its bot has one of the two votes."""
    unsafe_import_over_tree: bool = False
    """Lets an import replace a tree once the two-person rule is in force. The risk: whoever may import changes all files of
    a workspace alone, where a call that changed one of them would need two people."""
    engine: str = ""
    """Address of the container engine, such as ``unix:///run/docker.sock``; empty asks the environment."""
    database: Annotated[str, AfterValidator(_database)] = ""
    """``postgresql://user@host:port/name``; empty is the SQLite file ``broker.db`` in the state directory."""
    database_password: Annotated[str, AfterValidator(_source_or_none)] = ""
    """Where the password for ``database`` comes from; empty for none."""
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
    workspaces_dir: Annotated[str, AfterValidator(_folder)] = ""
    """Folder of what the trees of workspaces consist of; empty is ``workspaces`` in the state directory."""
    workspace_folders: dict[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")], Annotated[str, AfterValidator(_directory)]
    ] = {}
    """Workspace -> a directory of this host that is its tree, such as ``{shop: /srv/shop}``. The risk: calls change what is
    there, and whoever else may write there changes files that nobody agreed to."""
    workspace_max_bytes: Annotated[int, Field(ge=0, le=2**53 - 1)] = 4 * 2**30
    """Bytes of all files of one tree that an import may bring, or that a bound directory may hold."""
    workspace_max_files: Annotated[int, Field(ge=0, le=1_000_000)] = 200_000
    """Files and links of one tree that an import may bring, or that a bound directory may hold."""
    identity_ttl_days: Annotated[int, Field(ge=1, le=825)] = 90
    """How long issued certificates are valid."""
    pool_floor: Annotated[int, Field(ge=0, le=256)] = 2
    """Containers that wait, made beforehand, for each profile that is in use."""
    pool_ceiling: Annotated[int, Field(ge=0, le=256)] = 10
    """Containers that wait at the most, of all profiles together; 0 makes none beforehand."""
    pool_idle_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """How long after its last call a profile's containers are still kept ready."""
    pool_max_age_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0
    """How long one container waits before a fresh one takes its place."""
    pool_prewarm: Annotated[tuple[str, ...], Field(max_length=256)] = ()
    """Names of tools whose containers are made ready at the start, before anybody has called them."""
    runtime_by_tier: dict[Annotated[int, Field(ge=0, le=4)], Annotated[str, AfterValidator(_runtime)]] = {}
    """Tier -> container runtime of its tools whose specification names none, such as ``{2: runsc}``."""
    egress_networks: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], Field(max_length=256)] = ()
    """Private or local networks whose addresses tools may reach, if their specification lists the host."""
    egress_trust: Annotated[str, AfterValidator(_absolute)] = ""
    """PEM file with the authorities that hosts are trusted by; empty trusts those of the machine."""
    checkpoint_passphrase: Annotated[str, AfterValidator(_source_or_none)] = ""
    """Where the passphrase of the checkpoint key comes from; empty is the file that ``broker init`` made."""
    secrets: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")], SecretSetting] = {}
    """Name -> where a secret comes from and which hosts it may go to."""
    metrics_listen: Annotated[str, AfterValidator(_loopback)] = ""
    """Loopback address of the Prometheus endpoint, such as ``127.0.0.1:9464``; off by default."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.1, le=86400, allow_inf_nan=False)] = 10.0
    """How often the ledger's tree is signed, if it has grown."""
    checkpoint_dir: Annotated[str, AfterValidator(_folder)] = ""
    """Folder of the signed checkpoints; empty is ``checkpoints`` in the state directory."""
    checkpoint_publish_dir: Annotated[str, AfterValidator(_folder)] = ""
    """Another folder that checkpoints are copied to, such as a mounted share of an outside holder."""
    checkpoint_webhooks: Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], Field(max_length=16)] = ()
    """Addresses that checkpoints are posted to; ``https``, or ``http`` on loopback."""
    approval_webhooks: Annotated[tuple[WebhookSetting, ...], Field(max_length=16)] = ()
    """Who is told when an approval is asked for, voted on or ended; signed, and without content."""
    witnesses: Annotated[tuple[WitnessSetting, ...], Field(max_length=16)] = ()
    """Witnesses that cosign checkpoints."""

    @property
    def secret_hosts(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each secret -> the hosts that it is bound to, ``host:port``."""
        return {name: secret.hosts for name, secret in self.secrets.items()}

    @field_validator("checkpoint_publish_dir")
    @classmethod
    def _apart(cls, folder: str, info: ValidationInfo) -> str:
        if folder and folder == info.data.get("checkpoint_dir"):
            raise ValueError("must be another folder than checkpoint_dir: what is published is a copy, kept by others")
        return folder

    @field_validator("workspace_folders")
    @classmethod
    def _side_by_side(cls, folders: dict[str, str]) -> dict[str, str]:
        ordered = sorted((PurePosixPath(path).parts, name) for name, path in folders.items())
        for (outer, first), (inner, second) in itertools.pairwise(ordered):
            if inner[: len(outer)] == outer:
                raise ValueError(f"binds {first} and {second} to directories of which one holds the other, or the same")
        return folders

    @field_validator("witnesses")
    @classmethod
    def _each_once(cls, witnesses: tuple[WitnessSetting, ...]) -> tuple[WitnessSetting, ...]:
        if len({witness.key for witness in witnesses}) < len(witnesses):
            raise ValueError("names one witness twice: a second cosignature by one key says nothing more")
        return witnesses

    @model_validator(mode="after")
    def _pool_fits(self) -> Self:
        if 0 < self.pool_ceiling < self.pool_floor:
            raise ValueError(
                f"pool_floor ({self.pool_floor}) is above pool_ceiling ({self.pool_ceiling}); raise the one or lower the other"
            )
        return self


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
            FieldViolation(
                ".".join(str(part) for part in item["loc"] if part != "[key]") or "pool_floor",
                item["msg"].removeprefix("Value error, "),
            )
            for item in error.errors()
        )
        first = violations[0]
        raise InvalidArgumentError(
            f"setting {first.field}: {first.description}", reason="SETTINGS_INVALID", violations=violations
        ) from error
