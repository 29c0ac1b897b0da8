"""The engines and runtimes that the suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.errors import FailedPreconditionError
from broker.sandbox.engine import Engine
from tests.sandbox_support import RuntimeEngine, docker_engine


@asynccontextmanager
async def docker_runsc() -> AsyncIterator[Engine]:
    """The local Docker engine with gVisor's runtime; skips in plain sight where the engine has none."""
    async with docker_engine() as engine:
        try:
            await engine.capabilities("runsc")
        except FailedPreconditionError as error:
            pytest.skip(f"needs an engine with the runtime runsc: {error.message}")
        yield RuntimeEngine(engine, "runsc")


ENGINES = {"docker": docker_engine, "docker-runsc": docker_runsc}


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """One engine under one runtime, under a name of its own; the test fails where it leaves a container behind."""
    async with ENGINES[request.param]() as engine:
        yield engine
