"""A scripted broker over mutual TLS, and a client of it that doesn't wait long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.client import AsyncBroker, CallContext, RetryPolicy
from tests.fake_broker import Authority, FakeBroker, fake_broker


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.make("ca")


@pytest.fixture(scope="session")
def identity(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.write(tmp_path_factory.mktemp("identities") / "bot", "bot")


@pytest.fixture(scope="session")
def quick() -> RetryPolicy:
    return RetryPolicy(attempts=3, total_s=5, initial_s=0.001, max_s=0.002)


@pytest.fixture
async def fake(authority: Authority) -> AsyncIterator[FakeBroker]:
    async with fake_broker(authority) as server:
        yield server


@pytest.fixture
async def broker(fake: FakeBroker, identity: Path, quick: RetryPolicy) -> AsyncIterator[AsyncBroker]:
    context = CallContext(workspace="demo", purpose="to test")
    async with AsyncBroker.connect(
        fake.address, identity=identity, ca=fake.authority.pem, context=context, retry=quick
    ) as client:
        yield client
