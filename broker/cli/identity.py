"""``broker identity``: certificates and owners of agents and humans. Works on the state directory itself.

A broker may run at the same time: it sees each change before its next answer.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from broker.cli import placing
from broker.cli.local import (
    AsOption,
    CertOption,
    JsonOption,
    KeyOption,
    Local,
    StateOption,
    acting_human,
    load_ca,
    named,
    open_local,
)
from broker.cli.output import OutputModel, console, emit
from broker.domain.identity import Certificate, Identity, IdentityKind
from broker.domain.ports import Transaction
from broker.errors import FieldViolation, InvalidArgumentError
from broker.identity import ca, files, keys
from broker.identity.directory import Directory
from broker.identity.names import check_name
from broker.settings import DEFAULT_STATE, StatePaths, load_settings

app = typer.Typer(no_args_is_help=True, help="Register agents and humans, and issue or revoke their certificates.")
issue_app = typer.Typer(no_args_is_help=True, help="Register an agent or a human if need be, and issue a certificate.")
app.add_typer(issue_app, name="issue")

NameArgument = Annotated[str, typer.Argument(help="Name: 1 to 63 of a-z, 0-9 and -, starting with a letter.")]
CsrOption = Annotated[
    Path | None,
    typer.Option("--csr", help="A PEM certificate request: sign its key, which then never leaves its holder."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Where to write; default: identities/KIND/NAME in the state directory.")
]
DaysOption = Annotated[
    int | None, typer.Option("--days", min=1, max=825, help="How long it is valid; default: identity_ttl_days.")
]


class IssuedOutput(OutputModel):
    """A certificate that was issued, and where its files are; ``key`` is empty where a request was signed."""

    id: str
    kind: str
    name: str
    owner: str
    registrar: str
    fingerprint: str
    expires: datetime
    certificate: Path
    key: Path | None
    ca: Path


class CertificateOutput(OutputModel):
    """One certificate; ``state`` is ``valid``, ``expired``, ``revoked`` or ``not yet valid``."""

    fingerprint: str
    state: str
    not_before: datetime
    not_after: datetime
    revoked: datetime | None


class IdentityOutput(OutputModel):
    """One identity; ``owner`` and ``registrar`` are names of humans, ``owner`` empty for a human."""

    id: str
    kind: str
    name: str
    owner: str
    registrar: str
    created: datetime
    revoked: datetime | None
    certificates: tuple[CertificateOutput, ...]


class IdentitiesOutput(OutputModel):
    """All identities, oldest first."""

    items: tuple[IdentityOutput, ...]


class ServerOutput(OutputModel):
    """The server's new certificate."""

    fingerprint: str
    expires: datetime
    hosts: tuple[str, ...]
    certificate: Path


