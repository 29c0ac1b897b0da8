"""``broker sandbox probe``: does a real container of an image hold a tool as it should?"""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from broker.cli.local import JsonOption, StateOption
from broker.cli.output import ExitCode, OutputModel, console, emit, printable
from broker.cli.sandbox_options import EngineOption
from broker.sandbox.capabilities import missing
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.probe import ProbeReport
from broker.sandbox.probe import probe as look
from broker.sandbox.probe_judging import Holds
from broker.sandbox.probe_rules import unfit
from broker.settings import DEFAULT_STATE, load_settings

_COLOURS = {Holds.YES: "green", Holds.NO: "red", Holds.UNKNOWN: "yellow"}


class ProbeFinding(OutputModel):
    """One thing that was looked at from inside."""

    name: str
    holds: Literal["yes", "no", "unknown"]
    must: bool
    """Whether a sandbox in which it doesn't hold is unfit."""
    seen: str
    """What was seen, at most 300 characters; it comes out of the container."""
    why: str
    """What a tool could do otherwise."""


class ProbeOutput(OutputModel):
    """What ``broker sandbox probe`` prints."""

    image: str
    """Name of the image."""
    image_id: str
    runtime: str
    """The engine's name for the container runtime."""
    missing: tuple[str, ...]
    """What the runtime is known not to do."""
    holds: bool
    """Whether all holds that must; exit code 1 where not."""
    probes: tuple[ProbeFinding, ...]


def probe(
    image: Annotated[str, typer.Argument(help="Name of a sandbox image, or its digest.")] = "python",
    *,
    runtime: Annotated[
        str, typer.Option("--runtime", help="Container runtime, such as runsc; default: the engine's own choice.")
    ] = "",
    state: StateOption = DEFAULT_STATE,
    engine: EngineOption = "",
    as_json: JsonOption = False,
) -> None:
    """Look at a real container from within: rights, system calls, mounts, network, limits; say what holds.

    Exit code 1 where something doesn't hold that must. Example: broker sandbox probe python --runtime runsc
    """
    report = asyncio.run(_probe(image, runtime, engine or load_settings(state).engine))
    output = ProbeOutput(
        image=report.image.name,
        image_id=report.image.id,
        runtime=report.capabilities.runtime,
        missing=missing(report.capabilities),
        holds=not unfit(report.probes),
        probes=tuple(
            ProbeFinding(
                name=item.name, holds=item.holds.value, must=item.must, seen=printable(item.seen), why=item.why
            )
            for item in report.probes
        ),
    )
    emit(output, as_json=as_json, render=_show)
    if not output.holds:
        raise typer.Exit(ExitCode.TOOL_FAILED)


async def _probe(image: str, runtime: str, address: str) -> ProbeReport:
    async with DockerEngine("broker-probe", address=address) as engine:
        return await look(engine, image, runtime)


def _show(output: ProbeOutput) -> None:
    table = Table("probe", "holds", "seen")
    for item in output.probes:
        colour = _COLOURS[Holds(item.holds)]
        must = "" if item.must or item.holds == "yes" else " (known)"
        table.add_row(item.name, f"[{colour}]{item.holds}[/{colour}]{must}", escape(item.seen))
    console.print(f"image {output.image} ({output.image_id[:19]}), runtime {output.runtime}", markup=False)
    console.print(table)
    for text in output.missing:
        console.print(f"the runtime is known for: {text}", markup=False)
    for item in output.probes:
        if item.holds == "no":
            console.print(f"{item.name}: {item.why}", markup=False, style="red" if item.must else "yellow")
    console.print("all holds that must" if output.holds else "the sandbox is unfit: see what is red above")
