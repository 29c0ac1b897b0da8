"""The policy in force: a file, watched; checked off the event loop; swapped as one reference, or not at all."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from broker.errors import BrokerError, FailedPreconditionError, InvalidArgumentError
from broker.policy.snapshot import Snapshot
from broker.policy.text import MAX_BYTES

_log = structlog.get_logger(__name__)

MaySwap = Callable[[Snapshot, Snapshot], Awaitable[None]]
"""Given the old and the new snapshot; raises where the new one may not go into force."""

OnChange = Callable[[Snapshot, Snapshot], Awaitable[None]]
"""Given the old and the new snapshot; awaited before the new one is in force."""


@dataclass(frozen=True, slots=True)
class _Signature:
    # ctime_ns is in it because mtime and size can be set back by whoever writes the file.
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class LivePolicy:
    """The policy file of a running broker.

    ``async with LivePolicy(...) as policy`` starts it and looks at the file every ``poll_s`` seconds. A change is taken
    up once the file has stayed the same from one look to the next, so that a file which is still being written isn't
    read. A file that doesn't pass the checks changes nothing: it is logged once and stands in ``last_error``.

    Args:
        path: the policy file.
        known_tools: full names of the tools that exist; ``None`` doesn't check.
        known_rpcs: full methods that the broker serves; ``None`` doesn't check.
        on_change: awaited before a new snapshot is in force; where it raises, the old one stays.
        may_swap: awaited before ``on_change``. Where it raises, the old policy stays, and a file that it refused isn't
            offered to it again until the file changes or ``reload`` is called.
        in_force: text of the policy that was in force last. Where the file differs, the broker starts with this text and
            takes the file up as it takes up any other change, with both hooks: a restart is no way round them. It was
            checked when it went live, so the tools and RPCs that it names needn't exist any more.
        poll_s: seconds between two looks.
    """

    def __init__(
        self,
        path: Path,
        *,
        known_tools: frozenset[str] | None,
        on_change: OnChange | None = None,
        may_swap: MaySwap | None = None,
        in_force: str | None = None,
        known_rpcs: frozenset[str] | None = None,
        poll_s: float = 1.0,
    ) -> None:
        self._path = path
        self._known_tools = known_tools
        self._known_rpcs = known_rpcs
        self._on_change = on_change
        self._may_swap = may_swap
        self._in_force = in_force
        self._poll_s = poll_s
        self._snapshot: Snapshot | None = None
        self._taken: _Signature | None = None
        self._seen: _Signature | None = None
        self._refused: _Signature | None = None
        self._checks = 0
        self._reported: str = ""
        self._last_error: BrokerError | None = None
        self._reloading = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The policy in force. Take it once for one decision: the next time it may be another.

        Raises:
            FailedPreconditionError: ``start`` hasn't run.
        """
        if self._snapshot is None:
            raise FailedPreconditionError("no policy is in force: it hasn't been started", reason="POLICY_NOT_STARTED")
        return self._snapshot

    @property
    def last_error(self) -> BrokerError | None:
        """Why the file as it now stands isn't in force; ``None`` where it is."""
        return self._last_error

    @property
    def checks(self) -> int:
        """How often the file has been read and checked."""
        return self._checks

    async def start(self) -> None:
        """Reads the file for the first time; there is no broker without a policy that passes.

        Where another policy was in force last, and a hook doesn't let the file replace it, that policy is in force
        afterwards, and ``last_error`` says why.

        Raises:
            InvalidArgumentError: POLICY_INVALID, or POLICY_UNREADABLE where there is no such file; POLICY_IN_FORCE where
                ``in_force`` can't be read.
            Exception: whatever other than a ``BrokerError`` a hook raises.
        """
        async with self._reloading:
            new, signature = await self._read()
            before = await self._before(new)
            self._snapshot = before or new
            if before is None:
                self._taken = self._seen = signature
            else:
                self._seen = signature
                try:
                    await self._swap(before, new, signature)
                except BrokerError as error:
                    self._fail(error)
        _log.info("policy.live", policy=self._snapshot.digest, rules=self._snapshot.rules)

    async def reload(self) -> bool:
        """Reads the file now; true where another policy is in force afterwards.

        Raises:
            InvalidArgumentError: the file is bad; the policy in force stays.
            Exception: whatever ``on_change`` raises; the policy in force stays.
        """
        async with self._reloading:
            try:
                changed = await self._reload()
            except BrokerError as error:
                self._fail(error)
                raise
            self._last_error = None
            self._reported = ""
            return changed

    async def check(self, text: str) -> Snapshot:
        """Reads a policy that isn't in force, as one from the file would be.

        Raises:
            InvalidArgumentError: ``POLICY_INVALID``.
        """
        return await asyncio.to_thread(Snapshot.load, text, known_tools=self._known_tools, known_rpcs=self._known_rpcs)

    async def look(self) -> bool:
        """One look at the file, as the watcher takes it; true where it brought another policy into force.

        Raises nothing: what goes wrong is logged once and stands in ``last_error``.
        """
        try:
            signature = await asyncio.to_thread(_signature, self._path)
            settled = signature == self._seen
            self._seen = signature
            if signature == self._taken:
                self._last_error = None
                return False
            # A file that was refused isn't checked again until it changes: checking a long one costs seconds.
            if signature == self._refused or not settled:
                return False
            return await self.reload()
        except BrokerError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - the watcher must outlive whatever a hook or the disk does
            self._fail(
                FailedPreconditionError(
                    f"the new policy could not be brought into force: {type(error).__name__}",
                    reason="POLICY_NOT_SWAPPED",
                ),
            )
        return False

    async def __aenter__(self) -> Self:
        if self._snapshot is None:
            await self.start()
        self._watcher = asyncio.create_task(self._watch(), name="policy-watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.look()

    async def _reload(self) -> bool:
        old = self.snapshot
        new, signature = await self._read()
        if new.digest == old.digest:
            self._taken = self._seen = signature
            return False
        await self._swap(old, new, signature)
        return True

    async def _before(self, new: Snapshot) -> Snapshot | None:
        # The policy that was in force last, where it isn't the one that the file holds.
        if self._in_force is None or self._in_force == new.text:
            return None
        try:
            return await asyncio.to_thread(Snapshot.load, self._in_force)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"the policy that was in force last can't be read, so nothing may replace it: {error.message}",
                reason="POLICY_IN_FORCE",
                violations=error.violations,
            ) from error

    async def _swap(self, old: Snapshot, new: Snapshot, signature: _Signature) -> None:
        if self._may_swap is not None:
            try:
                await self._may_swap(old, new)
            except BrokerError:
                self._refused = signature
                raise
        if self._on_change is not None:
            await self._on_change(old, new)
        # The swap: one reference. Whoever decides at this moment holds the old snapshot or the new one, never a mixture.
        self._snapshot, self._taken, self._seen = new, signature, signature
        _log.info("policy.changed", old=old.digest, new=new.digest, rules=new.rules, warnings=len(new.warnings))

    async def _read(self) -> tuple[Snapshot, _Signature]:
        text, signature = await asyncio.to_thread(_read_file, self._path)
        self._checks += 1
        try:
            snapshot = await self.check(text)
        except BrokerError:
            self._refused = signature
            raise
        return snapshot, signature

    def _fail(self, error: BrokerError) -> None:
        self._last_error = error
        summary = f"{error.reason} {error.message} {self._seen}"
        if summary != self._reported:
            self._reported = summary
            _log.error(
                "policy.refused",
                reason=error.reason,
                error=error.message,
                places=[f"{item.field}: {item.description}" for item in error.violations],
                in_force=self._snapshot.digest if self._snapshot else "",
            )


