"""Names of HTTP headers that mean more than themselves; in lower case."""

from __future__ import annotations

HOP_BY_HOP = frozenset(
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
OURS = frozenset({"host", "content-length", "expect"})
ROUTING = frozenset(
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
SHAPING = frozenset({"a-im", "accept-charset", "accept-encoding", "if-range", "range", "want-digest"})
"""With a secret: they ask for an answer in pieces or in a shape that can't be scanned."""
RESERVED = HOP_BY_HOP | OURS | ROUTING | SHAPING
"""They frame a message, choose its host, path or method, or shape the answer: no rule's secret may use them."""
