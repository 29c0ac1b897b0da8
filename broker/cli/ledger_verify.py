"""``broker ledger verify``: checks a ledger from its file, database or bundle alone; the broker may be up, down or far away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from broker.cli.ledger_place import checkpoints_of, ledger_of, reading_progress
from broker.cli.output import OutputModel, console, emit
from broker.errors import FieldViolation, InvalidArgumentError
from broker.ledger.bundle_verify import verify_bundle_file
from broker.ledger.entry import HEX_32
from broker.ledger.held import Held, read_folder, read_held
from broker.ledger.source import Reopen
from broker.ledger.source_kinds import how_to_open, open_source
from broker.ledger.verdict import Expectation, Report, Verdict, VotesReport
from broker.ledger.verifier import Known, verify_opened
from broker.settings import DEFAULT_STATE
from broker.tlog.note import NoteError, VerifierKey

EXIT_CODES = MappingProxyType(
    {
        Verdict.OK: 0,
        Verdict.TAMPERED: 10,
        Verdict.FORKED: 11,
        Verdict.GAPPED: 12,
        Verdict.TRUNCATED: 13,
        Verdict.MALFORMED: 14,
        Verdict.ROLLED_BACK: 15,
        Verdict.RECOVERED: 16,
        Verdict.WRONG_KEY: 17,
        Verdict.VOTES_INVALID: 18,
    },
)
"""Exit code of ``broker ledger verify`` for each verdict."""

_MOST_LISTED = 10
"""Numbers of one kind that are shown to a person."""


class PlaceOutput(OutputModel):
    """Where a ledger is wrong: entry (none: the file), member or column, and why."""

    seq: int | None
    field: str
    why: str


class LostOutput(OutputModel):
    """Entries that are lost for good, as the ledger itself says: first and last number."""

    first: int
    last: int


class AttestedOutput(OutputModel):
    """A vote that a bot attests, and that the person has not signed: entry, the bot's key, the person's id."""

    seq: int
    key: str
    person: str


class AloneOutput(OutputModel):
    """A change by one person: the broker compared texts, and its word is that this one takes no second."""

    seq: int
    type: str


class VotesOutput(OutputModel):
    """What was found of the votes. ``acts`` are entries that needed people's agreement, ``signatures`` those verified.

    Of ``findings``, ``attested`` and ``alone`` the first are listed; ``found``, ``attested_count`` and ``alone_count`` say
    how many there are.
    """

    acts: int
    votes: int
    signatures: int
    attested: tuple[AttestedOutput, ...]
    attested_count: int
    alone: tuple[AloneOutput, ...]
    alone_count: int
    findings: tuple[PlaceOutput, ...]
    found: int


class VerifyOutput(OutputModel):
    """The verdict on a ledger; counts and facts are about the entries found good. Hashes are hexadecimal.

    ``first`` is where the check began: what is before it was trusted, and ``root`` is empty then. ``checkpoints_checked``
    signed checkpoints agree with the ledger, the largest of ``checkpoint_size`` entries. ``votes`` is null where the votes
    weren't checked.
    """

    file: str
    verdict: str
    place: PlaceOutput | None
    first: int
    entries: int
    head_seq: int | None
    head_leaf: str
    root: str
    origin: str
    first_ts: str
    last_ts: str
    agents: int
    boots: int
    types: dict[str, int]
    unknown_types: tuple[str, ...]
    open_intents: tuple[int, ...]
    unmatched_outcomes: tuple[int, ...]
    clock_steps_back: tuple[int, ...]
    expected_head_checked: bool
    heads_checked: int
    keys: tuple[str, ...]
    checkpoints_checked: int
    checkpoint_size: int
    recovered: tuple[LostOutput, ...]
    votes: VotesOutput | None


def verify_command(
    *,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|URL]",
            help="A database file or a copy of one, a bundle, or postgresql://USER@HOST/NAME; default: that of the state directory.",
        ),
    ] = None,
    state: Annotated[Path, typer.Option("--state", envvar="BROKER_STATE", help="The state directory.")] = DEFAULT_STATE,
    first: Annotated[
        int, typer.Option("--from", min=0, help="Begin at this entry and trust what is before it.", metavar="SEQ")
    ] = 0,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A signed checkpoint that the ledger must extend; may be given again."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="The ledger's key as you know it (name+id+base64); may be given again."),
    ] = None,
    expect_seq: Annotated[
        int | None, typer.Option("--expect-seq", min=0, help="An entry that must be there: one that you noted before.")
    ] = None,
    expect_leaf: Annotated[
        str, typer.Option("--expect-leaf", help="Its hash, 64 hexadecimal digits, as verify or show printed it.")
    ] = "",
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=64, help="Processes to share a large ledger among; 0: one a core.")
    ] = 0,
    votes: Annotated[
        bool,
        typer.Option("--votes/--no-votes", help="Check the votes too: each signature, and each act that needs them."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check every entry of a ledger: hashes, chain, agents' own chains, canonical form, tree, keys, checkpoints and votes.

    Exit code: 0 ok, 10 tampered, 11 forked, 12 gapped, 13 truncated, 14 malformed, 15 rolled back, 16 recovered, 17 wrong
    key, 18 votes invalid; 2 for a wrong use of the command. That the newest entries were cut off, or all of history was rewritten, shows only
    against something kept elsewhere: a signed checkpoint (--checkpoint; those in the folder `checkpoints` beside the
    database are taken by themselves) with a key that you know (--key), or an entry that you noted (--expect-seq,
    --expect-leaf).

    Example: broker ledger verify broker.db --checkpoint latest.note --key broker.example/ledger+530d903a+AekyeRrm56hA...
    """
    expected = _expectation(expect_seq, expect_leaf)
    if first and checkpoint and not key:
        raise _wrong_use(
            "--checkpoint", "needs --key beside --from: the ledger's keys stand in the part that isn't read"
        )
    how, folder = _target(file, state)
    # The checkpoints first: a ledger that grows meanwhile is never behind them.
    held: list[Held] = [read_held(path) for path in checkpoint or ()]
    held += read_folder(folder) if folder is not None and not first else ()
    known = Known(expected, tuple(held), tuple(_key(text) for text in key or ()), votes)
    with reading_progress("verifying entries", as_json=as_json) as progress:
        if how.kind == "bundle":
            report = verify_bundle_file(Path(how.target), known, first=first, progress=progress)
        else:
            workers = workers or len(os.sched_getaffinity(0))
            report = verify_opened(lambda: open_source(how), known, first=first, workers=workers, progress=progress)
    emit(_output(how.name, report, expected), as_json=as_json, render=_render)
    if code := EXIT_CODES[report.verdict]:
        raise typer.Exit(code)


