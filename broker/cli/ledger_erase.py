"""``broker ledger erase``: destroys the keys of all that is kept of a subject; the chain goes on to verify.

Works on the state directory itself. A broker may serve it meanwhile: each step is a transaction that looks anew, what goes
on is never touched, and the broker sees each change before its next answer.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.call_view import print_fields
from broker.cli.local import (
    AsOption,
    CertOption,
    JsonOption,
    KeyOption,
    Local,
    StateOption,
    acting_human,
    clock,
    open_local,
)
from broker.cli.output import OutputModel, console, emit, errors
from broker.domain.ids import NAME_PATTERN
from broker.domain.ports import Transaction
from broker.errors import BrokerError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from broker.pipeline.erasure import Erased, Erasure, Order
from broker.pipeline.holdings import Holdings, Subject, SubjectKind, find_active, find_holdings, find_subject
from broker.settings import DEFAULT_STATE, StatePaths, load_settings
from broker.store.opening import DatabaseTarget, address_of

_SCRUB_FOR_S = 30.0
_SCRUB_EVERY_S = 0.2


class EraseOutput(OutputModel):
    """What an erasure takes, or would take where ``planned``.

    ``kinds`` counts the objects; ``size`` is in sealed bytes; ``blocked`` says why it would be refused, with the ``active``
    calls; ``entries`` are the ledger's numbers; ``scrubbed``: nothing of it is left in the files of the database's tables,
    on PostgreSQL because they were written anew; its write-ahead log, replicas and backups are another matter.
    ``scrub_hint`` says what is to be done where they were not.
    """

    subject: str
    kind: str
    planned: bool
    calls: int
    objects: int
    kinds: dict[str, int]
    size: int
    name: bool
    workspace_key: bool
    folder: Path | None
    active: tuple[str, ...]
    blocked: str
    entries: tuple[int, ...]
    scrubbed: bool
    scrub_hint: str = ""


def erase(
    *,
    subject: Annotated[
        str, typer.Option("--subject", help="Id of an agent, human, call or session, or the name of a workspace.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept encrypted.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    database_owner: Annotated[
        str,
        typer.Option(
            help="The PostgreSQL database as the user who owns the tables: only they may rewrite their files."
        ),
    ] = "",
    database_owner_password: Annotated[
        str, typer.Option(help="Where the owner's password comes from: env:NAME or file:/absolute/path.")
    ] = "",
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Erase all content that is kept of an agent, a human, a call, a session or a workspace, for good.

    The keys are destroyed, so that neither the content can be had nor a commitment be tested against a guess. Entries of
    the ledger stay, and so do ids and signatures. An identity must be revoked, a session ended, and no call may go on.
    Backups still hold the keys: erase there too, or let them expire. On PostgreSQL the tables' files are written anew
    without what was erased, which holds up everybody else meanwhile and needs the tables' owner.

    Example: broker ledger erase --subject call_01... --reason "asked for by the customer"
    """
    target, owner = _databases(state, database_owner, database_owner_password)
    with open_local(state) as local:
        actor = acting_human(local, human, key=key, cert=cert)
        erasure = Erasure(local.store, local.vault, local.recorder, clock)
        whom, found, output = local.read(lambda tx: _look(tx, local, erasure, subject))
        if plan:
            emit(output, as_json=as_json, render=_render)
            return
        if not yes:
            _ask(output, as_json=as_json)
        local.read(lambda tx: erasure.check(tx, whom, frozenset(found.items)))
        if output.folder is not None:
            shutil.rmtree(output.folder)  # first: once the name is erased, nobody can tell where it was
        done = asyncio.run(erasure.run(Order(whom, actor.identity.id, reason)))
        left = _rewrite(target, owner) if target.url else asyncio.run(_scrub(local))
    emit(_finished(output, found, done, left), as_json=as_json, render=_render)
    if left is not None:
        raise left


def _databases(state: Path, owner: str, password: str) -> tuple[DatabaseTarget, DatabaseTarget | None]:
    """The state directory's database, and the same as its tables' owner; what is wrong is said before anything is erased."""
    settings = load_settings(state)
    target = DatabaseTarget(StatePaths(state).database, settings.database, settings.database_password)
    if not owner:
        return target, None
    if not target.url:
        raise InvalidArgumentError(
            "--database-owner is given, but the database is a file in the state directory",
            reason="DATABASE_OWNER_UNFIT",
            hint="Leave it out.",
        )
    found = DatabaseTarget(target.path, owner, password)
    address_of(found)
    return target, found


