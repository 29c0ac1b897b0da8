"""What one call may use of the way out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Bounds per call. Times in seconds, sizes in bytes."""

    connections: int = 64
    """Of the tool, at one time."""
    idle_s: float = 60.0
    """After so long without a byte either way a connection is cut. A head that comes in drops counts as silence."""
    connect_s: float = 10.0
    """For the connection to a host and its TLS handshake together."""
    hello_s: float = 10.0
    """For a tunnel's TLS greeting, and for a tool's first messages to a database."""
    login_s: float = 30.0
    """For a login at a database, from TLS until its session has begun."""
    header_bytes: int = 32 * 1024
    """Of a request's or a response's head."""
    total_bytes: int = 2**30
    """Both ways together."""
    linger_s: float = 2.0
    """For what the tool still sends after a refusal, so that it reads the refusal before the end."""
