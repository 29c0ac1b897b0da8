"""``broker ledger``: reads and checks a ledger from its file alone; the broker may be up, down or far away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from broker.cli.ledger_line import line, tone
from broker.cli.output import OutputModel, console, emit, errors, printable
from broker.domain.canonical import JsonObject
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.entry import HEX_32
from broker.ledger.reader import LedgerFile, open_ledger, verify_file
from broker.ledger.verdict import Expectation, Report, Verdict
from broker.ledger.verifier import Row, UnreadableError
from broker.settings import DEFAULT_STATE, StatePaths

_TO_MILLISECONDS = 23
"""Characters of a time that are shown."""

EXIT_CODES = MappingProxyType(
    {
        Verdict.OK: 0,
        Verdict.TAMPERED: 10,
        Verdict.FORKED: 11,
        Verdict.GAPPED: 12,
        Verdict.TRUNCATED: 13,
        Verdict.MALFORMED: 14,
    },
)
"""Exit code of ``broker ledger verify`` for each verdict."""

app = typer.Typer(no_args_is_help=True, help="Check and read the ledger, from its file alone.")

FileArgument = Annotated[
    Path | None, typer.Argument(help="A database file or a copy of one; default: broker.db of the state directory.")
]
StateOption = Annotated[Path, typer.Option("--state", envvar="BROKER_STATE", help="The state directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class PlaceOutput(OutputModel):
    """Where a ledger is wrong: entry (none: the file), member or column, and why."""

    seq: int | None
    field: str
    why: str


class VerifyOutput(OutputModel):
    """The verdict on a ledger; counts and facts are about the entries found good. Hashes are hexadecimal."""

    file: str
    verdict: str
    place: PlaceOutput | None
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


class EntryOutput(OutputModel):
    """One entry: its number, its hash, and its members as recorded."""

    seq: int
    leaf: str
    entry: JsonObject


class ShowOutput(OutputModel):
    """Entries of a ledger, unverified. ``next_seq`` goes on where the limit cut; ``incomplete`` says what may lack."""

    file: str
    items: tuple[EntryOutput, ...]
    next_seq: int | None
    incomplete: str


@app.command("verify")
def verify_command(
    *,
    file: FileArgument = None,
    state: StateOption = DEFAULT_STATE,
    expect_seq: Annotated[
        int | None, typer.Option("--expect-seq", min=0, help="An entry that must be there: one that you noted before.")
    ] = None,
    expect_leaf: Annotated[
        str, typer.Option("--expect-leaf", help="Its hash, 64 hexadecimal digits, as verify or show printed it.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check every entry of a ledger: hashes, chain, agents' own chains, canonical form.

    Exit code: 0 ok, 10 tampered, 11 forked, 12 gapped, 13 truncated, 14 malformed; 2 for a wrong use of the command.
    That the newest entries were cut off shows only against an entry that you noted elsewhere: give --expect-seq and
    --expect-leaf, or watch for a file whose -wal is missing, which is said.

    Example: broker ledger verify broker.db --expect-seq 41 --expect-leaf 9f86d081...
    """
    expected = _expectation(expect_seq, expect_leaf)
    path = file or StatePaths(state).database
    with _progress(as_json=as_json) as progress:
        report = verify_file(path, expected=expected, progress=progress)
    emit(_verify_output(path, report, expected), as_json=as_json, render=_render_report)
    if code := EXIT_CODES[report.verdict]:
        raise typer.Exit(code)


