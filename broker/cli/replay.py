"""``broker replay``: looks at what happened again, and changes nothing."""

from __future__ import annotations

import typer

from broker.cli.lazy import Lazy, lazy_group

COMMANDS: dict[str, Lazy] = {
    "timeline": Lazy("broker.cli.replay_timeline:timeline", "Show what happened, in causal order."),
    "rerun": Lazy("broker.cli.replay_rerun:rerun", "Run a recorded call again, sealed, and compare."),
    "session": Lazy("broker.cli.replay_session:session", "Run a session's calls again, on a scratch tree."),
    "whatif": Lazy("broker.cli.replay_whatif:whatif", "Say what another policy would have decided otherwise."),
    "bundle": Lazy("broker.cli.replay_bundle:bundle", "Write the evidence of an incident, which anybody can check."),
    "hand-over": Lazy("broker.cli.replay_bundle:hand_over", "Write down that you give a bundle to somebody, signed."),
}
"""Every command of the group and where it is."""

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    help="Look again at what happened: it reads, and changes nothing.",
)
