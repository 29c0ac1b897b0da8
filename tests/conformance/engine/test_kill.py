"""Ending a run from outside, whatever the tool does about it."""

from __future__ import annotations

import asyncio

import pytest

from broker.domain.run import EndCause, Ended, EvidenceSource, Limits, Output, RunEvent, Started
from broker.errors import UnavailableError
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.engine import Engine, Lease
from broker.sandbox.reaper import reap_all
from tests.sandbox_support import (
    LIMITS,
    UNCONFIRMED,
    argv,
    finish,
    gather,
    leased,
    new_instance,
    profile,
    python,
    says_killed,
)

pytestmark = pytest.mark.docker

STUBBORN = {
    "idle": "",
    "ignores_signals": "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\n",
    "double_fork": "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n",
    "stopped_child": "import os, signal\npid = os.fork()\nif pid: os.kill(pid, signal.SIGSTOP)\n",
    "fork_bomb": "import os\nprint('up')\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",
    "all_at_once": (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "for n in range(8):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork(): os._exit(0)\n"
        "        if n % 2: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        if n == 0: print('up')\n        while True:\n            try: os.fork()\n            except OSError: pass\n"
    ),
}
GONE_S = 1.0
"""The promise: how long after a kill a container and all in it may still be there."""
SLOW_GONE_S = 20.0
"""The same for a runtime with a kernel of its own, which has to take that down too."""
FLOOD = "import os\nprint('up')\nwhile True: os.write(1, b'x' * 65536)"


async def ended_by_client(lease: Lease, code: str) -> Ended:
    """Kills a run as soon as the tool has said something."""
    last: RunEvent | None = None
    async for event in lease.run(python(code)):
        last = event
        if isinstance(event, Output):
            lease.kill(EndCause.CLIENT, "asked to")
    assert isinstance(last, Ended)
    return last


@pytest.mark.parametrize("code", STUBBORN.values(), ids=STUBBORN)
async def test_no_tool_outlives_a_kill(engine: Engine, code: str) -> None:
    code = f"{code}print('up')\nimport time\nwhile True: time.sleep(60)"
    async with leased(engine, await profile(engine, LIMITS)) as lease:
        ended = await ended_by_client(lease, code)
        async with asyncio.timeout(SLOW_GONE_S if lease.profile.runtime else GONE_S):
            await lease.removed()
        assert await engine.list_owned() == []  # gone before the lease is
        assert lease.container_id not in engine.live()
    assert (ended.cause, ended.cause_source) == (EndCause.CLIENT, EvidenceSource.BROKER)
    assert (ended.detail, ended.exit_code) == ("asked to", None)


async def test_a_flood_can_be_ended_while_nobody_reads(engine: Engine) -> None:
    limits = Limits(output_bytes=2**30)
    async with leased(engine, await profile(engine, limits)) as lease:
        events = lease.run(python(FLOOD))
        assert isinstance(await anext(events), Started)
        assert isinstance(await anext(events), Output)
        lease.kill(EndCause.OPERATOR, "enough")
        while await engine.list_owned():
            pass
        last = [event async for event in events][-1]
    assert isinstance(last, Ended)
    assert last.cause is EndCause.OPERATOR


async def test_the_first_cause_is_the_one_that_counts(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        lease.kill(EndCause.OPERATOR, "first")
        lease.kill(EndCause.CLIENT, "second")
        done = await finish(lease, python("print(1)"))
    assert (done.ended.cause, done.ended.detail, done.stdout) == (EndCause.OPERATOR, "first", b"")


async def test_a_kill_after_the_end_changes_nothing(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        done = await finish(lease, python("print(1)"))
        lease.kill(EndCause.CLIENT, "late")
    assert done.ended.cause is EndCause.TOOL


async def test_background_processes_die_with_the_tool_and_are_heard_until_then(engine: Engine) -> None:
    code = "(trap '' TERM HUP; while :; do sleep 600; done) & (setsid sleep 600 &) ; echo done"
    async with leased(engine, await profile(engine)) as lease:
        done = await finish(lease, argv("sh", "-c", code))
    assert (done.text, done.ended.exit_code, done.ended.cause) == ("done\n", 0, EndCause.TOOL)


async def test_an_abandoned_run_is_ended(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        events = lease.run(python("print(1)\nimport time\ntime.sleep(600)"))
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator
        while await engine.list_owned():
            pass


async def test_a_cancelled_call_leaves_nothing(engine: Engine) -> None:
    begun = asyncio.Event()

    async def call() -> None:
        async with leased(engine, await profile(engine)) as lease:
            async for event in lease.run(python("print(1)\nimport time\ntime.sleep(600)")):
                if isinstance(event, Output):
                    begun.set()

    task = asyncio.create_task(call())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("state", ["", "created", "running"])
async def test_a_call_cancelled_while_its_container_is_made_leaves_nothing(engine: Engine, state: str) -> None:
    chosen = await profile(engine)

    async def call() -> None:
        async with leased(engine, chosen):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    while state and state not in {item.state for item in await engine.list_owned()}:
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_that_fails_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(RuntimeError):
        async with leased(engine, await profile(engine)):
            raise RuntimeError


async def test_a_destroyed_lease_ends_its_run(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        events = lease.run(python("print(1)\nimport time\ntime.sleep(600)"))
        await anext(events)
        await lease.destroy()
        await lease.destroy()
        with pytest.raises(UnavailableError):
            await gather(lease, events)


async def test_where_the_engine_does_not_answer_nobody_says_that_it_killed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = asyncio.Event()
    remove = DockerEngine.remove

    async def late(self: DockerEngine, container_id: str) -> None:
        await answers.wait()
        await remove(self, container_id)

    monkeypatch.setattr(DockerEngine, "remove", late)
    async with leased(engine, await profile(engine, LIMITS)) as lease:
        ended = await ended_by_client(lease, "print('up')\nimport time\ntime.sleep(600)")
        answers.set()
    assert (ended.cause, ended.exit_code, ended.signal) == (EndCause.CLIENT, None, None)
    assert ended.warnings[-1] == UNCONFIRMED
    assert says_killed(ended)


async def test_an_engine_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = new_instance()

    async def never(_: DockerEngine, __: str) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(DockerEngine, "remove", never)
        patched.setattr("broker.sandbox.docker_engine._CLOSE_S", 0.1)
        async with asyncio.timeout(GONE_S * 10), DockerEngine(instance) as engine:
            lease = await engine.create(await profile(engine))
            await lease.destroy()
    async with DockerEngine(instance) as again:
        assert [item.id for item in await reap_all(again)] == [lease.container_id]
        assert await again.list_owned() == []
