"""Writes down what a call asks of hosts and is answered, for the rules that say so, up to their bounds; in memory alone.

The tool never waits for it, and nothing that it does or fails to do changes what the tool gets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Protocol

import h11

from broker.domain.run import EgressRule, EgressVerdict, SecretUse
from broker.sandbox.egress.headers import Headers, same_name
from broker.sandbox.egress.recording import (
    How,
    RecordedAnswer,
    RecordedExchange,
    RecordedRefusal,
    RecordedRequest,
    Recording,
)
from broker.sandbox.egress.refusal import RefusedError
from broker.sandbox.egress.target import Target

_COST = 512
"""Bytes that an exchange takes besides its texts."""
_HEADER_COST = 16
_CREDENTIALS = re.compile(r"auth|cookie|token|secret|passw|credential|session|signature|(^|-)(api-?)?key($|-)")
"""Names of headers by which a tool shows who it is. What it has of its own is nobody else's to keep."""


class Tape(Protocol):
    """Told of one exchange while it goes on; each function returns at once."""

    def sent(self, data: bytes) -> None:
        """A piece of the request's body came."""

    def asked(self) -> None:
        """The request's body is complete."""

    def answer(self, status: int, reason: bytes, headers: Headers) -> None:
        """The tool is given the head of an answer, as it stands there."""

    def data(self, data: bytes) -> None:
        """The tool is given a piece of the answer's body."""

    def finish(self) -> None:
        """The answer is complete."""

    def refused(self, error: RefusedError) -> None:
        """It was refused or cut."""


class Recorder:
    """What is kept of one call's way out."""

    def __init__(self, call_id: str) -> None:
        self._call_id = call_id
        self._rooms: dict[EgressRule, _Room] = {}
        self._tapes: list[_Kept] = []
        self._missed = 0

    def tape(self, rule: EgressRule, request: h11.Request, target: Target, secrets: Iterable[SecretUse]) -> Tape:
        """A tape for an exchange that begins.

        Args:
            rule: covers it, and says whether it is kept.
            request: its head, as the tool sent it.
            target: what it is about.
            secrets: those that the broker sends to this host: the tool's own headers of these names aren't kept either.
        """
        if not rule.record_bytes:
            return _NOTHING
        room = self._rooms.setdefault(rule, _Room(rule.record_bytes))
        asked = _request(request, target, frozenset(same_name(use.header) for use in secrets))
        if not room.take(_COST + len(asked.target) + _size(asked.headers)):
            self._missed += 1
            return _NOTHING
        tape = _Kept(asked, room)
        self._tapes.append(tape)
        return tape

    def recording(self) -> Recording | None:
        """All that was kept so far; ``None`` where nothing was asked that is to be kept."""
        if not self._tapes and not self._missed:
            return None
        return Recording(self._call_id, tuple(tape.exchange() for tape in self._tapes), self._missed)


class _Room:
    """What is left of a rule's bound."""

    def __init__(self, total: int) -> None:
        self._left = total

    def take(self, count: int) -> bool:
        """Takes so many bytes, or none where there are fewer."""
        if count > self._left:
            return False
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        """They are free again."""
        self._left += count


class _Nothing:
    """The tape of an exchange that isn't kept."""

    def sent(self, data: bytes) -> None: ...

    def asked(self) -> None: ...

    def answer(self, status: int, reason: bytes, headers: Headers) -> None: ...

    def data(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def refused(self, error: RefusedError) -> None: ...


_NOTHING = _Nothing()


class _Kept:
    """The tape of an exchange that is kept."""

    def __init__(self, request: RecordedRequest, room: _Room) -> None:
        self._request = request
        self._room = room
        self._request_digest = hashlib.sha256()
        self._request_bytes = 0
        self._request_whole = False
        self._request_length = next(
            (int(value) for name, value in request.headers if name.lower() == "content-length"), None
        )
        self._head: tuple[int, bytes, Headers] | None = None
        self._head_cost = 0
        self._begun = False
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._pieces: list[bytes] | None = []
        self._how = How.BROKEN
        self._refusal: RecordedRefusal | None = None

    def sent(self, data: bytes) -> None:
        self._request_digest.update(data)
        self._request_bytes += len(data)
        # A host may answer the last byte before anybody has looked for what comes after it.
        self._request_whole = self._request_bytes == self._request_length

    def asked(self) -> None:
        self._request_whole = True

    def answer(self, status: int, reason: bytes, headers: Headers) -> None:
        self._begun = True
        cost = len(reason) + sum(len(name) + len(value) + _HEADER_COST for name, value in headers)
        if self._room.take(cost):
            self._head, self._head_cost = (status, reason, headers), cost

    def data(self, data: bytes) -> None:
        self._digest.update(data)
        self._bytes += len(data)
        if self._pieces is None:
            return
        if self._head is not None and self._room.take(len(data)):
            self._pieces.append(data)
        else:
            self._drop_body()

    def finish(self) -> None:
        self._how = How.COMPLETE

    def refused(self, error: RefusedError) -> None:
        self._refusal = RecordedRefusal(error.verdict, error.message, error.status.value, error.hint)
        if error.verdict is EgressVerdict.SECRET_ECHOED:
            # Not even what passed is kept: the host may have put the rest of the secret there in a shape that nobody knows.
            self._drop_body()
            self._room.give_back(self._head_cost)
            self._head, self._head_cost = None, 0
        self._how = How.BROKEN if self._begun else How.REFUSED

    def exchange(self) -> RecordedExchange:
        """As it stands."""
        request = self._request
        asked = RecordedRequest(
            request.method,
            request.host,
            request.port,
            request.target,
            request.headers,
            request.withheld,
            self._request_bytes,
            _named(self._request_digest.hexdigest()),
            self._request_whole,
        )
        answer, body = None, b""
        if self._head is not None:
            status, reason, headers = self._head
            body = b"".join(self._pieces or ())
            answer = RecordedAnswer(
                status,
                reason.decode("latin-1"),
                _texts(headers),
                self._bytes,
                _named(self._digest.hexdigest()),
                self._pieces is not None,
            )
        return RecordedExchange(asked, self._how, self._begun, answer, self._refusal, body)

    def _drop_body(self) -> None:
        if self._pieces is not None:
            self._room.give_back(sum(len(piece) for piece in self._pieces))
            self._pieces = None


def _request(request: h11.Request, target: Target, secrets: frozenset[str]) -> RecordedRequest:
    kept: Headers = []
    withheld: dict[str, None] = {}
    for name, value in request.headers:
        same = same_name(name.decode("ascii"))
        if same in secrets or _CREDENTIALS.search(same):
            withheld[name.decode("ascii")] = None
        else:
            kept.append((name, value))
    return RecordedRequest(
        request.method.decode("ascii"),
        target.host,
        target.port,
        target.origin_form.decode("ascii"),
        _texts(kept),
        tuple(withheld),
    )


def _texts(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _size(headers: tuple[tuple[str, str], ...]) -> int:
    return sum(len(name) + len(value) + _HEADER_COST for name, value in headers)


def _named(hexadecimal: str) -> str:
    return f"sha256:{hexadecimal}"
