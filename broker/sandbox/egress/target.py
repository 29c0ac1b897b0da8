"""What a proxied request is about: host, port and path, told once and in one way. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import h11

from broker.sandbox.egress.headers import only
from broker.sandbox.egress.names import Authority, HostSpellingError, parse_authority
from broker.sandbox.egress.refusal import malformed, mismatch
from broker.sandbox.egress.rules import HTTP_PORT

_SCHEME = "http://"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes."""

    host: str
    port: int
    path: str
    """Begins with ``/``; without the query."""
    origin_form: bytes
    """Path and query as the host gets them."""


def written_host(request: h11.Request) -> str:
    """Whom the tool's text names, for the record of a refusal; not to be trusted."""
    target = request.target.decode("latin-1")
    if "://" in target:
        target = target.partition("://")[2]
    return target.partition("/")[0].rpartition("@")[2]


def read_target(request: h11.Request) -> Target:
    """Reads an absolute-form request and compares it with its Host.

    Raises:
        RefusedError: ``MALFORMED`` or ``MISMATCH``; says what is wrong.
    """
    if request.method.upper() in {b"TRACE", b"TRACK"}:
        raise malformed("TRACE is never passed on: it would show the tool what the broker adds")
    if request.http_version != b"1.1":
        raise malformed("the request is HTTP/1.0", "Speak HTTP/1.1.")
    text = request.target.decode("ascii")
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise malformed(
            "the request's target isn't `http://host/path`",
            "Ask the proxy for http:// addresses; a rule of kind https has the broker speak TLS to the host.",
        )
    if "#" in text:
        raise malformed("the request's target holds a fragment")
    rest = text[len(_SCHEME) :]
    cut = min((place for place in (rest.find("/"), rest.find("?")) if place >= 0), default=len(rest))
    authority = _authority(rest[:cut], "the request's target")
    origin = rest[cut:] if rest[cut : cut + 1] == "/" else "/" + rest[cut:]
    port = authority.port if authority.port is not None else HTTP_PORT
    _check_host(request, authority.host, port)
    return Target(authority.host, port, origin.partition("?")[0], origin.encode("ascii"))


def read_tunnel(request: h11.Request) -> tuple[str, int]:
    """Host and port of a CONNECT, whose Host must agree where there is one.

    Raises:
        RefusedError: ``MALFORMED`` or ``MISMATCH``; says what is wrong.
    """
    authority = _authority(request.target.decode("ascii"), "the target of CONNECT")
    if authority.port is None:
        raise malformed("the target of CONNECT isn't `host:port`")
    if any(name in {b"content-length", b"transfer-encoding", b"expect"} for name, _ in request.headers):
        raise malformed("a CONNECT has no body")
    if only(request.headers, b"host") is not None:
        _check_host(request, authority.host, authority.port, default=authority.port)
    return authority.host, authority.port


def _check_host(request: h11.Request, host: str, port: int, *, default: int = HTTP_PORT) -> None:
    value = only(request.headers, b"host")
    if value is None:
        raise malformed("Host is missing")
    named = _authority(value.decode("ascii"), "Host")
    if (named.host, named.port if named.port is not None else default) != (host, port):
        raise mismatch("Host names another host or port than the request's target")


def _authority(text: str, where: str) -> Authority:
    try:
        return parse_authority(text)
    except HostSpellingError as error:
        raise malformed(f"{where} is refused: {error}") from error
