"""Between a broker and its engine somebody sees what goes into the containers: a job may be there before its intent is
durable, and what lets it start may not.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.client import RetryPolicy
from broker.errors import BrokerError
from broker.sandbox.job_frames import LET_START
from broker.sandbox.wire import FrameKind, encode
from tests.approval_scene import EngineBetween, engine_between
from tests.served import Served, make_state, serving

pytestmark = pytest.mark.docker

CALLS = 6
WITHIN_S = 60
CODE = {"code": "print('a-job-of-this-test')"}
PING = encode(FrameKind.PING)[:1]


@dataclass
class Eye:
    """Sees each piece that goes into a container, and what was durable at that moment."""

    state: Path
    ahead: int = 0
    """Jobs that came without what lets them start."""
    starts: int = 0
    early: list[int] = field(default_factory=list)
    """At each start that came before its intent was durable: how many intents there were."""

    def __call__(self, data: bytes) -> None:
        if b"a-job-of-this-test" in data and not data.endswith(LET_START):
            assert data.startswith(PING)
            self.ahead += 1
        if data.endswith(LET_START):
            self.starts += 1
            with closing(sqlite3.connect(f"file:{self.state / 'broker.db'}?mode=ro", uri=True)) as database:
                entries = database.execute("SELECT count(*) FROM call WHERE intent_seq IS NOT NULL").fetchone()[0]
            if entries < self.starts:
                self.early.append(entries)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_state(path, settings={"pool_prewarm": ["python.run"], "pool_floor": 3, "pool_ceiling": 3})
    return path


@pytest.fixture
def between(tmp_path: Path) -> Iterator[EngineBetween]:
    with engine_between(tmp_path) as between:
        yield between


async def filled(served: Served) -> None:
    async with served.human() as operator, asyncio.timeout(WITHIN_S):
        while (await operator.sandbox_status()).idle < 3:
            pass  # each question takes a while by itself


async def test_nothing_is_let_start_before_its_intent_is_durable(state: Path, between: EngineBetween) -> None:
    eye = between.said = Eye(state)
    with serving(state, DOCKER_HOST=between.address) as served:
        async with served.client() as client:
            for _ in range(CALLS // 2):
                await filled(served)
                calls = await asyncio.gather(*(client.run("python.run", CODE) for _ in range(2)))
                assert [call.stdout for call in calls] == [b"a-job-of-this-test\n"] * 2
    assert (eye.ahead, eye.starts, eye.early) == (CALLS, CALLS, [])


async def test_a_job_whose_intent_cannot_be_written_is_never_let_start(state: Path, between: EngineBetween) -> None:
    eye = between.said = Eye(state)
    with serving(state, DOCKER_HOST=between.address) as served:
        served.killed = True  # it ends by itself, and not with 0
        async with served.client(retry=RetryPolicy(attempts=1)) as client:
            await filled(served)
            # From here on the broker's process can write nothing further back in a file than this: its next commit fails.
            resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            with pytest.raises(BrokerError):
                await client.run("python.run", CODE)
        assert await asyncio.to_thread(served.process.wait, WITHIN_S) == 5
    assert (eye.ahead, eye.starts) == (1, 0)
