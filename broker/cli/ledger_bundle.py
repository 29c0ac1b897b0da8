"""``broker ledger export`` and ``import``: evidence bundles, to be checked by whoever doubts."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer

from broker.approvals.content import disclosed
from broker.cli.ledger_place import checkpoints_of
from broker.cli.local import JsonOption, Local, StateOption, clock, open_local
from broker.cli.output import OutputModel, console, emit
from broker.domain.canonical import JsonObject
from broker.domain.identity import IdentityKind
from broker.domain.ports import Transaction, Vault
from broker.errors import ConflictError, FieldViolation, InvalidArgumentError, UnavailableError
from broker.ledger.bundle import Kept, Written, write_bundle
from broker.ledger.bundle_format import EXTRACT_NOTES, FULL_NOTES, Selection
from broker.ledger.bundle_import import check_bundle, import_entries
from broker.ledger.bundle_reader import BundleSource, open_bundle
from broker.ledger.bundle_zip import new_file, put_new
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.signer import FileSigner, read_passphrase
from broker.ledger.whole_file import sync_folder, write_whole
from broker.settings import DEFAULT_STATE, StatePaths, load_settings
from broker.store.database import Database
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import MAX_NOTE_BYTES, Note

_READ_ONLY = 0o400
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class ExportOutput(OutputModel):
    """A bundle. ``not_proved`` entries follow its checkpoint and are in no bundle yet. ``root`` is hexadecimal.

    ``selected_entries`` are what was asked for, from ``first`` to ``last``; the others of ``entries`` prove them.
    ``absent`` are digests of texts that are no longer kept, by kind.
    """

    file: Path
    kind: str
    origin: str
    entries: int
    selected_entries: int
    first: int | None
    last: int | None
    checkpoint_size: int
    checkpoint_root: str
    not_proved: int
    files: int
    bytes: int
    absent: dict[str, tuple[str, ...]]


class ImportOutput(OutputModel):
    """A ledger file made from a bundle; ``verdict`` is the bundle's, ok or recovered. ``root`` is hexadecimal."""

    file: Path
    checkpoints: Path | None
    verdict: str
    origin: str
    entries: int
    root: str
    trusted: str


