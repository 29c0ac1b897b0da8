"""The synchronous client: the asynchronous one on an event loop of its own, so that both behave alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.client import models, sandbox
from broker.client.aio import AsyncBroker
from broker.client.approvals_sync import SyncApprovalMethods
from broker.client.checkpoint_memory import CheckpointMemory, UnsafeNoCheckpointMemory
from broker.client.connection import Identity
from broker.client.events import EventStream
from broker.client.ledger_sync import Ledger
from broker.client.loop import LoopThread
from broker.client.models import Arguments, Blob, Call, CallContext, CallFilter, CompletedCall, InputFile, OutputFile
from broker.client.retry import RetryPolicy
from broker.client.transport import Timeouts
from broker.client.workspaces_sync import Workspaces


class SyncEvents(Iterator[models.Event]):
    """The events of one call; iterate over it inside ``with``. Leaving early ends the stream."""

    def __init__(self, stream: EventStream, loop: LoopThread) -> None:
        self.request_id = stream.request_id
        self._stream = stream
        self._loop = loop
        self._events = loop.iterate(stream)

    def __next__(self) -> models.Event:
        return next(self._events)

    def close(self) -> None:
        """Ends the stream; for a run that isn't finished this cancels the call."""
        self._loop.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Broker(SyncApprovalMethods):
    """A connection to a broker as one identity, for code without an event loop; safe to share between threads.

    Make it with ``Broker.connect(...)`` and use it in ``with``. Methods, arguments, values and exceptions are those of
    ``AsyncBroker``; iterators are ordinary ones. An interrupt (Ctrl-C) cancels the request that waits.
    """

    def __init__(self, client: AsyncBroker) -> None:
        self._client = client
        self._loop = LoopThread()
        try:
            self._loop.run(client.open())
        except BaseException:
            self._loop.close()
            raise

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
        """A client for the broker at ``address``; see ``AsyncBroker.connect``."""
        return cls(
            AsyncBroker.connect(
                address,
                identity=identity,
                ca=ca,
                context=context,
                retry=retry,
                timeouts=timeouts,
                unsafe_plaintext=unsafe_plaintext,
                checkpoints=checkpoints,
            )
        )

    def close(self) -> None:
        """Closes the connection; open requests are cancelled. Again is harmless."""
        try:
            if self._loop.alive:
                self._loop.run(self._client.close())
        finally:
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def ledger(self) -> Ledger:
        """The broker's ledger: entries, checkpoints and proofs, verified here."""
        return Ledger(self._client.ledger, self._loop)

    @property
    def workspaces(self) -> Workspaces:
        """The trees of the broker's workspaces: what there is, what differs, folders in and out."""
        return Workspaces(self._client.workspaces, self._loop)

    def list_tools(
        self, workspace: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[models.Tool]:
        """The tools that the caller may call in a workspace."""
        return self._loop.iterate(self._client.list_tools(workspace, page_size=page_size, timeout_s=timeout_s))

    def get_tool(self, name: str, workspace: str = "", *, timeout_s: float | None = None) -> models.Tool:
        """One tool."""
        return self._loop.run(self._client.get_tool(name, workspace, timeout_s=timeout_s))

    def create_call(
        self,
        tool: str,
        arguments: Arguments,
        *,
        files: Sequence[InputFile] = (),
        context: CallContext | None = None,
        tool_version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Call:
        """Has a call admitted and returns at once."""
        return self._loop.run(
            self._client.create_call(
                tool,
                arguments,
                files=files,
                context=context,
                tool_version=tool_version,
                request_id=request_id,
                timeout_s=timeout_s,
            )
        )

    def stream(
        self,
        tool: str,
        arguments: Arguments,
        *,
        files: Sequence[InputFile] = (),
        context: CallContext | None = None,
        tool_version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> SyncEvents:
        """Runs a call and yields its events up to ``Finished``."""
        stream = self._client.stream(
            tool,
            arguments,
            files=files,
            context=context,
            tool_version=tool_version,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return SyncEvents(stream, self._loop)

    def run(
        self,
        tool: str,
        arguments: Arguments,
        *,
        files: Sequence[InputFile] = (),
        context: CallContext | None = None,
        tool_version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> CompletedCall:
        """Runs a call to its end and returns it with its output."""
        return self._loop.run(
            self._client.run(
                tool,
                arguments,
                files=files,
                context=context,
                tool_version=tool_version,
                request_id=request_id,
                timeout_s=timeout_s,
            )
        )

    def watch(self, call: Call | str, *, first_event: int = 1, timeout_s: float | None = None) -> SyncEvents:
        """The events of a call from ``first_event`` on."""
        return SyncEvents(self._client.watch(call, first_event=first_event, timeout_s=timeout_s), self._loop)

    def get_call(self, call: Call | str, *, timeout_s: float | None = None) -> Call:
        """A call as it stands."""
        return self._loop.run(self._client.get_call(call, timeout_s=timeout_s))

    def list_calls(
        self, chosen: CallFilter | None = None, *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Call]:
        """Calls, newest first."""
        return self._loop.iterate(self._client.list_calls(chosen, page_size=page_size, timeout_s=timeout_s))

    def cancel_call(self, call: Call | str, *, timeout_s: float | None = None) -> Call:
        """Cancels a call."""
        return self._loop.run(self._client.cancel_call(call, timeout_s=timeout_s))

    def upload(
        self,
        source: Path | bytes | Iterable[bytes],
        *,
        data_classes: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Blob:
        """Uploads a file, bytes or what an iterable yields."""
        content = source if isinstance(source, Path | bytes) else _aiter(source)
        return self._loop.run(self._client.upload(content, data_classes=data_classes, timeout_s=timeout_s))

    def read(self, blob: Blob | OutputFile | str, *, timeout_s: float | None = None) -> Iterator[bytes]:
        """The bytes of a blob, in pieces; checked after the last one, so trust none before it."""
        return self._loop.iterate(self._client.read(blob, timeout_s=timeout_s))

    def download(
        self, blob: Blob | OutputFile | str, to: Path, *, overwrite: bool = False, timeout_s: float | None = None
    ) -> Path:
        """Downloads a blob to a file: all of it, checked, or nothing."""
        return self._loop.run(self._client.download(blob, to, overwrite=overwrite, timeout_s=timeout_s))

    def start_session(
        self,
        agent: str,
        workspace: str = "",
        *,
        ttl_s: float | None = None,
        schedule: str = "",
        timeout_s: float | None = None,
    ) -> models.Session:
        """Starts a session for an agent."""
        return self._loop.run(
            self._client.start_session(agent, workspace, ttl_s=ttl_s, schedule=schedule, timeout_s=timeout_s)
        )

    def end_session(self, name: str, *, timeout_s: float | None = None) -> models.Session:
        """Ends a session."""
        return self._loop.run(self._client.end_session(name, timeout_s=timeout_s))

    def get_session(self, name: str, *, timeout_s: float | None = None) -> models.Session:
        """A session."""
        return self._loop.run(self._client.get_session(name, timeout_s=timeout_s))

    def list_sessions(
        self, agent: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[models.Session]:
        """Sessions, newest first."""
        return self._loop.iterate(self._client.list_sessions(agent, page_size=page_size, timeout_s=timeout_s))

    def create_schedule(
        self,
        agent: str,
        workspace: str = "",
        *,
        session_ttl_s: float,
        expires: datetime,
        weekdays: Sequence[int] = (),
        from_minute: int = 0,
        until_minute: int = 1440,
        timeout_s: float | None = None,
    ) -> models.Schedule:
        """Registers when an agent may start sessions by itself (UTC)."""
        return self._loop.run(
            self._client.create_schedule(
                agent,
                workspace,
                session_ttl_s=session_ttl_s,
                expires=expires,
                weekdays=weekdays,
                from_minute=from_minute,
                until_minute=until_minute,
                timeout_s=timeout_s,
            )
        )

    def status(self, *, timeout_s: float | None = None) -> models.BrokerStatus:
        """What the broker runs with."""
        return self._loop.run(self._client.status(timeout_s=timeout_s))

    def sandbox_status(self, *, timeout_s: float | None = None) -> sandbox.SandboxStatus:
        """What the sandboxes do: the warm pool, the calls that hold a container, how calls ended, how long steps take."""
        return self._loop.run(self._client.sandbox_status(timeout_s=timeout_s))

    def reload_policy(self, *, timeout_s: float | None = None) -> models.PolicyReload:
        """Has the policy read again."""
        return self._loop.run(self._client.reload_policy(timeout_s=timeout_s))

    def list_identities(self, *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[models.IdentityInfo]:
        """The identities that the broker knows, oldest first."""
        return self._loop.iterate(self._client.list_identities(page_size=page_size, timeout_s=timeout_s))

    def revoke_identity(self, name: str, reason: str, *, timeout_s: float | None = None) -> models.IdentityInfo:
        """Revokes an identity at once, open connections included."""
        return self._loop.run(self._client.revoke_identity(name, reason, timeout_s=timeout_s))


async def _aiter(source: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in source:
        yield piece
