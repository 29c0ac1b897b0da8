"""What a call asked of hosts and was answered, as it is kept: values, and the one byte form of them. Pure.

    magic       broker-egress-recording-v1, and a line feed
    4 bytes     length of what follows, big-endian
    head        RFC 8785: call, exchanges (their number), missed
    then for each exchange, in the order in which they began
      4 bytes   length of what follows, big-endian
      exchange  RFC 8785, as ``RecordedExchange`` without the body
      body      of the answer, as many bytes as the exchange says

There is one form for each recording: what reads in another way, or goes on behind the last body, is refused.
"""

from __future__ import annotations

import enum
import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TypeVar

import h11
import msgspec

from broker.domain.canonical import canonical
from broker.domain.run import EgressVerdict
from broker.errors import DataLossError

MAX_BYTES = 64 * 2**20
"""Longest recording that is read: what all rules may keep, and what it takes to write it down."""
MAX_EXCHANGES = 2**16

_MAGIC = b"broker-egress-recording-v1\n"
_LENGTH = struct.Struct(">I")
_MAX_TEXT = 2**20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_METHOD = re.compile(r"[A-Za-z-]{1,32}")
_REASON = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(r"/[\x21-\x7e]*")
_HIGHEST_PORT = 65535
_REFUSALS = frozenset(status.value for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST)
T = TypeVar("T")


class How(enum.StrEnum):
    """How an exchange ended for the tool."""

    COMPLETE = "complete"
    """It got the whole answer."""
    BROKEN = "broken"
    """It got a part of the answer, or nothing, and then the end of its connection, or of its run."""
    REFUSED = "refused"
    """The broker answered in the place of the host."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """What the tool asked."""

    method: str
    host: str
    port: int
    """As the tool wrote it: 80 where it wrote none, whichever port of the host that leads to."""
    target: str
    """Path and query."""
    headers: tuple[tuple[str, str], ...]
    """As the tool sent them, but for those in ``withheld``."""
    withheld: tuple[str, ...]
    """Names of headers that carry credentials: their values aren't kept."""
    body_bytes: int = 0
    body_digest: str = ""
    """``sha256:`` of the body as far as it came."""
    body_whole: bool = False
    """Had all of it come?"""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """By which a later request is known to ask the same."""
        return self.method, self.host, self.port, self.target


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """What the tool was answered, from the host."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body_bytes: int
    """That the tool got."""
    body_digest: str
    """``sha256:`` of them."""
    kept: bool
    """Is the body kept? Else there was no room for it."""


@dataclass(frozen=True, slots=True)
class RecordedRefusal:
    """Why the broker answered itself, or cut the host's answer."""

    verdict: EgressVerdict
    message: str
    status: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RecordedExchange:
    """One request, and what came of it."""

    request: RecordedRequest
    how: How
    begun: bool = False
    """Was the tool given the beginning of a host's answer?"""
    answer: RecordedAnswer | None = None
    """``None`` where none had begun, there was no room for its head, or it held a secret."""
    refusal: RecordedRefusal | None = None
    body: bytes = b""
    """Of the answer, where it is kept."""


@dataclass(frozen=True, slots=True)
class Recording:
    """All exchanges of a call with the hosts whose answers are kept, in the order in which they began."""

    call: str
    exchanges: tuple[RecordedExchange, ...]
    missed: int = 0
    """Exchanges of which there was room for nothing."""

    @property
    def whole(self) -> bool:
        """Is all that the tool was answered kept?"""
        kept = all(item.answer.kept for item in self.exchanges if item.answer is not None)
        lost = any(item.answer is None and item.begun for item in self.exchanges)
        return kept and not lost and not self.missed


@dataclass(frozen=True, slots=True)
class _Head:
    call: str
    exchanges: int
    missed: int


def dump_recording(recording: Recording) -> Iterator[bytes]:
    """The bytes of a recording, in pieces."""
    yield _MAGIC
    yield _text(_Head(recording.call, len(recording.exchanges), recording.missed))
    for item in recording.exchanges:
        yield _text(replace(item, body=b""))
        if item.body:
            yield item.body