@app.command("show")
def show_command(
    *,
    file: FileArgument = None,
    state: StateOption = DEFAULT_STATE,
    first: Annotated[int, typer.Option("--from", min=0, help="Start at this entry.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most entries to print.")] = 100,
    entry_type: Annotated[str, typer.Option("--type", help="Only entries of this type, such as intent.")] = "",
    call: Annotated[str, typer.Option("--call", help="Only entries about this call, such as call_01...")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print entries as they are recorded. Names, purposes and arguments are not in them, only commitments.

    This doesn't verify: run `broker ledger verify` first.

    Example: broker ledger show --type intent --limit 10
    """
    path = file or StatePaths(state).database
    with open_ledger(path) as ledger:
        output = _collect(ledger, first, limit, entry_type, call.removeprefix("toolCalls/"))
    emit(output, as_json=as_json, render=_render_entries)


def _expectation(seq: int | None, leaf: str) -> Expectation | None:
    if leaf and (seq is None or not HEX_32.fullmatch(leaf)):
        why = "needs --expect-seq beside it" if seq is None else "must be 64 hexadecimal digits in lower case"
        raise InvalidArgumentError(
            f"--expect-leaf {why}", reason="USAGE", violations=(FieldViolation("--expect-leaf", why),)
        )
    return None if seq is None else Expectation(seq, leaf)


def _verify_output(path: Path, report: Report, expected: Expectation | None) -> VerifyOutput:
    place = report.place
    return VerifyOutput(
        file=str(path),
        verdict=report.verdict.value,
        place=None if place is None else PlaceOutput(seq=place.seq, field=place.field, why=place.why),
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
        expected_head_checked=expected is not None,
    )


def _collect(ledger: LedgerFile, first: int, limit: int, entry_type: str, call: str) -> ShowOutput:
    items: list[EntryOutput] = []
    next_seq: int | None = None
    try:
        for row in ledger.rows(first):
            item = _entry(row)
            if (entry_type and item.entry.get("type") != entry_type) or (call and item.entry.get("call_id") != call):
                continue
            if len(items) == limit:
                next_seq = item.seq
                break
            items.append(item)
    except (UnreadableError, NotCanonicalError) as error:
        raise DataLossError(
            f"an entry of {ledger.path} can't be read: {error}",
            reason="LEDGER_UNREADABLE",
            hint="Run `broker ledger verify` on the file: it names the place.",
        ) from error
    return ShowOutput(file=str(ledger.path), items=tuple(items), next_seq=next_seq, incomplete=ledger.incomplete)


def _entry(row: Row) -> EntryOutput:
    if not isinstance(row.seq, int) or not isinstance(row.leaf, bytes) or not isinstance(row.data, bytes):
        raise UnreadableError(f"a column of entry {row.seq} has a wrong type")
    return EntryOutput(seq=row.seq, leaf=row.leaf.hex(), entry=decode(row.data))


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Callable[[int, int], None] | None]:
    # Nothing for what takes under a second, nor where nobody looks.
    if as_json or not errors.is_terminal:
        yield None
        return
    started = time.monotonic()
    with Progress(console=errors, transient=True, disable=False, auto_refresh=False) as bar:
        task: list[TaskID] = []

        def step(done: int, total: int) -> None:
            if time.monotonic() - started < 1.0:
                return
            if not task:
                task.append(bar.add_task("verifying entries", total=total))
            bar.update(task[0], completed=done, refresh=True)

        yield step


def _render_report(output: VerifyOutput) -> None:
    colour = "green" if output.verdict == Verdict.OK else "bold red"
    console.print(f"[{colour}]{output.verdict}[/{colour}]", end=" ")
    console.print(output.file, markup=False)
    if output.place is not None:
        where = "the file" if output.place.seq is None else f"entry {output.place.seq}"
        console.print(f"  at {where}, {output.place.field}: {output.place.why}", markup=False)
    lines = [
        ("entries", str(output.entries)),
        ("head", "-" if output.head_seq is None else f"{output.head_seq}  {output.head_leaf}"),
        ("Merkle root", output.root),
        ("origin", output.origin or "-"),
        ("time", f"{output.first_ts} to {output.last_ts}" if output.first_ts else "-"),
        ("agents", f"{output.agents}, broker starts: {output.boots}"),
        ("types", ", ".join(f"{name} {count}" for name, count in output.types.items()) or "-"),
    ]
    notes = (
        ("unknown types", output.unknown_types, "written by another version; their chain was checked"),
        ("open intents", output.open_intents, "calls that run now, or whose broker died"),
        ("odd outcomes", output.unmatched_outcomes, "they name no open intent"),
        ("clock back", output.clock_steps_back, "earlier than the entry before"),
    )
    lines += [(name, f"{', '.join(map(str, found[:10]))} ({why})") for name, found, why in notes if found]
    for name, text in lines:
        console.print(f"  {name:<13} {text}", markup=False, soft_wrap=True)
    if output.verdict == Verdict.OK and not output.expected_head_checked:
        text = (
            "  A ledger cut short looks whole: note the head, and give it as --expect-seq and --expect-leaf next time."
        )
        console.print(text, markup=False, style="dim", soft_wrap=True)


def _render_entries(output: ShowOutput) -> None:
    if output.incomplete:
        errors.print(f"incomplete: {output.incomplete}", markup=False, style="bold red", soft_wrap=True)
    for item in output.items:
        entry = item.entry
        head = f"{item.seq:>6}  {str(entry.get('ts', ''))[:_TO_MILLISECONDS]}  {entry.get('type', '')!s:<19}"
        console.print(printable(f"{head}  {line(entry)}"), markup=False, soft_wrap=True, style=tone(entry))
    if output.next_seq is not None:
        console.print(f"more from entry {output.next_seq} on: --from {output.next_seq}", style="dim")
