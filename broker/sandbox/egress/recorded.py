"""A way out that leads nowhere: what a tool asks is answered from the recording of an earlier call, and by nothing else.

Nothing in here can resolve a name or open a connection.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import h11

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Budget, Line
from broker.sandbox.egress.recording import How, RecordedAnswer, RecordedExchange, RecordedRequest, Recording
from broker.sandbox.egress.records import Tally, visible
from broker.sandbox.egress.refusal import RefusedError, own_answer
from broker.sandbox.egress.rules import RuleBook
from broker.sandbox.egress.target import read_target, read_tunnel
from broker.sandbox.egress.tool_side import ToolSide
from broker.sandbox.engine import PROXY_PORT, Duplex

NOT_RECORDED = "NOT_RECORDED"
"""The verdict in an answer to what the recording has no answer for."""
MAX_ASKED = 64
"""Most requests without an answer that a report names; the rest is counted."""
_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class ServedExchange:
    """A request that was answered as in the recording."""

    number: int
    """Of the exchange in the recording, from 1 on."""
    request: RecordedRequest
    """As it was recorded."""
    how: How
    same_body: bool
    """Did the request have the same body as the recorded one? True where that one had not come to its end."""


@dataclass(frozen=True, slots=True)
class AskedOnly:
    """A request, tunnel or forward that the recording has no answer for; texts of the tool are made visible and cut."""

    what: str
    """Method and address, or the port of a forward."""
    why: str
    """A sentence for a person."""
    count: int = 1


@dataclass(frozen=True, slots=True)
class RecordedReport:
    """What a run did with a recording."""

    served: tuple[ServedExchange, ...]
    """In the order in which they were asked."""
    not_recorded: tuple[AskedOnly, ...]
    """Asked, and not answered from the recording."""
    more_not_recorded: int
    """Further ones, which aren't named."""
    refused: tuple[AskedOnly, ...]
    """Refused before any recording was looked at, as in the call: by the tool's rules, or for how they were written."""
    not_asked: tuple[tuple[int, RecordedRequest], ...]
    """Recorded, and not asked: the number in the recording, from 1 on, and the request."""

    @property
    def same(self) -> bool:
        """Did it ask all that was recorded and nothing else, with the same bodies?"""
        return not self.not_recorded and not self.not_asked and all(item.same_body for item in self.served)


