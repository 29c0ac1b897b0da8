"""A tunnel through the proxy: the tool's own TLS to a listed host, as far as its greeting shows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address

from broker.domain.run import EgressRule
from broker.sandbox.egress.bridge import bridge
from broker.sandbox.egress.client_hello import ClientHello, ClientHelloReader, HelloError
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Line
from broker.sandbox.egress.refusal import limit, malformed, mismatch
from broker.sandbox.egress.upstream import Upstream

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def tunnel(line: Line, rule: EgressRule, early: bytes, upstream: Upstream, limits: EgressLimits) -> None:
    """Answers CONNECT, reads the greeting, and carries bytes only where it names the rule's host.

    Args:
        line: the tool's connection, after the head of CONNECT.
        rule: covers the tunnel.
        early: what the tool has sent behind the head of CONNECT already.
        upstream: the connection to the host.
        limits: of the call.

    Raises:
        RefusedError: ``MALFORMED``, ``MISMATCH`` or ``LIMIT``; the tunnel can only be cut.
        ConnectionError: one of the ends broke.
    """
    greeting = await _greeting(line, early, limits)
    _check(greeting.hello, rule)
    await upstream.write(greeting.sent)
    await bridge(line, upstream, limits.idle_s)


@dataclass(frozen=True, slots=True)
class _Greeting:
    hello: ClientHello
    sent: bytes


async def _greeting(line: Line, early: bytes, limits: EgressLimits) -> _Greeting:
    reader = ClientHelloReader()
    try:
        async with asyncio.timeout(limits.hello_s):
            await line.write(ESTABLISHED)
            hello = reader.feed(early)
            while hello is None:
                data = await line.read()
                if not data:
                    raise malformed("the tunnel ended before its TLS greeting was complete")
                hello = reader.feed(data)
    except TimeoutError as error:
        raise limit(f"the tunnel's TLS greeting wasn't complete within {limits.hello_s:g} s") from error
    except HelloError as error:
        raise malformed(f"the tunnel was cut: {error}") from error
    return _Greeting(hello, reader.sent)


def _check(hello: ClientHello, rule: EgressRule) -> None:
    if hello.encrypted:
        raise mismatch("the tunnel was cut: its TLS greeting hides a second one (ECH), which can't be compared")
    if hello.server_name.lower() != _expected(rule.host):
        raise mismatch("the tunnel was cut: its TLS greeting (SNI) names another host than the rule, or none")


def _expected(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        return host
    return ""
