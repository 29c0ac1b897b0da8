"""``broker init``: makes a state directory, whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import Annotated

import typer

from broker.cli.example_settings import example_settings
from broker.cli.init_approvers import FirstApprover, enrol, grants, parse_approvers
from broker.cli.local import JsonOption, StateOption, clock
from broker.cli.output import OutputModel, console, emit
from broker.domain.approval import VoterKey
from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.identity import Certificate, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Transaction
from broker.errors import InvalidArgumentError
from broker.identity import ca, files, keys
from broker.identity.ca import CertificateAuthority
from broker.identity.names import check_name, trust_domain
from broker.identity.registry import Registry
from broker.ledger.genesis import genesis_body
from broker.ledger.ledger import Ledger
from broker.ledger.signer import make_passphrase_file, make_signer_file, read_passphrase
from broker.policy.default import default_policy
from broker.settings import DEFAULT_STATE, StatePaths, load_settings
from broker.store.opening import DatabaseTarget, create_store, discard_store, open_store_sync
from broker.tlog.note import VerifierKey
from broker.vault.keyfile import make_key_file
from broker.vault.vault import SealedVault


class ApproverOutput(OutputModel):
    """A human who may approve, and the id of their key."""

    name: str
    key: str


class InitOutput(OutputModel):
    """A new state directory. ``leftovers`` are those of earlier runs that didn't finish; nothing uses them."""

    state: Path
    origin: str
    trust_domain: str
    operator: str
    operator_id: str
    operator_certificate: Path
    operator_key: Path
    ca: Path
    ca_fingerprint: str
    checkpoint_key: str
    hosts: tuple[str, ...]
    approvers: tuple[ApproverOutput, ...]
    leftovers: tuple[Path, ...]