class _Asked:
    """Counts what has no answer; a tool can't make it longer than ``MAX_ASKED`` items."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self.more = 0

    def add(self, what: str, why: str) -> None:
        key = visible(what), visible(why)
        if key not in self._counts and len(self._counts) >= MAX_ASKED:
            self.more += 1
        else:
            self._counts[key] = self._counts.get(key, 0) + 1

    def items(self) -> tuple[AskedOnly, ...]:
        return tuple(AskedOnly(what, why, count) for (what, why), count in self._counts.items())


class RecordedGate:
    """Implements ``broker.sandbox.engine.EgressGate`` for a sealed run.

    A request gets the answer of the first recorded exchange with the same method, host, port and target that hasn't been
    used yet. What isn't recorded is answered with 502; tunnels and forwards are refused.

    Args:
        recording: of the earlier call.
        rules: of the tool: what they refuse is refused in the same words as in the call. Without them it counts as not recorded.
        limits: of the run.
    """

    def __init__(
        self, recording: Recording, *, rules: Sequence[EgressRule] = (), limits: EgressLimits | None = None
    ) -> None:
        self._exchanges = recording.exchanges
        self._left: dict[tuple[str, str, int, str], list[int]] = {}
        for number, item in enumerate(recording.exchanges, start=1):
            self._left.setdefault(item.request.key, []).append(number)
        self._rules = RuleBook(rules) if rules else None
        self._limits = limits or EgressLimits()
        self._budget = Budget(self._limits.total_bytes)
        self._served: list[ServedExchange] = []
        self._missed = _Asked()
        self._refused = _Asked()

    async def serve(self, listener: int, stream: Duplex) -> None:
        """See ``EgressGate``."""
        line = Line(stream, self._budget, Tally(EgressKind.HTTP))
        if listener == PROXY_PORT:
            with suppress(RefusedError, ConnectionError, h11.LocalProtocolError):
                await self._proxy(line)
        else:
            self._missed.add(f"the forward from port {listener}", "a forward carries bytes that nobody keeps")
        with suppress(ConnectionError):
            await line.end()

    @property
    def report(self) -> RecordedReport:
        """What was served so far, what was asked besides, and what wasn't asked."""
        numbers = sorted(number for left in self._left.values() for number in left)
        return RecordedReport(
            tuple(self._served),
            self._missed.items(),
            self._missed.more,
            self._refused.items(),
            tuple((number, self._exchanges[number - 1].request) for number in numbers),
        )

    async def _proxy(self, line: Line) -> None:
        tool, what, head_only = ToolSide(line, self._limits.header_bytes), "", False
        try:
            while True:
                what, head_only = "what is no request", False
                async with asyncio.timeout(self._limits.idle_s):
                    request = await tool.request()
                    if request is None:
                        return
                    what, head_only = _written(request), request.method == b"HEAD"
                    answer = await self._answer(tool, request)
                if isinstance(answer, bytes):
                    await line.last(answer, self._limits.linger_s)
                    return
                if not await self._play(tool, answer):
                    return
        except RefusedError as error:
            self._refused.add(what, error.message)
            if not tool.answering:
                await line.last(error.answer(head_only=head_only), self._limits.linger_s)
        except TimeoutError:
            return

    async def _answer(self, tool: ToolSide, request: h11.Request) -> RecordedExchange | bytes:
        """What a request gets: an exchange to play, or the bytes of an answer that ends the connection.

        Raises:
            RefusedError: as in the call.
        """
        what, head_only = _written(request), request.method == b"HEAD"
        if request.method == b"CONNECT":
            tunnel = read_tunnel(request)
            if self._rules is not None:
                self._rules.tunnel(*tunnel)
            return self._missing(what, "a tunnel carries bytes that the broker can't read", head_only=False)
        target, method = read_target(request), request.method.decode("ascii")
        if self._rules is not None:
            self._rules.request(target.host, target.port, method, target.path)
        key = method, target.host, target.port, target.origin_form.decode("ascii")
        await tool.go_on()
        digest = hashlib.sha256()
        async for piece in tool.body():
            digest.update(piece)
        left = self._left.get(key, [])
        if not left:
            why = "it was asked more often than in the call" if key in self._left else "the call asked nothing like it"
            return self._missing(what, why, head_only=head_only)
        number = left.pop(0)
        item = self._exchanges[number - 1]
        why = _unplayable(item)
        if why:
            return self._missing(what, why, head_only=head_only)
        same = item.request.body_digest == f"sha256:{digest.hexdigest()}" or not item.request.body_whole
        self._served.append(ServedExchange(number, item.request, item.how, same))
        if item.how is How.REFUSED and item.refusal is not None:
            told = item.refusal
            refused = RefusedError(told.verdict, told.message, status=HTTPStatus(told.status), hint=told.hint)
            return refused.answer(head_only=head_only)
        return item

    async def _play(self, tool: ToolSide, item: RecordedExchange) -> bool:
        """Answers as the tool was answered then; true where it may ask again on its connection."""
        if item.answer is None:
            return False  # the tool never got an answer: it got the end of its connection
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in item.answer.headers]
        await tool.answer(item.answer.status, item.answer.reason.encode("latin-1"), headers)
        for start in range(0, len(item.body), _PIECE):
            await tool.data(item.body[start : start + _PIECE])
        if item.how is not How.COMPLETE:
            return False
        await tool.finish()
        return tool.reusable

    def _missing(self, what: str, why: str, *, head_only: bool) -> bytes:
        self._missed.add(what, why)
        message = f"this run is sealed and reaches no host, and the recording has no answer to this: {why}"
        return own_answer(NOT_RECORDED, message, HTTPStatus.BAD_GATEWAY, head_only=head_only)


def _written(request: h11.Request) -> str:
    return f"{request.method.decode('ascii')} {request.target.decode('latin-1')}"


def _unplayable(item: RecordedExchange) -> str:
    """Why an exchange can't be played again; empty where it can."""
    answer: RecordedAnswer | None = item.answer
    if answer is not None and not answer.kept:
        return f"its answer has {answer.body_bytes} bytes, for which the recording had no room"
    if answer is not None or not item.begun:
        return ""
    if item.refusal is not None and item.refusal.verdict is EgressVerdict.SECRET_ECHOED:
        return "its answer wasn't kept, as it held a secret"
    return "its answer had a head for which the recording had no room"
