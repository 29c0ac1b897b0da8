"""Who is calling? An in-memory snapshot of the registry, asked on every RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from cryptography import x509

from broker.domain.identity import Caller, Certificate, Identity, IdentityKind
from broker.domain.ports import Store, Transaction
from broker.errors import BrokerError, UnauthenticatedError
from broker.identity import ca
from broker.identity.names import genesis, parse_spiffe, spiffe_uri

_PEERS_KEPT = 1024
_MAX_PEER_PEM = 64 * 1024
_ENTRIES_READ = 256
"""After more new entries than this the registry is read again without looking at them."""
_SOON_S = 0.005
_TOUCHES = (b'"type":"identity.', b'"name":true')  # the second is of an erasure that took a name away


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a client's certificate says. TLS has checked its signature and its holder; nothing here is believed yet."""

    fingerprint: str
    spiffe_uri: str
    not_after: datetime


@lru_cache(maxsize=_PEERS_KEPT)
def parse_peer(pem: bytes) -> PeerCertificate:
    """Reads the certificate that TLS gives for a connection.

    Raises:
        UnauthenticatedError: no certificate, or one without exactly one SPIFFE URI (``CERTIFICATE_INVALID``).
    """
    if not pem or len(pem) > _MAX_PEER_PEM:
        raise _refuse("CERTIFICATE_INVALID", "the connection carries no usable certificate")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise _refuse("CERTIFICATE_INVALID", "the certificate can't be read, or names nobody") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(names) != 1 or len(uris) != 1:
        raise _refuse("CERTIFICATE_INVALID", "the certificate must name exactly one SPIFFE URI, and nothing else")
    parse_spiffe(uris[0])
    return PeerCertificate(ca.fingerprint(certificate), uris[0], certificate.not_valid_after_utc)


class Directory:
    """Identities and certificates as they were at one moment. Immutable: shared by all RPCs without a lock."""

    def __init__(self, origin: str, identities: Sequence[Identity], certificates: Sequence[Certificate]) -> None:
        self.origin = origin
        """The ledger's origin id, which names the trust domain."""
        self.identities: Mapping[str, Identity] = MappingProxyType({item.id: item for item in identities})
        """By id, oldest first."""
        self.certificates: Mapping[str, Certificate] = MappingProxyType(
            {item.fingerprint: item for item in certificates}
        )
        """By fingerprint, oldest first."""
        self._names = {(item.kind, item.name): item for item in identities}

    @classmethod
    def load(cls, tx: Transaction) -> Directory:
        """Reads the registry.

        Raises:
            DataLossError: the ledger has no genesis entry.
        """
        return cls(genesis(tx)["origin"], tx.identities.all(), tx.identities.certificates())

    def by_name(self, kind: IdentityKind, name: str) -> Identity | None:
        """An identity, revoked or not."""
        return self._names.get((kind, name))

    def valid_fingerprints(self, identity: str, now: datetime) -> tuple[str, ...]:
        """Fingerprints of an identity's certificates that are in force, oldest first."""
        return tuple(
            item.fingerprint
            for item in self.certificates.values()
            if item.identity == identity and item.revoked is None and item.not_before <= now < item.not_after
        )

    def authenticate(self, fingerprint: str, spiffe: str, now: datetime) -> Caller:
        """Who holds this certificate, if it counts now.

        Raises:
            UnauthenticatedError: ``CERTIFICATE_UNKNOWN``, ``CERTIFICATE_REVOKED``, ``IDENTITY_REVOKED``,
                ``CERTIFICATE_NOT_YET_VALID``, ``CERTIFICATE_EXPIRED``, or ``CERTIFICATE_MISMATCH``: the name in it
                isn't the one under which the registry issued it.
        """
        caller = self.holder(fingerprint, spiffe)
        if now < caller.certificate.not_before:
            raise _refuse(
                "CERTIFICATE_NOT_YET_VALID", "the certificate is not valid yet", "Check the clocks of both machines."
            )
        if now >= caller.certificate.not_after:
            raise _refuse(
                "CERTIFICATE_EXPIRED", "the certificate has expired", "Issue another: broker identity issue --help"
            )
        return caller

    def holder(self, fingerprint: str, spiffe: str) -> Caller:
        """Like ``authenticate``, without asking the clock: only for renewing a certificate that has expired."""
        certificate = self.certificates.get(fingerprint)
        identity = self.identities.get(certificate.identity) if certificate else None
        if certificate is None or identity is None:
            raise _refuse(
                "CERTIFICATE_UNKNOWN",
                "this broker didn't issue the certificate",
                "Use one that `broker identity issue` wrote for this state directory.",
            )
        if certificate.revoked is not None:
            raise _refuse("CERTIFICATE_REVOKED", "the certificate has been revoked", "Ask an operator for another.")
        if identity.revoked is not None:
            raise _refuse("IDENTITY_REVOKED", f"{identity.kind} {identity.name} has been revoked")
        if spiffe != spiffe_uri(self.origin, identity.kind, identity.name):
            raise _refuse("CERTIFICATE_MISMATCH", "the certificate doesn't name the identity that it was issued to")
        return Caller(identity, certificate)


