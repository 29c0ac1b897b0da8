"""What a runtime is declared not to keep is refused or enforced in another way; what it is declared to keep, it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.domain.run import EndCause, Limits
from broker.errors import FailedPreconditionError
from broker.sandbox.engine import Engine
from broker.sandbox.probe import probe
from broker.sandbox.probe_judging import Holds
from broker.sandbox.probe_rules import unfit
from tests.sandbox_support import facts, leased, profile, python, run

pytestmark = pytest.mark.docker

MIB = 2**20
NEW_USER = 0x10000000
LIFTING = f"""
import ctypes, resource
libc = ctypes.CDLL(None, use_errno=True)
found["unshare"] = libc.unshare({NEW_USER})
found["clone"] = libc.syscall(56 if os.uname().machine == "x86_64" else 220, {NEW_USER} | 17, 0, 0, 0, 0)
if found["clone"] == 0:
    os._exit(0)
try:
    resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))
except (OSError, ValueError):
    pass
children = 0
try:
    while children < 100:
        if os.fork() == 0:
            import time
            time.sleep(600)
        children += 1
except OSError:
    pass
found["children"] = children
"""


async def test_the_runtime_says_what_it_keeps(engine: Engine) -> None:
    runtime = getattr(engine, "runtime", "")
    found = await engine.capabilities(runtime)
    assert found.runtime == runtime or not runtime
    assert (found.memory, found.processes, found.cpu, found.disk, found.open_files) == (True,) * 5


async def test_a_limit_on_files_is_kept_or_refused(engine: Engine) -> None:
    asked = replace(await profile(engine), limits=Limits(inodes=200))
    if (await engine.capabilities(asked.runtime)).inodes:
        async with leased(engine, asked) as lease:
            assert lease.profile == asked
        return
    with pytest.raises(FailedPreconditionError) as caught:
        await engine.create(asked)
    assert (caught.value.reason, caught.value.metadata["limit"]) == ("LIMIT_UNSUPPORTED", "inodes")
    assert "inodes: 0" in caught.value.hint
    assert await engine.list_owned() == []


async def test_no_limit_on_files_still_leaves_memory(engine: Engine) -> None:
    code = "n = 0\nwhile True:\n    open(f'/work/{n:0200}', 'w').close()\n    n += 1"
    asked = replace(await profile(engine), limits=Limits(inodes=0, memory_bytes=48 * MIB, disk_bytes=MIB, wall_s=240))
    async with leased(engine, asked) as lease:
        ended = None
        async for event in lease.run(python(code)):
            ended = event
            lease.taken(event)
    assert getattr(ended, "cause", None) in {EndCause.MEMORY, EndCause.DISK}


async def test_no_trick_lifts_the_limit_on_processes(engine: Engine) -> None:
    found = await facts(engine, LIFTING, Limits(processes=16))
    assert found == {"unshare": -1, "clone": -1, "children": 15}


async def test_one_sandbox_does_not_count_against_another(engine: Engine) -> None:
    holding = "import os, time\nfor n in range(15):\n    if os.fork() == 0:\n        time.sleep(600)\nprint('all', flush=True)"
    chosen = await profile(engine, Limits(processes=16))
    async with leased(engine, chosen) as first:
        events = first.run(python(f"{holding}\ntime.sleep(600)"))
        assert type(await anext(events)).__name__ == "Started"
        await anext(events)
        assert (await run(engine, python(holding), Limits(processes=16))).text == "all\n"


async def test_a_runtime_that_is_not_there_is_refused(engine: Engine) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        await engine.create(replace(await profile(engine), runtime="no-such-runtime"))
    assert caught.value.reason == "RUNTIME_MISSING"
    with pytest.raises(FailedPreconditionError):
        await engine.capabilities("no-such-runtime")


async def test_the_runners_word_is_marked_where_the_tool_can_reach_it(engine: Engine) -> None:
    done = await run(engine, python("print(1)"))
    isolated = (await engine.capabilities(getattr(engine, "runtime", ""))).isolated_runner
    assert any("sandbox's word" in text for text in done.ended.warnings) is not isolated


async def test_a_real_container_holds_what_it_must(engine: Engine) -> None:
    runtime = getattr(engine, "runtime", "")
    report = await probe(engine, "python", runtime)
    assert not unfit(report.probes), [item for item in report.probes if item.must and item.holds is not Holds.YES]
    held = {item.name for item in report.probes if item.holds is Holds.YES}
    known_not_to = {item.name for item in report.probes if item.holds is not Holds.YES}
    assert {"user", "capabilities", "no_new_privileges", "seccomp", "new_namespaces", "connections"} <= held
    assert {"af_alg", "af_vsock", "keyrings", "io_uring", "kernel_probes", "limit_processes"} <= held
    if report.capabilities.isolated_runner:
        assert known_not_to == set()
    else:
        assert {"runner_isolated", "runner_signals", "limit_inodes"} <= known_not_to
