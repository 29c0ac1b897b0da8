"""What the commands print that check an operator's files."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.text import Text

from broker.cli.output import OutputModel, console, emit
from broker.specs.findings import Finding


class FindingOutput(OutputModel):
    """One finding. ``field`` is a JSON pointer into the file; ``severity`` is ``error`` or ``warning``."""

    path: str
    line: int
    column: int
    severity: str
    field: str
    message: str


class LintOutput(OutputModel):
    """What was found. ``files`` counts the files that were read."""

    files: int
    errors: int
    warnings: int
    items: tuple[FindingOutput, ...]


def report(files: int, findings: Sequence[Finding], *, strict: bool, as_json: bool) -> None:
    """Prints findings about so many files.

    Raises:
        typer.Exit: with code 1, where something has to be mended; with ``strict`` a warning has.
    """
    errors = sum(not finding.warning for finding in findings)
    result = LintOutput(
        files=files,
        errors=errors,
        warnings=len(findings) - errors,
        items=tuple(_output(finding) for finding in findings),
    )
    emit(result, as_json=as_json, render=_render)
    if errors or (strict and findings):
        raise typer.Exit(1)


def _output(finding: Finding) -> FindingOutput:
    return FindingOutput(
        path=finding.path,
        line=finding.line,
        column=finding.column,
        severity="warning" if finding.warning else "error",
        field=finding.field,
        message=finding.message,
    )


def _render(result: LintOutput) -> None:
    for item in result.items:
        line = Text(f"{item.path}:{item.line}:{item.column}: ")
        line.append(item.severity, style="yellow" if item.severity == "warning" else "red")
        line.append(f": {f'{item.field} ' if item.field else ''}{item.message}")
        console.print(line, soft_wrap=True)
    console.print(f"{result.files} file(s): {result.errors} error(s), {result.warnings} warning(s)")