def init(
    *,
    operator: Annotated[str, typer.Option(help="Name of the first human, who may register others.")] = "operator",
    host: Annotated[
        list[str] | None,
        typer.Option(help="Further host name or address of the server, besides localhost; may be repeated."),
    ] = None,
    approver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VKEY",
            help="A human who may approve, by the public key that `broker keys new` printed; may be repeated. At least "
            "three have to accept before Tier 4 opens.",
        ),
    ] = None,
    database: Annotated[
        str,
        typer.Option(help="PostgreSQL database, postgresql://user@host:port/name; default: a file in the directory."),
    ] = "",
    database_password: Annotated[
        str, typer.Option(help="Where that user's password comes from: env:NAME or file:/absolute/path.")
    ] = "",
    database_owner: Annotated[
        str, typer.Option(help="The same database as another user, who shall own the tables and isn't kept.")
    ] = "",
    database_owner_password: Annotated[
        str, typer.Option(help="Where the owner's password comes from: env:NAME or file:/absolute/path.")
    ] = "",
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Make a state directory: database, ledger, keys, CA, server certificate, the first human, policy, settings.

    Example: broker init --state /var/lib/broker --operator ada --host broker.example.com
    Example: broker init --operator olivia --approver ada=ada+1f2e3d4c+AZbD... --approver bob=bob+...

    It is made beside its place and gets its name at the end, so there is never half of one. One that exists is never
    changed.
    """
    chosen = {"database": database, "database_password": database_password}
    owner = (database_owner, database_owner_password) if database_owner else None
    output = create_state(
        state,
        operator=operator,
        hosts=tuple(host or ()),
        approvers=parse_approvers(approver or ()),
        chosen={name: value for name, value in chosen.items() if value},
        owner=owner,
    )
    emit(output, as_json=as_json, render=_render)


def create_state(
    state: Path,
    *,
    operator: str,
    hosts: tuple[str, ...],
    approvers: tuple[FirstApprover, ...] = (),
    chosen: Mapping[str, str] = MappingProxyType({}),
    owner: tuple[str, str] | None = None,
) -> InitOutput:
    """Makes a state directory and the first human.

    Args:
        state: where.
        operator: name of the first human.
        hosts: of the server, besides localhost.
        approvers: humans who may approve, with their public keys.
        chosen: settings that ``settings.yaml`` shall hold.
        owner: address and source of the password of a PostgreSQL user who shall own the tables.

    Raises:
        InvalidArgumentError: something is there already (``STATE_EXISTS``), or a name or host is wrong.
    """
    check_name(operator, field="--operator")
    state = state.absolute()
    _refuse_existing(state)
    leftovers = tuple(sorted(state.parent.glob(_pattern(state))))
    with _draft(state) as draft, ExitStack() as undo:
        files.write_new(StatePaths(draft).settings, example_settings(chosen).encode(), mode=files.PRIVATE)
        made = _fill(draft, undo, operator=operator, hosts=hosts, approvers=approvers, owner=owner)
        _move(draft, state)
        undo.pop_all()
    final = StatePaths(state)
    folder = final.identities / IdentityKind.HUMAN / operator
    return InitOutput(
        state=state,
        origin=made.authority.origin,
        trust_domain=trust_domain(made.authority.origin),
        operator=operator,
        operator_id=made.operator.identity,
        operator_certificate=folder / "cert.pem",
        operator_key=folder / "key.pem",
        ca=final.ca_certificate,
        ca_fingerprint=ca.fingerprint(made.authority.certificate),
        checkpoint_key=str(made.checkpoint_key),
        hosts=made.hosts,
        approvers=tuple(
            ApproverOutput(name=item.name, key=key.id) for item, key in zip(approvers, made.voter_keys, strict=True)
        ),
        leftovers=leftovers,
    )


@dataclass(frozen=True, slots=True)
class _Made:
    authority: CertificateAuthority
    hosts: tuple[str, ...]
    operator: Certificate
    checkpoint_key: VerifierKey
    voter_keys: tuple[VoterKey, ...]


def _fill(
    root: Path,
    undo: ExitStack,
    *,
    operator: str,
    hosts: tuple[str, ...],
    approvers: tuple[FirstApprover, ...],
    owner: tuple[str, str] | None,
) -> _Made:
    paths = StatePaths(root)
    now = clock()
    settings = load_settings(root)
    authority = CertificateAuthority.create(new_id("brk"), now)
    _write(paths.ca_certificate, ca.pem(authority.certificate), mode=files.PUBLIC)
    _write(paths.ca_key, keys.key_pem(authority.key))
    server_key = keys.new_key()
    server = authority.issue_server(server_key.public_key(), hosts, now)
    _write(paths.server_certificate, ca.pem(server), mode=files.PUBLIC)
    _write(paths.server_key, keys.key_pem(server_key))
    policy = (default_policy(operator) + grants(approvers)).encode()
    _write(paths.policy / "policy.csv", policy)
    human_key = keys.new_key()
    human = authority.issue_client(
        IdentityKind.HUMAN, operator, human_key.public_key(), now, timedelta(days=settings.identity_ttl_days)
    )
    folder = paths.identities / IdentityKind.HUMAN / operator
    _write(folder / "cert.pem", ca.pem(human), mode=files.PUBLIC)
    _write(folder / "key.pem", keys.key_pem(human_key))
    _write(folder / "ca.pem", ca.pem(authority.certificate), mode=files.PUBLIC)
    files.make_private_dir(paths.vault_key.parent)
    vault = SealedVault(make_key_file(paths.vault_key))
    if not settings.checkpoint_passphrase:
        make_passphrase_file(paths.checkpoint_passphrase)
    passphrase = read_passphrase(settings.checkpoint_passphrase, paths.checkpoint_passphrase)
    checkpoint_key = make_signer_file(paths.checkpoint_key, authority.origin, passphrase)
    ledger = Ledger(authority.origin, new_id("boot"), clock)
    operator_id = new_id("hum")
    genesis: JsonObject = {
        **genesis_body(
            trust_domain=trust_domain(authority.origin),
            software=f"agent-broker {version('agent-broker')}",
            checkpoint_key=checkpoint_key,
        ),
        "operator": operator_id,
        "ca_fingerprint": ca.fingerprint(authority.certificate),
        "settings_digest": digest(canonical(settings.model_dump(mode="json"))),
        "policy_digest": digest(policy),
    }

    def work(tx: Transaction) -> tuple[Certificate, tuple[VoterKey, ...]]:
        ledger.append(tx, "genesis", genesis)
        registry = Registry(ledger, vault)
        registry.register_operator(tx, identity=operator_id, name=operator, now=now)
        record = registry.issue(tx, identity=operator_id, certificate=human, by=operator_id, now=now)
        return record, enrol(tx, registry, ledger, approvers, by=operator_id, now=now)

    target = DatabaseTarget(paths.database, settings.database, settings.database_password)
    owning = None if owner is None else DatabaseTarget(paths.database, *owner)
    create_store(target, owning)
    undo.callback(discard_store, target, owning)  # what lies in the draft goes with it
    with open_store_sync(target) as store:
        record, voter_keys = store.write_sync(work)
    return _Made(authority, ca.server_hosts(server), record, checkpoint_key, voter_keys)


def _write(path: Path, data: bytes, *, mode: int = files.PRIVATE) -> None:
    files.make_private_dir(path.parent)
    files.write_new(path, data, mode=mode)


def _pattern(state: Path) -> str:
    return f".{state.name}.init-*"


@contextmanager
def _draft(state: Path) -> Iterator[Path]:
    """A directory beside the final one (mode 0700), removed if it hasn't been moved into its place."""
    try:
        files.make_private_dir(state.parent)
        draft = Path(mkdtemp(prefix=_pattern(state).removesuffix("*"), dir=state.parent))
    except OSError as error:
        raise InvalidArgumentError(
            f"{state.parent} can't be written: {error.strerror}",
            reason="STATE_UNWRITABLE",
            hint="Choose another --state.",
        ) from error
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, state: Path) -> None:
    for folder in (item for item in draft.rglob("*") if item.is_dir()):
        files.sync_dir(folder)
    files.sync_dir(draft)
    try:
        # Takes the place of nothing or of an empty directory, and of nothing else.
        draft.rename(state)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise _exists(state, "was made by somebody else in the meantime") from error
        raise
    files.sync_dir(state.parent)


