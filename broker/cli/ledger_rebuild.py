"""``broker ledger rebuild``: everything beside the ledger that must follow from it, made anew and compared."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from broker.app.comparison import Difference, TableReport
from broker.app.rebuild import RebuildReport, rebuild
from broker.cli.local import JsonOption, StateOption
from broker.cli.output import OutputModel, console, emit, printable
from broker.domain.projection import Cell
from broker.settings import DEFAULT_STATE, load_settings

_SHOWN = 20


class RowOutput(OutputModel):
    """A row that isn't as the ledger wants it: ``missing``, ``extra`` or ``different``, then in these columns."""

    kind: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


class UnheldOutput(OutputModel):
    """A column whose value in so many rows nothing but the table itself holds any more: it was not judged."""

    column: str
    rows: int
    why: str


class TableOutput(OutputModel):
    """How a table compares; ``rows`` names the first 1000 that are wrong, ``behind`` is what the index doesn't have yet."""

    table: str
    equal: int
    missing: int
    extra: int
    different: int
    behind: int
    rows: tuple[RowOutput, ...]
    unheld: tuple[UnheldOutput, ...]


class RebuildOutput(OutputModel):
    """How the projections compare with the ledger, and whether what was wrong has been replaced."""

    entries: int
    head_leaf: str
    equal: bool
    written: bool
    beyond: str
    """What names an entry that the ledger doesn't have, as after its end was cut off; empty where nothing does."""
    tables: tuple[TableOutput, ...]


def rebuild_command(
    *,
    state: StateOption = DEFAULT_STATE,
    write: Annotated[
        bool, typer.Option("--write/--check", help="Replace what is wrong, or only say what is (the default).")
    ] = False,
    ledger_is_whole: Annotated[
        bool,
        typer.Option(
            "--ledger-is-whole",
            help="With --write, where a row names an entry that isn't there: you compared the ledger with a checkpoint.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make every table that follows from the ledger anew, and compare: tiles, agents' heads, the index, identities,
    certificates, sessions, schedules, calls, all that people agree by (keys, the founding, approvals, votes, freezes), and
    workspaces' states with the effects on them.

    The ledger is verified first, and the broker must be stopped. Exit code: 0 all equal, 1 differences found, also where
    --write has replaced them. What was erased can't be compared any more: that is said, and left as it is.

    How much each owner keeps (vault_usage, on which the storage quota rests) is counted anew from what is kept encrypted.
    No projections, and so neither compared nor made anew: the entries themselves; what is kept encrypted (vault_object,
    vault_chunk, workspace_key) and until when; and refusals that wait to become one counted entry (refusal).

    Example: broker ledger rebuild --write
    """
    report = asyncio.run(rebuild(state, load_settings(state), write=write, ledger_is_whole=ledger_is_whole))
    emit(_output(report), as_json=as_json, render=_render)
    if report.wrong:
        raise typer.Exit(1)


def _output(report: RebuildReport) -> RebuildOutput:
    return RebuildOutput(
        entries=report.entries,
        head_leaf=report.head,
        equal=not report.wrong,
        written=report.written,
        beyond=report.beyond,
        tables=tuple(map(_table, report.tables)),
    )


def _table(report: TableReport) -> TableOutput:
    return TableOutput(
        table=report.table,
        equal=report.equal,
        missing=report.missing,
        extra=report.extra,
        different=report.different,
        behind=report.behind,
        rows=tuple(map(_row, report.differences)),
        unheld=tuple(
            UnheldOutput(column=column, rows=rows, why=why) for (column, why), rows in sorted(report.unheld.items())
        ),
    )


def _row(difference: Difference) -> RowOutput:
    return RowOutput(kind=difference.kind, key=tuple(map(_text, difference.key)), columns=difference.columns)


def _text(value: Cell) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _render(output: RebuildOutput) -> None:
    if output.equal:
        console.print("[green]equal[/green]", end=" ")
    elif output.written:
        console.print("[yellow]replaced[/yellow]", end=" ")
    else:
        console.print("[bold red]different[/bold red]", end=" ")
    console.print(f"{output.entries} entries, head {output.head_leaf}", markup=False, soft_wrap=True)
    if output.beyond:
        console.print(printable(f"  {output.beyond}"), markup=False, style="bold red", soft_wrap=True)
    for table in output.tables:
        _render_table(table)
    if not output.equal and not output.written:
        console.print("Replace what is wrong: broker ledger rebuild --write", style="dim")


def _render_table(table: TableOutput) -> None:
    numbers = {
        "equal": table.equal,
        "missing": table.missing,
        "extra": table.extra,
        "different": table.different,
        "behind": table.behind,
    }
    counts = ", ".join(f"{count} {name}" for name, count in numbers.items() if count) or "empty"
    console.print(f"  {table.table:<13} {counts}", markup=False, style="bold red" if table.rows else "")
    for row in table.rows[:_SHOWN]:
        columns = f": {', '.join(row.columns)}" if row.columns else ""
        console.print(printable(f"    {row.kind} {' '.join(row.key)}{columns}"), markup=False, soft_wrap=True)
    if len(table.rows) > _SHOWN:
        console.print("    and more: --json names them", style="dim")
    for item in table.unheld:
        text = f"    not compared: {item.column} of {item.rows} rows ({item.why})"
        console.print(printable(text), markup=False, style="dim", soft_wrap=True)
