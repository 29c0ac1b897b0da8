"""``broker sandbox``: the images that tools run in, what the pool holds, and what was left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import typer
from rich.table import Table

from broker.cli.local import JsonOption, StateOption
from broker.cli.output import OutputModel, console, emit
from broker.cli.sandbox_gc import gc
from broker.cli.sandbox_options import EngineOption
from broker.cli.sandbox_probe import probe
from broker.cli.sandbox_status import status
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.images import SandboxImage
from broker.settings import DEFAULT_STATE, load_settings

app = typer.Typer(
    no_args_is_help=True,
    help="List and probe sandbox images; show the warm pool; remove what a broker left behind.",
)


class ImageOutput(OutputModel):
    """One sandbox image."""

    name: str
    id: str
    inputs: str
    size_bytes: int
    current: bool


class ImagesOutput(OutputModel):
    """What ``broker sandbox images`` prints."""

    items: tuple[ImageOutput, ...]


@app.command()
def images(*, state: StateOption = DEFAULT_STATE, engine: EngineOption = "", as_json: JsonOption = False) -> None:
    """List the sandbox images on the engine; `current` is the one that tool specs mean by the name.

    Example: broker sandbox images --json
    """
    address = engine or load_settings(state).engine
    found = asyncio.run(_images(address))
    items = tuple(
        ImageOutput(name=item.name, id=item.id, inputs=item.inputs, size_bytes=item.size_bytes, current=item.current)
        for item in found
    )
    emit(ImagesOutput(items=items), as_json=as_json, render=_show_images)


app.command("status")(status)
app.command("gc")(gc)
app.command("probe")(probe)


async def _images(address: str) -> Sequence[SandboxImage]:
    async with DockerEngine("broker-cli", address=address) as engine:
        return await engine.images()


def _show_images(output: ImagesOutput) -> None:
    if not output.items:
        console.print("no sandbox image on this engine; run: make images")
        return
    table = Table("name", "id", "inputs", "MiB", "current")
    for item in output.items:
        size = f"{item.size_bytes / 2**20:.0f}"
        table.add_row(item.name, item.id[:19], item.inputs, size, "yes" if item.current else "")
    console.print(table)
