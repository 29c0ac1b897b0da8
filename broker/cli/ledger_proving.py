"""``broker ledger prove`` and ``checkpoint``: what a running broker's ledger proves, verified here and kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.output import OutputModel, console, emit, printable
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.client import AsyncBroker, VerifiedCheckpoint
from broker.client.checkpoint_memory import MemoryFolder, default_folder, parse_key
from broker.domain.canonical import canonical, parse_object
from broker.errors import ConflictError, DataLossError, FailedPreconditionError, FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KeyHistory, KeyHistoryError
from broker.tlog.merkle import ProofError, leaf_hash
from broker.tlog.note import Note, NoteError, VerifierKey
from broker.tlog.proof import TlogProof

_MAX_FILE = 2 << 20
_MAX_ENTRY = 64 * 1024


class ProofOutput(OutputModel):
    """A proof that was verified: the entry is in the log of the checkpoint. Files are empty where none was written."""

    seq: int
    leaf: str
    origin: str
    checkpoint_size: int
    checkpoint_root: str
    proof_file: str
    entry_file: str
    key: str


class CheckpointOutput(OutputModel):
    """A checkpoint that was verified, with the note as it is published; ``extends`` is the size of an earlier one that it
    was shown to extend.
    """

    origin: str
    size: int
    root: str
    note: str
    key: str
    extends: int | None


def prove(
    seq: Annotated[int | None, typer.Argument(min=0, help="Number of the entry.")] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="File for the proof; default: entry-SEQ.tlog-proof here.")
    ] = None,
    entry: Annotated[
        Path | None,
        typer.Option(
            "--entry", help="File for the entry's bytes (default: entry-SEQ.json here); with --check: its file."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    check: Annotated[
        Path | None, typer.Option("--check", help="Ask nobody: check this proof of the file given with --entry.")
    ] = None,
    key: Annotated[
        str, typer.Option("--key", help="With --check: the ledger's checkpoint key (vkey); default: as remembered.")
    ] = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Prove that an entry is in the log: write it and a C2SP tlog-proof, which needs no broker to be checked.

    Example: broker ledger prove 41 && broker ledger prove --check entry-41.tlog-proof --entry entry-41.json
    """
    if check is not None:
        if seq is not None or entry is None:
            why = "needs --entry FILE and no number"
            raise InvalidArgumentError(f"--check {why}", reason="USAGE", violations=(FieldViolation("--check", why),))
        emit(_checked(check, entry, key), as_json=as_json, render=_render_proof)
        return
    if seq is None:
        why = "is needed: which entry?"
        raise InvalidArgumentError(f"SEQ {why}", reason="USAGE", violations=(FieldViolation("SEQ", why),))
    number, proof_file, entry_file = seq, out or Path(f"entry-{seq}.tlog-proof"), entry or Path(f"entry-{seq}.json")

    async def work(broker: AsyncBroker) -> ProofOutput:
        found = await broker.ledger.prove(number)
        _write(entry_file, found.entry.data, force=force)
        _write(proof_file, found.file, force=force)
        return ProofOutput(
            seq=number,
            leaf=found.entry.leaf.hex(),
            origin=found.checkpoint.origin,
            checkpoint_size=found.checkpoint.size,
            checkpoint_root=found.checkpoint.root.hex(),
            proof_file=str(proof_file),
            entry_file=str(entry_file),
            key=str(broker.ledger.key_for(found.checkpoint.size)),
        )

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_proof)


