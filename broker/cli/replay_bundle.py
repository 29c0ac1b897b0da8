"""``broker replay bundle`` and ``hand-over``: the evidence of an incident, and through whose hands it goes."""

from __future__ import annotations

import getpass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.ledger_bundle import agent_id, disclose_by, kept_notes
from broker.cli.ledger_place import checkpoints_of
from broker.cli.local import (
    AsOption,
    CertOption,
    JsonOption,
    KeyOption,
    Local,
    StateOption,
    acting_human,
    clock,
    load_holder,
    open_local,
)
from broker.cli.output import ExitCode, OutputModel, console, emit
from broker.cli.replay_case import check_sound, open_case
from broker.domain.canonical import JsonObject
from broker.errors import (
    ConflictError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from broker.ledger.bundle import Kept, Written, write_bundle
from broker.ledger.bundle_evidence import Evidence, Exported
from broker.ledger.bundle_format import EXTRACT_NOTES, Selection
from broker.ledger.bundle_reader import is_bundle
from broker.ledger.bundle_zip import new_file
from broker.ledger.custody import HandOver, digest_of, next_line
from broker.ledger.signer import FileSigner, read_passphrase
from broker.ledger.verify_bundle import verify
from broker.replay.evidence import plan_evidence
from broker.replay.evidence_texts import Wanted, make_evidence, read_texts
from broker.settings import DEFAULT_STATE, StatePaths, load_settings
from broker.tlog.checkpoint import Checkpoint

_CUSTODY = ".custody.jsonl"
_LAST = 2**62
"""No ledger has an entry of a higher number."""
_GOOD = ("ok", "recovered")


class BundleOutput(OutputModel):
    """The bundle of an incident. ``entries`` are all in it; ``story`` is how many tell each part of it.

    ``complete`` says what is shown to be all there, ``not_shown`` what isn't. ``redacted`` is what was erased, each with the
    number of the entry that says so; ``absent`` are texts that are no longer kept, by kind. ``not_proved`` entries follow the
    checkpoint, and are in no bundle yet. Hashes are hexadecimal.
    """

    file: Path
    sha256: str
    bytes: int
    origin: str
    entries: int
    selected_entries: int
    first: int | None
    last: int | None
    checkpoint_size: int
    checkpoint_root: str
    not_proved: int
    story: dict[str, int]
    complete: str
    not_shown: tuple[str, ...]
    redacted: dict[str, int]
    withheld: tuple[str, ...]
    names: int
    absent: dict[str, tuple[str, ...]]
    verdict: str


class HandOverOutput(OutputModel):
    """A line of a custody file, signed by who gives the bundle away. ``sha256`` is the bundle's; ``number`` counts from 1."""

    file: Path
    bundle: Path
    sha256: str
    number: int
    person: str
    to: str
    at: str


def bundle(
    *,
    out: Annotated[Path, typer.Argument(help="The ZIP file to make.")],
    call: Annotated[str, typer.Option("--call", help="About this call, such as call_01...")] = "",
    agent: Annotated[str, typer.Option("--agent", help="About all that this agent did, by id or name.")] = "",
    session: Annotated[str, typer.Option("--session", help="About this session and its calls.")] = "",
    first: Annotated[
        int | None, typer.Option("--from", min=0, max=_LAST, help="About the entries from this number on.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=0, max=_LAST, help="About the entries up to this number.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Add the names of the people and agents in it.")] = False,
    approvals: Annotated[
        bool, typer.Option("--approvals", help="Add what people were shown and their reasons, in plain text.")
    ] = False,
    case: Annotated[str, typer.Option("--case", help="What it is made for; goes into its chain of custody.")] = "",
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Write the evidence of an incident: what happened, what it rests on, and what proves it; the broker may be up or down.

    Beside the entries of a call, an agent, a session or a range it has those that tell the story: requests and votes, the
    policy and tools in force, freezes, undos, whom it is about. A call's or session's entries are shown to be all there by
    its agent's own chain. With --as it says who made it, proved by their certificate's key; else it names the user of the
    operating system.

    Example: broker replay bundle incident.zip --session ses_01... --names --case "the wrong clean-up" --as olivia
    """
    chosen = Selection(
        agent=agent,
        call=call.removeprefix("calls/"),
        session=session.removeprefix("sessions/"),
        first=first,
        last=last,
    )
    if chosen.full:
        raise InvalidArgumentError(
            "nothing is selected",
            reason="USAGE",
            hint="Say what it is about with --call, --agent, --session, or --from and --to; the whole ledger is written by"
            " `broker ledger export`.",
        )
    settings, paths = load_settings(state), StatePaths(state)
    # Before the entries are read: the ledger then holds all that these checkpoints are of.
    notes = kept_notes(checkpoints_of(state), EXTRACT_NOTES + 1)
    if not notes:
        raise FailedPreconditionError(
            "the ledger has no checkpoint yet, so nothing in it can be proved",
            reason="NO_CHECKPOINT",
            hint="Start the broker: it publishes one at once, and then in its interval.",
        )
    with open_case(state, None, as_json=as_json) as opened:
        check_sound(opened.casebook.mark)
        local = opened.local
        if local is None:
            raise InternalError("a state directory was opened as a bundle", reason="CASE_INVALID")
        if agent:
            chosen = Selection(agent=agent_id(local, agent))
        person, by = _maker(local, human, key, cert)
        options: JsonObject = {**chosen.members(), "names": names, "approvals": approvals}
        disclose = partial(disclose_by, local.vault) if approvals else None
        wanted = Wanted(Exported(by, options, case), names, disclose)
        passphrase = read_passphrase(settings.checkpoint_passphrase, paths.checkpoint_passphrase)
        signer = FileSigner.load(paths.checkpoint_key, passphrase)
        size = Checkpoint.parse(notes[0].text).size
        # A casebook is one thread's, and a transaction another's: what is erased between the two is said to be withheld.
        plan = plan_evidence(opened.casebook, chosen, size, also=[person] if person else [])
        texts = local.read(lambda tx: read_texts(tx, wanted, plan))
        evidence = make_evidence(opened.casebook, wanted, plan, texts, size)
        kept = Kept(
            notes=notes[:EXTRACT_NOTES],
            vault=local.vault,
            signer=signer,
            software=f"agent-broker {version('agent-broker')}",
            made=clock(),
            older_left_out=len(notes) > EXTRACT_NOTES,
            approvals=disclose,
            evidence=evidence,
        )
        path = out.absolute()
        with new_file(path) as stream:
            written = local.read(lambda tx: write_bundle(stream, tx, chosen, kept))
    output = _output(path, evidence, written)
    emit(output, as_json=as_json, render=_render)
    if output.verdict not in _GOOD:
        raise typer.Exit(ExitCode.OURS)


def hand_over(
    *,
    bundle: Annotated[Path, typer.Argument(help="The bundle that is given away; it isn't changed.")],
    to: Annotated[str, typer.Option("--to", help="Whom it goes to, in words.")],
    note: Annotated[str, typer.Option("--note", help="What for, or how.")] = "",
    custody: Annotated[
        Path | None, typer.Option("--custody", help="The file of lines; default: BUNDLE.custody.jsonl.")
    ] = None,
    human: AsOption = "",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Write down that you give a bundle to somebody, signed with your certificate's key, in a file beside the bundle.

    Each line names the bundle by its digest and the line before by its own; `verify_bundle.py BUNDLE --custody FILE` checks
    them.

    Example: broker replay hand-over incident.zip --to "Dr. Chen, external audit" --as olivia
    """
    if not bundle.is_file() or not is_bundle(bundle):
        raise InvalidArgumentError(
            f"{bundle} is no bundle", reason="LEDGER_MISSING", hint="Make one with `broker replay bundle`."
        )
    path = custody or bundle.with_name(bundle.name + _CUSTODY)
    digest, now = digest_of(bundle), clock()
    with open_local(state) as local:
        caller = acting_human(local, human, key=key, cert=cert)
        holder = load_holder(state, caller.identity.name, key=key, cert=cert)
    what = HandOver(caller.identity.id, caller.certificate.fingerprint, holder.public_key, to, note)
    try:
        before = path.read_bytes() if path.exists() else b""
        number, line = next_line(before, digest, what, at=now, sign=holder.sign)
        _append(path, len(before), line)
    except OSError as error:
        raise UnavailableError(
            f"{path} can't be written: {error.strerror}", reason="FILE_UNWRITABLE", hint="Choose another --custody."
        ) from error
    output = HandOverOutput(
        file=path, bundle=bundle, sha256=digest, number=number, person=what.person, to=to, at=now.isoformat()
    )
    emit(output, as_json=as_json, render=_render_hand_over)


def _maker(local: Local, human: str, key: Path | None, cert: Path | None) -> tuple[str, JsonObject]:
    """The id of who makes the bundle, where they prove it, and what the bundle says of them."""
    if not human and (key is None or cert is None):
        return "", {"os_user": getpass.getuser()}
    caller = acting_human(local, human, key=key, cert=cert)
    return caller.identity.id, {"person": caller.identity.id, "fingerprint": caller.certificate.fingerprint}


def _append(path: Path, size: int, line: bytes) -> None:
    """Appends a line to the file as it was read, and to no other."""
    with path.open("ab") as stream:
        if stream.tell() != size:
            raise ConflictError(
                f"{path} has changed meanwhile", reason="FILE_CHANGED", hint="Run the same command again."
            )
        stream.write(line)


def _output(path: Path, evidence: Evidence, written: Written) -> BundleOutput:
    # What it shows, in the words of the verifier that goes with it; and a bundle that it refuses isn't handed out unsaid.
    report = verify(str(path))
    return BundleOutput(
        file=path,
        sha256=digest_of(path),
        bytes=path.stat().st_size,
        origin=written.origin,
        entries=written.entries,
        selected_entries=written.selected,
        first=written.first,
        last=written.last,
        checkpoint_size=written.size,
        checkpoint_root=written.root,
        not_proved=written.not_proved,
        story={name: len(numbers) for name, numbers in sorted(evidence.story.items())},
        complete=str(report["complete"]),
        not_shown=tuple(report["not_shown"]),
        redacted=dict(evidence.redacted),
        withheld=tuple(report["withheld"]),
        names=len(evidence.names or {}),
        absent={kind: tuple(digests) for kind, digests in written.absent.items()},
        verdict=str(report["verdict"]),
    )


def _render(output: BundleOutput) -> None:
    console.print(f"wrote {output.file}", soft_wrap=True, markup=False)
    console.print(
        f"  verdict     {output.verdict}", style="green" if output.verdict in _GOOD else "bold red", markup=False
    )
    console.print(f"  sha256      {output.sha256}", soft_wrap=True)
    told = ", ".join(f"{count} {name}" for name, count in output.story.items()) or "nothing"
    what = f"{output.entries}, {output.selected_entries} of them selected; the story: {told}"
    console.print(f"  entries     {what}", markup=False, soft_wrap=True)
    console.print(f"  complete    {output.complete}", markup=False, soft_wrap=True)
    for text in output.not_shown:
        console.print(f"  not shown   {text}", style="dim", markup=False, soft_wrap=True)
    console.print(f"  checkpoint  {output.checkpoint_size} entries, root {output.checkpoint_root}", soft_wrap=True)
    if output.names:
        console.print(f"  names       {output.names}, on the word of this broker's checkpoint key")
    for which, seq in output.redacted.items():
        console.print(f"  erased      {which}, by entry {seq}", style="yellow", markup=False, soft_wrap=True)
    for which in output.withheld:
        console.print(f"  withheld    {which}: longer than a bundle takes, or lost", style="yellow", soft_wrap=True)
    if output.not_proved:
        console.print(f"  left out    {output.not_proved} entries that no checkpoint proves yet", style="yellow")
    console.print("  check it with verify_bundle.py, which is in it; README.txt says how", style="dim")


def _render_hand_over(output: HandOverOutput) -> None:
    console.print(f"line {output.number} in {output.file}", soft_wrap=True, markup=False)
    console.print(f"  bundle  {output.bundle}, sha256 {output.sha256}", soft_wrap=True, markup=False)
    console.print(f"  to      {output.to}, by {output.person}", soft_wrap=True, markup=False)
    console.print(
        "  give both files on; verify_bundle.py BUNDLE --custody FILE checks them", style="dim", soft_wrap=True
    )
