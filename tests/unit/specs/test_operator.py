"""What tools need of the operator is there at the start, or the start says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.errors import FailedPreconditionError
from broker.specs.catalogue import Catalogue
from broker.specs.operator import check_operator

RULE: dict[str, Any] = {
    "host": "api.example.com",
    "kind": "https",
    "paths": ["/v1/"],
    "secret": {"name": "api-token", "header": "authorization"},
}
BOUND = {"api-token": ("api.example.com:443",)}
Write = Callable[..., Path]


def load(write: Write, spec: dict[str, Any], **tiers: dict[int, str]) -> Catalogue:
    return Catalogue.load([write(spec).parent], **tiers)


def refused(catalogue: Catalogue, **given: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - arguments of several types
    with pytest.raises(FailedPreconditionError) as caught:
        check_operator(catalogue, **{"secrets": BOUND, "runtimes": {"": True}, **given})
    assert caught.value.reason == "TOOLS_UNSUPPORTED"
    assert caught.value.violations[0].field in str(caught.value)
    return [(item.field, item.description) for item in caught.value.violations]


def test_what_is_there_is_no_fault(good: dict[str, Any], write: Write) -> None:
    catalogue = load(write, {**good, "egress": [RULE]})
    check_operator(catalogue, secrets=BOUND, runtimes={"": True, "runsc": False}, prewarm=["demo.echo"])


def test_a_secret_that_the_settings_lack(good: dict[str, Any], write: Write) -> None:
    [(field, text)] = refused(load(write, {**good, "egress": [RULE]}), secrets={"other": ("api.example.com:443",)})
    assert field == "demo.echo /egress/0/secret"
    assert "add it to `secrets` in settings.yaml" in text


@pytest.mark.parametrize("hosts", [(), ("api.example.com:8443",), ("example.com:443",), ("b.api.example.com:443",)])
def test_a_secret_that_is_bound_to_other_hosts(good: dict[str, Any], write: Write, hosts: tuple[str, ...]) -> None:
    [(field, text)] = refused(load(write, {**good, "egress": [RULE]}), secrets={"api-token": hosts})
    assert field == "demo.echo /egress/0/secret"
    assert "secrets.api-token.hosts" in text


def test_a_password_is_a_secret_like_others(good: dict[str, Any], write: Write) -> None:
    rule = {"host": "db.example.com", "kind": "postgres", "listen": 5432, "database": "shop", "user": "u"}
    catalogue = load(write, {**good, "egress": [{**rule, "secret": {"name": "shop-db"}}]})
    [(field, text)] = refused(catalogue)
    assert field == "demo.echo /egress/0/secret"
    assert "'shop-db': add it to `secrets` in settings.yaml, with its source and 'db.example.com:5432'" in text
    [(_, text)] = refused(catalogue, secrets={"shop-db": ("db.example.com:5433",)})
    assert "secrets.shop-db.hosts" in text
    check_operator(catalogue, secrets={"shop-db": ("db.example.com:5432",)}, runtimes={"": True})


def test_a_secret_bound_to_an_ipv6_address(good: dict[str, Any], write: Write) -> None:
    catalogue = load(write, {**good, "egress": [{**RULE, "host": "2001:db8::1"}]})
    check_operator(catalogue, secrets={"api-token": ["[2001:db8::1]:443"]}, runtimes={"": True})


def test_a_binding_that_no_host_can_have(good: dict[str, Any], write: Write) -> None:
    [(field, text)] = refused(load(write, good), secrets={"api-token": ["127.1:443"]})
    assert field == "secrets.api-token.hosts"
    assert "127.1" in text


def test_a_runtime_that_the_engine_lacks(good: dict[str, Any], write: Write) -> None:
    [(field, text)] = refused(load(write, {**good, "runtime": "runsc"}), runtimes={"": True, "runc": True})
    assert field == "demo.echo /runtime"
    assert "runsc" in text
    assert "runc" in text
    [(field, _)] = refused(load(write, good, runtime_by_tier={1: "runsc"}))
    assert field == "demo.echo /runtime (runtime_by_tier.1 in settings.yaml)"


def test_a_limit_of_files_fits_the_runtime(good: dict[str, Any], write: Write) -> None:
    spec = {**good, "runtime": "runsc", "limits": {**good["limits"], "inodes": 4096}}
    [(field, text)] = refused(load(write, spec), runtimes={"runsc": False})
    assert field == "demo.echo /limits/inodes"
    assert "write 0" in text
    without = load(write, {**spec, "limits": {**good["limits"], "inodes": 0}})
    check_operator(without, secrets={}, runtimes={"runsc": False})
    [(field, text)] = refused(without, runtimes={"runsc": True})
    assert field == "demo.echo /limits/inodes"
    assert "write a number" in text


def test_a_limit_of_files_that_nobody_wrote_gives_way_to_a_runtime_that_keeps_none(
    good: dict[str, Any], write: Write
) -> None:
    runtimes = {"": True, "runsc": False}
    loaded = load(write, good, runtime_by_tier={1: "runsc"})
    assert refused(loaded, runtimes=runtimes)[0][0] == "demo.echo /limits/inodes"
    fitted = loaded.fitted(runtimes)
    check_operator(fitted, secrets={}, runtimes=runtimes)
    assert fitted.tools["demo.echo"].profile("sha256:abc").limits.inodes == 0
    assert load(write, good).fitted(runtimes).tools["demo.echo"].profile("sha256:abc").limits.inodes == 4096


def test_a_limit_of_files_that_somebody_wrote_stays(good: dict[str, Any], write: Write) -> None:
    good["limits"]["inodes"] = 4096
    fitted = load(write, good, runtime_by_tier={1: "runsc"}).fitted({"runsc": False})
    assert fitted.tools["demo.echo"].limits.inodes == 4096
    assert refused(fitted, runtimes={"runsc": False})[0][0] == "demo.echo /limits/inodes"


def test_a_tool_to_prewarm_that_there_is_not(good: dict[str, Any], write: Write) -> None:
    assert refused(load(write, good), prewarm=["demo.other"])[0][0] == "pool_prewarm"


def test_the_operators_runtime_is_for_a_tier_and_gives_way_to_the_specification(
    good: dict[str, Any], write: Write
) -> None:
    by_tier = {1: "runsc", 2: "kata"}
    tools = [
        load(write, spec, runtime_by_tier=by_tier).tools["demo.echo"] for spec in (good, {**good, "runtime": "runc"})
    ]
    assert [tool.runtime for tool in tools] == ["runsc", "runc"]
    assert [tool.profile("sha256:abc").runtime for tool in tools] == ["runsc", "runc"]
    assert load(write, {**good, "tier": 0}, runtime_by_tier=by_tier).tools["demo.echo"].runtime == ""