def checkpoint(
    *,
    extends: Annotated[
        Path | None,
        typer.Option("--extends", help="A checkpoint that you kept: check that the log has only grown since."),
    ] = None,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Print the latest checkpoint of a running broker's ledger, verified: its signature, and that it extends the last one
    that you saw. Keep it where the broker's operators can't reach.

    Example: broker ledger checkpoint > kept.note && broker ledger checkpoint --extends kept.note
    """
    old = None if extends is None else _read_checkpoint(extends)

    async def work(broker: AsyncBroker) -> CheckpointOutput:
        found: VerifiedCheckpoint = await broker.ledger.checkpoint()
        if old is not None:
            if old.origin != found.checkpoint.origin:
                raise DataLossError(
                    f"the checkpoint in {extends} is of the ledger {old.origin!a}, and this is {found.checkpoint.origin!a}",
                    reason="LEDGER_REPLACED",
                    hint="Ask the broker that the checkpoint came from.",
                )
            found = (await broker.ledger.consistency(old)).checkpoint
        return CheckpointOutput(
            origin=found.checkpoint.origin,
            size=found.size,
            root=found.checkpoint.root.hex(),
            note=found.text,
            key=str(broker.ledger.key_for(found.size)),
            extends=None if old is None else old.size,
        )

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_checkpoint)


def _checked(proof_file: Path, entry_file: Path, key: str) -> ProofOutput:
    data = _read(entry_file, "--entry", _MAX_ENTRY)
    try:
        proof = TlogProof.parse(_read(proof_file, "--check", _MAX_FILE))
        signer = _key(proof.checkpoint, key)
        found = proof.verify(leaf_hash(data), [signer])
        _check_entry(data, proof.index, found.origin)
    except (NoteError, ProofError) as error:
        raise DataLossError(
            f"{proof_file} doesn't show that {entry_file} is in the log: {error}",
            reason="PROOF_INVALID",
            hint="The entry's bytes must be exactly as they were written; the key must be the ledger's.",
        ) from error
    return ProofOutput(
        seq=proof.index,
        leaf=leaf_hash(data).hex(),
        origin=found.origin,
        checkpoint_size=found.size,
        checkpoint_root=found.root.hex(),
        proof_file=str(proof_file),
        entry_file=str(entry_file),
        key=str(signer),
    )


def _check_entry(data: bytes, index: int, origin: str) -> None:
    """Whoever holds a key may sign a tree over anything; an entry of this ledger says itself which one it is.

    Raises:
        ProofError: it isn't the entry of that number.
    """
    try:
        entry = parse_object(data, field="entry", max_bytes=_MAX_ENTRY)
    except InvalidArgumentError as error:
        raise ProofError(str(error)) from error
    if canonical(entry) != data or (entry.get("seq"), entry.get("origin")) != (index, origin):
        message = f"what is proved isn't entry {index} of {origin!a} in RFC 8785 form"
        raise ProofError(message)


def _key(note: Note, key: str) -> VerifierKey:
    shown = Checkpoint.parse(note.text)
    given, folder = parse_key(key), default_folder()
    if given is not None:
        return given
    known = None if folder is None else MemoryFolder(folder).read(shown.origin)
    history = KeyHistory()
    try:
        for text in () if known is None else known.key_entries:
            history.entry(parse_object(text, field="entry", max_bytes=_MAX_ENTRY))
        signer = history.key_for(shown.size)
    except (KeyHistoryError, NoteError, InvalidArgumentError) as error:
        raise FailedPreconditionError(
            f"which key signs the checkpoints of {shown.origin!a} isn't known here",
            reason="LEDGER_KEY_UNKNOWN",
            hint="Give it with --key, from a source that you trust; `broker ledger checkpoint` remembers it.",
        ) from error
    history.check(note)  # a key that was revoked since proves nothing any more
    return signer


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        return Checkpoint.parse(Note.parse(_read(path, "--extends", _MAX_FILE)).text)
    except NoteError as error:
        why = f"{path} is no checkpoint: {error}"
        raise InvalidArgumentError(
            f"--extends {why}", reason="CHECKPOINT_INVALID", violations=(FieldViolation("--extends", why),)
        ) from error


def _read(path: Path, option: str, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        why = f"{path} can't be read: {error.strerror}"
        raise InvalidArgumentError(
            f"{option} {why}", reason="FILE_UNREADABLE", violations=(FieldViolation(option, why),)
        ) from error
    if len(data) > most:
        why = f"{path} has more than {most} bytes"
        raise InvalidArgumentError(f"{option} {why}", reason="TOO_LARGE", violations=(FieldViolation(option, why),))
    return data


def _write(path: Path, data: bytes, *, force: bool) -> None:
    try:
        with path.open("wb" if force else "xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConflictError(
            f"{path} exists already", reason="FILE_EXISTS", hint="Choose another place, or give --force."
        ) from error
    except OSError as error:
        raise InvalidArgumentError(f"{path} can't be written: {error.strerror}", reason="NOT_WRITABLE") from error


def _render_proof(output: ProofOutput) -> None:
    console.print(f"proved  entry {output.seq} of {printable(output.origin)}", markup=False, style="green")
    for name, text in (
        ("leaf", output.leaf),
        ("checkpoint", f"{output.checkpoint_size} entries, root {output.checkpoint_root}"),
        ("signed by", output.key),
        ("proof", output.proof_file),
        ("entry", output.entry_file),
    ):
        console.print(printable(f"  {name:<11} {text}"), markup=False, soft_wrap=True)


def _render_checkpoint(output: CheckpointOutput) -> None:
    # The note alone, so that it can be kept as it is.
    console.print(printable(output.note), markup=False, soft_wrap=True, end="")
