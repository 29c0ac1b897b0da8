"""Issuing as one step: sign, register, and put the files where they belong.

Once the two-person rule is in force, people agree to one certificate for one key. So the first run of a command makes the
key, keeps it as ``identities/KIND/.NAME.pending/key.pem`` and says what to ask for; the next run uses that very key.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp

from broker.cli.local import Local, load_ca
from broker.domain.identity import Certificate, Identity, IdentityKind
from broker.domain.ports import Transaction
from broker.errors import ConflictError, DataLossError, FailedPreconditionError, InvalidArgumentError
from broker.identity import ca, files, keys
from broker.settings import StatePaths

CERTIFICATE = "cert.pem"
KEY = "key.pem"
CA = "ca.pem"


@dataclass(frozen=True, slots=True)
class Issuing:
    """What to issue: to whom, for which request (or a fresh key), where, for how long, and by whom (id)."""

    kind: IdentityKind
    name: str
    owner: str
    """Id of a new agent's owner; not looked at for anybody else."""
    csr: Path | None
    out: Path | None
    life: timedelta
    by: str


@dataclass(frozen=True, slots=True)
class Issued:
    """What was issued, and the folder with its files."""

    identity: Identity
    certificate: Certificate
    folder: Path
    has_key: bool


def issue(local: Local, issuing: Issuing) -> Issued:
    """Signs a certificate, registers it (and its identity, if new), and writes the files.

    The files are complete on the disk before the registry knows the certificate, and get their final name after it:
    a crash in between leaves a folder whose name ends in ``.new``, and a certificate that can be revoked.

    Raises:
        InvalidArgumentError, ConflictError, PermissionDeniedError: as the parts do, and nothing has been done.
        FailedPreconditionError: nobody has agreed to it (``APPROVAL_REQUIRED``); the key is kept for the next run.
    """
    now = datetime.now(UTC)
    authority = load_ca(local.paths, local.origin)
    pending = local.paths.identities / issuing.kind / f".{issuing.name}.pending" / KEY
    private = None if issuing.csr else _present_key(pending) or keys.new_key()
    public = private.public_key() if private else ca.request_key(files.read_pem(_path(issuing.csr), what="the request"))
    certificate = authority.issue_client(issuing.kind, issuing.name, public, now, issuing.life)
    contents = {CERTIFICATE: ca.pem(certificate), CA: ca.pem(authority.certificate)}
    if private is not None:
        contents[KEY] = keys.key_pem(private)
    folder = issuing.out or local.paths.identities / issuing.kind / issuing.name
    registry = local.registry

    def work(tx: Transaction) -> tuple[Identity, Certificate]:
        return registry.enroll(
            tx,
            kind=issuing.kind,
            name=issuing.name,
            owner=issuing.owner,
            certificate=certificate,
            by=issuing.by,
            now=now,
        )

    with _room(folder, contents, swap=issuing.out is None) as place:
        try:
            identity, record = local.write(work)
        except FailedPreconditionError as error:
            if error.reason == "APPROVAL_REQUIRED" and private is not None and not pending.exists():
                files.make_private_dir(pending.parent)
                files.write_new(pending, keys.key_pem(private))
            raise
        place()
    if private is not None:
        shutil.rmtree(pending.parent, ignore_errors=True)
    return Issued(identity, record, folder, has_key=private is not None)


def _present_key(pending: Path) -> keys.PrivateKey | None:
    if not pending.exists():
        return None
    return keys.load_private_key(files.read_secret(pending, what="the key that waits for approval"))


def present_hosts(paths: StatePaths) -> tuple[str, ...]:
    """The hosts of the present server certificate.

    Raises:
        DataLossError: the file can't be read as one (``SERVER_CERTIFICATE_INVALID``).
    """
    try:
        return ca.server_hosts(ca.read_certificate(files.read_pem(paths.server_certificate, what="the server's")))
    except DataLossError as error:
        raise DataLossError(
            f"{paths.server_certificate} is no certificate", reason="SERVER_CERTIFICATE_INVALID"
        ) from error


def _path(csr: Path | None) -> Path:
    if csr is None:
        raise InvalidArgumentError("there is no request", reason="CSR_INVALID")
    return csr


@contextmanager
def _room(folder: Path, contents: dict[str, bytes], *, swap: bool) -> Iterator[Callable[[], None]]:
    """Makes sure that the files can be written, and gives what puts them in place; without that, nothing stays.

    With ``swap`` the folder is replaced as a whole. Otherwise the files join what is in it, and none is overwritten.
    """
    taken = [str(folder / name) for name in contents if not swap and (folder / name).exists()]
    if taken:
        raise ConflictError(
            f"{', '.join(taken)} exists already and is not overwritten",
            reason="FILE_EXISTS",
            hint="Choose another --out.",
        )
    inside = folder.parent if swap else folder
    try:
        files.make_private_dir(inside)
        draft = Path(mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=inside))
    except OSError as error:
        raise InvalidArgumentError(
            f"{inside} can't be written: {error.strerror}", reason="FILE_UNWRITABLE", hint="Choose another --out."
        ) from error
    try:
        for name, data in contents.items():
            files.write_new(draft / name, data, mode=files.PRIVATE if name == KEY else files.PUBLIC)
        yield lambda: _swap(draft, folder) if swap else _join(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, folder: Path) -> None:
    """Puts the draft in the folder's place; what was there stays beside it, named after its certificate."""
    if folder.exists():
        present = files.read_pem(folder / CERTIFICATE, what="the present certificate")
        old = ca.fingerprint(ca.read_certificate(present)).removeprefix("sha256:")[:16]
        folder.rename(folder.with_name(f"{folder.name}.{old}"))
    draft.rename(folder)
    files.sync_dir(folder.parent)


def _join(draft: Path, folder: Path) -> None:
    for path in draft.iterdir():
        os.link(path, folder / path.name)
    files.sync_dir(folder)
