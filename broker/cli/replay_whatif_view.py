"""A what-if as a person reads it: what flips, in tables, and how much people would be asked, in bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from broker.cli.output import console, printable
from broker.cli.replay_case import MarkOutput, render_mark
from broker.policy.whatif_report import ForecastPart, GroupPart, LoadPart, Report, SidePart

_BAR = 30
_SHOWN = 12
_HUNDRED = 100


def render_report(report: Report) -> None:
    """Prints a report."""
    render_mark(_mark(report))
    totals, span = report.totals, report.span
    when = f", from {span.first} to {span.last}" if span.first else ""
    console.print(
        f"{totals.requests} requests decided again, {totals.inputs} distinct{when}", markup=False, soft_wrap=True
    )
    lost = report.lacking.requests
    console.print(
        Text.assemble(
            (f"{report.widened.requests} widened", "bold red" if report.widened.requests else "green"),
            ", ",
            (f"{report.narrowed.requests + lost} narrowed", "yellow" if report.narrowed.requests + lost else "green"),
            f", {totals.unchanged} unchanged",
        ),
        soft_wrap=True,
    )
    _side("WIDENED", "bold red", report.widened)
    _side("NARROWED", "yellow", report.narrowed)
    _lacking(report)
    _forecast(report.forecast)
    _control(report)
    for item in report.undecided:
        reason = f" ({item.reason})" if item.reason else ""
        console.print(Text(f"not decided again: {item.requests} requests: {item.why}{reason}", "dim"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(printable(note), "dim"), soft_wrap=True)
    console.print(Text(f"report {report.digest} on policy {report.candidate.policy}", "dim"), soft_wrap=True)


def _mark(report: Report) -> MarkOutput:
    ledger = report.ledger
    return MarkOutput(**ledger.model_dump(), votes_checked=0)


def _side(title: str, style: str, side: SidePart) -> None:
    if not side.requests:
        return
    console.print(Text(title, style))
    for what, groups in (("before -> after", side.by_rule), ("agent", side.by_agent), ("tool", side.by_tool)):
        console.print(_groups(what, groups))
        _more(len(groups))


def _more(number: int, what: str = "more") -> None:
    if number > _SHOWN:
        console.print(Text(f"  ... and {number - _SHOWN} {what}; --json has them", "dim"))


def _groups(what: str, groups: Sequence[GroupPart]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("requests", justify="right")
    table.add_column("distinct", justify="right")
    table.add_column("entries")
    table.add_column("until")
    table.add_column(what, overflow="fold")
    for group in groups[:_SHOWN]:
        entries = str(group.first) if group.first == group.last else f"{group.first}..{group.last}"
        row = (str(group.requests), str(group.inputs), entries, group.last_time)
        table.add_row(*row, Text(printable(group.of)))
    return table


def _lacking(report: Report) -> None:
    if not report.lacking.calls:
        return
    console.print(Text("NARROWED by what the table of tiers demands", "yellow"))
    for item in report.lacking.calls[:_SHOWN]:
        who = item.name or item.agent
        console.print(
            Text(printable(f"  {item.requests} x {item.tool} of {who} at tier {item.tier}: {item.why}")), soft_wrap=True
        )
    _more(len(report.lacking.calls))


def _forecast(found: ForecastPart) -> None:
    before, after = found.before, found.after
    if not before.total and not after.total:
        return
    days = "1 day" if found.days == 1 else f"{found.days} days"
    console.print(Text(f"REQUESTS FOR APPROVAL, over {days}", "bold"))
    for name, load in (("before", before), ("after", after)):
        console.print(Text(f"  {name:6}  {_load(load)}"), soft_wrap=True)
    most = max(max(item.before, item.after) for item in found.by_day)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("day")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("")
    for item in found.by_day[-_SHOWN:]:
        table.add_row(item.day, str(item.before), str(item.after), Text("#" * -(-item.after * _BAR // most), "cyan"))
    console.print(table)
    _more(len(found.by_day), "earlier days")
    for approver in found.approvers[:_SHOWN]:
        name = approver.name or approver.person
        console.print(
            Text(printable(f"  {name}: before {_load(approver.before)}; after {_load(approver.after)}")), soft_wrap=True
        )
    _more(len(found.approvers), "people")


def _load(load: LoadPart) -> str:
    if not load.total:
        return "none"
    mean = f"{load.mean_hundredths // _HUNDRED}.{load.mean_hundredths % _HUNDRED:02}"
    return f"{load.total}, {mean} a day, most {load.busiest} on {load.busiest_day}"


def _control(report: Report) -> None:
    found = report.control
    for item in found.disagree[:_SHOWN]:
        told = f"entry {item.entry} says {item.recorded}, and its policy {item.policy[:19]} says {item.policy_says}"
        console.print(Text(printable(f"THE RECORD AND ITS POLICY DISAGREE: {told}"), "bold red"), soft_wrap=True)
    _more(len(found.disagree))
    rest = f"; of {found.without_text} the policy isn't kept" if found.without_text else ""
    told = f"control: {found.reproduced} requests come out as recorded by the policies that decided them"
    console.print(Text(told + rest, "dim"), soft_wrap=True)
