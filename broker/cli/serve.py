"""`broker serve`: runs the broker until SIGTERM or SIGINT, then drains."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import structlog
import typer

from broker.app import Running, now, running
from broker.app.unfit import UNFIT, refusing
from broker.cli.output import OutputModel, console, emit
from broker.domain.ids import new_id
from broker.errors import BrokerError, UnavailableError
from broker.rpc.administration import Boot
from broker.settings import DEFAULT_STATE, Settings, load_settings

_LOOK_S = 1.0
_COLLECT_AFTER = (10_000, 20, 20)
"""Allocations before a collection of the young, and how many of those before an older generation is looked at."""


class ServeOutput(OutputModel):
    """Printed once, when the broker takes calls, or stays up only to say why it takes none (``not_serving``)."""

    address: str
    unsafe_plaintext_address: str
    boot_id: str
    version: str
    tools: int
    policy_digest: str
    pid: int
    not_serving: str = ""
    """Reason for which it refuses every request; empty where it takes calls."""


def serve(
    state: Annotated[
        Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory that `broker init` made.")
    ] = DEFAULT_STATE,
    listen: Annotated[
        str, typer.Option("--listen", help="Address for mutual TLS, such as 127.0.0.1:7443; port 0 takes a free one.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object when ready; logs go to stderr.")
    ] = False,
) -> None:
    """Run the broker.

    It takes calls once the ledger has verified, and says so in one line. SIGTERM or Ctrl-C drains it: what runs may end
    within `drain_s`, what waits goes on at the next start.

    Example: broker serve --state .state/broker --listen 127.0.0.1:7443
    """
    _log_to_stderr(as_json=as_json)
    settings = load_settings(state)
    if listen:
        settings = settings.model_copy(update={"listen": listen})
    asyncio.run(_serve(state, settings, as_json=as_json))


async def _serve(state: Path, settings: Settings, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await _work(stop, state, settings, as_json=as_json)
    except _UnfitError as unfit:
        why = unfit.why
    except BrokerError as error:
        if error.reason not in UNFIT:
            raise
        why = error
    else:
        return
    if not stop.is_set():
        await _refuse(stop, state, settings, why, as_json=as_json)
    raise why  # it ends badly, however politely it was asked to end


class _UnfitError(Exception):
    """While it served, the broker found its ledger unfit."""

    def __init__(self, why: BrokerError) -> None:
        super().__init__(why.reason)
        self.why = why


async def _refuse(stop: asyncio.Event, state: Path, settings: Settings, why: BrokerError, *, as_json: bool) -> None:
    """Stays up without serving, so that whoever asks is told why, and a supervisor doesn't start it over and over."""
    log = structlog.get_logger(__name__)
    log.error("broker.not_serving", reason=why.reason, error=str(why), hint=why.hint)
    boot = Boot(version("agent-broker"), new_id("boot"), now())
    async with refusing(state, settings, boot, why) as address:
        output = ServeOutput(
            address=address,
            unsafe_plaintext_address="",
            boot_id=boot.boot_id,
            version=boot.version,
            tools=0,
            policy_digest="",
            pid=os.getpid(),
            not_serving=why.reason,
        )
        emit(output, as_json=as_json, render=_render)
        await stop.wait()


async def _work(stop: asyncio.Event, state: Path, settings: Settings, *, as_json: bool) -> None:
    broker: Running | None = None
    try:
        async with running(state, settings) as broker:
            # What a start has made stays until the end: no collection need look at it again, in the middle of a call.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT_AFTER)
            emit(_output(broker), as_json=as_json, render=_render)
            await _until_stopped(stop, broker)
            structlog.get_logger(__name__).info("broker.draining", seconds=settings.drain_s)
    finally:
        if broker is not None and broker.unfit is not None:
            raise _UnfitError(broker.unfit)  # whatever else went wrong at its end came of this


async def _until_stopped(stop: asyncio.Event, broker: Running) -> None:
    while not stop.is_set() and broker.unfit is None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await stop.wait()
        if broker.parts.store.failed:
            # Whether the last commit is durable shows only after a new start: whoever supervises us must make it.
            raise UnavailableError(
                "the database has failed; the broker stops and takes no more calls",
                reason="STORE_FAILED",
                hint="Look for a full or broken disk, then start the broker again.",
            )


def _output(broker: Running) -> ServeOutput:

    return ServeOutput(
        address=broker.address,
        unsafe_plaintext_address=broker.unsafe_address,
        boot_id=broker.boot.boot_id,
        version=broker.boot.version,
        tools=len(broker.parts.catalogue.names),
        policy_digest=broker.parts.policy.snapshot.digest,
        pid=os.getpid(),
    )


def _render(output: ServeOutput) -> None:
    if output.not_serving:
        console.print(
            f"broker {output.version} at {output.address} is NOT SERVING: {output.not_serving}", style="bold red"
        )
        return
    console.print(f"broker {output.version} takes calls at {output.address} (mutual TLS), {output.tools} tools")
    if output.unsafe_plaintext_address:
        console.print(f"UNSAFE: {output.unsafe_plaintext_address} takes calls without TLS or authentication")


def _log_to_stderr(*, as_json: bool) -> None:
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() and not as_json else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
