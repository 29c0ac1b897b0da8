"""Tells those outside of approvals: each webhook in the background, in order, and never in anybody's way.

What is told follows from the ledger's entries, so nothing is told that isn't on record. A webhook that doesn't take a
notice is asked again, for a while; then the notice is given up, and the log says so. Nothing of it outlives a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol, Self

import structlog
import tenacity

from broker.domain.ports import Store, Transaction
from broker.domain.secret import Secret
from broker.domain.urls import Url
from broker.errors import BrokerError, UnavailableError
from broker.ledger.posting import Poster, Trust
from broker.pipeline.bell import Bell
from broker.pipeline.notices import SIGNATURE, Herald, Notice, signature

FIRST_WAIT_S: Final = 1.0
"""After the first attempt that failed; doubled with each further one."""
LONGEST_WAIT_S: Final = 60.0
ATTEMPTS: Final = 8
"""Of one notice; then it is given up."""
TIMEOUT_S: Final = 10.0
"""Of one attempt."""
MOST_WAITING: Final = 1000
"""Notices that wait for one webhook; the oldest is given up for a newer one."""
_LOOK_S: Final = 1.0
_PAGE = 1000
_CLOSE_S = 3.0

_log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Somebody outside who is told."""

    @property
    def name(self) -> str:
        """How it is called in logs; holds nothing secret."""

    async def tell(self, notice: Notice) -> None:
        """Hands a notice over; the same one again does no harm.

        Raises:
            BrokerError: it didn't take it.
        """


class Webhook:
    """POSTs notices as JSON, signed; any 2xx is success, and nothing else of the answer is used.

    Args:
        url: where to.
        secret: reads the secret that the signature is made with, at each attempt; may block.
        trust: how the host is trusted.
        timeout_s: of one attempt.
    """

    def __init__(self, url: Url, secret: Callable[[], Secret], trust: Trust, timeout_s: float = TIMEOUT_S) -> None:
        self._poster = Poster(url, trust, timeout_s)
        self._authority = url.authority
        self._secret = secret

    @property
    def name(self) -> str:
        """See ``Listener``."""
        return f"webhook {self._authority}"

    async def tell(self, notice: Notice) -> None:
        """See ``Listener``."""
        secret = await asyncio.to_thread(self._secret)
        body = notice.encode()
        signed = signature(secret.reveal(), int(time.time()), body)
        answer = await self._poster.post(body, "application/json", headers=((SIGNATURE, signed),))
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise UnavailableError(f"{self._authority} answered with status {answer.status}", reason="HOLDER_REFUSED")


class Delivery:
    """Brings notices to one listener, one after the other.

    Args:
        listener: who is told.
        first_wait_s: after a failed attempt.
        attempts: of one notice.
    """

    def __init__(self, listener: Listener, *, first_wait_s: float = FIRST_WAIT_S, attempts: int = ATTEMPTS) -> None:
        self._listener = listener
        self._retry = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_exponential(multiplier=first_wait_s, max=LONGEST_WAIT_S)
            + tenacity.wait_random(0, first_wait_s),
            retry=tenacity.retry_if_exception_type(BrokerError),
            reraise=True,
        )
        self._waiting: deque[Notice] = deque()
        self._offered = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work in the background."""
        self._task = asyncio.create_task(self._run(), name=f"notices to {self._listener.name}")

    def offer(self, notice: Notice) -> None:
        """To be told, after all that was offered before; returns at once."""
        if len(self._waiting) >= MOST_WAITING:
            self._gave_up(self._waiting.popleft(), "too many wait")
        self._waiting.append(notice)
        self._idle.clear()
        self._offered.set()

    async def settle(self) -> None:
        """Returns once everything has been told, or given up."""
        await self._idle.wait()

    async def close(self, within_s: float) -> None:
        """Ends; what still waits has so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.settle()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            _log.warning("approval.notices_dropped", listener=self._listener.name, count=len(self._waiting))

    async def _run(self) -> None:
        while True:
            await self._offered.wait()
            while self._waiting:
                notice = self._waiting[0]
                await self._tell(notice)
                if self._waiting and self._waiting[0] is notice:
                    self._waiting.popleft()
            self._offered.clear()
            self._idle.set()

    async def _tell(self, notice: Notice) -> None:
        try:
            await self._retry(self._listener.tell, notice)
        except BrokerError as error:
            self._gave_up(notice, f"{error.reason}: {error.message}")
        except Exception:  # noqa: BLE001 - a defect of ours in one notice must not silence the listener for good
            _log.exception("approval.notice_defect", listener=self._listener.name)

    def _gave_up(self, notice: Notice, why: str) -> None:
        _log.warning(
            "approval.not_notified",
            listener=self._listener.name,
            approval=notice.approval.id,
            told=notice.event,
            error=why,
        )


class Notifier:
    """Follows the ledger while a broker runs, and tells of it; an async context manager.

    Args:
        store: of the ledger.
        bell: says when something may have changed.
        deliveries: to whom it is told.
    """

    def __init__(self, store: Store, bell: Bell, deliveries: Sequence[Delivery]) -> None:
        self._store = store
        self._bell = bell
        self._deliveries = deliveries
        self._herald = Herald()
        self._next = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._deliveries:
            head = await self._store.read(lambda tx: tx.ledger.head())
            self._next = 0 if head is None else head.seq + 1
            for delivery in self._deliveries:
                delivery.start()
            self._task = asyncio.create_task(self._follow(), name="notices")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(BrokerError):
            while await self._look_once():
                pass
        await asyncio.gather(*(delivery.close(_CLOSE_S) for delivery in self._deliveries))

    async def _follow(self) -> None:
        while True:
            count = self._bell.count
            try:
                more = await self._look_once()
            except BrokerError as error:
                _log.warning("approval.notices_behind", reason=error.reason, error=str(error))
                more = False
            if not more:
                await self._bell.heard(count, _LOOK_S)

    async def _look_once(self) -> bool:
        """Tells of the next entries; whether there were as many as are looked at in one go."""
        notices, following, more = await self._store.read(self._look)
        self._next = following
        for notice in notices:
            for delivery in self._deliveries:
                delivery.offer(notice)
        return more

    def _look(self, tx: Transaction) -> tuple[list[Notice], int, bool]:
        rows = tx.ledger.entries(self._next, _PAGE)
        notices = [notice for row in rows for notice in self._herald.hear(row, tx.approvals.get)]
        return notices, rows[-1].seq + 1 if rows else self._next, len(rows) == _PAGE
