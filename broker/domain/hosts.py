"""Names and addresses of hosts in the one form in which they are compared."""

from __future__ import annotations

import ipaddress
import re

import idna

MAX_HOST = 253
"""Longest name of a host."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def check_host(text: str) -> str:
    """Lets a name or an address pass that stands in its one form, and gives it back.

    A name has lower-case letters, digits and hyphens, no dot at its end, and A-labels (``xn--...``) for other scripts. A
    name whose last label is a number is refused: programs read it as an address, each in its own way. An address has its
    shortest form, IPv6 without brackets.

    Raises:
        ValueError: says what is wrong, and how to write it where that is known.
    """
    if ":" in text:
        return _address_6(text)
    if "*" in text:
        raise ValueError("may not hold a wildcard: name each host in a rule of its own")
    if not text.isascii():
        raise ValueError("must be ASCII: write a name of another script in A-labels, such as xn--bcher-kva.example")
    plain = text.lower().removesuffix(".")
    labels = plain.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _address_4(text)
    if len(plain) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must be a host name (letters, digits and hyphens between dots) or an IP address, and no more")
    if plain != text:
        raise ValueError(f"must be in lower case without a dot at its end: write it {plain}")
    for label in labels:
        if label.startswith("xn--"):
            _check_a_label(label)
    return text


def _check_a_label(label: str) -> None:
    try:
        again = idna.alabel(idna.ulabel(label)).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"holds {label}, which is no A-label: {error}") from error
    if again != label:
        raise ValueError(f"holds {label}, whose A-label is {again}")


def _address_4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise ValueError("ends in a number and is no IPv4 address of four decimal numbers") from error


def _address_6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise ValueError("is no IPv6 address; a port stands in `port`, and brackets are left away") from error
    if address.scope_id is not None:
        raise ValueError("may not have a zone: it means something else on each machine")
    if address.ipv4_mapped is not None:
        raise ValueError(f"is an IPv4 address in another spelling: write it {address.ipv4_mapped}")
    if str(address) != text:
        raise ValueError(f"must be in its shortest form: write it {address}")
    return text


def authority(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
