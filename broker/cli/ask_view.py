"""How an answer is printed: a table for people, one object for programs, CSV for a spreadsheet; the evidence in each."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from broker.cli.output import ExitCode, OutputModel, console, emit, printable
from broker.cli.replay_case import Case, MarkOutput, mark_output, open_case, render_mark
from broker.errors import DataLossError, InvalidArgumentError
from broker.replay.asking.answer import Answer, Cell, Column, Kind, Line
from broker.replay.casebook import Casebook, Mark, stamp

LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=1_000_000, help="Most lines to print; it says how many more.")
]
CsvOption = Annotated[
    bool, typer.Option("--csv", help="Print CSV, for a spreadsheet; the evidence is the last column.")
]

_MOST_EVIDENCE = 6
"""Numbers of entries that a table shows of one line; --json has all."""
_MOST_LOOKED_AT = 2000
"""Entries behind the lines that are compared with what was filed of them, each time: some hundredths of a second."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for the beginning of a formula."""


class LineOutput(OutputModel):
    """One line: values by the name of their column (times as RFC 3339, people as ids), and the numbers of the entries that
    prove it.
    """

    values: dict[str, str | int | list[str]]
    evidence: tuple[int, ...]


class AnswerOutput(OutputModel):
    """An answer. ``names`` has the people and agents in it whose names are known; ``omitted`` lines are beyond the limit."""

    question: str
    mark: MarkOutput
    columns: tuple[str, ...]
    lines: tuple[LineOutput, ...]
    omitted: int
    names: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """What is read, and how the answer is to look."""

    state: Path
    bundle: Path | None
    limit: int
    as_csv: bool
    as_json: bool


def answer_with(work: Callable[[Case], Answer], form: Form) -> None:
    """Opens what is to be read, asks, and prints the answer.

    Raises:
        InvalidArgumentError: CSV and JSON are both asked for.
        typer.Exit: 6, after the answer, where the ledger doesn't verify.
    """
    if form.as_csv and form.as_json:
        raise InvalidArgumentError("--csv and --json can't be given together", reason="USAGE")
    with open_case(form.state, form.bundle, as_json=form.as_json or form.as_csv) as case:
        answer = work(case)
        shown = answer.lines[: form.limit]
        output = AnswerOutput(
            question=answer.question,
            mark=mark_output(_still(case.casebook, shown)),
            columns=tuple(column.name for column in answer.columns),
            lines=tuple(_line(answer.columns, line) for line in shown),
            omitted=len(answer.lines) - len(shown),
            names=_names(case, answer.columns, shown),
            notes=answer.notes,
        )
        if form.as_csv:
            _print_csv(case, answer.columns, shown, output)
        else:
            emit(output, as_json=form.as_json, render=lambda found: _render(case, answer.columns, shown, found))
    if not output.mark.sound:
        raise typer.Exit(ExitCode.OURS)


def _still(casebook: Casebook, lines: tuple[Line, ...]) -> Mark:
    """The casebook's mark; ``changed`` where the ledger has other entries now than those that prove these lines."""
    evidence = dict.fromkeys(seq for line in lines for seq in line.evidence)
    try:
        for _ in casebook.entries(itertools.islice(evidence, _MOST_LOOKED_AT)):
            pass
    except DataLossError as error:
        return replace(casebook.mark, verdict="changed", why=error.message) if casebook.mark.sound else casebook.mark
    return casebook.mark


def _line(columns: tuple[Column, ...], line: Line) -> LineOutput:
    values = {column.name: _value(column, cell) for column, cell in zip(columns, line.cells, strict=True)}
    return LineOutput(values=values, evidence=line.evidence)


def _value(column: Column, cell: Cell) -> str | int | list[str]:
    if isinstance(cell, tuple):
        return list(cell)
    return stamp(cell) if column.kind is Kind.TIME and isinstance(cell, int) else cell


def _names(case: Case, columns: tuple[Column, ...], lines: tuple[Line, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        for column, cell in zip(columns, line.cells, strict=True):
            if column.kind is Kind.PEOPLE and isinstance(cell, tuple):
                found |= {identity: name for identity in cell if (name := case.names.name(identity))}
    return dict(sorted(found.items()))


def _text(case: Case, column: Column, cell: Cell) -> str:
    if isinstance(cell, tuple):
        words = [case.who(item) if column.kind is Kind.PEOPLE else item for item in cell]
        return ", ".join(words)
    value = _value(column, cell)
    return str(value)


def _print_csv(case: Case, columns: tuple[Column, ...], lines: tuple[Line, ...], output: AnswerOutput) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*output.columns, "evidence"])
    for line in lines:
        texts = [printable(_text(case, column, cell)) for column, cell in zip(columns, line.cells, strict=True)]
        writer.writerow([*map(_harmless, texts), " ".join(map(str, line.evidence))])
    for problem in _problems(output):
        sys.stderr.write(f"{problem}\n")


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _problems(output: AnswerOutput) -> list[str]:
    """What a table of nothing but lines can't say: it goes beside it."""
    mark = output.mark
    found = [] if mark.sound else [f"DOESN'T VERIFY: {mark.verdict} {printable(mark.why)}"]
    if mark.extract:
        found.append(f"from an extract ({printable(mark.extract)}): {printable(mark.complete)}")
    if output.omitted:
        found.append(f"{output.omitted} more lines: raise --limit")
    return [*found, *(f"note: {printable(note)}" for note in output.notes)]


def _render(case: Case, columns: tuple[Column, ...], lines: tuple[Line, ...], output: AnswerOutput) -> None:
    render_mark(output.mark)
    console.print(output.question, style="bold", markup=False)
    if not lines:
        console.print("  nothing, as far as this ledger goes")
    else:
        _table(case, columns, lines)
    if output.omitted:
        console.print(f"{output.omitted} more lines: raise --limit", style="yellow")
    for note in output.notes:
        console.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)


def _table(case: Case, columns: tuple[Column, ...], lines: tuple[Line, ...]) -> None:
    # A column in which nobody would find anything only takes up room.
    used = [place for place in range(len(columns)) if any(line.cells[place] not in ("", ()) for line in lines)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place in used:
        column = columns[place]
        table.add_column(column.name, justify="right" if column.kind is Kind.NUMBER else "left", overflow="fold")
    table.add_column("entries", style="dim", overflow="fold")
    for line in lines:
        texts = [Text(printable(_text(case, columns[place], line.cells[place]))) for place in used]
        more = "" if len(line.evidence) <= _MOST_EVIDENCE else ", ..."
        table.add_row(*texts, Text(", ".join(map(str, line.evidence[:_MOST_EVIDENCE])) + more))
    console.print(table)