@issue_app.command("agent")
def issue_agent(
    *,
    name: NameArgument,
    owner: Annotated[str, typer.Option(help="The human who owns it; may be left out for one that is registered.")] = "",
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    csr: CsrOption = None,
    out: OutOption = None,
    days: DaysOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Issue a certificate to an agent; an agent that has one gets another, and both count until one is revoked.

    Once the two-person rule is in force two people agree first: the command keeps the key, says what to ask for and ends
    with exit code 4; run it again once they have.

    Example: broker identity issue agent reporter --owner ada
    """
    check_name(name, field="name")
    with open_local(state) as local:
        actor = acting_human(local, human, key=key, cert=cert)
        directory = local.read(Directory.load)
        present = directory.by_name(IdentityKind.AGENT, name)
        owner_id = named(directory, IdentityKind.HUMAN, owner, option="--owner").id if owner else ""
        if present is None and not owner_id:
            raise _wrong("--owner", f"names the human who owns the new agent {name}; it is missing", "OWNER_MISSING")
        if present is not None and owner_id not in {"", present.owner}:
            raise _wrong(
                "--owner", f"is not the present owner of {name}; change it with: broker identity owner", "OWNER_DIFFERS"
            )
        issuing = placing.Issuing(IdentityKind.AGENT, name, owner_id, csr, out, _life(state, days), actor.identity.id)
        _emit_issued(local, placing.issue(local, issuing), as_json=as_json)


@issue_app.command("human")
def issue_human(
    *,
    name: NameArgument,
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    csr: CsrOption = None,
    out: OutOption = None,
    days: DaysOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Issue a certificate to a human. Renewing your own works with one that has expired.

    Once the two-person rule is in force two people agree first, as for an agent.

    Example: broker identity issue human grace --csr grace.csr --out handover/
    """
    check_name(name, field="name")
    with open_local(state) as local:
        actor = acting_human(local, human, key=key, cert=cert, renewing=name)
        issuing = placing.Issuing(IdentityKind.HUMAN, name, "", csr, out, _life(state, days), actor.identity.id)
        _emit_issued(local, placing.issue(local, issuing), as_json=as_json)


@app.command("list")
def list_identities(*, state: StateOption = DEFAULT_STATE, as_json: JsonOption = False) -> None:
    """List agents and humans with their certificates.

    Example: broker identity list --json
    """
    with open_local(state) as local:
        directory = local.read(Directory.load)
    now = datetime.now(UTC)
    items = tuple(_describe(directory, identity, now) for identity in directory.identities.values())
    emit(IdentitiesOutput(items=items), as_json=as_json, render=_render_list)


@app.command()
def revoke(
    *,
    kind: Annotated[IdentityKind, typer.Argument(help="agent or human.")],
    name: NameArgument,
    reason: Annotated[str, typer.Option(help="Why; kept encrypted.")],
    fingerprint: Annotated[str, typer.Option(help="Revoke only this certificate, sha256:...")] = "",
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Revoke an identity for good, or one of its certificates. A running broker refuses it at once.

    Example: broker identity revoke agent reporter --reason "laptop lost"
    """
    with open_local(state) as local:
        actor = acting_human(local, human, key=key, cert=cert)
        target = named(local.read(Directory.load), kind, name, option="NAME").id
        registry = local.registry
        by, now = actor.identity.id, datetime.now(UTC)

        def work(tx: Transaction) -> None:
            if fingerprint:
                registry.revoke_certificate(tx, identity=target, fingerprint=fingerprint, by=by, reason=reason, now=now)
            else:
                registry.revoke_identity(tx, identity=target, by=by, reason=reason, now=now)

        local.write(work)
        directory = local.read(Directory.load)
    emit(_describe(directory, directory.identities[target], now), as_json=as_json, render=_render_one)


@app.command("owner")
def change_owner(
    *,
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    owner: Annotated[str, typer.Option(help="The human who owns it from now on.")],
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Give an agent another owner. You become its registrar, and its certificates end: issue it a new one.

    Once the two-person rule is in force the broker does it as soon as two people agree: ask for `identity.owner`.

    Example: broker identity owner reporter --owner grace
    """
    with open_local(state) as local:
        actor = acting_human(local, human, key=key, cert=cert)
        directory = local.read(Directory.load)
        target = named(directory, IdentityKind.AGENT, agent, option="AGENT").id
        new_owner = named(directory, IdentityKind.HUMAN, owner, option="--owner").id
        registry = local.registry
        by, now = actor.identity.id, datetime.now(UTC)
        local.write(lambda tx: registry.change_owner(tx, agent=target, owner=new_owner, by=by, now=now))
        directory = local.read(Directory.load)
    emit(_describe(directory, directory.identities[target], now), as_json=as_json, render=_render_one)


@app.command("renew-server")
def renew_server(
    *,
    host: Annotated[list[str] | None, typer.Option(help="Further host name or address; the present ones stay.")] = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Issue the server's certificate again, for the same key. A broker takes it at its next start.

    Example: broker identity renew-server --host broker.example.com
    """
    with open_local(state) as local:
        paths = StatePaths(state)
        authority = load_ca(paths, local.origin)
        private = keys.load_private_key(files.read_secret(paths.server_key, what="the server's key"))
        hosts = (*placing.present_hosts(paths), *(host or ()))
        certificate = authority.issue_server(private.public_key(), hosts, datetime.now(UTC))
        files.replace(paths.server_certificate, ca.pem(certificate), mode=files.PUBLIC)
    output = ServerOutput(
        fingerprint=ca.fingerprint(certificate),
        expires=certificate.not_valid_after_utc,
        hosts=ca.server_hosts(certificate),
        certificate=paths.server_certificate,
    )
    emit(output, as_json=as_json, render=_render_server)


def _life(state: Path, days: int | None) -> timedelta:
    return timedelta(days=days if days is not None else load_settings(state).identity_ttl_days)


def _emit_issued(local: Local, issued: placing.Issued, *, as_json: bool) -> None:
    names = {item.id: item.name for item in local.read(Directory.load).identities.values()}
    output = IssuedOutput(
        id=issued.identity.id,
        kind=str(issued.identity.kind),
        name=issued.identity.name,
        owner=names.get(issued.identity.owner, ""),
        registrar=names.get(issued.identity.registrar, ""),
        fingerprint=issued.certificate.fingerprint,
        expires=issued.certificate.not_after,
        certificate=issued.folder / placing.CERTIFICATE,
        key=issued.folder / placing.KEY if issued.has_key else None,
        ca=issued.folder / placing.CA,
    )
    emit(output, as_json=as_json, render=_render_issued)


def _describe(directory: Directory, identity: Identity, now: datetime) -> IdentityOutput:
    names = {item.id: item.name for item in directory.identities.values()}
    return IdentityOutput(
        id=identity.id,
        kind=str(identity.kind),
        name=identity.name,
        owner=names.get(identity.owner, ""),
        registrar=names.get(identity.registrar, ""),
        created=identity.created,
        revoked=identity.revoked,
        certificates=tuple(
            CertificateOutput(
                fingerprint=item.fingerprint,
                state=_state(item, now),
                not_before=item.not_before,
                not_after=item.not_after,
                revoked=item.revoked,
            )
            for item in directory.certificates.values()
            if item.identity == identity.id
        ),
    )


def _state(certificate: Certificate, now: datetime) -> str:
    if certificate.revoked is not None:
        return "revoked"
    if now < certificate.not_before:
        return "not yet valid"
    return "expired" if now >= certificate.not_after else "valid"


def _wrong(option: str, why: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{option} {why}", reason=reason, violations=(FieldViolation(option, why),))


def _render_issued(output: IssuedOutput) -> None:
    owner = f", owned by {output.owner}" if output.owner else ""
    console.print(f"{output.kind} {output.name}{owner}: certificate valid until {output.expires:%Y-%m-%d %H:%M} UTC")
    console.print(f"  fingerprint  {output.fingerprint}", soft_wrap=True)
    console.print(f"  certificate  {output.certificate}", soft_wrap=True, markup=False)
    if output.key is not None:
        console.print(f"  key          {output.key}", soft_wrap=True, markup=False)
    console.print(f"  CA           {output.ca}", soft_wrap=True, markup=False)


def _render_list(output: IdentitiesOutput) -> None:
    table = Table("kind", "name", "owner", "registrar", "state", "certificates", box=None)
    for item in output.items:
        held = [f"{one.state} {one.fingerprint[:19]} until {one.not_after:%Y-%m-%d}" for one in item.certificates]
        state = "revoked" if item.revoked else "valid"
        table.add_row(item.kind, item.name, item.owner, item.registrar, state, "\n".join(held) or "none")
    console.print(table)


def _render_one(output: IdentityOutput) -> None:
    _render_list(IdentitiesOutput(items=(output,)))


def _render_server(output: ServerOutput) -> None:
    console.print(f"server certificate valid until {output.expires:%Y-%m-%d} for {', '.join(output.hosts)}")
    console.print("A broker that runs takes it at its next start.")
