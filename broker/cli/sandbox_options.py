"""Options that the commands of ``broker sandbox`` share."""

from __future__ import annotations

from typing import Annotated

import typer

EngineOption = Annotated[
    str, typer.Option("--engine", help="Address of the container engine; default: the settings, then DOCKER_HOST.")
]
