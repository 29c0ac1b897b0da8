"""Does a running broker answer with the certificate of its state directory?"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from broker.doctor.finding import Finding, fail, ok
from broker.doctor.listeners import parse_address

TIMEOUT_S = 5.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}  # noqa: S104 -- where to reach it, not where to listen


def probe(address: str, ca_certificate: Path) -> str:
    """Makes a TLS connection as a client without a certificate; returns what went wrong, empty where nothing did.

    TLS 1.3 lets a client finish its handshake before the server has asked for its certificate: the broker proves itself,
    and then ends the connection.
    """
    parsed = parse_address(address)
    if parsed is None:
        return f"{address!r} is no address"
    host = _ANY.get(parsed.host, parsed.host)
    try:
        context = ssl.create_default_context(cafile=str(ca_certificate))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, parsed.port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except OSError as error:
        return str(error)


def judge(address: str, *, problem: str) -> Finding:
    """A broker that holds the lock but doesn't answer hangs, or another program has its port."""
    if problem:
        mend = "Look at its log. If it hangs, end it with SIGTERM and start it again: running calls become UNKNOWN."
        return fail("running", f"{address} doesn't answer as this broker: {problem}", mend)
    return ok("running", f"{address} answers with this broker's certificate")