@runtime_checkable
class _Distant(Protocol):
    """A store that has to ask a server: its version is awaited, for a look at it would hold up the event loop."""

    async def ask_data_version(self) -> int:
        """Like ``Store.data_version``."""


class LiveDirectory:
    """The present ``Directory``, read again only after the registry has changed.

    ``Store.data_version`` tells that anybody has committed anything. Each change of the registry is a ledger entry of a
    type that begins with ``identity.``, or the erasure of a name, so the entries since the last look tell whether the registry was
    touched.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._distant = store if isinstance(store, _Distant) else None
        self._lock = asyncio.Lock()
        self._version: int | None = None
        self._known: _Known | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    async def current(self) -> Directory:
        """The registry as it is now.

        Costs one look at a number while nothing is committed, and a look at the new ledger entries after that.

        Raises:
            BrokerError: the store can't be read: nobody is authenticated from an old copy.
        """
        # A file is asked at once, without an await: this is on the way of each RPC.
        version = self._store.data_version() if self._distant is None else await self._distant.ask_data_version()
        if self._known is not None and self._version == version:
            return self._known.directory
        async with self._lock:
            # The version is taken before reading: a commit in between costs one more reading, and is never missed.
            version = self._store.data_version() if self._distant is None else await self._distant.ask_data_version()
            if self._known is None or self._version != version:
                known = self._known
                self._known = await self._store.read(lambda tx: _refresh(tx, known))
                self._version = version
            return self._known.directory

    @property
    def seen(self) -> Directory | None:
        """What the last look has seen; nobody is authenticated from it."""
        return None if self._known is None else self._known.directory

    def look_soon(self) -> None:
        """Something was committed: looks at it when its caller has been answered, lest the next one wait for that."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_SOON_S, self._begin_to_look)

    def _begin_to_look(self) -> None:
        self._soon = None
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_now())

    async def _look_now(self) -> None:
        with suppress(BrokerError):  # whoever asks next is told
            await self.current()


@dataclass(frozen=True, slots=True)
class _Known:
    """A directory, and the number of the last ledger entry that it has seen."""

    directory: Directory
    seq: int


def _refresh(tx: Transaction, known: _Known | None) -> _Known:
    head = tx.ledger.head()
    seq = -1 if head is None else head.seq
    if known is not None and known.seq <= seq <= known.seq + _ENTRIES_READ:
        new = tx.ledger.entries(known.seq + 1, _ENTRIES_READ) if seq > known.seq else ()
        # RFC 8785 leaves one way to write this, and inside a string the quotes would be escaped.
        if not any(touch in entry.data for entry in new for touch in _TOUCHES):
            return _Known(known.directory, seq)
    return _Known(Directory.load(tx), seq)


def _refuse(reason: str, message: str, hint: str = "") -> UnauthenticatedError:
    return UnauthenticatedError(message, reason=reason, hint=hint)
