"""The HTTP proxy on the sandbox's loopback, as the broker serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import h11

from broker.domain.run import EgressKind, EgressRule
from broker.sandbox.egress.exchange import Exchange
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Line
from broker.sandbox.egress.recorder import Recorder
from broker.sandbox.egress.records import Records
from broker.sandbox.egress.refusal import RefusedError, limit
from broker.sandbox.egress.rules import RuleBook
from broker.sandbox.egress.store import SecretStore, secrets_for
from broker.sandbox.egress.target import Target, read_target, read_tunnel, written_host
from broker.sandbox.egress.tool_side import ToolSide
from broker.sandbox.egress.tunnel import tunnel
from broker.sandbox.egress.upstream import Dialler


class Proxy:
    """Serves one connection of a tool; made for it.

    Args:
        line: the connection; its tally is that of the first request.
        rules: of the call.
        dialler: connects to hosts.
        secrets: where they come from.
        records: of the call.
        recorder: keeps what the call's rules say.
        limits: of the call.
        refused: puts on record why the present request was refused or cut.
    """

    def __init__(
        self,
        line: Line,
        *,
        rules: RuleBook,
        dialler: Dialler,
        secrets: SecretStore,
        records: Records,
        recorder: Recorder,
        limits: EgressLimits,
        refused: Callable[[RefusedError], None],
    ) -> None:
        self._line = line
        self._rules = rules
        self._dialler = dialler
        self._secrets = secrets
        self._records = records
        self._recorder = recorder
        self._limits = limits
        self._refused = refused
        self._tool = ToolSide(line, limits.header_bytes)
        self._head_only = False
        self._tunnelling = False

    async def serve(self) -> None:
        """Handles requests until the tool has no more, or one is refused.

        Raises:
            RefusedError: the last one; it has been answered where it could be.
            ConnectionError: one of the ends broke.
        """
        try:
            while await self._one():
                self._records.close(self._line.tally)
                self._line.tally = self._records.open(EgressKind.HTTP)
        except RefusedError as error:
            self._refused(error)  # the run may end while the answer is on its way
            if not self._tool.answering and not self._tunnelling:
                await self._line.last(error.answer(head_only=self._head_only), self._limits.linger_s)
            raise

    async def _one(self) -> bool:
        self._head_only = False
        try:
            async with asyncio.timeout(self._limits.idle_s):
                request = await self._tool.request()
        except TimeoutError as error:
            if not self._line.tally.sent:
                return False
            raise limit(
                f"the request's head wasn't complete within {self._limits.idle_s:g} s", HTTPStatus.GATEWAY_TIMEOUT
            ) from error
        if request is None:
            return False
        self._head_only = request.method == b"HEAD"
        self._line.tally.wants(written_host(request), 0)
        if request.method == b"CONNECT":
            await self._tunnel(request)
            return False
        return await self._exchange(request)

    async def _exchange(self, request: h11.Request) -> bool:
        target = read_target(request)
        self._line.tally.wants(target.host, target.port)
        rule = self._rules.request(target.host, target.port, request.method.decode("ascii"), target.path)
        self._line.tally.allowed(rule)
        return await self._pass_on(request, target, rule)

    async def _pass_on(self, request: h11.Request, target: Target, rule: EgressRule) -> bool:
        uses = self._rules.secrets_of(rule)
        tape = self._recorder.tape(rule, request, target, uses)
        try:
            secrets = await secrets_for(self._secrets, rule, uses)
            exchange = Exchange(
                self._tool, request=request, target=target, rule=rule, secrets=secrets, limits=self._limits, tape=tape
            )
            return await exchange.run(self._dialler)
        except RefusedError as error:
            tape.refused(error)
            raise

    async def _tunnel(self, request: h11.Request) -> None:
        tally = self._line.tally
        tally.kind = EgressKind.CONNECT
        host, port = read_tunnel(request)
        tally.wants(host, port)
        rule = self._rules.tunnel(host, port)
        tally.allowed(rule)
        async with self._dialler.open(rule) as upstream:
            self._tunnelling = True
            await tunnel(self._line, rule, self._tool.rest(), upstream, self._limits)
