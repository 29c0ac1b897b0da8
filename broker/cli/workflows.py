"""``broker workflows``: what agents do and for whom."""

from __future__ import annotations

import typer

from broker.cli.lazy import Lazy, lazy_group

app = typer.Typer(
    cls=lazy_group({"lint": Lazy("broker.cli.workflows_lint:lint", "Check workflows, with line and column.")}),
    no_args_is_help=True,
    help="Check workflows.",
)