def _target(file: str | None, state: Path) -> tuple[Reopen, Path | None]:
    """How to open what is to be checked, and the folder of the checkpoints that lie beside it."""
    if file is not None:
        how = how_to_open(file)
        return how, Path(file).parent / "checkpoints" if how.kind == "sqlite" else None
    return ledger_of(state), checkpoints_of(state)


def _expectation(seq: int | None, leaf: str) -> Expectation | None:
    if leaf and (seq is None or not HEX_32.fullmatch(leaf)):
        why = "needs --expect-seq beside it" if seq is None else "must be 64 hexadecimal digits in lower case"
        raise _wrong_use("--expect-leaf", why)
    return None if seq is None else Expectation(seq, leaf)


def _key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except NoteError as error:
        raise _wrong_use("--key", f"is no verifier key: {error}") from error


def _wrong_use(option: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{option} {why}", reason="USAGE", violations=(FieldViolation(option, why),))


def _output(name: str, report: Report, expected: Expectation | None) -> VerifyOutput:
    place = report.place
    return VerifyOutput(
        file=name,
        verdict=report.verdict.value,
        place=None if place is None else PlaceOutput(seq=place.seq, field=place.field, why=place.why),
        first=report.first,
        entries=report.entries,
        head_seq=report.head_seq,
        head_leaf=report.head_leaf,
        root=report.root,
        origin=report.origin,
        first_ts=report.first_ts,
        last_ts=report.last_ts,
        agents=report.agents,
        boots=report.boots,
        types=report.types,
        unknown_types=report.unknown_types,
        open_intents=report.open_intents,
        unmatched_outcomes=report.unmatched_outcomes,
        clock_steps_back=report.clock_steps_back,
        expected_head_checked=expected is not None and expected.seq >= report.first,
        heads_checked=report.heads,
        keys=report.keys,
        checkpoints_checked=report.checkpoints,
        checkpoint_size=report.checkpoint_size,
        recovered=tuple(LostOutput(first=first, last=last) for first, last in report.recovered),
        votes=None if report.votes is None else _votes(report.votes),
    )


def _votes(found: VotesReport) -> VotesOutput:
    return VotesOutput(
        acts=found.acts,
        votes=found.votes,
        signatures=found.signatures,
        attested=tuple(AttestedOutput(seq=item.seq, key=item.key, person=item.person) for item in found.attested),
        attested_count=found.attested_count,
        alone=tuple(AloneOutput(seq=item.seq, type=item.type) for item in found.alone),
        alone_count=found.alone_count,
        findings=tuple(PlaceOutput(seq=item.seq, field=item.field, why=item.why) for item in found.findings),
        found=found.found,
    )


def _render(output: VerifyOutput) -> None:
    colour = {Verdict.OK: "green", Verdict.RECOVERED: "yellow"}.get(Verdict(output.verdict), "bold red")
    console.print(f"[{colour}]{output.verdict}[/{colour}]", end=" ")
    console.print(output.file, markup=False)
    if output.place is not None:
        where = "the file" if output.place.seq is None else f"entry {output.place.seq}"
        console.print(f"  at {where}, {output.place.field}: {output.place.why}", markup=False)
    for name, text in (*_facts(output), *_oddities(output)):
        console.print(f"  {name:<13} {text}", markup=False, soft_wrap=True)
    if output.verdict == Verdict.OK and (advice := _advice(output)):
        console.print(f"  {advice}", markup=False, style="dim", soft_wrap=True)


def _facts(output: VerifyOutput) -> Iterator[tuple[str, str]]:
    begun = f" from entry {output.first} on; what is before it is trusted, not checked" if output.first else ""
    yield "entries", f"{output.entries}{begun}"
    yield "head", "-" if output.head_seq is None else f"{output.head_seq}  {output.head_leaf}"
    yield "Merkle root", output.root or "- (only of a whole ledger)"
    yield "origin", output.origin or "-"
    yield "time", f"{output.first_ts} to {output.last_ts}" if output.first_ts else "-"
    yield "agents", f"{output.agents}, broker starts: {output.boots}"
    yield "types", ", ".join(f"{name} {count}" for name, count in output.types.items()) or "-"
    yield "keys", ", ".join(output.keys) or "- (none in the genesis)"
    reach = f"{output.checkpoints_checked}, the largest of {output.checkpoint_size} entries"
    yield "checkpoints", reach if output.checkpoints_checked else "none checked"
    yield from _vote_facts(output.votes)


def _vote_facts(votes: VotesOutput | None) -> Iterator[tuple[str, str]]:
    if votes is None:
        yield "votes", "not checked"
        return
    yield "votes", f"{votes.votes}, signatures verified: {votes.signatures}, acts that need people: {votes.acts}"
    for item in votes.attested[:_MOST_LISTED]:
        yield "", f"entry {item.seq}, of {item.person}: attested by bot {item.key}, not signed by the person"
    if votes.attested_count > _MOST_LISTED:
        yield "", f"and {votes.attested_count - _MOST_LISTED} more that are attested, not signed by the person"
    for one in votes.alone[:_MOST_LISTED]:
        yield "", f"entry {one.seq}, {one.type}: by one person, on the broker's word that it takes no second"
    if votes.alone_count > _MOST_LISTED:
        yield "", f"and {votes.alone_count - _MOST_LISTED} more by one person, on the broker's word"
    for finding in votes.findings[1:_MOST_LISTED]:
        yield "votes invalid", f"entry {finding.seq}, {finding.field}: {finding.why}"
    if votes.found > _MOST_LISTED:
        yield "votes invalid", f"and {votes.found - _MOST_LISTED} more entries"


def _oddities(output: VerifyOutput) -> Iterator[tuple[str, str]]:
    lost = tuple(f"{item.first} to {item.last}" for item in output.recovered)
    for name, found, why in (
        ("lost entries", lost, "the ledger was taken into service without them"),
        ("unknown types", output.unknown_types, "written by another version; their chain was checked"),
        ("open intents", output.open_intents, "calls that run now, or whose broker died"),
        ("odd outcomes", output.unmatched_outcomes, "they name no open intent"),
        ("clock back", output.clock_steps_back, "earlier than the entry before"),
    ):
        if found:
            more = ", ..." if len(found) > _MOST_LISTED else ""
            yield name, f"{', '.join(map(str, found[:_MOST_LISTED]))}{more} ({why})"


def _advice(output: VerifyOutput) -> str:
    if output.expected_head_checked:
        return ""
    if not output.checkpoints_checked:
        return (
            "A ledger cut short looks whole: keep a signed checkpoint elsewhere and give it as --checkpoint next time, or"
            " note the head for --expect-seq and --expect-leaf."
        )
    end = output.first + output.entries
    if output.checkpoint_size < end:
        return f"No checkpoint is of the entries from {output.checkpoint_size} on: if later ones were cut off, it can't be seen."
    return ""
