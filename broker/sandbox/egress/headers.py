"""What of a message's headers is passed on. Pure; names come in lower case, as h11 gives them."""

from __future__ import annotations

from collections.abc import Iterable

from broker.domain.headers import HOP_BY_HOP, OURS, ROUTING, SHAPING
from broker.domain.run import SecretUse

Headers = list[tuple[bytes, bytes]]


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
    drop = HOP_BY_HOP | OURS | ROUTING | _named_by_connection(items) | names
    if names:
        drop |= SHAPING
    kept = [(name, value) for name, value in items if same_name(name.decode("ascii")) not in drop]
    if names:
        kept.append((b"accept-encoding", b"identity"))
    return kept


def incoming(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """A host's headers for the tool; one framing is left, and none that the broker's own answers carry."""
    items = list(headers)
    drop = HOP_BY_HOP | _named_by_connection(items)
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
