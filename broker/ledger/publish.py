"""Hands checkpoints to those outside: a folder, a webhook, a witness. Each in the background, each by itself.

Only the newest checkpoint counts: whoever was away gets that one, and what lies between is proved by it. So a holder that
is down costs one note in memory and now and then an attempt, and never holds up anything else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

import structlog
import tenacity

from broker.domain.urls import Url
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, UnavailableError
from broker.ledger.posting import Poster, Trust
from broker.ledger.whole_file import NotWholeError, read_whole, write_whole
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note, NoteError

FIRST_WAIT_S: Final = 1.0
"""After the first attempt that failed."""
LONGEST_WAIT_S: Final = 300.0
"""Between attempts, however many have failed."""

_log = structlog.get_logger(__name__)


class Publisher(Protocol):
    """Somebody outside who gets checkpoints."""

    @property
    def name(self) -> str:
        """How it is called in status and logs; holds nothing secret."""

    async def publish(self, note: Note) -> None:
        """Hands a checkpoint over; the same one again does no harm.

        Raises:
            BrokerError: it didn't take it; another attempt may be made.
        """


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """How it stands with one holder. ``last_error`` is empty once it has taken the newest."""

    name: str
    size: int | None = None
    """Of the last checkpoint that it took."""
    last_success: datetime | None = None
    last_attempt: datetime | None = None
    failures: int = 0
    """Attempts in a row that failed."""
    last_error: str = ""


class Delivery:
    """Brings the newest checkpoint to one holder, again and again until it has it.

    Args:
        publisher: the holder.
        clock: the time now, with a zone.
        first_wait_s: after a failed attempt; doubled with each further one, up to ``LONGEST_WAIT_S``.
    """

    def __init__(self, publisher: Publisher, clock: Callable[[], datetime], first_wait_s: float = FIRST_WAIT_S) -> None:
        self._publisher = publisher
        self._clock = clock
        self._retry = tenacity.AsyncRetrying(
            wait=tenacity.wait_exponential(multiplier=first_wait_s, max=LONGEST_WAIT_S)
            + tenacity.wait_random(0, first_wait_s),
            retry=tenacity.retry_if_exception_type(BrokerError),
        )
        self._note: Note | None = None
        self._offered = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tried = asyncio.Event()
        self._tried.set()
        self._task: asyncio.Task[None] | None = None
        self.status = DeliveryStatus(publisher.name)

    def start(self) -> None:
        """Begins to work in the background."""
        self._task = asyncio.create_task(self._run(), name=f"checkpoints to {self.status.name}")

    def offer(self, note: Note) -> None:
        """This is the newest now; returns at once. One that is older than what was offered before is passed over."""
        if self._note is not None and _size(note) < _size(self._note):
            return
        self._note = note
        self._offered.set()
        self._idle.clear()
        self._tried.clear()

    async def settle(self) -> None:
        """Returns once the newest has been taken."""
        await self._idle.wait()

    async def close(self, within_s: float) -> None:
        """Ends; a holder that took the one before has so many seconds to take the newest, in one attempt."""
        if not self.status.failures:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._tried.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._offered.wait()
            await self._retry(self._attempt)

    async def _attempt(self) -> None:
        self._offered.clear()
        note = self._note
        if note is None:
            return
        moment = self._clock()
        try:
            await self._publisher.publish(note)
        except BrokerError as error:
            self._failed(moment, f"{error.reason}: {error.message}")
            raise
        except Exception as error:
            # A defect of ours in one holder's code must not silence it for good.
            _log.exception("checkpoint.delivery_defect", holder=self.status.name)
            self._failed(moment, f"INTERNAL: {type(error).__name__}")
            raise UnavailableError("the attempt failed by a defect of the broker's") from error
        self.status = DeliveryStatus(self.status.name, _size(note), moment, moment)
        if self._note is note:
            self._idle.set()
            self._tried.set()

    def _failed(self, moment: datetime, why: str) -> None:
        self._tried.set()
        failures = self.status.failures + 1
        self.status = replace(self.status, last_attempt=moment, failures=failures, last_error=why)
        if failures == 1 or failures & (failures - 1) == 0:  # not a line for each of thousands
            _log.warning("checkpoint.not_delivered", holder=self.status.name, failures=failures, error=why)


class FolderPublisher:
    """Writes checkpoints into a folder, such as a mounted share: ``latest.note`` and ``<size>.note``.

    A folder that holds a larger checkpoint, or another one of the same size, is never written over: that is just what
    an outside holder is for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._busy = False

    @property
    def name(self) -> str:
        """See ``Publisher``."""
        return f"folder {self._folder}"

    async def publish(self, note: Note) -> None:
        """See ``Publisher``."""
        if self._busy:
            raise UnavailableError(f"{self._folder} still doesn't answer", reason="HOLDER_UNREACHABLE")
        self._busy = True
        # A share may hang for ever. A thread of its own then hangs with it, and not the broker's end.
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def work() -> None:
            error: BaseException | None = None
            try:
                self.write(note)
            except BaseException as raised:  # noqa: BLE001 - it goes to the caller, whatever it is
                error = raised
            self._busy = False
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, done, error)

        threading.Thread(target=work, name="checkpoint-folder", daemon=True).start()
        await done

    def write(self, note: Note) -> None:
        """Writes a checkpoint; blocks.

        Raises:
            UnavailableError: ``HOLDER_UNREACHABLE``: the folder is missing or can't be written.
            DataLossError: ``CHECKPOINT_HELD_OTHERWISE``: it holds another history.
            FailedPreconditionError: ``CHECKPOINT_HELD_NEWER``, ``CHECKPOINT_HELD_UNREADABLE``.
        """
        data, size = note.encode(), _size(note)
        name = f"{size:016d}.note"
        try:
            for held_name in ("latest.note", name):
                self._compare(held_name, note, size)
            for to in (name, "latest.note"):
                if read_whole(self._folder / to) != data:
                    write_whole(self._folder / to, data, mode=0o644)
        except OSError as error:
            raise UnavailableError(
                f"{self._folder} can't be written: {error.strerror or type(error).__name__}",
                reason="HOLDER_UNREACHABLE",
            ) from error

    def _compare(self, name: str, note: Note, size: int) -> None:
        try:
            data = read_whole(self._folder / name)
            if data is None:
                return
            held = Note.parse(data)
            checkpoint = Checkpoint.parse(held.text)
        except (NoteError, NotWholeError) as error:
            raise FailedPreconditionError(
                f"{self._folder / name} is no checkpoint: {error}", reason="CHECKPOINT_HELD_UNREADABLE"
            ) from error
        if checkpoint.size > size:
            raise FailedPreconditionError(
                f"{self._folder} holds a checkpoint of {checkpoint.size} entries; this one has {size}",
                reason="CHECKPOINT_HELD_NEWER",
                hint="Was the ledger restored from an older backup? Compare: broker ledger verify --checkpoint FILE",
            )
        if checkpoint.size == size and held.text != note.text:
            raise DataLossError(
                f"{self._folder} holds another checkpoint of {size} entries than this one",
                reason="CHECKPOINT_HELD_OTHERWISE",
                hint="Keep both: together they prove that the history was rewritten.",
            )


class WebhookPublisher:
    """POSTs checkpoints as ``text/plain``; any 2xx is success, and nothing else of the answer is used."""

    def __init__(self, url: Url, trust: Trust) -> None:
        self._poster = Poster(url, trust)
        self._authority = url.authority

    @property
    def name(self) -> str:
        """See ``Publisher``."""
        return f"webhook {self._authority}"

    async def publish(self, note: Note) -> None:
        """See ``Publisher``."""
        answer = await self._poster.post(note.encode(), "text/plain; charset=utf-8")
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise UnavailableError(f"{self._authority} answered with status {answer.status}", reason="HOLDER_REFUSED")


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _size(note: Note) -> int:
    return Checkpoint.parse(note.text).size
