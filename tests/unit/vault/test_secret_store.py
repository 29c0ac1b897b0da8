"""Secrets by name: read at use, bound to hosts, refused where others could have read them, never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.errors import BrokerError, InvalidArgumentError
from broker.vault.secret_store import ConfiguredSecrets, SecretEntry, parse_secrets

HOST, PORT = "api.example.com", 443
VALUE = "tops3cret-value/+"


def entry(source: str, *hosts: str) -> SecretEntry:
    return SecretEntry(source=source, hosts=hosts or (f"{HOST}:{PORT}",))


def in_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> ConfiguredSecrets:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return ConfiguredSecrets({"key": entry(f"file:{path}")})


def in_variable(value: str) -> ConfiguredSecrets:
    return ConfiguredSecrets({"key": entry("env:API_KEY")}, {"API_KEY": value})


def reason(store: ConfiguredSecrets, name: str = "key", host: str = HOST, port: int = PORT) -> str:
    with pytest.raises(BrokerError) as refused:
        store.give(name, host, port)
    assert VALUE not in str(refused.value) + refused.value.hint + repr(refused.value)
    return refused.value.reason


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_file_is_read_without_its_last_newline(tmp_path: Path, end: bytes) -> None:
    assert in_file(tmp_path, VALUE.encode() + end).give("key", HOST, PORT).reveal() == VALUE.encode()


def test_a_variable_is_read() -> None:
    assert in_variable(VALUE).give("key", HOST, PORT).reveal() == VALUE.encode()


def test_a_file_is_read_again_at_each_use(tmp_path: Path) -> None:
    store = in_file(tmp_path, VALUE.encode())
    store.give("key", HOST, PORT)
    (tmp_path / "secret").write_bytes(b"another-value")
    assert store.give("key", HOST, PORT).reveal() == b"another-value"


@pytest.mark.parametrize(
    ("host", "port"),
    [("api.example.com", 8443), ("evil.example.com", 443), ("api.example.com.evil.com", 443), ("", 443)],
)
def test_a_secret_goes_to_its_own_host_and_port_only(host: str, port: int) -> None:
    assert reason(in_variable(VALUE), host=host, port=port) == "SECRET_NOT_BOUND"


def test_a_secret_may_be_bound_to_addresses() -> None:
    store = ConfiguredSecrets({"key": entry("env:K", "127.0.0.1:1", "[2001:db8::1]:2")}, {"K": VALUE})
    assert store.give("key", "127.0.0.1", 1).reveal() == store.give("key", "2001:db8::1", 2).reveal()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    assert reason(in_file(tmp_path, VALUE.encode(), mode)) == "SECRET_EXPOSED"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"seven77", b"a" * 4097, b"two\nlines-of-it", b"nul\x00inside-it", b" leading-space", b"trailing-space ",
     b"tab\tinside-it", b"two-newlines\n\n", "über-geheim".encode(), b"carriage\rreturn"],
)  # fmt: skip
def test_a_value_that_cannot_stand_in_a_header_or_be_found_is_refused(tmp_path: Path, content: bytes) -> None:
    assert reason(in_file(tmp_path, content)) == "SECRET_UNFIT"


def test_what_is_missing_is_said_by_name(tmp_path: Path) -> None:
    store = ConfiguredSecrets({"key": entry("env:NO_SUCH"), "file": entry(f"file:{tmp_path / 'none'}")}, {})
    assert reason(store) == reason(store, "file") == reason(store, "unknown") == "SECRET_MISSING"


def test_a_folder_or_a_pipe_is_no_secret(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    store = ConfiguredSecrets({name: entry(f"file:{tmp_path / name}") for name in ("pipe", "folder")})
    assert reason(store, "pipe") == reason(store, "folder") == "SECRET_UNREADABLE"


def test_neither_store_nor_secret_shows_the_value() -> None:
    store = in_variable(VALUE)
    secret = store.give("key", HOST, PORT)
    assert VALUE not in f"{store!r} {secret!r} {secret} {vars(store)['_entries']!r}"


@pytest.mark.parametrize(
    ("source", "hosts"),
    [
        ("plain-value", ["a.example:443"]),
        ("file:relative/path", ["a.example:443"]),
        ("env:", ["a.example:443"]),
        ("env:WITH SPACE", ["a.example:443"]),
        ("env:A", []),
        ("env:A", ["a.example"]),
        ("env:A", ["a.example:0"]),
        ("env:A", ["a.example:65536"]),
        ("env:A", ["A.example:443"]),
        ("env:A", ["*.example:443"]),
        ("env:A", ["2001:db8::1:443"]),
        ("env:A", ["0x7f.1:443"]),
        ("env:A", ["https://a.example:443"]),
    ],
)
def test_a_wrong_setting_is_refused(source: str, hosts: list[str]) -> None:
    with pytest.raises(ValidationError):
        SecretEntry.model_validate({"source": source, "hosts": hosts})


def test_the_setting_is_read_from_plain_values() -> None:
    entries = parse_secrets({"weather-key": {"source": "env:KEY", "hosts": ["a.example:443"]}})
    assert entries["weather-key"].bound_to("a.example", 443)
    assert parse_secrets({}) == {}


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ([], "secrets"),
        ({"Upper": {"source": "env:K", "hosts": ["a.example:1"]}}, "secrets.Upper"),
        ({"key": VALUE}, "secrets.key"),
        ({"key": {"source": VALUE, "hosts": ["a.example:1"]}}, "secrets.key"),
        ({"key": {"source": "env:K", "hosts": [VALUE]}}, "secrets.key"),
        ({"key": {"source": "env:K", "hosts": ["a.example:1"], "value": VALUE}}, "secrets.key.value"),
    ],
)
def test_a_wrong_setting_names_its_field_and_repeats_nothing(setting: object, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_secrets(setting)
    error = refused.value
    assert error.violations[0].field.startswith(field)
    assert VALUE not in f"{error!r} {error.violations} {error.__cause__!r}"
