"""Addresses of those outside who get checkpoints. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.IGNORECASE)
_TARGET = re.compile(r"/[!-~]*")
_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class Url:
    """An ``https`` address, or an ``http`` one on loopback."""

    host: str
    """A name, or an address without brackets."""
    port: int
    tls: bool
    target: str
    """Path and query, as a request line has them."""

    @property
    def authority(self) -> str:
        """``host:port``: what may be shown and logged, for a path may be a secret."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(text: str) -> Url:
    """Reads an address.

    Raises:
        ValueError: it is none; names a user, a fragment or a port that is none; or is ``http`` and not a loopback address.
    """
    if len(text) > _LONGEST or not text.isascii() or any(letter <= " " or letter == "\x7f" for letter in text):
        raise ValueError("must be an address of printable ASCII, without spaces")
    parts = urlsplit(text)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("must be an address such as https://holder.example/checkpoints")
    if "@" in parts.netloc or "#" in text:
        raise ValueError("must hold no user, no password and no fragment")
    host, port = parts.hostname, parts.port  # a port that is none raises a ValueError of its own
    if not _is_host(host):
        raise ValueError(f"{host!r} is no host")
    tls = parts.scheme == "https"
    if not tls and not _is_loopback(host):
        raise ValueError("must be https; http is for loopback addresses such as http://127.0.0.1:8080 alone")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        raise ValueError("has a path that no request can name")
    return Url(host, _PORTS[parts.scheme] if port is None else port, tls, target)


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _NAME.fullmatch(host) is not None
    return "%" not in host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
