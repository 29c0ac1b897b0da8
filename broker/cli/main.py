"""The ``broker`` program: its commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import Abort, Exit, TyperException

from broker.cli.lazy import Lazy, lazy_group
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.cli.output import ErrorOutput

COMMANDS = {
    "init": Lazy("broker.cli.init:init", "Make a state directory: CA, certificates, ledger."),
    "serve": Lazy("broker.cli.serve:serve", "Run the broker."),
    "migrate": Lazy("broker.cli.migrate:migrate", "Bring the database of an older broker up to date."),
    "doctor": Lazy("broker.cli.doctor:doctor", "Check this machine, and say how to mend each thing."),
    "status": Lazy("broker.cli.admin:status", "Say what a running broker runs with."),
    "call": Lazy("broker.cli.call:call", "Call a tool and stream its output."),
    "calls": Lazy("broker.cli.calls:app", "List, show, watch and cancel calls."),
    "tools": Lazy("broker.cli.tools:app", "List and show tools; check tool specs."),
    "sessions": Lazy("broker.cli.sessions:app", "Start, end and list sessions of agents."),
    "identity": Lazy("broker.cli.identity:app", "Register agents and humans, and issue or revoke their certificates."),
    "keys": Lazy("broker.cli.keys:app", "Make and show the keys that people sign with."),
    "approvals": Lazy("broker.cli.approvals:app", "Show and decide what waits for approval."),
    "approvers": Lazy("broker.cli.approvers:app", "Whose votes count: the founding of the two-person rule, and keys."),
    "freeze": Lazy("broker.cli.freeze:app", "Stop an agent, a tool, a workspace or all of it, at once."),
    "unfreeze": Lazy("broker.cli.freeze:unfreeze", "Ask for the end of a freeze; two people must agree."),
    "workflows": Lazy(
        "broker.cli.workflows:app",
        "Check and list workflows, and ask for one to be approved.",
        extras={"lint": "broker.cli.workflows_lint:lint"},
    ),
    "runbooks": Lazy("broker.cli.runbooks:app", "Agree on a call beforehand, for an emergency."),
    "accounts": Lazy("broker.cli.accounts:app", "Map chat accounts to people, and show whose one is."),
    "workspaces": Lazy(
        "broker.cli.workspaces:app",
        "The trees of workspaces: look at them, bring them in, take them out.",
        extras={
            "import": "broker.cli.workspaces_transfer:import_folder",
            "export": "broker.cli.workspaces_transfer:export_folder",
        },
    ),
    "undo": Lazy("broker.cli.undo:undo", "Take back what a call changed, see what that would do, or drill it."),
    "delegations": Lazy("broker.cli.delegations:app", "Sign that an agent may act on your behalf."),
    "policy": Lazy(
        "broker.cli.policy:app",
        "Check, compare, apply, explain and reload the policy.",
        extras={
            "apply": "broker.cli.policy_apply:apply",
            "diff": "broker.cli.policy_diff:diff",
            "reload": "broker.cli.admin:reload_policy",
        },
    ),
    "ledger": Lazy("broker.cli.ledger:app", "Show, verify and prove the ledger."),
    "replay": Lazy("broker.cli.replay:app", "Look again at what happened."),
    "slack": Lazy("broker.cli.slack:app", "The bot by which people decide in Slack."),
    "sandbox": Lazy(
        "broker.cli.sandbox:app", "The warm pool, sandbox images, containment probes, and what was left behind."
    ),
}
"""Every top-level command and where it is."""

_EPILOG = (
    "Exit codes: 0 done, 1 the tool failed, 2 usage, 3 denied, 4 waiting for approval, 5 the broker can't be reached,"
    " 6 our own failure. Every command takes --json."
)
_CLOSED_PIPE = 141
_INTERRUPTED = 130

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    help="The broker through which AI agents act: policy, disposable containers, ledger.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{version('agent-broker')}\n")
        raise typer.Exit


@app.callback()
def root(
    *,
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=lambda wanted: _version(wanted=wanted), is_eager=True
        ),
    ] = False,
) -> None:
    """The broker through which AI agents act: policy, disposable containers, ledger."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the program and ends the process with its exit code; no traceback ever comes out."""
    given = list(sys.argv[1:] if args is None else args)
    sys.exit(run(given))


def run(args: list[str]) -> int:
    """Runs one command and returns its exit code."""
    as_json = wants_json(args)
    code: object
    try:
        code = typer.main.get_command(app).main(args, prog_name="broker", standalone_mode=False)
    except TyperException as error:
        code = _usage(error, as_json=as_json)
    except BrokerError as error:
        code = _refusal(error, as_json=as_json)
    except Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, Abort):
        code = _INTERRUPTED
    except SystemExit as error:
        # Typer's answer to a closed pipe is an exit with code 1, which here would say that a tool failed.
        code = _closed_pipe() if isinstance(error.__context__, BrokenPipeError) else error.code
    except Exception as error:  # noqa: BLE001 - the program's outermost boundary: a defect is told in one line, as ours
        code = _defect(error, as_json=as_json)
    return code if isinstance(code, int) else 0


def _closed_pipe() -> int:
    # Whoever read our output has left. Python would complain once more when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _CLOSED_PIPE


def wants_json(args: Sequence[str]) -> bool:
    """Was ``--json`` given? Asked of the bare words, as an error may come before they are parsed."""
    words = args[: args.index("--")] if "--" in args else args
    return "--json" in words


def _usage(error: TyperException, *, as_json: bool) -> int:
    from broker.cli.output import ExitCode  # noqa: PLC0415 - imported late: `--help` must be quick

    if as_json:
        _print_error("USAGE", error.format_message(), hint="See --help.")
    else:
        show = getattr(error, "show", None)
        if callable(show):
            show()
        else:
            sys.stderr.write(f"Error: {error.format_message()}\n")
    return int(ExitCode.USAGE)


def _refusal(error: BrokerError, *, as_json: bool) -> int:
    from broker.cli.output import exit_code, report  # noqa: PLC0415 - as above

    report(error, as_json=as_json)
    return int(exit_code(error))


def _defect(error: Exception, *, as_json: bool) -> int:
    from broker.cli.output import ExitCode, printable  # noqa: PLC0415 - as above

    if os.environ.get("BROKER_DEBUG") == "1":
        import traceback  # noqa: PLC0415 - as above

        traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    hint = "This is a defect of the broker's program. BROKER_DEBUG=1 shows where."
    if as_json:
        _print_error("INTERNAL", text, hint=hint)
    else:
        sys.stderr.write(f"failed INTERNAL: {printable(text)}\n  {hint}\n")
    return int(ExitCode.OURS)


def _print_error(reason: str, text: str, *, hint: str) -> None:
    from broker.cli.output import ErrorOutput  # noqa: PLC0415 - as above

    output: ErrorOutput = ErrorOutput(error=text, reason=reason, hint=hint)
    sys.stdout.write(output.model_dump_json() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
