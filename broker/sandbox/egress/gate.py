"""The gate of one call, and what all calls of a broker share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

from broker.domain.meter import Meter
from broker.domain.run import EgressKind, EgressRecord, EgressRule, EgressVerdict
from broker.sandbox.egress.addresses import Network
from broker.sandbox.egress.bridge import bridge
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Budget, Line
from broker.sandbox.egress.postgres.session import DatabaseSession, fatal
from broker.sandbox.egress.proxy import Proxy
from broker.sandbox.egress.recorder import Recorder
from broker.sandbox.egress.recording import Recording
from broker.sandbox.egress.records import Records
from broker.sandbox.egress.refusal import RefusedError, limit
from broker.sandbox.egress.resolving import Resolver
from broker.sandbox.egress.rules import RuleBook
from broker.sandbox.egress.store import SecretStore
from broker.sandbox.egress.upstream import Dialler
from broker.sandbox.engine import PROXY_PORT, Duplex

_MAX_WARNINGS = 16
_HASHING = 2
"""Logins at databases whose passwords are hashed at one time, of all calls: a server says how long that takes."""


class Egress:
    """The way out of all calls of a broker.

    Args:
        resolver: looks names up.
        networks: what tools may reach beyond the public internet, by the operator's settings.
        secrets: gives secrets to hosts.
        trust: makes the context by which hosts are trusted; see ``trust_from``. Called in a thread, at first use.
        meter: told of each request and connection that ended.
        limits: of each call.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        networks: Sequence[Network],
        secrets: SecretStore,
        trust: Callable[[], ssl.SSLContext],
        meter: Meter,
        limits: EgressLimits | None = None,
    ) -> None:
        self._limits = limits or EgressLimits()
        self._dialler = Dialler(resolver=resolver, networks=networks, trust=trust, limits=self._limits)
        self._secrets = secrets
        self._meter = meter
        self._hashing = asyncio.Semaphore(_HASHING)

    def session(self, call_id: str, rules: Sequence[EgressRule]) -> EgressSession:
        """The gate of one call.

        Raises:
            InvalidArgumentError: a rule contradicts itself (``EGRESS_RULE_INVALID``); names it.
        """
        return EgressSession(
            call_id,
            rules=RuleBook(rules),
            dialler=self._dialler,
            secrets=self._secrets,
            hashing=self._hashing,
            meter=self._meter,
            limits=self._limits,
        )


class EgressSession:
    """Implements ``broker.sandbox.engine.EgressGate``; made by ``Egress``."""

    def __init__(
        self,
        call_id: str,
        *,
        rules: RuleBook,
        dialler: Dialler,
        secrets: SecretStore,
        hashing: asyncio.Semaphore,
        meter: Meter,
        limits: EgressLimits,
    ) -> None:
        self._call_id = call_id
        self._rules = rules
        self._dialler = dialler
        self._secrets = secrets
        self._hashing = hashing
        self._limits = limits
        self._records = Records(meter)
        self._recorder = Recorder(call_id)
        self._budget = Budget(limits.total_bytes)
        self._connections = 0
        self._warnings: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"EgressSession({self._call_id!r})"

    async def serve(self, listener: int, stream: Duplex) -> None:
        """See ``EgressGate``. Returns at the connection's end; cancelled, it aborts the connection to the host at once."""
        rule = self._rules.forward(listener)
        tally = self._records.open(EgressKind.HTTP if rule is None else rule.kind)
        if rule is not None:
            tally.meant(rule)
        line = Line(stream, self._budget, tally)
        self._connections += 1
        try:
            if self._connections > self._limits.connections:
                await self._too_many(line, listener, rule)
            elif rule is not None and rule.kind is EgressKind.POSTGRES:
                await self._database(line, rule)
            elif rule is not None:
                await self._forward(line, rule)
            elif listener == PROXY_PORT:
                await self._proxy(line)
            else:
                tally.wants("", listener)
                tally.refused(RefusedError(EgressVerdict.NOT_LISTED, "no egress rule listens there"))
        except RefusedError as error:
            self._refused(error, line)
        except ConnectionError:
            self._broke(line)
        finally:
            self._connections -= 1
            self._records.close(line.tally)
        with suppress(ConnectionError):
            await line.end()

    def records(self) -> tuple[EgressRecord, ...]:
        """What the call did so far, at most 64 rows; the last may be the rest, with an empty host."""
        return self._records.rows()

    def recording(self) -> Recording | None:
        """What is to be kept of what the call asked and was answered, as it stands; ``None`` where there is nothing."""
        return self._recorder.recording()

    def warnings(self) -> tuple[str, ...]:
        """What a person should look at, a sentence each, at most 16."""
        return tuple(self._warnings)

    async def _proxy(self, line: Line) -> None:
        proxy = Proxy(
            line,
            rules=self._rules,
            dialler=self._dialler,
            secrets=self._secrets,
            records=self._records,
            recorder=self._recorder,
            limits=self._limits,
            refused=lambda error: self._refused(error, line),
        )
        await proxy.serve()

    async def _database(self, line: Line, rule: EgressRule) -> None:
        session = DatabaseSession(
            line,
            rule,
            dialler=self._dialler,
            secrets=self._secrets,
            hashing=self._hashing,
            limits=self._limits,
            refused=lambda error: self._refused(error, line),
        )
        await session.serve()

    async def _forward(self, line: Line, rule: EgressRule) -> None:
        line.tally.allowed(rule)
        async with self._dialler.open(rule) as upstream:
            await bridge(line, upstream, self._limits.idle_s)

    async def _too_many(self, line: Line, listener: int, rule: EgressRule | None) -> None:
        refused = limit(f"more than {self._limits.connections} connections at one time")
        if listener == PROXY_PORT:
            await self._say(line, refused.answer())
        elif rule is not None and rule.kind is EgressKind.POSTGRES:
            await self._say(line, fatal(refused))
        raise refused

    async def _say(self, line: Line, answer: bytes) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                await line.tell(answer)

    def _broke(self, line: Line) -> None:
        # Who broke it off can't be told for sure, and a tool may at any time: what was allowed stays so.
        if line.tally.verdict is EgressVerdict.ALLOWED:
            line.tally.detail = "the connection broke"

    def _refused(self, error: RefusedError, line: Line) -> None:
        """The verdict, and with it what a person should look at: a run that ends now has both or neither."""
        line.tally.refused(error)
        if error.verdict in {EgressVerdict.SECRET_ECHOED, EgressVerdict.SECRET_UNAVAILABLE}:
            text = f"egress {line.tally.host}:{line.tally.port}: {error.message}"
            if len(self._warnings) < _MAX_WARNINGS:
                self._warnings[text] = None
