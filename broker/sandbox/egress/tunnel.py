"""A tunnel through the proxy: the tool's own TLS to a listed host, as far as its greeting shows."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from broker.domain.run import EgressRule
from broker.sandbox.egress.bridge import bridge
from broker.sandbox.egress.client_hello import ClientHello, ClientHelloReader, HelloError
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Line
from broker.sandbox.egress.refusal import limit, malformed, mismatch
from broker.sandbox.egress.upstream import Dialler

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def tunnel(line: Line, rule: EgressRule, early: bytes, dialler: Dialler, limits: EgressLimits) -> None:
    """Connects, says so, reads the greeting, and carries bytes only where it names the rule's host.

    Args:
        line: the tool's connection, after the head of CONNECT.
        rule: covers the tunnel.
        early: what the tool has sent behind that head already.
        dialler: connects.
        limits: of the call.

    Raises:
        RefusedError: any verdict but ``NOT_LISTED``; before the tunnel was established it can be answered.
        ConnectionError: one of the ends broke.
    """
    async with dialler.open(rule) as upstream:
        await line.write(ESTABLISHED)
        greeting = await _greeting(line, rule, early, limits)
        await upstream.write(greeting)
        await bridge(line, upstream, limits.idle_s)


async def _greeting(line: Line, rule: EgressRule, early: bytes, limits: EgressLimits) -> bytes:
    reader = ClientHelloReader()
    try:
        async with asyncio.timeout(limits.hello_s):
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
    _check(hello, rule)
    return reader.sent


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
