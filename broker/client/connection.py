"""How a client reaches its broker: mutual TLS, and nothing less unless it is asked for by a name that says unsafe."""

from __future__ import annotations

import dataclasses
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from broker.errors import FieldViolation, InvalidArgumentError

MAX_RECEIVE_BYTES = 16 * 2**20
"""Longest message that the client takes."""

_KEEPALIVE_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 20_000
_PORTS = range(1, 65536)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate (PEM, with its chain) and its private key (PEM). The key never shows in a ``repr``."""

    certificate: bytes
    key: bytes = dataclasses.field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads ``cert.pem`` and ``key.pem`` of a folder.

        Raises:
            InvalidArgumentError: one of them is missing, isn't PEM, or they don't belong together.
        """
        certificate, key = folder / "cert.pem", folder / "key.pem"
        data = cls(_read(certificate, "identity"), _read(key, "identity"))
        try:
            # No password is ever asked for: an encrypted key is an error, not a prompt that hangs an agent.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: b"")
        except (ssl.SSLError, ValueError, OSError) as error:
            raise _refuse(
                "identity", f"{folder} holds no certificate with its own, unencrypted key: {error}"
            ) from error
        return data


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A broker's address and what is needed to trust it and to be trusted.

    Raises:
        InvalidArgumentError: made from an address, identity or CA that can't work; nothing is sent.
    """

    address: str
    """``host:port``; IPv6 hosts in brackets."""
    identity: Identity | None
    ca: bytes
    """PEM of the CA that vouches for the broker."""
    unsafe_plaintext: bool = False
    """No TLS and no authentication: loopback addresses only, for debugging."""

    def __post_init__(self) -> None:
        host = _host(self.address)
        if self.unsafe_plaintext:
            if not is_loopback(host):
                raise _refuse("address", f"{self.address} is not a loopback address, and plaintext is for those only")
            if self.identity is not None:
                raise _refuse("identity", "has no use without TLS; leave out either identity or unsafe_plaintext")
            return
        if self.identity is None:
            raise _refuse("identity", "is required: there is no connection without a certificate")
        if b"-----BEGIN CERTIFICATE-----" not in self.ca:
            raise _refuse("ca", "holds no PEM certificate")

    @classmethod
    def load(
        cls, address: str, *, identity: Identity | Path | None, ca: Path | bytes | None, unsafe_plaintext: bool
    ) -> Self:
        """Makes an endpoint, reading the files that are given as paths.

        Raises:
            InvalidArgumentError: a file is missing or wrong, or the combination isn't allowed.
        """
        if isinstance(identity, Path):
            identity = Identity.load(identity)
        if isinstance(ca, Path):
            ca = _read(ca, "ca")
        return cls(address, identity, ca or b"", unsafe_plaintext)

    def channel(self) -> grpc.aio.Channel:
        """Opens a channel in the running event loop; it connects with the first request."""
        options = self._options()
        if self.unsafe_plaintext or self.identity is None:
            if not self.unsafe_plaintext:
                raise _refuse("identity", "is required: there is no connection without a certificate")
            return grpc.aio.insecure_channel(self.address, options=options)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self.ca,
            private_key=self.identity.key,
            certificate_chain=self.identity.certificate,
        )
        return grpc.aio.secure_channel(self.address, credentials, options=options)

    def _options(self) -> list[tuple[str, int]]:
        options = [
            ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
            # The library's own retries don't know what is safe to repeat here; ours do.
            ("grpc.enable_retries", 0),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            # Each client has its own connection, hence its own identity: never share one with another client.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if is_loopback(_host(self.address)):
            options.append(("grpc.enable_http_proxy", 0))
        return options


def is_loopback(host: str) -> bool:
    """Is it ``localhost`` or a loopback IP address?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(address: str) -> str:
    host, separator, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    odd = not bare or (":" in bare and not bracketed) or any(char in bare for char in "/[]@ \t\n")
    if not separator or odd or not (port.isascii() and port.isdigit() and int(port) in _PORTS):
        raise _refuse("address", f"must be of the form host:port, not {address!r}")
    return bare


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refuse(field, f"{path} can't be read: {error.strerror}") from error


def _refuse(field: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field}: {why}",
        reason="CONNECTION_OPTIONS_INVALID",
        hint="`broker identity issue agent NAME --owner HUMAN` writes cert.pem and key.pem; the CA is ca/ca.pem.",
        violations=(FieldViolation(field, why),),
    )
