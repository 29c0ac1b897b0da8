"""``broker slack``: the bot by which people decide in Slack. A process of its own, with an identity that can do nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import structlog
import typer

from broker.cli.output import ExitCode, OutputModel, console, emit
from broker.errors import FailedPreconditionError
from broker.slack.settings import DEFAULT_SETTINGS, SlackSettings, load_settings

app = typer.Typer(no_args_is_help=True, help="The bot by which people decide in Slack.")

SettingsOption = Annotated[
    Path, typer.Option("--settings", envvar="BROKER_SLACK_SETTINGS", help="The bot's settings, a YAML file.")
]


class SlackServeOutput(OutputModel):
    """Printed once, when the bot serves; ``address`` is empty in mode ``socket``."""

    mode: str
    address: str
    team: str
    bot_user: str
    key: str
    pid: int


class FindingOutput(OutputModel):
    """One thing that was looked at."""

    what: str
    fit: bool
    text: str
    hint: str


class SlackCheckOutput(OutputModel):
    """What keeps the bot from working; ``fit`` is whether nothing does."""

    fit: bool
    findings: list[FindingOutput]


@app.command()
def serve(
    *,
    settings: SettingsOption = DEFAULT_SETTINGS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object when ready; logs go to stderr.")
    ] = False,
) -> None:
    """Run the bot until SIGTERM or Ctrl-C; what is under way is brought to its end.

    Example: broker slack serve --settings /etc/broker/slack.yaml
    """
    _log_to_stderr()
    _installed()
    asyncio.run(_serve(load_settings(settings), as_json=as_json))


@app.command()
def check(
    *,
    settings: SettingsOption = DEFAULT_SETTINGS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is wrong with the bot's set-up: secrets, Slack, the broker, the key. Posts nothing.

    Example: broker slack check --settings /etc/broker/slack.yaml
    """
    _log_to_stderr()
    _installed()
    from broker.slack.check import check as look  # noqa: PLC0415 - needs Slack's libraries, which are an extra

    found = asyncio.run(look(load_settings(settings)))
    output = SlackCheckOutput(
        fit=all(item.fit for item in found),
        findings=[FindingOutput(what=item.what, fit=item.fit, text=item.text, hint=item.hint) for item in found],
    )
    emit(output, as_json=as_json, render=_render_check)
    if not output.fit:
        raise typer.Exit(int(ExitCode.USAGE))


async def _serve(settings: SlackSettings, *, as_json: bool) -> None:
    from broker.slack.serve import serving  # noqa: PLC0415 - as above

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    serving_task = asyncio.current_task()

    def end() -> None:
        stop.set()
        # Before it serves it may wait for Slack: then there is nothing to bring to its end.
        if not ready and serving_task is not None:
            serving_task.cancel()

    ready = False
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        async with serving(settings, stop.set) as bot:
            ready = True
            output = SlackServeOutput(
                mode=bot.mode.value,
                address=bot.address,
                team=bot.team,
                bot_user=bot.bot_user,
                key=bot.key,
                pid=os.getpid(),
            )
            emit(output, as_json=as_json, render=_render_serve)
            await stop.wait()
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


def _installed() -> None:
    if find_spec("slack_bolt") is None:
        raise FailedPreconditionError(
            "Slack's libraries are not installed",
            reason="EXTRA_MISSING",
            hint="Install the package with its extra: pip install 'agent-broker[slack]'",
        )


def _render_serve(output: SlackServeOutput) -> None:
    where = f"at {output.address}" if output.address else "over a connection to Slack"
    console.print(f"the bot {output.bot_user} of team {output.team} serves {where}; it attests with {output.key}")


def _render_check(output: SlackCheckOutput) -> None:
    for item in output.findings:
        console.print("ok  " if item.fit else "BAD ", style="green" if item.fit else "bold red", end="")
        console.print(f"{item.what}: {item.text}", markup=False)
        if item.hint:
            console.print(f"    {item.hint}", markup=False)


def _log_to_stderr() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
