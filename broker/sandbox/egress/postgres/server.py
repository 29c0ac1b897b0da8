"""The broker's end at a PostgreSQL server: asks for TLS, logs in by SCRAM, and takes what comes until the session begins."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import structlog

from broker.domain.run import EgressRule
from broker.domain.secret import Secret
from broker.sandbox.egress.line import Turns
from broker.sandbox.egress.postgres import messages
from broker.sandbox.egress.postgres.messages import Message, MessageError, MessageReader
from broker.sandbox.egress.postgres.scram import Scram, ScramError
from broker.sandbox.egress.refusal import RefusedError, bad_host, unreachable
from broker.sandbox.egress.upstream import Tls, Upstream

log = structlog.get_logger(__name__)

_OK = 0
_SASL = 10
_SASL_CONTINUE = 11
_SASL_FINAL = 12
_OTHERS = {
    2: "Kerberos",
    3: "the password in clear text",
    5: "the password hashed with MD5",
    6: "SCM credentials",
    7: "GSSAPI",
    9: "SSPI",
}
_SCRAM_HINT = "The server has to ask this user for scram-sha-256, by a line hostssl in its pg_hba.conf."
_BEGINNING = frozenset({messages.PARAMETER, messages.NOTICE, messages.KEY, messages.ERROR, messages.READY})


async def ask_for_tls(connection: socket.socket) -> None:
    """Asks a server for TLS, and reads its one letter of consent and nothing behind it.

    Raises:
        RefusedError: ``UNREACHABLE``: it has no TLS. Nothing else is ever said in the clear.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, messages.TLS_REQUEST)
    answer = await loop.sock_recv(connection, 1)
    if answer == b"S":
        return
    why = {b"N": "has no TLS", b"": "ended the connection when it was asked for TLS"}
    raise unreachable(
        f"the server {why.get(answer, 'did not answer the question for TLS as PostgreSQL does')}",
        hint="The broker never logs in without TLS: the server needs ssl = on, with a certificate for its host.",
    )


POSTGRES = Tls("postgresql", ask_for_tls)


class Server:
    """A server that has been reached by TLS.

    Args:
        upstream: the connection.
        rule: whose host it is.
        hashing: lets few hash passwords at one time.
    """

    def __init__(self, upstream: Upstream, rule: EgressRule, hashing: asyncio.Semaphore) -> None:
        self._upstream = upstream
        self._rule = rule
        self._hashing = hashing
        self._reader = MessageReader()
        self._turns = Turns()

    async def log_in(self, parameters: Mapping[bytes, bytes], password: Secret) -> Message:
        """Begins the session as the rule's user; the server's ``AuthenticationOk``, once it has proved itself.

        Raises:
            RefusedError: ``UNREACHABLE`` or ``MALFORMED``.
        """
        who = {b"user": self._rule.user.encode(), b"database": self._rule.database.encode()}
        await self._send(messages.startup({**who, **parameters}))
        try:
            return await self._prove(password)
        except ScramError as error:
            raise unreachable(f"the login at {self._where} was broken off: {error}", hint=_SCRAM_HINT) from None

    async def next(self) -> Message:
        """The next message until the session has begun; the key that cancels is struck out.

        Raises:
            RefusedError: ``UNREACHABLE`` or ``MALFORMED``.
        """
        message = await self._read()
        if message.kind not in _BEGINNING:
            raise self._out_of_turn()
        return messages.keyless(message) if message.kind == messages.KEY else message

    @property
    def rest(self) -> bytes:
        """What came behind the last message."""
        return self._reader.rest

    @property
    def _where(self) -> str:
        return f"{self._rule.host}:{self._rule.port}"

    async def _prove(self, password: Secret) -> Message:
        tls = self._upstream.tls
        if tls is None:
            raise ScramError("it isn't reached by TLS")
        scram = Scram(_names(await self._authentication(_SASL)), password, tls)
        await self._send(messages.sasl_first(scram.mechanism, scram.first()))
        scram.hear_first(await self._authentication(_SASL_CONTINUE))
        async with self._hashing:
            final = await asyncio.to_thread(scram.final)
        await self._send(messages.sasl_next(final))
        scram.hear_final(await self._authentication(_SASL_FINAL))
        await self._authentication(_OK)
        return Message(messages.AUTHENTICATION, _OK.to_bytes(4))

    async def _authentication(self, wanted: int) -> bytes:
        """What an answer of one kind says."""
        message = await self._read()
        if message.kind == messages.ERROR:
            raise self._refused(message)
        if message.kind != messages.AUTHENTICATION or len(message.body) < 4:
            raise self._out_of_turn()
        kind = int.from_bytes(message.body[:4])
        if kind == wanted:
            return message.body[4:]
        if kind == _OK:
            raise ScramError("it lets the user in without a proof that it knows the password")
        if wanted == _SASL:
            raise ScramError(f"it asks for {_OTHERS.get(kind, 'a login of another kind')}, and only SCRAM is spoken")
        raise self._out_of_turn()

    def _refused(self, error: Message) -> RefusedError:
        # The server's words stay out: they name addresses and accounts of the operator's network.
        state = messages.state_of(error) or "unknown"
        log.warning("egress_login_refused", host=self._where, user=self._rule.user, state=state)
        return unreachable(
            f"{self._where} refused the login (SQLSTATE {state})",
            hint="The server's log has the reason; for 28P01 and 28000 look at the secret and at pg_hba.conf.",
        )

    def _out_of_turn(self) -> RefusedError:
        return bad_host(f"{self._where} sent a message that has no place there")

    async def _read(self) -> Message:
        await self._turns.step()
        try:
            while (message := self._reader.read()) is None:
                data = await self._upstream.read()
                if not data:
                    raise ConnectionResetError
                self._reader.feed(data)
        except MessageError as error:
            raise bad_host(f"{self._where} can't be understood: {error}") from None
        except ConnectionError:
            raise self._broken() from None
        return message

    async def _send(self, data: bytes) -> None:
        try:
            await self._upstream.write(data)
        except ConnectionError:
            raise self._broken() from None

    def _broken(self) -> RefusedError:
        return unreachable(f"{self._where} broke the connection off")


def _names(body: bytes) -> list[str]:
    return [name.decode("ascii", "replace") for name in body.split(b"\x00") if name]
