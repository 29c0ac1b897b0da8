"""Orphans, other brokers' containers, and runners that die or lie."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from broker.domain.run import Output, Profile, Started
from broker.errors import UnavailableError
from broker.sandbox.address import engine_address
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.engine import Engine
from broker.sandbox.reaper import Reaper, orphans, reap_all
from tests.sandbox_support import LIMITS, docker_engine, finish, leased, new_instance, profile, python

pytestmark = pytest.mark.docker

HOLD = """
import asyncio, sys
from broker.domain.run import Limits, Output
from broker.sandbox.docker_engine import DockerEngine
from tests.sandbox_support import leased, profile, python

async def main():
    async with DockerEngine(sys.argv[1]) as engine:
        async with leased(engine, await profile(engine)) as lease:
            async for event in lease.run(python("print(1)\\nimport time\\ntime.sleep(600)")):
                if isinstance(event, Output):
                    print(lease.container_id, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def client() -> Iterator[docker.APIClient]:
    connection = docker.APIClient(base_url=engine_address(), version="auto")
    yield connection
    connection.close()


def left_by_a_crash(instance: str, repository: Path) -> str:
    """Lets a broker of that name die by SIGKILL in the middle of a run; returns the container's id."""
    with subprocess.Popen([sys.executable, "-c", HOLD, instance], stdout=subprocess.PIPE, cwd=repository) as process:
        assert process.stdout is not None
        container_id = process.stdout.readline().decode().strip()
        assert container_id
        process.send_signal(signal.SIGKILL)
    return container_id


async def test_what_a_crash_left_is_reaped_at_the_next_start(repository: Path) -> None:
    instance = new_instance()
    orphan = left_by_a_crash(instance, repository)
    async with docker_engine(instance) as engine:
        assert [item.id for item in await engine.list_owned()] == [orphan]
        assert [item.id for item in await reap_all(engine)] == [orphan]
        assert await engine.list_owned() == []
        assert await reap_all(engine) == []


async def test_the_timer_takes_an_orphan_on_second_sight_and_never_a_live_one(repository: Path) -> None:
    instance = new_instance()
    orphan = left_by_a_crash(instance, repository)
    async with (
        docker_engine(instance) as engine,
        Reaper(engine, interval_s=3600) as reaper,
        leased(engine, await profile(engine)) as lease,
    ):
        assert await reaper.sweep() == []
        assert [item.id for item in await reaper.sweep()] == [orphan]
        assert await reaper.sweep() == []
        assert [item.id for item in await engine.list_owned()] == [lease.container_id]
        assert (await finish(lease, python("print(1)"))).text == "1\n"


async def test_the_timer_itself_reaps(repository: Path) -> None:
    instance = new_instance()
    left_by_a_crash(instance, repository)
    async with docker_engine(instance) as engine, Reaper(engine, interval_s=0.01):
        while await engine.list_owned():
            pass


async def test_two_brokers_do_not_touch_each_others_containers(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease, docker_engine() as other:
        assert await other.list_owned() == []
        assert await reap_all(other) == []
        assert (await finish(lease, python("print(1)"))).text == "1\n"


async def test_a_removed_container_is_no_error_to_remove(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        await engine.remove(lease.container_id)
        await engine.remove(lease.container_id)
        assert await orphans(engine) == []


async def test_a_container_that_somebody_else_kills_is_our_failure_and_no_output(
    engine: Engine, client: docker.APIClient
) -> None:
    async with leased(engine, await profile(engine)) as lease:
        events = lease.run(python("print(1)\nimport time\ntime.sleep(600)"))
        assert isinstance(await anext(events), Started)
        assert await anext(events) == Output("stdout", b"1\n")
        client.kill(lease.container_id)
        with pytest.raises(UnavailableError) as caught:
            await anext(events)
    assert caught.value.reason == "ENGINE_FAILED"


LIARS = {
    "garbage": ["/bin/echo", "this is no frame"],
    "silence": ["/bin/true"],
    "end_before_start": ["/usr/bin/printf", r"\037\0\0\0\0\0\0\0\0"],
    "endless_frame": ["/usr/bin/printf", r"\021\0\0\0\0\177\377\377\377"],
    "output_before_start": ["/usr/bin/printf", r"\040\0\0\0\1\0\0\0\1x"],
    "started_before_the_job": ["/usr/bin/printf", r"\021\0\0\0\0\0\0\0\0"],
    "an_answer_unasked": ["/usr/bin/printf", r"\020\0\0\0\0\0\0\0\010\0\0\0\0\0\0\0\1"],
    "flood": ["/usr/bin/yes"],
}


@pytest.mark.parametrize("entrypoint", LIARS.values(), ids=LIARS)
async def test_a_runner_that_dies_or_lies_is_our_failure(
    engine: Engine, client: docker.APIClient, entrypoint: list[str]
) -> None:
    image = _image(client, (await engine.image("python")).id, entrypoint)
    try:
        async with leased(engine, Profile(image, LIMITS)) as lease:
            with pytest.raises(UnavailableError) as caught:
                await finish(lease, python("print(1)"))
        assert caught.value.reason == "ENGINE_FAILED"
    finally:
        while await engine.list_owned():
            pass  # an image can't go while its container is there
        client.remove_image(image, force=True)


def _image(client: docker.APIClient, base: str, entrypoint: list[str]) -> str:
    """An image with another process 1; nothing is run and nothing fetched to make it."""
    words = ", ".join('"' + word.replace("\\", "\\\\") + '"' for word in entrypoint)
    text = f"FROM {base}\nENTRYPOINT [{words}]\n".encode()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    context.seek(0)
    tag = new_instance()
    for line in client.build(fileobj=context, custom_context=True, tag=tag, decode=True, rm=True):
        assert "error" not in line, line
    return str(client.inspect_image(tag)["Id"])


async def test_an_engine_that_is_away_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        async with DockerEngine("test", address=f"unix://{tmp_path}/nobody.sock"):
            pass
    assert caught.value.reason == "ENGINE_FAILED"
    assert "broker doctor" in caught.value.hint
