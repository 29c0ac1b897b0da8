"""Hosts in one spelling, and which addresses a tool may reach."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.sandbox.egress.addresses import refusal_of
from broker.sandbox.egress.names import Authority, HostSpellingError, canonical_host, parse_authority


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("a_b.example", "a_b.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("93.184.216.34", "93.184.216.34"),
        ("2001:DB8::1", "2001:db8::1"),
        ("1a.example", "1a.example"),
        ("0x.example", "0x.example"),
    ],
)
def test_a_host_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_host(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a..b", ".a", "-a.example", "a-.example", "a b", "a/b", "a\x00b", "a%62", "x" * 64 + ".example", "a." * 127 + "aa",
     "0x7f.1", "1", "0", "1.2.3", "1.2.3.4.", "1.2.3.04", "256.1.1.1", "0x7f000001", "a.0x7f", "example.1", "::ffff:1.2.3.4",
     "::1%eth0", "0::1", "1:2", "xn--a", "xn--bcher-kva-.example", "*.example", "a:b", "ex\u200dample.com", "[::1]"],
)  # fmt: skip
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(HostSpellingError):
        canonical_host(text)


@given(st.text(max_size=60) | st.from_regex(r"[0-9a-fxX.:\[\]%]{1,40}", fullmatch=True))
def test_what_is_accepted_is_a_fixed_point_and_never_an_address_in_disguise(text: str) -> None:
    try:
        canonical = canonical_host(text)
    except HostSpellingError:
        return
    assert canonical_host(canonical) == canonical
    assert canonical.isascii()
    try:
        number = socket.inet_aton(canonical)
    except OSError:
        return
    assert str(IPv4Address(number)) == canonical


@given(st.ip_addresses())
def test_every_address_is_accepted_in_its_shortest_form(address: IPv4Address | IPv6Address) -> None:
    text = str(address)
    if "." in text and ":" in text:
        return
    assert canonical_host(text) == text
    assert ip_address(canonical_host(text)) == address


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("a.example", Authority("a.example", None)),
        ("A.example:80", Authority("a.example", 80)),
        ("[2001:db8::1]", Authority("2001:db8::1", None)),
        ("[2001:db8::1]:443", Authority("2001:db8::1", 443)),
        ("127.0.0.1:65535", Authority("127.0.0.1", 65535)),
    ],
)
def test_an_authority_is_read(text: str, authority: Authority) -> None:
    assert parse_authority(text) == authority


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a:", "a:0", "a:00", "a:080", "a:65536", "a:+1", "a:1_0", "a:²", "a:1:2", "::1", "[::1", "[::1]a", "[::1]:", "[a]", "[127.0.0.1]",
     "u@a", "u:p@a", "@a", "a%2eb", "[::1%25lo]", "[::1]:1:2"],
)  # fmt: skip
def test_an_odd_authority_is_refused(text: str) -> None:
    with pytest.raises(HostSpellingError):
        parse_authority(text)


@pytest.mark.parametrize(
    "text", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "2a00:1450::1", "64:ff9b::101:101", "::ffff:1.1.1.1"]
)
def test_public_addresses_are_allowed(text: str) -> None:
    assert refusal_of(ip_address(text)) == ""


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",  # noqa: S104  # refused
     "169.254.169.254", "169.254.1.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
     "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
     "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
     "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:db8::1", "2002:7f00:1::", "2002:101:101::", "3fff::1", "5f00::1", "fc00::1",
     "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "4000::1", "2606:4700::200:5efe:7f00:1",
     "2606:4700::5efe:a00:1"],
)  # fmt: skip
def test_all_others_are_refused(text: str) -> None:
    assert refusal_of(ip_address(text)) != ""


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_refused(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global and not (isinstance(address, IPv6Address) and address.ipv4_mapped):
        assert refusal_of(address) != ""


@given(st.ip_addresses(v=4))
def test_an_address_inside_ipv6_is_judged_like_itself(inside: IPv4Address) -> None:
    refused = refusal_of(inside) != ""
    for base in ("::ffff:0:0", "64:ff9b::", "2606:4700::5efe:0:0"):
        assert (refusal_of(IPv6Address(int(IPv6Address(base)) | int(inside))) != "") is refused


def test_the_operators_networks_open_what_they_name() -> None:
    networks = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"), ip_network("127.0.0.1/32"))
    opened = ["10.1.2.3", "fd00::1", "127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::a01:203"]
    assert [refusal_of(ip_address(text), networks) for text in opened] == [""] * len(opened)
    assert refusal_of(ip_address("10.2.0.1"), networks) == "private"
    assert refusal_of(ip_address("127.0.0.2"), networks) == "loopback"


def test_a_metadata_address_wants_a_network_of_its_own() -> None:
    metadata = ip_address("169.254.169.254")
    wide = (ip_network("169.254.0.0/16"), ip_network("0.0.0.0/0"))
    assert refusal_of(metadata, wide) == "cloud metadata"
    assert refusal_of(ip_address("fd00:ec2::254"), (ip_network("fd00::/8"),)) == "cloud metadata"
    assert refusal_of(metadata, (ip_network("169.254.169.254/32"),)) == ""


@pytest.mark.parametrize("text", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"])  # noqa: S104  # refused
def test_some_addresses_are_never_opened(text: str) -> None:
    assert refusal_of(ip_address(text), (ip_network("0.0.0.0/0"), ip_network("::/0"))) != ""
