"""One channel with its stubs: deadlines, retries and errors for every method in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from broker.client.connection import Endpoint
from broker.client.errors import from_rpc_error
from broker.client.history import History
from broker.client.retry import RetryPolicy, retrying
from broker.client.wire import protocol_error
from broker.errors import BrokerError, DeadlineError, InvalidArgumentError
from broker.v1.administration_pb2_grpc import AdministrationStub
from broker.v1.approvals_pb2_grpc import ApprovalsStub
from broker.v1.ledger_pb2_grpc import LedgerStub
from broker.v1.sessions_pb2_grpc import SessionsStub
from broker.v1.tool_broker_pb2_grpc import ToolBrokerStub
from broker.v1.workspaces_pb2_grpc import WorkspacesStub

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds, from the start to the last answer, pauses and retries included."""

    request_s: float = 30.0
    """Of a single question and answer."""
    call_s: float = 3600.0
    """Of running or watching a call; a run that exceeds it is cancelled."""
    transfer_s: float = 600.0
    """Of one upload or download."""


class Deadline:
    """A moment after which no answer is waited for."""

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise InvalidArgumentError(
                f"a timeout must be more than 0 seconds, not {seconds}", reason="TIMEOUT_INVALID"
            )
        self._end = asyncio.get_running_loop().time() + seconds

    def remaining(self) -> float:
        """Seconds that are left.

        Raises:
            DeadlineError: none are.
        """
        left = self._end - asyncio.get_running_loop().time()
        if left <= 0:
            raise DeadlineError("the deadline passed before there was an answer")
        return left


class Transport:
    """An open channel. Made and used in one event loop."""

    def __init__(self, endpoint: Endpoint, retry: RetryPolicy, timeouts: Timeouts) -> None:
        self.retry = retry
        self.timeouts = timeouts
        self._address = endpoint.address
        self._channel = endpoint.channel()
        self.tools = ToolBrokerStub(self._channel)
        self.sessions = SessionsStub(self._channel)
        self.administration = AdministrationStub(self._channel)
        self.approvals = ApprovalsStub(self._channel)
        self.ledger = LedgerStub(self._channel)
        self.workspaces = WorkspacesStub(self._channel)
        self.history: History | None = None
        """What is known of the broker's ledger; ``None`` checks nothing."""

    async def ready(self, deadline: Deadline) -> None:
        """Lets a request go out: after the first look at the ledger's history, and never once that was rewritten.

        Raises:
            HistoryRewrittenError: it was.
            FailedPreconditionError: ``CHECKPOINT_MEMORY_DAMAGED``.
        """
        if self.history is not None:
            await self.history.ready(deadline.remaining())

    async def close(self) -> None:
        """Closes the channel; requests that are open are cancelled."""
        if self.history is not None:
            await self.history.close()
        await self._channel.close()

    def error(self, error: grpc.aio.AioRpcError) -> BrokerError:
        """The exception that a failed RPC is raised as."""
        return from_rpc_error(error, self._address)

    async def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        repeatable: bool = True,
        always: bool = False,
    ) -> Response:
        """One question, one answer.

        Args:
            method: a stub's method.
            request: its request.
            timeout_s: deadline in seconds; ``None`` takes the client's default.
            repeatable: may the request be sent again, where the broker was unavailable? Only a read or an idempotent
                request may.
            always: send it whatever is known of the ledger's history: what ends something must get through.

        Raises:
            BrokerError: the broker's refusal, or the transport's failure.
        """
        deadline = Deadline(self.timeouts.request_s if timeout_s is None else timeout_s)
        if not always:
            await self.ready(deadline)

        async def attempt() -> Response:
            try:
                return await method(request, timeout=deadline.remaining())
            except grpc.aio.AioRpcError as error:
                raise self.error(error) from error

        if not repeatable:
            return await attempt()
        return await retrying(self.retry, attempt, within_s=deadline.remaining())

    @staticmethod
    async def pages(
        ask: Callable[[str], Awaitable[Response]],
        items: Callable[[Response], Sequence[Item]],
    ) -> AsyncIterator[Item]:
        """All items of all pages; ``ask`` takes the page token.

        Raises:
            InternalError: the broker gives the same page token twice.
        """
        token = ""
        seen: set[str] = set()
        while True:
            page = await ask(token)
            for item in items(page):
                yield item
            token = str(page.next_page_token)  # type: ignore[attr-defined]  # all page responses have it (AIP-158)
            if not token:
                return
            if token in seen:
                raise protocol_error("a page token came twice")
            seen.add(token)
