"""The warm pool over a real engine: warm calls, containers that others killed, and nothing left at the end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest

from broker.domain.meter import Claim
from broker.domain.run import EndCause, Limits, Output, Profile
from broker.errors import FailedPreconditionError, UnavailableError
from broker.sandbox.address import engine_address
from broker.sandbox.engine import Engine
from broker.sandbox.pool import Pool
from broker.sandbox.pool_sizing import Sizing
from broker.sandbox.reaper import reap_all
from tests.memory_engine import Bell, Counting
from tests.sandbox_support import docker_engine, finish, new_instance, profile, python

pytestmark = pytest.mark.docker

NEVER_S = 3600.0
STILL = Sizing(floor=2, quiet_s=NEVER_S, refill_wait_s=NEVER_S)
"""Filled once; after the first call the pool makes nothing more of its own accord."""

HOLD = """
import asyncio, sys
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.pool import Pool
from broker.sandbox.pool_sizing import Sizing
from tests.memory_engine import Bell, Counting
from tests.sandbox_support import profile

async def main():
    bell = Bell()
    async with DockerEngine(sys.argv[1]) as engine, Pool(engine, Sizing(), meter=Counting(bell)) as pool:
        pool.prewarm([await profile(engine)])
        await bell.until(lambda: pool.status().idle == 2)
        print("warm", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class World:
    """A pool over a real engine, filled with one profile."""

    def __init__(self, pool: Pool, meter: Counting, wanted: Profile) -> None:
        self.pool = pool
        self.meter = meter
        self.profile = wanted
        self._numbers = iter(range(10**6))

    async def filled(self, count: int) -> None:
        """Returns once so many wait, and nothing is being made."""
        await self.meter.bell.until(lambda: (self.pool.status().idle, self.pool.status().making) == (count, 0))

    async def say(self, word: str) -> str:
        """A call that prints a word; gives its container."""
        async with self.pool.lease(f"call_{next(self._numbers)}", self.profile) as lease:
            assert (await finish(lease, python(f"print({word!r})"))).text == f"{word}\n"
            return lease.container_id


@asynccontextmanager
async def warm_pool(engine: Engine, sizing: Sizing = STILL, limits: Limits | None = None) -> AsyncIterator[World]:
    """A filled pool; once it is closed, the engine's own list is empty."""
    meter = Counting(Bell())
    wanted = await profile(engine, limits or Limits())
    async with Pool(engine, sizing, meter=meter) as pool:
        pool.prewarm([wanted])
        world = World(pool, meter, wanted)
        await world.filled(min(sizing.floor, sizing.ceiling))
        yield world
    assert await engine.list_owned() == []


@pytest.fixture
def client() -> Iterator[docker.APIClient]:
    connection = docker.APIClient(base_url=engine_address(), version="auto")
    yield connection
    connection.close()


async def test_a_warm_call_runs_and_its_container_is_gone_after(engine: Engine) -> None:
    async with warm_pool(engine, Sizing(floor=2)) as world:
        ready = {item.id for item in await engine.list_owned()}
        first = await world.say("one")
        second = await world.say("two")
        assert {first, second} == ready
        assert world.meter.claims == [Claim.WARM, Claim.WARM]
        await world.filled(2)
        async with asyncio.timeout(20):
            while {item.id for item in await engine.list_owned()} & ready:
                pass
        assert await world.say("three") not in ready


async def test_ten_calls_at_once_get_ten_containers(engine: Engine) -> None:
    async with warm_pool(engine, Sizing(floor=4, ceiling=4)) as world:
        got = await asyncio.gather(*(world.say(str(number)) for number in range(10)))
        assert len(set(got)) == 10
        assert Counter(world.meter.claims) == {Claim.WARM: 4, Claim.COLD: 6}
        await world.filled(4)
        assert all(idle <= 4 for idle, _, _ in world.meter.sizes)


@pytest.mark.parametrize("harm", ["kill", "stop", "pause", "remove_container"])
async def test_what_somebody_did_to_a_waiting_container_is_found_at_the_claim(
    engine: Engine, client: docker.APIClient, harm: str
) -> None:
    async with warm_pool(engine) as world:
        harmed = {item.id for item in await engine.list_owned()}
        act: Callable[..., object] = getattr(client, harm)
        for container in harmed:
            more = {"force": True} if harm == "remove_container" else {"timeout": 0} if harm == "stop" else {}
            await asyncio.to_thread(act, container, **more)
        assert await world.say("alive") not in harmed
        assert world.meter.claims == [Claim.UNFIT, Claim.UNFIT, Claim.COLD]


async def test_where_one_of_two_is_dead_the_other_is_used(engine: Engine, client: docker.APIClient) -> None:
    async with warm_pool(engine) as world:
        older, newer = sorted(
            (item.id for item in await engine.list_owned()), key=lambda item: client.inspect_container(item)["Created"]
        )
        await asyncio.to_thread(client.kill, newer)
        assert await world.say("alive") == older
        assert set(world.meter.claims) <= {Claim.UNFIT, Claim.WARM}
        assert world.meter.claims[-1] is Claim.WARM


async def test_a_call_that_takes_all_memory_harms_no_other(engine: Engine) -> None:
    async with warm_pool(engine, STILL, Limits(memory_bytes=48 * 2**20)) as world:
        async with world.pool.lease("call_greedy", world.profile) as lease:
            ended = (await finish(lease, python("held = [bytearray(2**20) for _ in range(4096)]"))).ended
        assert ended.cause is EndCause.MEMORY
        await world.say("alive")
        assert world.meter.claims == [Claim.WARM, Claim.WARM]


async def test_two_pools_on_one_engine_know_nothing_of_each_other() -> None:
    async with docker_engine() as one, docker_engine() as two, warm_pool(one) as mine:
        before = {item.id for item in await one.list_owned()}
        async with warm_pool(two) as theirs:
            assert await reap_all(two) == []
            assert await theirs.say("theirs") not in before
        assert {item.id for item in await one.list_owned()} == before
        assert await mine.say("mine") in before


async def test_what_a_crashed_broker_kept_warm_is_reaped_at_the_next_start(repository: Path) -> None:
    instance = new_instance()
    with subprocess.Popen([sys.executable, "-c", HOLD, instance], stdout=subprocess.PIPE, cwd=repository) as process:  # noqa: ASYNC220  # it dies within this block
        assert process.stdout is not None
        assert process.stdout.readline() == b"warm\n"
        process.send_signal(signal.SIGKILL)
    async with docker_engine(instance) as engine:
        assert len(await reap_all(engine)) == 2
        async with warm_pool(engine) as world:
            await world.say("again")


async def test_an_image_that_is_missing_is_the_calls_error_and_no_busy_loop(engine: Engine) -> None:
    async with warm_pool(engine) as world:
        absent = Profile("sha256:" + "0" * 64, Limits())
        for number in range(3):
            with pytest.raises(FailedPreconditionError) as caught:
                async with world.pool.lease(f"call_absent_{number}", absent):
                    pass
            assert caught.value.reason == "IMAGE_MISSING"
        row = next(row for row in world.pool.status().rows if row.image == absent.image)
        assert (row.trouble, row.idle, row.making, row.cold) == ("IMAGE_MISSING", 0, 0, 3)


async def test_after_sixty_calls_ten_of_them_killed_half_way_nothing_is_left(engine: Engine) -> None:
    async with warm_pool(engine, Sizing(floor=2, ceiling=4)) as world:
        places = asyncio.Semaphore(4)

        async def call(number: int) -> str:
            async with places:
                return await (killed(world, number) if number % 6 == 0 else world.say(str(number)))

        used = await asyncio.gather(*(call(number) for number in range(60)))
        assert len(set(used)) == 60
        assert world.pool.calls() == {}


async def killed(world: World, number: int) -> str:
    """A call whose end comes while its tool runs: it is cancelled, its container is killed, or its reader goes."""
    container = ""

    async def call() -> None:
        nonlocal container
        async with world.pool.lease(f"call_killed_{number}", world.profile) as lease:
            container = lease.container_id
            async for event in lease.run(python("print(1, flush=True)\nimport time\ntime.sleep(600)")):
                if not isinstance(event, Output):
                    continue
                if number % 18 == 0:
                    own = asyncio.current_task()
                    assert own
                    own.cancel()
                elif number % 12 == 0:
                    lease.kill(EndCause.OPERATOR, "a test")
                else:
                    return

    await asyncio.gather(asyncio.create_task(call()), return_exceptions=True)
    assert container
    return container


async def test_a_call_that_is_cancelled_during_its_cold_start_leaves_nothing(engine: Engine) -> None:
    async with warm_pool(engine, Sizing(ceiling=0)) as world:
        for _ in range(5):
            call = asyncio.create_task(world.say("never"))
            await asyncio.sleep(0)
            assert world.pool.status().making == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert world.pool.status().making == 0


async def test_a_pool_closed_while_it_fills_leaves_nothing(engine: Engine) -> None:
    wanted = await profile(engine, Limits())
    meter = Counting(Bell())
    async with Pool(engine, Sizing(floor=8, creates=8), meter=meter) as pool:
        pool.prewarm([wanted])
        await meter.bell.until(lambda: pool.status().making > 0)
        call = asyncio.create_task(World(pool, meter, wanted).say("never"))
        await asyncio.sleep(0)
    assert await engine.list_owned() == []
    with pytest.raises(UnavailableError):
        await call


IMPORTED = "import sys\nprint(sorted({'json', 'signal', 'contextlib'} & sys.modules.keys()))"


async def test_what_counts_as_warm_has_imported_what_tools_use(engine: Engine) -> None:
    async with warm_pool(engine) as world, world.pool.lease("call_warm", world.profile) as lease:
        assert (await finish(lease, python(IMPORTED))).text == "['contextlib', 'json', 'signal']\n"


async def test_a_job_that_waits_for_its_container_lets_it_import_nothing_first(engine: Engine) -> None:
    lease = await engine.create(await profile(engine, Limits()))
    try:
        assert (await finish(lease, python(IMPORTED))).text == "[]\n"
    finally:
        await lease.destroy()
        await lease.removed()


FOUND = """\
import gc, os, sys, threading
print({
    "names": sorted(vars(sys.modules["__main__"])),
    "environment": sorted(os.environ.items()),
    "arguments": sys.argv,
    "path": sys.path,
    "runner": [name for name in sys.modules if name.startswith("runner")],
    "finders": [getattr(item, "__name__", type(item).__name__) for item in sys.meta_path],
    "traced": "linecache" in sys.modules and sorted(name for name in sys.modules["linecache"].cache if name[0] == "<"),
    "files": [sorted(os.listdir(place)) for place in ("/work", "/tmp", "/job", "/dev/shm", "/proc/self/fd")],
    "streams": [str(sys.stdout), str(sys.stderr), sys.stdout.line_buffering],
    "threads": threading.active_count(),
    "garbage": gc.garbage,
    "collects": (gc.isenabled(), gc.get_threshold()),
    "folder": os.getcwd(),
    "mask": os.umask(0),
    "group": os.getpgid(0) == os.getsid(0) == os.getpid(),
})
"""


async def test_a_tool_finds_the_same_in_a_container_that_waited_as_in_one_made_for_it(engine: Engine) -> None:
    async with warm_pool(engine) as world, world.pool.lease("call_warm", world.profile) as lease:
        warm = (await finish(lease, python(FOUND))).text
        fresh = await engine.create(world.profile)
        try:
            cold = (await finish(fresh, python(FOUND))).text
        finally:
            await fresh.destroy()
            await fresh.removed()
    assert world.meter.claims == [Claim.WARM]
    assert warm == cold
    assert "'finders': ['_Lender', 'BuiltinImporter'," in warm
    assert "'collects': (True, " in warm
    assert "'runner': []" in warm
    assert "'files': [[], [], ['arguments.json'], []," in warm
