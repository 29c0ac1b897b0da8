"""Hosts have one form: what is let through is what everything else compares with."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.hosts import authority, check_host
from broker.sandbox.egress.names import canonical_host

GOOD = [
    "example.com",
    "a.b-c.example",
    "localhost",
    "db",
    "xn--bcher-kva.example",
    "1and1.example",
    "a" * 63 + ".example",
    "192.0.2.7",
    "2001:db8::1",
    "::1",
]


@pytest.mark.parametrize("host", GOOD)
def test_hosts_in_their_one_form(host: str) -> None:
    assert check_host(host) == host == canonical_host(host)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("", "must be a host name"),
        (".", "must be a host name"),
        ("Example.com", "write it example.com"),
        ("example.com.", "write it example.com"),
        ("*.example.com", "wildcard"),
        ("b\u00fccher.example", "A-labels"),
        ("a..example", "must be a host name"),
        ("-a.example", "must be a host name"),
        ("a-.example", "must be a host name"),
        ("a_b.example", "must be a host name"),
        ("a b.example", "must be a host name"),
        ("user@example.com", "must be a host name"),
        ("example.com/path", "must be a host name"),
        ("http://example.com", "no IPv6 address"),
        ("example.com:443", "no IPv6 address"),
        ("a" * 64 + ".example", "must be a host name"),
        (".".join(["a" * 60] * 5), "must be a host name"),
        ("127.1", "four decimal numbers"),
        ("0x7f000001", "four decimal numbers"),
        ("0x7f.0.0.1", "four decimal numbers"),
        ("2130706433", "four decimal numbers"),
        ("127.0.0.01", "four decimal numbers"),
        ("192.0.2.7.", "four decimal numbers"),
        ("256.0.0.1", "four decimal numbers"),
        ("a.0x1", "four decimal numbers"),
        ("[::1]", "brackets are left away"),
        ("2001:DB8::1", "write it 2001:db8::1"),
        ("2001:db8:0:0:0:0:0:1", "write it 2001:db8::1"),
        ("::ffff:127.0.0.1", "write it 127.0.0.1"),
        ("::ffff:7f00:1", "write it 127.0.0.1"),
        ("fe80::1%eth0", "zone"),
        ("example.com\n", "must be a host name"),
        ("xn--zzzzzzzz.example", "no A-label"),
        ("xn--a.example", "no A-label"),
    ],
)
def test_other_spellings_are_refused_and_the_right_one_is_named(host: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        check_host(host)


@given(st.text(st.sampled_from("aA0.-:xn%[]*1f_\u00fc"), max_size=12))
def test_what_passes_is_the_form_that_the_gate_compares(text: str) -> None:
    try:
        host = check_host(text)
    except ValueError:
        return
    assert host == text == canonical_host(host)


def test_an_authority_has_brackets_around_ipv6() -> None:
    assert authority("example.com", 443) == "example.com:443"
    assert authority("2001:db8::1", 443) == "[2001:db8::1]:443"