def load_recording(data: bytes) -> Recording:
    """Reads what ``dump_recording`` wrote.

    Raises:
        DataLossError: it is something else, or was changed (``RECORDING_UNREADABLE``).
    """
    if len(data) > MAX_BYTES:
        raise _unreadable(f"it is longer than {MAX_BYTES} bytes")
    reader = _Reader(data)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise _unreadable("it doesn't begin as one of this version does")
    head = reader.text(_Head)
    if not 0 <= head.exchanges <= MAX_EXCHANGES or head.missed < 0:
        raise _unreadable("it has an impossible number of exchanges")
    found = tuple(_exchange(reader) for _ in range(head.exchanges))
    reader.end()
    return Recording(head.call, found, head.missed)


def _exchange(reader: _Reader) -> RecordedExchange:
    item = reader.text(RecordedExchange)
    _check_request(item.request)
    body = b""
    if item.answer is not None:
        _check_answer(item.answer)
        if item.answer.kept:
            body = reader.take(item.answer.body_bytes)
            if f"sha256:{hashlib.sha256(body).hexdigest()}" != item.answer.body_digest:
                raise _unreadable("an answer's body has another digest")
    if not _ended_in_one_way(item):
        raise _unreadable("an exchange ended in two ways")
    if item.body or (item.refusal is not None and item.refusal.status not in _REFUSALS):
        raise _unreadable("an exchange has a body or a status where none may stand")
    return replace(item, body=body)


def _ended_in_one_way(item: RecordedExchange) -> bool:
    if item.answer is not None and not item.begun:
        return False
    match item.how:
        case How.COMPLETE:
            return item.begun and item.refusal is None
        case How.REFUSED:
            return item.refusal is not None and not item.begun
        case How.BROKEN:
            return item.refusal is None or item.begun


def _check_request(request: RecordedRequest) -> None:
    good = (
        _METHOD.fullmatch(request.method)
        and _TARGET.fullmatch(request.target)
        and 1 <= request.port <= _HIGHEST_PORT
        and request.body_bytes >= 0
        and _DIGEST.fullmatch(request.body_digest)
    )
    if not good:
        raise _unreadable("a request isn't one that a tool could have made")


def _check_answer(answer: RecordedAnswer) -> None:
    try:
        h11.Response(
            status_code=answer.status,
            reason=answer.reason.encode("latin-1"),
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers],
        )
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise _unreadable("an answer isn't one of HTTP") from error
    if answer.body_bytes < 0 or not _REASON.fullmatch(answer.reason) or not _DIGEST.fullmatch(answer.body_digest):
        raise _unreadable("an answer isn't one of HTTP")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise _unreadable("it ends too early")
        self._at += count
        return piece

    def text(self, kind: type[T]) -> T:
        (length,) = _LENGTH.unpack(self.take(_LENGTH.size))
        if length > _MAX_TEXT:
            raise _unreadable(f"a part of it says that it is longer than {_MAX_TEXT} bytes")
        data = self.take(length)
        try:
            value = msgspec.json.decode(data, type=kind)
            again = canonical(msgspec.to_builtins(value))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise _unreadable(f"a part of it can't be read: {error}") from error
        if again != data:
            # An unknown member, a repeated one or another spelling: there is one form alone.
            raise _unreadable("a part of it is written in another way")
        return value

    def end(self) -> None:
        if self._at != len(self._data):
            raise _unreadable("something follows its last exchange")


def _text(value: _Head | RecordedExchange) -> bytes:
    data = canonical(msgspec.to_builtins(value))
    return _LENGTH.pack(len(data)) + data


def _unreadable(why: str) -> DataLossError:
    return DataLossError(
        f"the recording of a call's way out can't be read: {why}",
        reason="RECORDING_UNREADABLE",
        hint="Run the call again without it: what it asks of hosts isn't answered then.",
    )
