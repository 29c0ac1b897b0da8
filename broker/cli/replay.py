"""``broker replay``: what happened, looked at again."""

from __future__ import annotations

import typer

from broker.cli.lazy import Lazy, lazy_group

app = typer.Typer(
    cls=lazy_group(
        {
            "rerun": Lazy("broker.cli.replay_rerun:rerun", "Run a recorded call again, sealed, and compare."),
        }
    ),
    no_args_is_help=True,
    help="Look again at what happened: run recorded calls once more, sealed from everything.",
)


@app.callback()
def group() -> None:
    """Look again at what happened: run recorded calls once more, sealed from everything."""
