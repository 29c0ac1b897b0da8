"""One connection of a tool to a database: admitted, logged in by the broker, and then carried as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from broker.domain.run import EgressRule, EgressVerdict
from broker.sandbox.egress.bridge import bridge
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Line
from broker.sandbox.egress.postgres import messages
from broker.sandbox.egress.postgres.server import POSTGRES, Server
from broker.sandbox.egress.postgres.startup import Question, Startup, StartupError, StartupReader
from broker.sandbox.egress.records import visible
from broker.sandbox.egress.refusal import RefusedError, limit, malformed, mismatch
from broker.sandbox.egress.store import SecretStore, secrets_for
from broker.sandbox.egress.upstream import Dialler

_NO = b"N"
_PASSED_ON = (b"client_encoding", b"application_name")
_LOGIN_REFUSED = frozenset({EgressVerdict.MISMATCH, EgressVerdict.SECRET_UNAVAILABLE})


class DatabaseSession:
    """Serves one connection of a tool; made for it.

    Args:
        line: the connection.
        rule: leads to the database.
        dialler: connects to its server.
        secrets: where the password comes from.
        hashing: lets few logins of the broker hash passwords at one time.
        limits: of the call.
        refused: puts on record why the connection was refused or cut.
    """

    def __init__(
        self,
        line: Line,
        rule: EgressRule,
        *,
        dialler: Dialler,
        secrets: SecretStore,
        hashing: asyncio.Semaphore,
        limits: EgressLimits,
        refused: Callable[[RefusedError], None],
    ) -> None:
        self._line = line
        self._rule = rule
        self._dialler = dialler
        self._secrets = secrets
        self._hashing = hashing
        self._limits = limits
        self._refused = refused
        self._reader = StartupReader()
        self._carrying = False

    async def serve(self) -> None:
        """Carries the session to its end.

        Raises:
            RefusedError: it has been answered where it could be.
            ConnectionError: one of the ends broke.
        """
        try:
            await self._serve()
        except RefusedError as error:
            self._refused(error)  # the run may end while the answer is on its way
            if not self._carrying:
                await self._line.last(fatal(error), self._limits.linger_s)
            raise

    async def _serve(self) -> None:
        parameters = admitted(await self._startup(), self._rule)
        self._line.tally.allowed(self._rule)
        (given,) = await secrets_for(self._secrets, self._rule, filter(None, [self._rule.secret]))
        async with self._dialler.open(self._rule, tls=POSTGRES) as upstream:
            server = Server(upstream, self._rule, self._hashing)
            try:
                async with asyncio.timeout(self._limits.login_s):
                    await self._line.write((await server.log_in(parameters, given.secret)).encoded())
                    has_begun = await self._begin(server)
            except TimeoutError as error:
                raise limit(
                    f"the session at {self._rule.host}:{self._rule.port} didn't begin within {self._limits.login_s:g} s",
                    HTTPStatus.GATEWAY_TIMEOUT,
                ) from error
            if has_begun:
                self._carrying = True
                await self._line.write(server.rest)
                await upstream.write(self._reader.rest)
                await bridge(self._line, upstream, self._limits.idle_s, linger_s=self._limits.linger_s)

    async def _startup(self) -> Startup:
        try:
            async with asyncio.timeout(self._limits.hello_s):
                while not isinstance(found := self._reader.read(), Startup):
                    if found is not None:
                        await self._line.write(_NO)
                        continue
                    data = await self._line.read()
                    if not data:
                        raise self._ended()
                    self._reader.feed(data)
        except TimeoutError as error:
            raise limit(f"the tool's first messages weren't complete within {self._limits.hello_s:g} s") from error
        except StartupError as error:
            raise malformed(f"what the tool sent can't begin a session: {error}", error.hint) from None
        return found

    def _ended(self) -> RefusedError:
        if Question.TLS in self._reader.asked:
            return malformed(
                "the tool ended the connection when it was told that there is no TLS inside the sandbox",
                "Connect with sslmode=disable: the broker itself speaks TLS with the server.",
            )
        return malformed("the connection ended before its first message was complete")

    async def _begin(self, server: Server) -> bool:
        """Passes on what the server says until the session has begun; false where it ended in the server's own error."""
        while True:
            message = await server.next()
            await self._line.write(message.encoded())
            if message.kind in {messages.READY, messages.ERROR}:
                return message.kind == messages.READY


def admitted(startup: Startup, rule: EgressRule) -> dict[bytes, bytes]:
    """What of a tool's parameters goes to the server.

    Raises:
        RefusedError: ``MISMATCH`` where it names another user or database; ``MALFORMED`` where it asks for replication, or
            brings options.
    """
    given = startup.parameters
    if b"replication" in given:
        raise malformed("the tool asks for replication, which no egress rule gives", "Leave `replication` out.")
    if b"options" in given:
        raise malformed(
            "the tool brings options for the server, which the broker doesn't pass on",
            "Leave `options` out (PGOPTIONS too), and SET what is needed in the session.",
        )
    for name, own in ((b"user", rule.user), (b"database", rule.database)):
        if given.get(name, own.encode()) != own.encode():
            word = name.decode()
            raise mismatch(
                f"the tool names another {word} than its egress rule",
                f"Name the {word} {own!r}, or none; a driver may take one from the environment.",
            )
    return {name: given[name] for name in _PASSED_ON if name in given}


def fatal(error: RefusedError) -> bytes:
    """A refusal as a tool's driver reads it."""
    if error.verdict in _LOGIN_REFUSED:
        state = "28000"
    elif error.verdict is EgressVerdict.MALFORMED and error.status is HTTPStatus.BAD_REQUEST:
        state = "08P01"
    else:
        state = "08001"
    return messages.fatal(
        state,
        f"the broker refused the connection: {visible(error.message)}",
        detail=f"Verdict {error.verdict.value}.",
        hint=error.hint,
    )
