"""``broker workflows lint``: checks workflows without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.lint_view import report
from broker.errors import InvalidArgumentError
from broker.settings import DEFAULT_STATE, StatePaths
from broker.specs.catalogue import Catalogue
from broker.specs.shipped import shipped_folder
from broker.specs.workflows import read_workflows


def lint(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Files or folders; without any, the state directory's workflows."),
    ] = None,
    state: Annotated[
        Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory of the broker, for its own tools.")
    ] = DEFAULT_STATE,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check workflows: each finding with file, line and column.

    The tools that a workflow may name are the shipped ones and those in the state directory's tool_specs. Exit code 0:
    nothing to mend; 1: findings; 2: a path doesn't exist or holds no workflow.

    Example: broker workflows lint examples/workflows --json
    """
    places = StatePaths(state)
    chosen = paths or [places.workflows]
    for path in chosen:
        if not path.exists():
            raise InvalidArgumentError(f"there is no {path}", reason="NOT_FOUND", hint="name a file or a folder")
    folders = [shipped_folder(), *([places.tool_specs] if places.tool_specs.is_dir() else [])]
    tiers = {tool.spec.name: tool.spec.tier for tool in Catalogue.load(folders).all()}
    loaded = read_workflows(chosen, tiers)
    if not loaded:
        names = ", ".join(str(path) for path in chosen)
        raise InvalidArgumentError(f"no .yaml file in {names}", reason="NOT_FOUND", hint="name a file or a folder")
    report(len(loaded), [finding for item in loaded for finding in item.findings], strict=strict, as_json=as_json)
