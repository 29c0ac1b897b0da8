"""`broker doctor`: is this machine fit to run a broker, and how is each thing mended?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from broker.cli.output import ExitCode, OutputModel, console, emit
from broker.settings import DEFAULT_STATE

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class FindingOutput(OutputModel):
    """One fact about the machine."""

    check: str
    status: str
    """`ok`, `warn` (it works, and somebody should look) or `fail` (the broker won't start, or isn't safe)."""
    found: str
    mend: str
    """How to mend it; empty where nothing needs mending."""


class DoctorOutput(OutputModel):
    """What `broker doctor --json` prints."""

    status: str
    """The gravest status among the findings."""
    findings: list[FindingOutput]


def doctor(
    state: Annotated[
        Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory to look at.")
    ] = DEFAULT_STATE,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run this check alone; may be given several times.")
    ] = None,
    expect_running: Annotated[
        bool, typer.Option("--expect-running", help="Fail where no broker runs on the state directory.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this machine: engine, images, permissions, clock, listeners and more; say how to mend what is wrong.

    Exit code 0 where nothing fails, 1 otherwise. Example: broker doctor --state .state/broker
    """
    # The checks pull in every room; `broker --help` doesn't wait for that.
    from broker.doctor import Place, Status, examine, worst  # noqa: PLC0415

    findings = examine(Place(state=state, expect_running=expect_running), only or ())
    status = worst(findings)
    output = DoctorOutput(
        status=status,
        findings=[
            FindingOutput(check=each.check, status=each.status, found=each.found, mend=each.mend) for each in findings
        ],
    )
    emit(output, as_json=as_json, render=_render)
    if status is Status.FAIL:
        raise typer.Exit(ExitCode.TOOL_FAILED)


def _render(output: DoctorOutput) -> None:
    for finding in output.findings:
        colour = _COLOURS[finding.status]
        console.print(
            f"[{colour}]{finding.status:4}[/{colour}] {finding.check:12} {escape(finding.found)}", soft_wrap=True
        )
        if finding.mend:
            console.print(f"     {'':12} -> {escape(finding.mend)}", style="bold", soft_wrap=True)
    counts = {name: sum(1 for each in output.findings if each.status == name) for name in _COLOURS}
    console.print(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} to mend")
