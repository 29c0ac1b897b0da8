"""``broker tools lint``: checks tool specifications without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from broker.cli.output import OutputModel, console, emit
from broker.errors import InvalidArgumentError
from broker.specs.findings import Finding
from broker.specs.lint import load_paths
from broker.specs.shipped import shipped_folder


class FindingOutput(OutputModel):
    """One finding. ``field`` is a JSON pointer into the file; ``severity`` is ``error`` or ``warning``."""

    path: str
    line: int
    column: int
    severity: str
    field: str
    message: str


class LintOutput(OutputModel):
    """What ``broker tools lint --json`` prints. ``files`` counts the files that were read."""

    files: int
    errors: int
    warnings: int
    items: tuple[FindingOutput, ...]


def lint(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Files or folders; without any, the tools that come with the broker."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check tool specifications: each finding with file, line and column.

    Exit code 0: nothing to mend; 1: findings; 2: a path doesn't exist or holds no specification.

    Example: broker tools lint my_tools/ --json
    """
    chosen = paths or [shipped_folder()]
    for path in chosen:
        if not path.exists():
            raise InvalidArgumentError(f"there is no {path}", reason="NOT_FOUND", hint="name a file or a folder")
    loaded = load_paths(chosen)
    if not loaded:
        names = ", ".join(str(path) for path in chosen)
        raise InvalidArgumentError(f"no .yaml file in {names}", reason="NOT_FOUND", hint="name a file or a folder")
    findings = [finding for item in loaded for finding in item.findings]
    errors = sum(not finding.warning for finding in findings)
    result = LintOutput(
        files=len(loaded),
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
