"""Each fact that a container is made from changes its key, and its canonical form is stable."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from broker.domain.run import EgressKind, EgressRule, Limits, Profile, SecretUse
from broker.sandbox.fingerprint import fingerprint, hardening_digest

RULE = EgressRule(
    EgressKind.HTTPS, "example.com", 443, ("GET",), ("/a",), secret=SecretUse("token", "authorization", "Bearer ")
)
BASE = Profile("sha256:1", Limits(), "runc", (RULE,))

LIMITS = [replace(BASE.limits, **{item.name: getattr(BASE.limits, item.name) * 2}) for item in fields(Limits)]
SECRETS = [
    replace(RULE, secret=replace(SecretUse("token", "authorization", "Bearer "), **{item.name: "other"}))
    for item in fields(SecretUse)
]
OTHER_RULE = {
    "kind": EgressKind.CONNECT,
    "host": "example.org",
    "port": 8443,
    "methods": ("GET", "POST"),
    "paths": ("/b",),
    "listen": 5432,
    "secret": None,
    "database": "shop",
    "user": "shop",
    "record_bytes": 2**20,
}
OTHER_PROFILE = {"image": "sha256:2", "limits": Limits(processes=1), "runtime": "runsc", "egress": ()}


def test_every_field_is_looked_at() -> None:
    assert set(OTHER_RULE) == {item.name for item in fields(EgressRule)}
    assert set(OTHER_PROFILE) == {item.name for item in fields(Profile)}


VARIANTS = {
    **{f"profile.{name}": replace(BASE, **{name: value}) for name, value in OTHER_PROFILE.items()},
    **{f"limits.{item.name}": replace(BASE, limits=value) for item, value in zip(fields(Limits), LIMITS, strict=True)},
    **{f"rule.{name}": replace(BASE, egress=(replace(RULE, **{name: value}),)) for name, value in OTHER_RULE.items()},
    **{
        f"secret.{item.name}": replace(BASE, egress=(rule,))
        for item, rule in zip(fields(SecretUse), SECRETS, strict=True)
    },
    "rule twice": replace(BASE, egress=(RULE, RULE)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_field_makes_another_key(name: str) -> None:
    assert fingerprint(VARIANTS[name], "h") != fingerprint(BASE, "h")


def test_no_two_variants_share_a_key() -> None:
    assert len({fingerprint(item, "h") for item in VARIANTS.values()}) == len(VARIANTS)


def test_another_hardening_makes_another_key() -> None:
    assert fingerprint(BASE, hardening_digest({"CapDrop": ["ALL"]})) != fingerprint(BASE, hardening_digest({}))


def test_equal_profiles_have_one_key() -> None:
    again = Profile("sha256:1", Limits(), "runc", (replace(RULE),))
    assert fingerprint(again, "h") == fingerprint(BASE, "h")
    assert fingerprint(BASE, "h").startswith("sha256:")
