"""What of a message's headers is passed on. Pure; names come in lower case, as h11 gives them."""

from __future__ import annotations

from collections.abc import Iterable

from broker.domain.run import SecretUse

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
_OURS = frozenset({"host", "content-length", "expect"})
_ROUTING = frozenset(
    {
        "forwarded",
        "max-forwards",
        "x-forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-host",
        "x-http-host-override",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-host",
        "x-original-uri",
        "x-original-url",
        "x-override-url",
        "x-real-ip",
        "x-rewrite-url",
    }
)
"""Servers that believe them would see another host, path or method than the rule was compared with."""
_SHAPING = frozenset({"a-im", "accept-charset", "accept-encoding", "if-range", "range", "want-digest"})
"""With a secret: they ask for an answer in pieces or in a shape that can't be scanned."""
UNTOUCHABLE = _HOP_BY_HOP | _OURS | _ROUTING | _SHAPING
"""Names that no rule's secret may use."""


def same_name(name: str) -> str:
    """A header's name as careless servers read it: case and the difference of ``_`` and ``-`` are lost."""
    return name.lower().replace("_", "-")


def outgoing(headers: Iterable[tuple[bytes, bytes]], *, secrets: Iterable[SecretUse]) -> Headers:
    """The tool's headers for the host, without Host and framing.

    Args:
        headers: of the tool's request.
        secrets: those that its answer is scanned for; the tool's own headers of these names are dropped, and so is
            what would hide a secret in the answer.
    """
    items = list(headers)
    names = {same_name(use.header) for use in secrets}
    drop = _HOP_BY_HOP | _OURS | _ROUTING | _named_by_connection(items) | names
    if names:
        drop |= _SHAPING
    kept = [(name, value) for name, value in items if same_name(name.decode("ascii")) not in drop]
    if names:
        kept.append((b"accept-encoding", b"identity"))
    return kept


def incoming(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """A host's headers for the tool; one framing is left, and none that the broker's own answers carry."""
    items = list(headers)
    drop = _HOP_BY_HOP | _named_by_connection(items)
    if any(name == b"transfer-encoding" for name, _ in items):
        drop |= {"content-length"}
    return [
        (name, value)
        for name, value in items
        if same_name(name.decode("ascii")) not in drop and not name.startswith(b"broker-")
    ]


def only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a header; several are joined by commas; ``None`` where there is none."""
    values = [value for found, value in headers if found == name]
    return b", ".join(values) if values else None


def _named_by_connection(headers: Headers) -> frozenset[str]:
    value = only(headers, b"connection") or b""
    return frozenset(same_name(word.strip().decode("latin-1")) for word in value.split(b","))
