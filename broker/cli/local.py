"""Local commands: the state directory opened without a broker, beside one that may be running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from broker.cli.agreed import RecordedAuthority
from broker.domain.identity import Caller, Identity, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Recorder, Transaction, Vault
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError
from broker.identity import files
from broker.identity.ca import CertificateAuthority
from broker.identity.directory import Directory
from broker.identity.holder import Holder
from broker.identity.names import check_name, genesis
from broker.identity.registry import Registry
from broker.ledger.ledger import Ledger
from broker.settings import StatePaths, load_settings
from broker.store.base import SqlStore
from broker.store.opening import DatabaseTarget, open_store_sync
from broker.vault.keyfile import read_key_file
from broker.vault.vault import SealedVault

T = TypeVar("T")

StateOption = Annotated[
    Path, typer.Option("--state", envvar="BROKER_STATE", help="The state directory that `broker init` made.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
AsOption = Annotated[
    str,
    typer.Option("--as", help="The human who does it; default: the operator. Their key must be at hand."),
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", help="Your private key; default: identities/human/NAME/key.pem.")
]
CertOption = Annotated[
    Path | None, typer.Option("--cert", help="Your certificate; default: identities/human/NAME/cert.pem.")
]


@dataclass(frozen=True, slots=True)
class Local:
    """An open state directory: its store, and the ledger and vault to write with."""

    paths: StatePaths
    origin: str
    store: SqlStore
    recorder: Recorder
    vault: Vault

    @property
    def registry(self) -> Registry:
        """The registry of this state directory; once the two-person rule is in force it does what people agreed to."""
        return Registry(self.recorder, self.vault, RecordedAuthority(self.recorder, self.vault, self.origin))

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` on a consistent snapshot."""
        return self.store.read_sync(work)

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` in a writing transaction; it is durable when this returns."""
        return self.store.write_sync(work)


@contextmanager
def open_local(state: Path) -> Iterator[Local]:
    """Opens database, ledger and vault of a state directory for one command.

    Raises:
        InvalidArgumentError: there is no state directory (``STATE_MISSING``).
        BrokerError: a part of it is damaged or away; says which.
    """
    paths = StatePaths(state)
    settings = load_settings(state)
    target = DatabaseTarget(paths.database, settings.database, settings.database_password)
    if not target.is_there or not paths.root.is_dir():
        raise InvalidArgumentError(
            f"{state} is not a state directory: it has no {paths.database.name}",
            reason="STATE_MISSING",
            hint="Make one with `broker init`, or name the right one with --state.",
        )
    vault = SealedVault(read_key_file(paths.vault_key))
    with open_store_sync(target) as store:
        origin = store.read_sync(genesis)["origin"]
        yield Local(paths, origin, store, Ledger(origin, new_id("boot"), clock), vault)


def clock() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def load_ca(paths: StatePaths, origin: str) -> CertificateAuthority:
    """The CA of a state directory, with its key.

    Raises:
        InvalidArgumentError: its files can't be read, or its key is open to others.
        DataLossError: they are damaged, or belong to another broker's ledger (``CA_INVALID``).
    """
    authority = CertificateAuthority.load(
        files.read_pem(paths.ca_certificate, what="the CA's certificate"),
        files.read_secret(paths.ca_key, what="the CA's key"),
    )
    if authority.origin != origin:
        raise DataLossError("the CA belongs to another broker than the ledger", reason="CA_INVALID")
    return authority


def load_holder(state: Path, human: str, *, key: Path | None, cert: Path | None) -> Holder:
    """A human's certificate and key, from the two files or from ``identities/human/NAME``.

    Raises:
        InvalidArgumentError: nobody is named, or a file can't be read, or is open to others.
    """
    if human:
        check_name(human, field="--as")
    if (key is None or cert is None) and not human:
        raise InvalidArgumentError("--as names nobody, and --key and --cert aren't both given", reason="HUMAN_MISSING")
    folder = StatePaths(state).identities / IdentityKind.HUMAN / human
    holder = Holder.load(
        files.read_pem(cert or folder / "cert.pem", what="the certificate"),
        files.read_secret(key or folder / "key.pem", what="the private key"),
    )
    if human and holder.name != human:
        raise InvalidArgumentError(f"the certificate is of {holder.name}, not of {human}", reason="HUMAN_DIFFERS")
    return holder


def acting_human(local: Local, human: str, *, key: Path | None, cert: Path | None, renewing: str = "") -> Caller:
    """The human who acts, proved by their private key; by default the operator of the genesis.

    Raises:
        InvalidArgumentError: as for ``load_holder``.
        UnauthenticatedError: their certificate doesn't count, and why.
    """
    directory = local.read(Directory.load)
    if not human and (key is None or cert is None):
        operator = directory.identities.get(local.read(genesis).get("operator", ""))
        if operator is None:
            raise DataLossError("the operator of the genesis isn't in the registry", reason="GENESIS_INVALID")
        human = operator.name
    holder = load_holder(local.paths.root, human, key=key, cert=cert)
    return holder.authenticate(directory, clock(), renewing=renewing)


def named(directory: Directory, kind: IdentityKind, name: str, *, option: str) -> Identity:
    """The identity of that name.

    Raises:
        InvalidArgumentError: there is none (``IDENTITY_UNKNOWN``).
    """
    found = directory.by_name(kind, name)
    if found is None:
        why = f"there is no {kind} {name[:80]!a}"
        raise InvalidArgumentError(
            f"{option}: {why}",
            reason="IDENTITY_UNKNOWN",
            violations=(FieldViolation(option, why),),
            hint=f"Register it with: broker identity issue {kind} NAME; see who there is with: broker identity list",
        )
    return found
