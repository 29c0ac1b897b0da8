"""Settings about checkpoints: where they go, and who may get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.domain.urls import Url, parse_url
from broker.errors import InvalidArgumentError
from broker.settings import Settings, WitnessSetting, load_settings
from broker.tlog.note import COSIGNATURE, ED25519, VerifierKey

WITNESS = {"url": "https://witness.example/w", "key": str(VerifierKey("witness.example", COSIGNATURE, bytes(32)))}
LOG_KEY = str(VerifierKey("origin", ED25519, bytes(32)))


def load(folder: Path, values: dict[str, Any]) -> Settings:
    (folder / "settings.yaml").write_text(yaml.safe_dump(values), "utf-8")
    return load_settings(folder)


def test_the_defaults_keep_checkpoints_beside_the_ledger_and_tell_nobody(tmp_path: Path) -> None:
    settings = load(tmp_path, {})
    assert settings.checkpoint_interval_s == 10
    assert (settings.checkpoint_dir, settings.checkpoint_publish_dir) == ("", "")
    assert (settings.checkpoint_webhooks, settings.witnesses) == ((), ())


def test_all_that_can_be_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        {
            "checkpoint_interval_s": 0.5,
            "checkpoint_dir": "/mnt/a",
            "checkpoint_publish_dir": "/mnt/b",
            "checkpoint_webhooks": ["https://holder.example/x?token=1", "http://127.0.0.1:8080", "http://[::1]:8080/"],
            "witnesses": [WITNESS],
        },
    )
    assert settings.checkpoint_webhooks[0] == "https://holder.example/x?token=1"
    assert settings.witnesses == (WitnessSetting(**WITNESS),)


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"checkpoint_interval_s": 0}, "checkpoint_interval_s", "greater than or equal to 0.1"),
        ({"checkpoint_interval_s": float("inf")}, "checkpoint_interval_s", "finite"),
        ({"checkpoint_dir": "here"}, "checkpoint_dir", "absolute path of a folder"),
        ({"checkpoint_publish_dir": "here"}, "checkpoint_publish_dir", "absolute path of a folder"),
        ({"checkpoint_dir": "/a", "checkpoint_publish_dir": "/a"}, "checkpoint_publish_dir", "another folder"),
        ({"checkpoint_webhooks": "https://a.example"}, "checkpoint_webhooks", "tuple"),
        ({"checkpoint_webhooks": ["http://a.example"]}, "checkpoint_webhooks.0", "must be https"),
        ({"checkpoint_webhooks": ["ftp://a.example"]}, "checkpoint_webhooks.0", "such as https://"),
        ({"witnesses": [{**WITNESS, "url": "witness.example"}]}, "witnesses.0.url", "such as https://"),
        ({"witnesses": [{**WITNESS, "key": "witness.example"}]}, "witnesses.0.key", "not name+id+key"),
        ({"witnesses": [{**WITNESS, "key": LOG_KEY}]}, "witnesses.0.key", "not of type 0x04"),
        ({"witnesses": [{**WITNESS, "key": "x" + WITNESS["key"]}]}, "witnesses.0.key", "not that of the key"),
        ({"witnesses": [{"url": WITNESS["url"]}]}, "witnesses.0.key", "required"),
        ({"witnesses": [{**WITNESS, "name": "x"}]}, "witnesses.0.name", "Extra inputs"),
        ({"witnesses": [WITNESS, {**WITNESS, "url": "https://b.example"}]}, "witnesses", "one witness twice"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, values: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        load(tmp_path, values)
    assert caught.value.violations[0].field == field
    assert says in caught.value.violations[0].description


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("https://a.example", Url("a.example", 443, tls=True, target="/"), "a.example:443"),
        ("https://a.example:8443/b/c?d=e&f", Url("a.example", 8443, tls=True, target="/b/c?d=e&f"), "a.example:8443"),
        ("https://[2001:db8::1]/", Url("2001:db8::1", 443, tls=True, target="/"), "[2001:db8::1]:443"),
        ("https://192.0.2.1?x", Url("192.0.2.1", 443, tls=True, target="/?x"), "192.0.2.1:443"),
        ("http://127.0.0.2:80", Url("127.0.0.2", 80, tls=False, target="/"), "127.0.0.2:80"),
        ("http://[::1]:8080/a", Url("::1", 8080, tls=False, target="/a"), "[::1]:8080"),
    ],
)
def test_addresses(text: str, url: Url, authority: str) -> None:
    assert parse_url(text) == url
    assert url.authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.example",
        "//a.example",
        "https://",
        "https:///path",
        "file:///etc/passwd",
        "http://a.example",
        "http://localhost:8080",
        "http://127.0.0.1.a.example",
        "http://0.0.0.0:80",
        "https://user@a.example",
        "https://user:pass@a.example",
        "https://a.example@b.example",
        "https://a.example/#b",
        "https://a.example/#",
        "https://a.example:0x50",
        "https://a.example:65536",
        "https://a.example:-1",
        "https://a_b.example",
        "https://-a.example",
        "https://a..example",
        "https://[::1%25lo]/",
        "https://[::1",
        "https://a.example/a b",
        "https://a.example/a\r\nX: y",
        "https://a.example/\u00e4",
        "https://\u00e4.example",
        "https://a.example/" + "a" * 2048,
        " https://a.example",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_url(text)
