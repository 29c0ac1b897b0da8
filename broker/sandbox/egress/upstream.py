"""Connections to hosts: resolved, checked, opened to the very address that was checked, and aborted at the end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

from broker.domain.run import EgressRule, EgressVerdict
from broker.sandbox.egress.addresses import Address, Network, refusal_of
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.refusal import RefusedError, unreachable
from broker.sandbox.egress.resolving import Resolver, UnresolvedError

PIECE_BYTES = 64 * 1024
_MAX_TRIES = 4


def trust_from(ca_file: Path | None = None) -> ssl.SSLContext:
    """How hosts are trusted: by the machine's certificates, or by those in a PEM file alone.

    TLS 1.2 at least, host names are checked, HTTP/1.1 is asked for. No keys are logged, whatever the environment says.

    Raises:
        OSError: the file can't be read or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


@dataclass(frozen=True, slots=True)
class Tls:
    """How the broker's own TLS with a host begins."""

    protocol: str
    """What is spoken inside, by its ALPN name."""
    ask: Callable[[socket.socket], Awaitable[None]] | None = None
    """What is said in the clear before it, where the host has to be asked for TLS. It may read no byte beyond the host's
    consent: what stands behind that is left in the socket, where the handshake meets it, and is never taken for
    something that came encrypted. Raises ``RefusedError`` without consent."""


HTTPS = Tls("http/1.1")


class Upstream:
    """An open connection to a host; a ``Duplex``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The broker's own TLS with the host, where there is one."""
        found = self._writer.get_extra_info("ssl_object")
        return found if isinstance(found, ssl.SSLObject) else None

    async def read(self) -> bytes:
        """The host's next bytes, 64 KiB at most; empty at the end.

        Raises:
            ConnectionError: it broke.
        """
        try:
            return await self._reader.read(PIECE_BYTES)
        except OSError as error:
            raise ConnectionResetError("the connection to the host broke") from error

    async def write(self, data: bytes) -> None:
        """Sends bytes; waits while the host doesn't take them.

        Raises:
            ConnectionError: it broke.
        """
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise ConnectionResetError("the connection to the host broke") from error

    async def end(self) -> None:
        """Closes our side.

        Raises:
            ConnectionError: it broke.
        """
        try:
            if self._writer.can_write_eof():
                self._writer.write_eof()
        except (OSError, RuntimeError) as error:
            raise ConnectionResetError("the connection to the host broke") from error

    def cut(self) -> None:
        """Drops the connection at once, with what wasn't sent."""
        self._writer.transport.abort()


class Dialler:
    """Opens connections to the hosts of rules.

    Args:
        resolver: asked once per connection, and only for the name in the rule.
        networks: what the operator's settings allow beyond the public internet.
        trust: makes the context for TLS; called once for each protocol, at first use.
        limits: for the time that a connection may take.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        networks: Sequence[Network],
        trust: Callable[[], ssl.SSLContext],
        limits: EgressLimits,
    ) -> None:
        self._resolver = resolver
        self._networks = tuple(networks)
        self._trust = trust
        self._limits = limits
        self._contexts: dict[str, ssl.SSLContext] = {}

    @asynccontextmanager
    async def open(self, rule: EgressRule, *, tls: Tls | None = None) -> AsyncIterator[Upstream]:
        """A connection to the rule's host and port, cut when the block ends; without ``tls`` in the clear.

        Raises:
            RefusedError: ``UNRESOLVED``, ``ADDRESS_REFUSED`` or ``UNREACHABLE``; and what ``tls.ask`` refuses.
        """
        addresses = await self._addresses(rule.host)
        upstream = await self._connect(addresses, rule, tls=tls)
        try:
            yield upstream
        finally:
            upstream.cut()

    async def _addresses(self, host: str) -> tuple[Address, ...]:
        try:
            found: tuple[Address, ...] = (ip_address(host),)
        except ValueError:
            try:
                found = await self._resolver.resolve(host)
            except UnresolvedError as error:
                raise RefusedError(
                    EgressVerdict.UNRESOLVED, f"{host} isn't resolved: {error}", status=HTTPStatus.BAD_GATEWAY
                ) from error
        for address in found:
            why = refusal_of(address, self._networks)
            if why:
                # The address itself isn't told: the tool would learn the inside of the operator's network.
                raise RefusedError(
                    EgressVerdict.ADDRESS_REFUSED,
                    f"{host} leads to an address that no tool may reach ({why})",
                    hint="The operator can allow its network in the broker's settings.",
                )
        if not found:
            raise RefusedError(EgressVerdict.UNRESOLVED, f"{host} has no address", status=HTTPStatus.BAD_GATEWAY)
        return found[:_MAX_TRIES]

    async def _connect(self, addresses: tuple[Address, ...], rule: EgressRule, *, tls: Tls | None) -> Upstream:
        last: RefusedError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(self._limits.connect_s / len(addresses)):
                    return await self._one(address, rule, tls=tls)
            except TimeoutError:
                last = unreachable(f"{rule.host}:{rule.port} doesn't answer in time", HTTPStatus.GATEWAY_TIMEOUT)
            except ssl.SSLCertVerificationError as error:
                # Another address of the same name would have to show the same name: no use to go on.
                raise unreachable(
                    f"the certificate of {rule.host}:{rule.port} isn't accepted: {error.verify_message}"
                ) from error
            except ssl.SSLError as error:
                last = unreachable(f"{rule.host}:{rule.port} doesn't agree on TLS: {error.reason}")
            except OSError as error:
                last = unreachable(
                    f"{rule.host}:{rule.port} doesn't take the connection: {error.strerror or 'it broke'}"
                )
        raise last or unreachable(f"{rule.host}:{rule.port} has no address to try")

    async def _one(self, address: Address, rule: EgressRule, *, tls: Tls | None) -> Upstream:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        context = None if tls is None else await self._context(tls.protocol)
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(0)
            await asyncio.get_running_loop().sock_connect(connection, (str(address), rule.port))
            if tls is not None and tls.ask is not None:
                await tls.ask(connection)
        except BaseException:
            connection.close()
            raise
        # From here on the socket is asyncio's, which closes it where the handshake fails or is cancelled.
        reader, writer = await asyncio.open_connection(
            sock=connection,
            limit=PIECE_BYTES,
            ssl=context,
            server_hostname=None if tls is None else rule.host,
        )
        return Upstream(reader, writer)

    async def _context(self, protocol: str) -> ssl.SSLContext:
        if protocol not in self._contexts:
            context = await asyncio.to_thread(self._trust)
            context.set_alpn_protocols([protocol])
            self._contexts[protocol] = context
        return self._contexts[protocol]
