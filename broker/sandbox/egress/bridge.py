"""Bytes both ways between a tool and a host, each end closed by itself."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from broker.sandbox.egress.line import Clock, Line
from broker.sandbox.egress.refusal import limit
from broker.sandbox.egress.upstream import Upstream
from broker.sandbox.engine import Duplex


async def bridge(line: Line, upstream: Upstream, idle_s: float, *, linger_s: float | None = None) -> None:
    """Carries bytes until both ends have closed.

    Args:
        line: the tool's end.
        upstream: the host's end.
        idle_s: how long nothing may move.
        linger_s: how long one end may go on after the other has closed; for ever unless given.

    Raises:
        RefusedError: ``LIMIT``.
        ConnectionError: one of the ends broke.
    """
    try:
        async with Clock(idle_s) as clock:
            ways = [
                asyncio.create_task(_carry(line, upstream, clock)),
                asyncio.create_task(_carry(upstream, line, clock)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                done, _ = await asyncio.wait(ways, timeout=linger_s, return_when=asyncio.FIRST_EXCEPTION)
                for way in done:
                    way.result()
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
    except TimeoutError as error:
        raise limit(f"nothing has moved for {idle_s:g} s", HTTPStatus.GATEWAY_TIMEOUT) from error


async def _carry(source: Duplex, sink: Duplex, clock: Clock) -> None:
    while data := await source.read():
        clock.touch()
        await sink.write(data)
        clock.touch()
    await sink.end()
