"""One request of the tool to a listed host, and its answer: streamed both ways, scanned where a secret was added."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

import h11

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress.headers import incoming, only, outgoing
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Clock, Turns
from broker.sandbox.egress.recorder import Tape
from broker.sandbox.egress.refusal import RefusedError, bad_host, limit, unreachable
from broker.sandbox.egress.scanner import SecretFoundError, SecretScanner
from broker.sandbox.egress.store import Given
from broker.sandbox.egress.target import Target
from broker.sandbox.egress.tool_side import ToolSide
from broker.sandbox.egress.upstream import HTTPS, PIECE_BYTES, Dialler, Upstream

_PARTIAL = frozenset({HTTPStatus.PARTIAL_CONTENT, HTTPStatus.IM_USED})
_DEFAULT_PORTS = {EgressKind.HTTP: 80, EgressKind.HTTPS: 443}
_SLICE_BYTES = 16 * 1024
"""Scanned in one go. Text full of escapes takes about a millisecond per 10 KB, during which nothing else runs."""


class Exchange:
    """Passes one request on.

    Args:
        tool: the tool's side, whose request's head has been read.
        request: that head.
        target: what it is about.
        rule: covers it.
        secrets: those of the rule's host; see ``Given``.
        limits: of the call.
        tape: told of all that the tool asks and gets.
    """

    def __init__(
        self,
        tool: ToolSide,
        *,
        request: h11.Request,
        target: Target,
        rule: EgressRule,
        secrets: Iterable[Given],
        limits: EgressLimits,
        tape: Tape,
    ) -> None:
        self._tool = tool
        self._request = request
        self._target = target
        self._rule = rule
        self._secrets = tuple(secrets)
        self._scanner = SecretScanner((given.secret, given.use.prefix) for given in self._secrets)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.header_bytes)
        self._limits = limits
        self._tape = tape
        self._clock = Clock(limits.idle_s)
        self._turns = Turns()
        self._failure: Exception | None = None

    async def run(self, dialler: Dialler) -> bool:
        """Connects, asks and answers. True where the tool may send its next request on its connection.

        Raises:
            RefusedError: any verdict but ``NOT_LISTED``. Where the answer has begun it can only be cut.
            ConnectionError: the tool's connection broke.
        """
        async with dialler.open(self._rule, tls=HTTPS if self._rule.kind is EgressKind.HTTPS else None) as upstream:
            try:
                try:
                    async with self._clock:
                        return await self._over(upstream)
                except (RefusedError, TimeoutError):
                    self._scanner.finish()  # an answer that breaks off may have echoed the secret too
                    raise
            except TimeoutError as error:
                raise limit(f"nothing has moved for {self._limits.idle_s:g} s", HTTPStatus.GATEWAY_TIMEOUT) from error
            except h11.LocalProtocolError:
                # Its text could hold a header of ours, and so the secret.
                raise bad_host("the answer can't be passed on as proper HTTP") from None
            except SecretFoundError as error:
                raise RefusedError(
                    EgressVerdict.SECRET_ECHOED,
                    f"the answer of {self._rule.host}:{self._rule.port} held the secret that was sent there",
                    status=HTTPStatus.BAD_GATEWAY,
                ) from error

    async def _over(self, upstream: Upstream) -> bool:
        await self._to_host(upstream, self._http.send(self._head()))
        await self._tool.go_on()
        sending = asyncio.create_task(self._send_body(upstream))
        try:
            await self._receive(upstream)
            return sending.done() and self._tool.reusable
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _head(self) -> h11.Request:
        headers = outgoing(self._request.headers, secrets=[given.use for given in self._secrets])
        host = f"[{self._rule.host}]" if ":" in self._rule.host else self._rule.host
        if self._rule.port != _DEFAULT_PORTS[self._rule.kind]:
            host = f"{host}:{self._rule.port}"
        framing = [item for item in self._request.headers if item[0] in {b"content-length", b"transfer-encoding"}]
        added = [
            (given.use.header.encode("ascii"), given.use.prefix.encode("ascii") + given.secret.reveal())
            for given in self._secrets
            if given.use == self._rule.secret
        ]
        return h11.Request(
            method=self._request.method,
            target=self._target.origin_form,
            headers=[(b"host", host.encode("ascii")), *headers, *framing, *added, (b"connection", b"close")],
        )

    async def _send_body(self, upstream: Upstream) -> None:
        try:
            async for data in self._tool.body():
                self._clock.touch()
                self._tape.sent(data)
                await self._to_host(upstream, self._http.send(h11.Data(data=data)))
                self._clock.touch()
            self._tape.asked()
            await self._to_host(upstream, self._http.send(h11.EndOfMessage()))
            self._clock.touch()
        except RefusedError as error:
            if error.verdict is EgressVerdict.UNREACHABLE:
                return  # the host may have answered before it closed
            self._failure = error
            upstream.cut()
        except ConnectionError as error:
            self._failure = error
            upstream.cut()

    async def _to_host(self, upstream: Upstream, data: bytes) -> None:
        try:
            await upstream.write(data)
        except ConnectionError as error:
            raise self._broken() from error

    def _broken(self) -> RefusedError:
        return unreachable(f"{self._rule.host}:{self._rule.port} broke the connection off")

    async def _receive(self, upstream: Upstream) -> None:
        pending = await self._response(upstream)
        if self._scanner.idle:
            await self._begin(pending)
        end: h11.EndOfMessage | None = None
        while end is None:
            body = bytearray()
            try:
                end = await self._gather(upstream, body)
            except RefusedError:
                # What came before it is still the answer's, and may hold the secret.
                await self._pass_on(pending, bytes(body))
                raise
            await self._pass_on(pending, bytes(body))
        self._scanner.check(b"\r\n".join(value for item in end.headers for value in item))
        rest = self._scanner.finish()
        await self._begin(pending)
        await self._give(rest)
        await self._tool.finish()
        self._tape.finish()

    async def _gather(self, upstream: Upstream, body: bytearray) -> h11.EndOfMessage | None:
        """Adds what one read brought, however small the host has cut its chunks; the end where it came with it."""
        event: h11.Event | None = await self._next(upstream)
        while event is not None and not isinstance(event, h11.EndOfMessage):
            if isinstance(event, h11.Data):
                body += event.data
            if len(body) >= PIECE_BYTES:
                return None
            event = self._at_hand()
            await self._turns.step()
        return event

    async def _pass_on(self, response: h11.Response, body: bytes) -> None:
        if not body:
            return
        self._clock.touch()
        size = PIECE_BYTES if self._scanner.idle else _SLICE_BYTES
        for start in range(0, len(body), size):
            safe = self._scanner.feed(body[start : start + size])
            if safe:
                await self._begin(response)
                await self._give(safe)
                self._clock.touch()
            await asyncio.sleep(0)

    async def _response(self, upstream: Upstream) -> h11.Response:
        while not isinstance(event := await self._next(upstream), h11.Response):
            pass  # interim answers are the host's business with us
        self._clock.touch()
        if not self._scanner.idle:
            self._check_shape(event)
            for name, value in event.headers:
                self._scanner.check(name + b": " + value)
            self._scanner.check(bytes(event.reason))
        return event

    def _check_shape(self, response: h11.Response) -> None:
        coding = (only(response.headers, b"content-encoding") or b"identity").strip().lower()
        if coding != b"identity":
            raise bad_host(
                "the answer is encoded although `identity` was asked for: it can't be scanned for the secret"
            )
        if response.status_code in _PARTIAL or only(response.headers, b"content-range") is not None:
            raise bad_host("the answer is a part although all was asked for: it can't be scanned for the secret")

    async def _begin(self, response: h11.Response) -> None:
        if not self._tool.answering:
            status, reason, headers = response.status_code, bytes(response.reason), incoming(response.headers)
            self._tape.answer(status, reason, headers)
            await self._tool.answer(status, reason, headers)

    async def _give(self, data: bytes) -> None:
        if data:
            self._tape.data(data)
            await self._tool.data(data)

    async def _next(self, upstream: Upstream) -> h11.Event:
        ended = False
        while (event := self._at_hand(ended=ended)) is None:
            try:
                data = await upstream.read()
            except ConnectionError as error:
                raise self._failure or self._broken() from error
            ended = not data
            self._http.receive_data(data)
            await self._turns.step()
        await self._turns.step()
        return event

    def _at_hand(self, *, ended: bool = False) -> h11.Event | None:
        """The next event, unless more has to be read for it."""
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            if ended:
                raise self._failure or self._broken() from error
            raise bad_host(f"the answer isn't proper HTTP: {error}") from error
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage):
            return event
        raise self._failure or self._broken()
