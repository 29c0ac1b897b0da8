"""``broker replay``: what happened, looked at again."""

from __future__ import annotations

import typer

from broker.cli.lazy import Lazy, lazy_group

app = typer.Typer(
    cls=lazy_group(
        {
            "rerun": Lazy("broker.cli.replay_rerun:rerun", "Run a recorded call again, sealed, and compare."),
            "session": Lazy("broker.cli.replay_session:session", "Run a session's calls again, on a scratch tree."),
        }
    ),
    no_args_is_help=True,
    help="Look again at what happened: run recorded calls once more, sealed from everything.",
)


@app.callback()
def group() -> None:
    """Look again at what happened: run recorded calls once more, sealed from everything."""
