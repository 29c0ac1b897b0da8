"""Names to addresses, by the broker itself and only for hosts that a rule names."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from ipaddress import ip_address
from typing import Protocol

from broker.sandbox.egress.addresses import Address


class UnresolvedError(Exception):
    """A name has no address, or nobody said so in time; the text says which."""


class Resolver(Protocol):
    """Looks names up."""

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """All addresses of a name, at least one, in the order in which they should be tried.

        Raises:
            UnresolvedError: there is none, or no answer in time.
        """


class SystemResolver:
    """Asks the machine's own resolver, each name in a thread of its own.

    A lookup can't be stopped from outside: one that is given up goes on in its daemon thread, and counts until it ends.

    Args:
        deadline_s: how long one lookup may take, the wait for a free thread included.
        lookups: how many run at one time.
    """

    def __init__(self, *, deadline_s: float = 5.0, lookups: int = 16) -> None:
        self._deadline_s = deadline_s
        self._free = asyncio.Semaphore(lookups)

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """See ``Resolver``."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._free.acquire()
                return await self._look_up(host)
        except TimeoutError as error:
            raise UnresolvedError(f"no answer within {self._deadline_s:g} s") from error

    async def _look_up(self, host: str) -> tuple[Address, ...]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Address, ...]] = loop.create_future()

        def done(found: tuple[Address, ...], failure: UnresolvedError | None) -> None:
            self._free.release()
            if answer.done():
                return
            if failure is not None:
                answer.set_exception(failure)
            else:
                answer.set_result(found)

        def look_up() -> None:
            found: tuple[Address, ...] = ()
            failure: UnresolvedError | None = None
            try:
                found = _addresses(host)
            except UnresolvedError as error:
                failure = error
            with suppress(RuntimeError):  # the loop has ended meanwhile, and nobody waits
                loop.call_soon_threadsafe(done, found, failure)

        try:
            threading.Thread(target=look_up, name="egress-lookup", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise UnresolvedError("the broker has no thread left for the lookup") from error
        return await answer


def _addresses(host: str) -> tuple[Address, ...]:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
    except (OSError, UnicodeError, ValueError) as error:
        raise UnresolvedError("the name has no address") from error
    if not found:
        raise UnresolvedError("the name has no address")
    return found