def _look(tx: Transaction, local: Local, erasure: Erasure, text: str) -> tuple[Subject, Holdings, EraseOutput]:
    subject = find_subject(tx, text)
    found = find_holdings(tx, local.vault, subject, clock())
    items = frozenset(found.items)
    blocked = ""
    try:
        erasure.check(tx, subject, items)
    except FailedPreconditionError as error:
        blocked = error.reason
    output = EraseOutput(
        subject=subject.id,
        kind=subject.kind.value,
        planned=True,
        calls=len(found.calls),
        objects=len(found.objects),
        kinds=dict(found.kinds),
        size=found.size,
        name=bool(found.name),
        workspace_key=found.workspace_key,
        folder=_folder(local, subject, found),
        active=find_active(tx, local.vault, items, subject),
        blocked=blocked,
        entries=(),
        scrubbed=False,
    )
    return subject, found, output


def _folder(local: Local, subject: Subject, found: Holdings) -> Path | None:
    """The identity's certificate and key, as far as the broker made them: their place and content have the name."""
    if subject.kind not in (SubjectKind.AGENT, SubjectKind.HUMAN) or not NAME_PATTERN.fullmatch(found.name):
        return None
    folder = local.paths.identities / subject.kind.value / found.name
    return folder if folder.is_dir() and not folder.is_symlink() else None


def _ask(output: EraseOutput, *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise InvalidArgumentError(
            "an erasure can't be taken back, and nobody is here to be asked",
            reason="CONFIRMATION_MISSING",
            hint="Look with --plan, then give --yes.",
        )
    _render(output)
    if not typer.confirm(f"Erase this for good, as {output.kind} {output.subject}?", err=True):
        raise InvalidArgumentError("nothing was erased", reason="NOT_CONFIRMED")


async def _scrub(local: Local) -> BrokerError | None:
    """Tries for a while: readers of a running broker come and go. Gives why it couldn't."""
    deadline = time.monotonic() + _SCRUB_FOR_S
    while True:
        try:
            await local.store.scrub()
        except UnavailableError:
            if time.monotonic() > deadline:
                return UnavailableError(
                    "the content is erased, but other programs kept deleted pages in the database's files",
                    reason="STORE_BUSY",
                    hint="Run the same command again once they are done; or stop the broker and start it: it scrubs then.",
                    retry_after_s=1.0,
                )
            await asyncio.sleep(_SCRUB_EVERY_S)
        else:
            return None


def _rewrite(target: DatabaseTarget, owner: DatabaseTarget | None) -> BrokerError | None:
    """Has PostgreSQL write the tables' files anew. Gives why it couldn't: what was erased is, all the same."""
    from broker.store.postgres_rewriting import STATEMENT, rewrite  # noqa: PLC0415 - loads the driver

    by_hand = f"or let the tables' owner run, with the broker stopped: {STATEMENT}"
    try:
        kept = rewrite(address_of(target), address_of(owner) if owner else None, patience_s=_SCRUB_FOR_S)
    except BrokerError as error:
        return type(error)(
            f"the content is erased, but its bytes are still in the database's files: {error.message}",
            reason=error.reason,
            hint=f"{error.hint} Then run the same command again; {by_hand}".lstrip(),
            retry_after_s=error.retry_after_s,
        )
    if not kept:
        return None
    return FailedPreconditionError(
        "the content is erased, but its bytes and their keys are still in the database's files: this user of the database"
        f" may not rewrite {', '.join(kept)}",
        reason="SCRUB_FORBIDDEN",
        hint=f"Run the same command again with --database-owner; {by_hand}",
    )


def _finished(output: EraseOutput, found: Holdings, done: Erased, left: BrokerError | None) -> EraseOutput:
    changes = {
        "planned": False,
        "objects": done.objects,
        "size": done.size,
        "name": bool(found.name),
        "active": (),
        "blocked": "",
        "entries": done.entries,
        "scrubbed": left is None,
        "scrub_hint": "" if left is None else left.hint,
    }
    return output.model_copy(update=changes)


def _render(output: EraseOutput) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(output.kinds.items()))
    also = [
        *(["its name"] if output.name else []),
        *(["the workspace's key"] if output.workspace_key else []),
        *([str(output.folder)] if output.folder else []),
    ]
    print_fields(
        {
            "subject": f"{output.kind} {output.subject}",
            "would erase" if output.planned else "erased": f"{output.objects} objects, {output.size} bytes"
            + (f": {kinds}" if kinds else ""),
            "calls": str(output.calls),
            "also": ", ".join(also) or "-",
            **({} if output.planned else {"entries": ", ".join(map(str, output.entries)) or "none: nothing was kept"}),
            **(
                {}
                if output.planned
                else {"files": "clean" if output.scrubbed else "what was erased can still be read there"}
            ),
        }
    )
    if output.blocked:
        active = f": {', '.join(output.active[:10])}" if output.active else ""
        errors.print(f"would be refused: {output.blocked}{active}", style="red", markup=False)
    elif not output.planned:
        console.print("Backups made before still hold the keys.", style="dim")
