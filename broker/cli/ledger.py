"""``broker ledger``: reads, checks and proves the ledger, from its file or from a running broker."""

from __future__ import annotations

import typer

from broker.cli.lazy import Lazy, lazy_group

_LATE = {
    "verify": Lazy("broker.cli.ledger_verify:verify_command", "Check every entry of a ledger, and its checkpoints."),
    "show": Lazy("broker.cli.ledger_reading:show", "Print entries, from a file or from a running broker."),
    "tail": Lazy("broker.cli.ledger_reading:tail", "Print the last entries of a running broker, and each new one."),
    "checkpoint": Lazy("broker.cli.ledger_proving:checkpoint", "Print the latest checkpoint of a running broker."),
    "prove": Lazy("broker.cli.ledger_proving:prove", "Prove that an entry is in the log, and check such a proof."),
    "keys": Lazy("broker.cli.ledger_keys:keys", "List the keys that sign checkpoints, and what was recovered."),
    "rotate-key": Lazy("broker.cli.ledger_keys:rotate_key", "Make a fresh key sign the checkpoints from now on."),
    "revoke-key": Lazy("broker.cli.ledger_keys:revoke_key", "Revoke a key that was replaced."),
    "erase": Lazy("broker.cli.ledger_erase:erase", "Erase what is kept of a subject, by destroying its keys."),
    "recover": Lazy("broker.cli.ledger_keys:recover", "Take a ledger into service that lacks signed entries."),
    "rebuild": Lazy(
        "broker.cli.ledger_rebuild:rebuild_command", "Make all that follows from the ledger anew, and compare."
    ),
    "export": Lazy("broker.cli.ledger_bundle:export_command", "Write an evidence bundle that anybody can check."),
    "import": Lazy("broker.cli.ledger_bundle:import_command", "Make a read-only ledger file of a bundle."),
}
"""All commands, each loaded when it is called: checking a file is quicker without what the others bring along."""

app = typer.Typer(cls=lazy_group(_LATE), no_args_is_help=True, help="Check, read and prove the ledger.")
