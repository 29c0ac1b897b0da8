"""What all parts of the asynchronous client stand on: one endpoint, one open channel, defaults."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from broker.client.checkpoint_memory import CheckpointMemory, UnsafeNoCheckpointMemory
from broker.client.connection import Endpoint, Identity
from broker.client.history import History
from broker.client.ledger import AsyncLedger
from broker.client.ledger_questions import LedgerQuestions
from broker.client.models import CallContext
from broker.client.retry import RetryPolicy
from broker.client.transport import Timeouts, Transport
from broker.client.workspaces import AsyncWorkspaces
from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError


class Client:
    """A client of one broker as one identity; ``AsyncBroker`` is the one to use."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        context: CallContext,
        retry: RetryPolicy,
        timeouts: Timeouts,
        checkpoints: CheckpointMemory | UnsafeNoCheckpointMemory | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._checkpoints = checkpoints or CheckpointMemory()
        self._context = context
        self._retry = retry
        self._timeouts = timeouts
        self._open: Transport | None = None

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        identity: Identity | Path | None = None,
        ca: Path | bytes | None = None,
        context: CallContext | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        unsafe_plaintext: bool = False,
        checkpoints: CheckpointMemory | UnsafeNoCheckpointMemory | None = None,
    ) -> Self:
        """A client for the broker at ``address``; it connects with its first request.

        Args:
            address: ``host:port``, one of the names in the broker's certificate.
            identity: a folder with ``cert.pem`` and ``key.pem``, or both as values.
            ca: the CA that vouches for the broker, as a file or as PEM.
            context: defaults for every call.
            retry: how often and how long safe requests are tried again.
            timeouts: default deadlines.
            unsafe_plaintext: no TLS and no authentication, on a loopback address, for debugging.
            checkpoints: how the client remembers the ledger's checkpoints, by which it notices a rewritten history;
                by default in the user's state folder. ``UnsafeNoCheckpointMemory()`` turns it off.

        Raises:
            InvalidArgumentError: something is missing or wrong; there is never a fall-back to plaintext.
        """
        endpoint = Endpoint.load(address, identity=identity, ca=ca, unsafe_plaintext=unsafe_plaintext)
        return cls(
            endpoint,
            context=context or CallContext(),
            retry=retry or RetryPolicy(),
            timeouts=timeouts or Timeouts(),
            checkpoints=checkpoints,
        )

    async def open(self) -> Self:
        """Opens the channel in the running event loop; ``async with`` does it too."""
        if self._open is None:
            transport = Transport(self._endpoint, self._retry, self._timeouts)
            transport.history = History(LedgerQuestions(transport), self._checkpoints, self._endpoint.ca)
            self._open = transport
        return self

    async def close(self) -> None:
        """Closes the channel; open requests are cancelled. Again is harmless."""
        transport, self._open = self._open, None
        if transport is not None:
            await transport.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def ledger(self) -> AsyncLedger:
        """The broker's ledger: entries, checkpoints and proofs, verified here."""
        return AsyncLedger(lambda: self._rpc)

    @property
    def workspaces(self) -> AsyncWorkspaces:
        """The trees of the broker's workspaces: what there is, what differs, folders in and out."""
        return AsyncWorkspaces(lambda: self._rpc)

    @property
    def _rpc(self) -> Transport:
        if self._open is None:
            raise FailedPreconditionError(
                "the client is not open",
                reason="CLIENT_CLOSED",
                hint="Use it inside `async with`, or call open() first.",
            )
        return self._open

    def _workspace(self, given: str) -> str:
        workspace = given or self._context.workspace
        if not workspace:
            why = "is required"
            raise InvalidArgumentError(
                f"workspace {why}",
                hint="Give it with the call, or with the client's context.",
                violations=(FieldViolation("context.workspace", why),),
            )
        return workspace