def _refuse_existing(state: Path) -> None:
    if state.is_symlink() and not state.exists():
        raise _exists(state, "is a link to nothing")
    if not state.exists():
        return
    if not state.is_dir():
        raise _exists(state, "is not a directory")
    found = sorted(item.name for item in state.iterdir())
    if not found:
        return
    if StatePaths(state).database.exists() or StatePaths(state).ca_certificate.exists():
        raise _exists(state, f"is a state directory already, with {', '.join(found)}")
    raise _exists(state, f"is no state directory (no broker.db), and not empty: it has {', '.join(found[:10])}")


def _exists(state: Path, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{state} {what}; nothing has been changed",
        reason="STATE_EXISTS",
        hint="Use it as it is (`broker doctor` checks it), or choose another with --state.",
    )


def _render(output: InitOutput) -> None:
    console.print(f"made {output.state}", soft_wrap=True, markup=False)
    console.print(f"  trust domain  {output.trust_domain}")
    console.print(f"  CA            {output.ca_fingerprint}", soft_wrap=True)
    console.print(f"  server        {', '.join(output.hosts)}", soft_wrap=True)
    console.print(f"  ledger key    {output.checkpoint_key}", soft_wrap=True, markup=False)
    console.print("                give it to whoever shall check the ledger, by a way of its own", soft_wrap=True)
    console.print(f"  operator      {output.operator} ({output.operator_certificate})", soft_wrap=True, markup=False)
    for approver in output.approvers:
        console.print(f"  approver      {approver.name} ({approver.key})", soft_wrap=True, markup=False)
    for leftover in output.leftovers:
        console.print(
            f"  {leftover} is left from a `broker init` that didn't finish, or that runs now. Nothing uses it; it holds "
            f"keys. Remove it once no other init runs: rm -r {leftover}",
            soft_wrap=True,
            markup=False,
        )
    if output.approvers:
        names = " and ".join(item.name for item in output.approvers if item.name != output.operator)
        console.print(
            f"for the two-person rule: broker identity issue human NAME for {names or 'further people'}; then, with a "
            "broker that serves, each of at least three approvers: broker approvers accept",
            soft_wrap=True,
            markup=False,
        )
    console.print(f"next: broker identity issue agent NAME --owner {output.operator}, then: broker serve")
