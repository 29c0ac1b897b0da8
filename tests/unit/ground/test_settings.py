"""Settings about containers, hosts and secrets: what they take, and what they say to what they don't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.errors import InvalidArgumentError
from broker.settings import SecretSetting, Settings, load_settings

SECRET: dict[str, Any] = {"source": "env:API_TOKEN", "hosts": ["api.example.com:443"]}


def load(folder: Path, values: dict[str, Any]) -> Settings:
    (folder / "settings.yaml").write_text(yaml.safe_dump(values), "utf-8")
    return load_settings(folder)


def test_all_that_can_be_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        {
            "pool_floor": 0,
            "pool_ceiling": 256,
            "pool_idle_s": 0.5,
            "pool_max_age_s": 60,
            "pool_prewarm": ["python.run"],
            "runtime_by_tier": {2: "runsc", 4: "kata-fc"},
            "egress_networks": ["10.1.0.0/16", "fd00::/8", "192.168.7.7"],
            "egress_trust": "/etc/broker/ca.pem",
            "secrets": {"api-token": SECRET, "other": {"source": "file:/run/x", "hosts": ["[2001:db8::1]:8443"]}},
            "metrics_listen": "[::1]:9464",
        },
    )
    assert settings.pool_prewarm == ("python.run",)
    assert settings.runtime_by_tier == {2: "runsc", 4: "kata-fc"}
    assert settings.egress_networks == ("10.1.0.0/16", "fd00::/8", "192.168.7.7/32")
    assert settings.secrets["api-token"] == SecretSetting(source="env:API_TOKEN", hosts=("api.example.com:443",))
    assert settings.secret_hosts == {"api-token": ("api.example.com:443",), "other": ("[2001:db8::1]:8443",)}


def test_no_risk_is_taken_without_a_word(tmp_path: Path) -> None:
    settings = load(tmp_path, {})
    assert (settings.unsafe_chat_only_quorum, settings.unsafe_slack_approves_tier4) == (False, False)
    assert settings.unsafe_import_over_tree is False
    settings = load(tmp_path, {"unsafe_chat_only_quorum": True})
    assert (settings.unsafe_chat_only_quorum, settings.unsafe_slack_approves_tier4) == (True, False)


def test_directories_that_only_begin_alike_are_apart(tmp_path: Path) -> None:
    folders = {"a": "/srv/shop", "b": "/srv/shop-2", "c": "/srv/shop.old"}
    assert load(tmp_path, {"workspace_folders": folders}).workspace_folders == folders


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_POOL_PREWARM", '["shell.run"]')
    monkeypatch.setenv("BROKER_RUNTIME_BY_TIER", '{"3": "runsc"}')
    monkeypatch.setenv("BROKER_SECRETS", '{"a": {"source": "env:A", "hosts": ["a.example:443"]}}')
    monkeypatch.setenv("BROKER_METRICS_LISTEN", "127.0.0.1:0")
    settings = load(tmp_path, {"pool_prewarm": ["python.run"], "runtime_by_tier": {2: "runc"}, "secrets": {}})
    assert settings.pool_prewarm == ("shell.run",)
    assert settings.runtime_by_tier == {3: "runsc"}
    assert list(settings.secrets) == ["a"]
    assert settings.metrics_listen == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"pool_floor": -1}, "pool_floor", "greater than or equal to 0"),
        ({"pool_ceiling": 257}, "pool_ceiling", "less than or equal to 256"),
        ({"pool_floor": 3, "pool_ceiling": 2}, "pool_floor", "raise the one or lower the other"),
        ({"pool_idle_s": 0}, "pool_idle_s", "greater than 0"),
        ({"pool_max_age_s": float("inf")}, "pool_max_age_s", "finite"),
        ({"pool_prewarm": "python.run"}, "pool_prewarm", "tuple"),
        ({"runtime_by_tier": {5: "runsc"}}, "runtime_by_tier.5", "less than or equal to 4"),
        ({"runtime_by_tier": {2: "../runsc"}}, "runtime_by_tier.2", "container runtime"),
        ({"egress_networks": ["10.1.0.1/16"]}, "egress_networks.0", "has host bits set"),
        ({"egress_networks": ["intranet"]}, "egress_networks.0", "must be a network such as"),
        ({"egress_trust": "ca.pem"}, "egress_trust", "absolute path"),
        ({"secrets": {"Api": SECRET}}, "secrets.Api", "match pattern"),
        ({"secrets": {"a": {**SECRET, "source": "s3cr3t"}}}, "secrets.a.source", "must be env:NAME"),
        ({"secrets": {"a": {**SECRET, "source": "file:relative"}}}, "secrets.a.source", "file:/ABSOLUTE/PATH"),
        ({"secrets": {"a": {**SECRET, "hosts": []}}}, "secrets.a.hosts", "at least 1"),
        ({"secrets": {"a": {**SECRET, "hosts": ["api.example.com"]}}}, "secrets.a.hosts.0", "must be host:port"),
        ({"secrets": {"a": {**SECRET, "hosts": ["*.example.com:443"]}}}, "secrets.a.hosts.0", "must be host:port"),
        ({"secrets": {"a": {**SECRET, "hosts": ["a.example:65536"]}}}, "secrets.a.hosts.0", "must be host:port"),
        ({"secrets": {"a": {**SECRET, "value": "x"}}}, "secrets.a.value", "Extra inputs"),
        ({"workspace_folders": {"Shop": "/srv/shop"}}, "workspace_folders.Shop", "match pattern"),
        ({"workspace_folders": {"shop": "srv/shop"}}, "workspace_folders.shop", "absolute path of a directory"),
        ({"workspace_folders": {"shop": "/srv/../etc"}}, "workspace_folders.shop", "without `..`"),
        ({"workspace_folders": {"shop": "/srv/shop/"}}, "workspace_folders.shop", "absolute path of a directory"),
        ({"workspace_folders": {"shop": "/"}}, "workspace_folders.shop", "not `/` itself"),
        ({"workspace_folders": {"a": "/srv/shop", "b": "/srv/shop"}}, "workspace_folders", "binds a and b"),
        ({"workspace_folders": {"a": "/srv/shop/x", "b": "/srv/shop"}}, "workspace_folders", "binds b and a"),
        ({"metrics_listen": "0.0.0.0:9464"}, "metrics_listen", "loopback address"),
        ({"metrics_listen": "127.0.0.1"}, "metrics_listen", "loopback address"),
        ({"metrics_listen": "127.0.0.1:65536"}, "metrics_listen", "loopback address"),
        ({"metrics_listen": "::1:9464"}, "metrics_listen", "loopback address"),
        ({"metrics_listen": "localhost:9464"}, "metrics_listen", "loopback address"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, values: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        load(tmp_path, values)
    assert caught.value.reason == "SETTINGS_INVALID"
    assert caught.value.violations[0].field == field
    assert says in caught.value.violations[0].description


def test_a_pool_that_is_off_needs_no_other_floor(tmp_path: Path) -> None:
    assert load(tmp_path, {"pool_ceiling": 0}).pool_floor == 2
