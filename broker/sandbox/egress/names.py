"""Hosts and authorities in the one spelling that rules are compared with. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import idna

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_MAX_NAME = 253
_MAX_PORT = 65535
_MAX_TEXT = 1024


class HostSpellingError(ValueError):
    """A host or authority that isn't in an accepted spelling; the text says why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A host in canonical form, and the port where one was written."""

    host: str
    port: int | None


def canonical_host(text: str) -> str:
    """The one spelling of a host: a name in lower case and A-labels without a trailing dot, or an address at its shortest.

    An address in any other spelling (``0x7f.1``, ``2130706433``, ``017700000001``, a zone id, an embedded IPv4 in dots)
    is refused and never translated, since resolvers read these spellings differently. IPv6 has no brackets here.

    Raises:
        HostSpellingError: it is no host, or an address in an odd spelling.
    """
    if not text or len(text) > _MAX_TEXT:
        raise HostSpellingError("a host has 1 to 253 characters")
    if ":" in text:
        return _canonical_ipv6(text)
    name = _a_labels(text).removesuffix(".")
    if len(name) > _MAX_NAME:
        raise HostSpellingError("a host has at most 253 characters")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _canonical_ipv4(name, text)
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise HostSpellingError(f"{label!r} is no label of a host name")
        if label.startswith("xn--"):
            _check_a_label(label)
    return name


def parse_authority(text: str) -> Authority:
    """Reads ``host``, ``host:port``, ``address:port`` or ``[address]:port``.

    Raises:
        HostSpellingError: it is none of these, holds user information, or the host isn't in an accepted spelling.
    """
    if "@" in text:
        raise HostSpellingError("user information before the host is never passed on")
    if "%" in text:
        raise HostSpellingError("a host is written without percent signs: neither encoded nor with a zone")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise HostSpellingError("brackets hold an IPv6 address, and a port follows after a colon")
        return Authority(_canonical_ipv6(host), _port(rest[1:]) if rest else None)
    host, colon, port = text.partition(":")
    if ":" in port:
        raise HostSpellingError("an IPv6 address stands in brackets")
    return Authority(canonical_host(host), _port(port) if colon else None)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > _MAX_PORT:
        raise HostSpellingError("a port is a number from 1 to 65535 without leading zeros")
    return int(text)


def _a_labels(text: str) -> str:
    if text.isascii():
        return text.lower()
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise HostSpellingError(f"it is no internationalised host name: {error}") from error


def _check_a_label(label: str) -> None:
    try:
        again = idna.alabel(idna.ulabel(label)).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise HostSpellingError(f"{label!r} is no A-label: {error}") from error
    if again != label:
        raise HostSpellingError(f"{label!r} is no A-label in its shortest form")


def _canonical_ipv4(name: str, text: str) -> str:
    try:
        address = ipaddress.IPv4Address(name)
    except ValueError as error:
        raise HostSpellingError("an IPv4 address is written as four decimal numbers without leading zeros") from error
    if str(address) != text:
        raise HostSpellingError("an IPv4 address is written without a trailing dot")
    return text


def _canonical_ipv6(text: str) -> str:
    lower = text.lower()
    if "%" in lower or "." in lower:
        raise HostSpellingError("an IPv6 address is written without a zone and without dots")
    try:
        address = ipaddress.IPv6Address(lower)
    except ValueError as error:
        raise HostSpellingError("an IPv6 address is written in its shortest form") from error
    # The newest Pythons write an embedded IPv4 address in dots; rules have one spelling only.
    shortest = lower if "." in str(address) else str(address)
    if shortest != lower:
        raise HostSpellingError(f"an IPv6 address is written in its shortest form, which is {shortest}")
    return shortest
