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
import yaml

from broker.client import RetryPolicy
from broker.domain.call import CallState
from broker.errors import BrokerError
from broker.sandbox.job_frames import LET_START
from broker.sandbox.wire import FrameKind, encode
from tests.approval_scene import CHANGED, EngineBetween, Scene, agreed, end_of, engine_between
from tests.approval_world import TOOL
from tests.served import Served, make_state, serving

pytestmark = pytest.mark.docker

TOGETHER = (1, 1, 2, 2)
CALLS = sum(TOGETHER)
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


async def filled(served: Served, count: int = 3) -> None:
    async with served.human() as operator, asyncio.timeout(WITHIN_S):
        while (await operator.sandbox_status()).idle < count:
            pass  # each question takes a while by itself


async def test_nothing_is_let_start_before_its_intent_is_durable(state: Path, between: EngineBetween) -> None:
    eye = between.said = Eye(state)
    with serving(state, DOCKER_HOST=between.address) as served:
        async with served.client() as client:
            for together in TOGETHER:
                await filled(served)
                calls = await asyncio.gather(*(client.run("python.run", CODE) for _ in range(together)))
                assert [call.stdout for call in calls] == [b"a-job-of-this-test\n"] * together
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
    assert (eye.ahead <= 1, eye.starts) == (True, 0)


async def test_a_job_that_people_agreed_to_goes_only_when_it_may_start(scene: Scene, tmp_path: Path) -> None:
    settings = scene.state / "settings.yaml"
    pool = {"pool_prewarm": [TOOL], "pool_floor": 1, "pool_ceiling": 1}
    settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text("utf-8")), **pool}), "utf-8")
    with engine_between(tmp_path) as between:
        pieces: list[bytes] = []
        between.said = pieces.append
        async with scene.open(DOCKER_HOST=between.address) as world, world.agent() as agent:
            for _ in range(2):
                call = await agent.create_call(TOOL, CHANGED)
                approval = await world.pending(call.name)
                await filled(world.served, 1)
                await agreed(world, approval, "ada", "bob")
                ended, output = await end_of(agent, call)
                assert (ended.state, output) == (CallState.SUCCEEDED, b"changed\n")
            async with world.served.human() as operator:
                warm = sum(row.warm_claims for row in (await operator.sandbox_status()).pools)
    jobs = [piece for piece in pieces if b"print(\\'changed\\')" in piece or b"print('changed')" in piece]
    assert warm == 2
    assert len(jobs) == 2
    assert all(job.endswith(LET_START) for job in jobs)
