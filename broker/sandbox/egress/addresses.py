"""Which addresses a tool may reach. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)
"""Where clouds hand out their machines' credentials; one of them lies in a public range."""

_REFUSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), why)
    for text, why in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared (carrier NAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discarded"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "private (unique local)"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_NEVER = frozenset({"unspecified", "multicast", "broadcast"})
_GLOBAL_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def refusal_of(address: Address, networks: Sequence[Network] = ()) -> str:
    """Why no tool may reach an address; empty where one may.

    An IPv6 form that carries an IPv4 address is judged by what it carries as well: an IPv4-mapped address is that
    address, and a NAT64 or ISATAP address is refused where the one inside is. 6to4, Teredo and IPv4-compatible addresses
    are refused whole.

    Args:
        address: as it was resolved, or as a rule names it.
        networks: what the operator's settings allow beyond the public internet. A metadata address wants a network of
            itself alone; unspecified, multicast and broadcast addresses are never allowed.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id:
            return "link-local (with a zone)"
        if address.ipv4_mapped is not None:
            return refusal_of(address.ipv4_mapped, networks)
    named = any(address in network for network in networks)
    if address in _METADATA:
        alone = any(address in network and network.num_addresses == 1 for network in networks)
        return "" if alone else "cloud metadata"
    why = _why(address)
    if why and (not named or why in _NEVER):
        return why
    inside = _embedded(address)
    if inside is not None and not named:
        within = refusal_of(inside, networks)
        return f"{within}, inside IPv6" if within else ""
    return ""


def _why(address: Address) -> str:
    for network, why in _REFUSED:
        if address in network:
            return why
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6 and address not in _NAT64:
        return "reserved"
    return ""


def _embedded(address: Address) -> IPv4Address | None:
    if not isinstance(address, IPv6Address):
        return None
    number = int(address)
    if address in _NAT64 or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return IPv4Address(number & 0xFFFFFFFF)
    return None
