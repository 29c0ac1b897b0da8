"""``broker tools lint``: checks tool specifications without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.lint_view import report
from broker.errors import InvalidArgumentError
from broker.specs.lint import load_paths
from broker.specs.shipped import shipped_folder


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
    report(len(loaded), [finding for item in loaded for finding in item.findings], strict=strict, as_json=as_json)
