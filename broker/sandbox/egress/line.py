"""The tool's end of a connection, with every byte counted."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

from broker.sandbox.egress.records import Tally
from broker.sandbox.egress.refusal import RefusedError, limit
from broker.sandbox.engine import Duplex

_STEPS = 64


class Turns:
    """Lets others have their turn during work that may never have to wait, however small its steps are cut."""

    def __init__(self) -> None:
        self._steps = 0

    async def step(self) -> None:
        """One step is done."""
        self._steps += 1
        if self._steps % _STEPS == 0:
            await asyncio.sleep(0)


class Budget:
    """The bytes that a call may still move, both ways together."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total

    def ask(self) -> None:
        """Returns while there are some.

        Raises:
            RefusedError: ``LIMIT``.
        """
        if self._left <= 0:
            raise limit(f"the call has moved its {self._total} bytes")

    def spend(self, count: int) -> None:
        """So many have been moved."""
        self._left -= count


class Clock:
    """Cuts its block once nothing has moved for so long; ``touch`` says that something did."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self.touch()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._timeout.__aexit__(*raised)  # type: ignore[arg-type]  # handed on as they came

    def touch(self) -> None:
        """Something has moved."""
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)


class Line:
    """A ``Duplex`` that counts into a tally and into the call's budget.

    Args:
        stream: the tool's connection.
        budget: of the call.
        tally: of the first request, or of the connection.
    """

    def __init__(self, stream: Duplex, budget: Budget, tally: Tally) -> None:
        self._stream = stream
        self._budget = budget
        self._ended = False
        self.tally = tally

    async def read(self) -> bytes:
        """The tool's next bytes; empty at the end.

        Raises:
            ConnectionError: it broke.
            RefusedError: ``LIMIT``.
        """
        self._budget.ask()
        data = await self._stream.read()
        self._budget.spend(len(data))
        self.tally.sent += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Sends bytes to the tool; waits while it doesn't read.

        Raises:
            ConnectionError: it broke.
            RefusedError: ``LIMIT``.
        """
        self._budget.ask()
        await self.tell(data)

    async def tell(self, data: bytes) -> None:
        """Sends an answer of the broker's own, which no limit holds back.

        Raises:
            ConnectionError: the connection broke.
        """
        await self._stream.write(data)
        self._budget.spend(len(data))
        self.tally.received += len(data)

    async def end(self) -> None:
        """Closes our side, once.

        Raises:
            ConnectionError: it broke.
        """
        if not self._ended:
            self._ended = True
            await self._stream.end()

    async def last(self, data: bytes, linger_s: float) -> None:
        """Sends a last answer of the broker's own, closes our side, and takes what is still on its way for so many seconds:
        a client that is writing would miss the answer otherwise.
        """
        with suppress(ConnectionError, TimeoutError, RefusedError):
            async with asyncio.timeout(linger_s):
                await self.tell(data)
                await self.end()
                while await self.read():
                    pass