def _signature(path: Path) -> _Signature:
    try:
        return _of(path.stat())
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from error


def _of(found: os.stat_result) -> _Signature:
    return _Signature(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read_file(path: Path) -> tuple[str, _Signature]:
    try:
        # Non-blocking: opening a pipe in the file's place must not hang the broker.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise _unreadable(path, "it is no regular file")
            data = file.read(MAX_BYTES + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from error
    if len(data) > MAX_BYTES:
        raise InvalidArgumentError(f"{path} is longer than {MAX_BYTES} bytes", reason="POLICY_INVALID")
    if _of(before) != _of(after) or len(data) != after.st_size:
        raise InvalidArgumentError(
            f"{path} changed while it was read",
            reason="POLICY_UNREADABLE",
            hint="Write the new policy beside the file and rename it over: then no half of it is ever seen.",
        )
    try:
        return data.decode("utf-8"), _of(after)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidArgumentError(
            f"{path} is not UTF-8 in line {line}", reason="POLICY_INVALID", hint="Save the file as UTF-8."
        ) from error


def read_text(path: Path) -> str:
    """The text of a policy file, in the calling thread.

    Raises:
        InvalidArgumentError: POLICY_UNREADABLE, or POLICY_INVALID where it isn't UTF-8 or is too long.
    """
    return _read_file(path)[0]


def read_snapshot(
    path: Path, *, known_tools: frozenset[str] | None = None, known_rpcs: frozenset[str] | None = None
) -> Snapshot:
    """Reads a policy file once, in the calling thread.

    Raises:
        InvalidArgumentError: POLICY_UNREADABLE or POLICY_INVALID.
    """
    return Snapshot.load(read_text(path), known_tools=known_tools, known_rpcs=known_rpcs)


def _unreadable(path: Path, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the policy {path} can't be read: {why}",
        reason="POLICY_UNREADABLE",
        hint="`broker init` writes the default policy into the state directory.",
    )
