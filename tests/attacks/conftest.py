"""The engines that are attacked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.sandbox.engine import Engine
from tests.attacks.sandbox_probes import ENGINES


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """One engine, under a name of its own; the test fails where it leaves a container behind."""
    async with ENGINES[request.param]() as engine:
        yield engine