def export_command(
    *,
    out: Annotated[
        Path | None, typer.Argument(help="The ZIP file to make; default: a name of its own in this folder.")
    ] = None,
    agent: Annotated[str, typer.Option("--agent", help="Only entries of this agent, by id or name; all of them.")] = "",
    call: Annotated[str, typer.Option("--call", help="Only entries about this call, such as call_01...")] = "",
    session: Annotated[str, typer.Option("--session", help="Only entries about this session and its calls.")] = "",
    first: Annotated[int | None, typer.Option("--from", min=0, help="Only entries from this number on.")] = None,
    last: Annotated[int | None, typer.Option("--to", min=0, help="Only entries up to this number.")] = None,
    approvals: Annotated[
        bool, typer.Option("--approvals", help="Add what people were shown and their reasons, in plain text.")
    ] = False,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Write an evidence bundle, which anybody can check with one Python file; the broker may be up or down.

    The whole ledger, or an extract with a proof of each entry. It ends at the newest checkpoint: later entries are
    proved by nothing yet, so they are in no bundle; their number is said. Entries hold ids and commitments, the bundle
    adds the texts of policies and tool specifications. With --approvals it also has, in plain text, what people were asked
    to agree to (arguments, short files, purposes, names) and their reasons.

    Example: broker ledger export evidence.zip --agent build-bot
    """
    selection = Selection(
        agent=agent,
        call=call.removeprefix("calls/"),
        session=session.removeprefix("sessions/"),
        first=first,
        last=last,
    )
    settings, paths = load_settings(state), StatePaths(state)
    with open_local(state) as local:
        if agent:
            selection = Selection(agent=agent_id(local, agent))
        limit = FULL_NOTES if selection.full else EXTRACT_NOTES
        # Before the entries are read: the ledger then holds all that these checkpoints are of.
        notes = kept_notes(checkpoints_of(state), limit + 1)
        passphrase = read_passphrase(settings.checkpoint_passphrase, paths.checkpoint_passphrase)
        kept = Kept(
            notes=notes[:limit],
            vault=local.vault,
            signer=FileSigner.load(paths.checkpoint_key, passphrase),
            software=f"agent-broker {version('agent-broker')}",
            made=clock(),
            older_left_out=len(notes) > limit,
            approvals=partial(disclose_by, local.vault) if approvals else None,
        )
        path = (out or Path(_default_name(local.origin, selection, kept.notes))).absolute()
        with new_file(path) as stream:
            written = local.read(lambda tx: write_bundle(stream, tx, selection, kept))
    emit(_export_output(path, written), as_json=as_json, render=_render_export)


def import_command(
    *,
    bundle: Annotated[Path, typer.Argument(help="A bundle of a whole ledger.")],
    into: Annotated[
        Path, typer.Option("--into", help="A new ledger file (its name ends in .db), or a new or empty folder for it.")
    ],
    key: Annotated[str, typer.Option("--key", help="The ledger's verifier key, if you have it from elsewhere.")] = "",
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A signed checkpoint that the ledger must continue.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle and make a read-only ledger file of it, for `broker ledger show` and `verify`.

    Nothing that is there is ever replaced. Only a bundle of the whole ledger can be imported; an extract has gaps.

    Example: broker ledger import ledger.zip --into copy --key "brk_01...+5f...+AQ..."
    """
    held = None if checkpoint is None else _read(checkpoint)
    into = into.absolute()
    as_file = into.suffix == ".db" and not into.is_dir()
    _refuse_existing(into, as_file=as_file)
    with open_bundle(bundle) as source:
        report = check_bundle(bundle, key=key, checkpoint=held)
        root, notes = _root(report), source.notes()
        with _draft(into) as draft:
            count = _fill(draft, source, notes, root=root)
            if as_file:
                put_new(StatePaths(draft).database, into)
            else:
                draft.chmod(0o700)
                _rename(draft, into)
    output = ImportOutput(
        file=into if as_file else StatePaths(into).database,
        checkpoints=None if as_file else StatePaths(into).checkpoints,
        verdict=str(report["verdict"]),
        origin=str(report["origin"]),
        entries=count,
        root=root,
        trusted=str(report["trusted"]),
    )
    emit(output, as_json=as_json, render=_render_import)


def disclose_by(vault: Vault, tx: Transaction, approval: str) -> JsonObject | None:
    """What is kept of an approval; ``None`` where it has been erased."""
    return disclosed(tx, vault, approval)


def kept_notes(folder: Path, limit: int) -> tuple[Note, ...]:
    """The kept checkpoints, largest first, at most so many."""
    if not folder.is_dir():
        return ()
    return tuple(asyncio.run(DirectoryCheckpoints(folder).history(limit)))


def agent_id(local: Local, agent: str) -> str:
    """The id of an agent, by id or name.

    Raises:
        InvalidArgumentError: there is none (``IDENTITY_UNKNOWN``).
    """

    def work(tx: Transaction) -> str:
        found = tx.identities.get(agent) or tx.identities.by_name(IdentityKind.AGENT, agent)
        return "" if found is None or found.kind is not IdentityKind.AGENT else found.id

    found = local.read(work)
    if not found:
        why = f"there is no agent {agent[:80]!a}"
        raise InvalidArgumentError(
            f"--agent: {why}",
            reason="IDENTITY_UNKNOWN",
            violations=(FieldViolation("--agent", why),),
            hint="See who there is with: broker identity list",
        )
    return found


def _default_name(origin: str, selection: Selection, notes: Sequence[Note]) -> str:
    size = Checkpoint.parse(notes[0].text).size if notes else 0
    parts = [f"{name}-{value}" for name, value in selection.members().items()]
    return _UNSAFE.sub("-", "-".join(["ledger", origin, str(size), *parts]))[:200] + ".zip"


def _export_output(path: Path, written: Written) -> ExportOutput:
    return ExportOutput(
        file=path,
        kind=written.kind,
        origin=written.origin,
        entries=written.entries,
        selected_entries=written.selected,
        first=written.first,
        last=written.last,
        checkpoint_size=written.size,
        checkpoint_root=written.root,
        not_proved=written.not_proved,
        files=written.files,
        bytes=path.stat().st_size,
        absent={kind: tuple(digests) for kind, digests in written.absent.items()},
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_NOTE_BYTES + 1)
    except OSError as error:
        raise InvalidArgumentError(f"{path} can't be read: {error.strerror}", reason="CHECKPOINT_MISSING") from error


def _root(report: Mapping[str, object]) -> str:
    checkpoint = report["checkpoint"]
    return str(checkpoint["root"]) if isinstance(checkpoint, dict) else ""


def _fill(draft: Path, source: BundleSource, notes: tuple[Note, ...], *, root: str) -> int:
    """Makes the ledger and its checkpoints in the draft folder."""
    into = StatePaths(draft).database
    Database.create(into)
    with Database.open_sync(into) as store:
        count = import_entries(source, store.write_sync, root=root)
    for left in draft.glob(f"{into.name}-*"):
        left.unlink()
    into.chmod(_READ_ONLY)
    folder = StatePaths(draft).checkpoints
    folder.mkdir(0o700)
    for note in notes:
        write_whole(folder / f"{Checkpoint.parse(note.text).size:016d}.note", note.encode())
    write_whole(folder / "latest.note", notes[-1].encode())
    sync_folder(draft)
    return count


def _refuse_existing(into: Path, *, as_file: bool) -> None:
    taken = into.exists() or into.is_symlink()
    if taken and (as_file or not into.is_dir() or any(into.iterdir())):
        raise _exists(into)


def _exists(into: Path) -> ConflictError:
    return ConflictError(
        f"{into} is there already; nothing is ever replaced",
        reason="FILE_EXISTS",
        hint="Name a new file that ends in .db, or a new or empty folder.",
    )


@contextmanager
def _draft(into: Path) -> Iterator[Path]:
    try:
        draft = Path(mkdtemp(prefix=f".{into.name}.import-", dir=into.parent))
    except OSError as error:
        raise UnavailableError(
            f"{into.parent} can't be written: {error.strerror}", reason="FILE_UNWRITABLE", hint="Choose another --into."
        ) from error
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: Path, into: Path) -> None:
    try:
        draft.rename(into)  # takes the place of nothing, or of an empty folder
    except OSError as error:
        raise _exists(into) from error
    sync_folder(into.parent)


def _render_export(output: ExportOutput) -> None:
    console.print(f"wrote {output.file}", soft_wrap=True, markup=False)
    what = "all" if output.kind == "full" else f"{output.selected_entries} of them selected, the others prove these"
    console.print(f"  entries     {output.entries}, {what}", markup=False)
    console.print(f"  checkpoint  {output.checkpoint_size} entries, root {output.checkpoint_root}", soft_wrap=True)
    if output.not_proved:
        console.print(f"  left out    {output.not_proved} entries that no checkpoint proves yet", style="yellow")
    for kind, digests in output.absent.items():
        for digest in digests:
            console.print(f"  absent      {kind} {digest}: no longer kept", style="yellow", soft_wrap=True)
    console.print("  check it with verify_bundle.py, which is in it; README.txt says how", style="dim")


def _render_import(output: ImportOutput) -> None:
    console.print(f"made {output.file}", soft_wrap=True, markup=False)
    console.print(f"  verdict   {output.verdict}", style="green" if output.verdict == "ok" else "bold yellow")
    console.print(f"  entries   {output.entries} of {output.origin}", markup=False)
    console.print(f"  root      {output.root}", soft_wrap=True)
    console.print(f"  trusted   {output.trusted}", soft_wrap=True, markup=False)
