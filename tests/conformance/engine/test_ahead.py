"""A job that is handed over before it may start: nothing of its tool runs, and all else is as ever."""

from __future__ import annotations

import asyncio
import time

import docker
import pytest

from broker.domain.run import EndCause, Job
from broker.sandbox.address import engine_address
from broker.sandbox.engine import Engine
from tests.sandbox_support import finish, leased, profile, python

pytestmark = pytest.mark.docker

_NOW = "import time; print(time.clock_gettime(time.CLOCK_REALTIME))"
_HELD_S = 0.3
_JOBS = {"python": python(_NOW), "argv": Job("argv", ("python3", "-c", _NOW), "", {"PATH": "/usr/bin"}, b"{}")}


@pytest.mark.parametrize("kind", _JOBS)
async def test_nothing_of_a_tool_runs_before_it_is_let_start(engine: Engine, kind: str) -> None:
    job = _JOBS[kind]
    async with leased(engine, await profile(engine)) as lease:
        assert await lease.ready()
        assert await lease.ready(job)
        await asyncio.sleep(_HELD_S)  # a tool that begins too early has begun by then
        before = time.clock_gettime(time.CLOCK_REALTIME)
        done = await finish(lease, job)
    assert float(done.text) > before - _HELD_S / 2  # a kernel of its own has a clock of its own


async def test_a_tool_that_is_handed_over_is_not_among_the_processes(engine: Engine) -> None:
    job = Job("argv", ("sleep", "3600"), "", {"PATH": "/usr/bin:/bin"}, b"{}")
    client = docker.APIClient(base_url=engine_address(), version="auto")
    try:
        async with leased(engine, await profile(engine)) as lease:
            assert await lease.ready(job)
            commands = [row[-1] for row in client.top(lease.container_id)["Processes"]]
            assert commands
            assert not any("sleep" in command for command in commands)
            lease.kill(EndCause.OPERATOR, "enough")
            done = await finish(lease, job)
            assert (done.ended.cause, done.ended.detail) == (EndCause.OPERATOR, "enough")
    finally:
        client.close()


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "at_once"])
@pytest.mark.parametrize(
    ("code", "exit_code", "stderr"),
    [
        ("print(1", 1, "SyntaxError: '(' was never closed"),
        ("x = 1\n  y = 2", 1, "IndentationError: unexpected indent"),
        ("def f():\n    return '\\d'\n1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("\0", 1, "source code string cannot contain null bytes"),
        ("(" * 10_000, 1, "too many nested parentheses"),
        ("a" + ".b" * 20_000, 1, "Error"),
        ("import sys; sys.exit(7)", 7, ""),
    ],
    ids=["syntax", "indent", "raises", "nul", "nested", "deep", "exits"],
)
async def test_code_fails_in_the_same_way_whether_it_was_there_before_or_not(
    engine: Engine, *, ahead: bool, code: str, exit_code: int, stderr: str
) -> None:
    job = python(code)
    async with leased(engine, await profile(engine)) as lease:
        assert await lease.ready(job if ahead else None)
        done = await finish(lease, job)
    assert (done.ended.exit_code, done.ended.cause) == (exit_code, EndCause.TOOL)
    assert stderr.encode() in done.stderr
    assert b"runner" not in done.stderr
    assert b"/usr/libexec" not in done.stderr


@pytest.mark.parametrize("started", [True, False])
async def test_a_container_whose_job_never_starts_is_gone_like_any_other(engine: Engine, *, started: bool) -> None:
    async with leased(engine, await profile(engine)) as lease:
        if started:
            assert await lease.ready()
        assert await lease.ready(python("print(1)"))
        await lease.destroy()
        await lease.removed()
    assert await engine.list_owned() == []
