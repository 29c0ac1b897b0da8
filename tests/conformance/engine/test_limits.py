"""Each limit strikes, and the run's end says which one did."""

from __future__ import annotations

import hashlib
import signal

import pytest

from broker.domain.run import EndCause, EvidenceSource, Limits
from broker.sandbox.engine import Engine
from tests.sandbox_support import argv, gather, keeps, leased, profile, python, run, says_killed

pytestmark = pytest.mark.docker

MIB = 2**20
EAT = "blob = []\nwhile True:\n    blob.append(bytearray(b'x') * 2**20)"


async def test_time(engine: Engine) -> None:
    done = await run(engine, python("print('begun')\nwhile True: pass"), Limits(wall_s=0.7))
    assert done.stdout == b"begun\n"
    assert (done.ended.cause, done.ended.cause_source) == (EndCause.TIME, EvidenceSource.BROKER)
    assert done.ended.exit_code is None
    assert says_killed(done.ended)
    assert 0.7 <= done.ended.wall_s < 5
    assert "0.7 s" in done.ended.detail


@pytest.mark.parametrize("job", [python(EAT), argv("python3", "-c", EAT)], ids=["python", "argv"])
async def test_memory_of_the_tool_itself(engine: Engine, job: object) -> None:
    ended = (await run(engine, job, Limits(memory_bytes=64 * MIB))).ended  # type: ignore[arg-type]  # jobs, by ids
    assert (ended.cause, ended.cause_source, ended.signal) == (EndCause.MEMORY, EvidenceSource.ENGINE, signal.SIGKILL)
    if (await keeps(engine)).counters:  # else they are gone with the sandbox
        assert ended.oom_kills
        assert ended.memory_peak_bytes is not None
        assert ended.memory_peak_bytes > 48 * MIB


async def test_memory_of_a_child_whose_parent_fails_for_it(engine: Engine) -> None:
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {EAT!r}], check=True)"
    ended = (await run(engine, python(code), Limits(memory_bytes=64 * MIB))).ended
    assert ended.exit_code == (1 if (await keeps(engine)).counters else None)
    assert (ended.cause, ended.cause_source) == (EndCause.MEMORY, EvidenceSource.ENGINE)


async def test_memory_of_a_child_whose_parent_goes_on(engine: Engine) -> None:
    code = f"import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', {EAT!r}]).returncode)"
    done = await run(engine, python(code), Limits(memory_bytes=64 * MIB))
    if not (await keeps(engine)).counters:
        assert done.ended.cause is EndCause.MEMORY  # a kernel of the sandbox's own dies with all its processes
        return
    assert (done.text, done.ended.exit_code, done.ended.cause) == ("-9\n", 0, EndCause.TOOL)
    assert "memory" in done.warnings[0]


async def test_memory_through_shared_memory_and_files(engine: Engine) -> None:
    code = "blob = b'x' * 2**20\nwith open('/work/f', 'wb') as file:\n    while True:\n        file.write(blob)"
    ended = (await run(engine, python(code), Limits(memory_bytes=64 * MIB, disk_bytes=512 * MIB))).ended
    assert ended.cause is EndCause.MEMORY


async def test_a_tool_that_kills_itself_is_not_taken_for_memory(engine: Engine) -> None:
    ended = (await run(engine, argv("sh", "-c", "kill -9 $$"))).ended
    assert (ended.signal, ended.cause, ended.oom_kills or 0) == (signal.SIGKILL, EndCause.TOOL, 0)


async def test_processes(engine: Engine) -> None:
    code = "import os, time\nfor n in range(100):\n    if os.fork() == 0:\n        time.sleep(600)"
    ended = (await run(engine, python(code), Limits(processes=16))).ended
    assert ended.exit_code == 1
    if not (await keeps(engine)).counters:
        assert ended.cause is EndCause.TOOL  # the host counts no refusals there, and nobody guesses
        return
    assert (ended.cause, ended.cause_source) == (EndCause.PROCESSES, EvidenceSource.ENGINE)
    assert "16" in ended.detail


async def test_as_many_processes_as_allowed(engine: Engine) -> None:
    code = "import os, time\nfor n in range(15):\n    if os.fork() == 0:\n        time.sleep(600)\nprint('all')"
    done = await run(engine, python(code), Limits(processes=16))
    assert (done.text, done.ended.exit_code, done.ended.cause) == ("all\n", 0, EndCause.TOOL)


@pytest.mark.parametrize("folder", ["/work", "/tmp"])  # noqa: S108  # inside the sandbox
async def test_disk(engine: Engine, folder: str) -> None:
    code = f"with open('{folder}/f', 'wb') as file:\n    while True:\n        file.write(b'x' * 2**16)"
    ended = (await run(engine, python(code), Limits(disk_bytes=8 * MIB))).ended
    source = EvidenceSource.ENGINE if (await keeps(engine)).counters else EvidenceSource.SANDBOX
    assert (ended.exit_code, ended.cause, ended.cause_source) == (1, EndCause.DISK, source)


async def test_inodes(engine: Engine) -> None:
    code = "for n in range(10_000):\n    open(f'/work/{n}', 'w').close()"
    ended = (await run(engine, python(code), Limits(inodes=200))).ended
    if not (await keeps(engine)).inodes:
        assert ended.cause is EndCause.TOOL  # `test_capabilities`: the limit itself is refused there
        return
    assert (ended.exit_code, ended.cause, ended.cause_source) == (1, EndCause.INODES, EvidenceSource.ENGINE)


async def test_a_full_disk_is_no_cause_where_the_tool_succeeds(engine: Engine) -> None:
    code = "import contextlib\nwith contextlib.suppress(OSError), open('f', 'wb', 0) as file:\n    while file.write(b'x' * 2**16): pass"
    ended = (await run(engine, python(code), Limits(disk_bytes=4 * MIB))).ended
    assert (ended.exit_code, ended.cause) == (0, EndCause.TOOL)


@pytest.mark.parametrize("fd", [1, 2])
async def test_output_over_the_limit_is_cut_and_counted_and_hashed(engine: Engine, fd: int) -> None:
    code = f"import os\nfor n in range(3000):\n    os.write({fd}, b'%07d\\n' % n)\nprint('x', end='')"
    whole = b"".join(b"%07d\n" % n for n in range(3000))
    done = await run(engine, python(code), Limits(output_bytes=1001))
    cut, summary = (done.stdout, done.ended.stdout) if fd == 1 else (done.stderr, done.ended.stderr)
    whole += b"x" if fd == 1 else b""
    assert cut == whole[:1001]
    assert (summary.total_bytes, summary.kept_bytes, summary.truncated) == (len(whole), 1001, True)
    assert summary.digest == f"sha256:{hashlib.sha256(whole).hexdigest()}"
    assert (done.ended.exit_code, done.ended.cause) == (0, EndCause.TOOL)


async def test_a_result_over_its_limit(engine: Engine) -> None:
    code = "open('/job/result.json', 'w').write(' ' * (4 * 2**20 + 1))"
    done = await run(engine, python(code, wants_result=True))
    assert (done.result, done.ended.cause) == (None, EndCause.OUTPUT)


async def test_open_files(engine: Engine) -> None:
    done = await run(engine, python("files = [open('/dev/null') for n in range(100)]"), Limits(open_files=64))
    assert done.ended.exit_code == 1
    assert b"Too many open files" in done.stderr


@pytest.mark.alone
async def test_processor_time(engine: Engine) -> None:
    # By the time that passes: a kernel of the sandbox's own counts as used what passed on its clock while it was held up.
    code = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
    ended = (await run(engine, python(code), Limits(cpu_cores=0.25))).ended
    assert ended.exit_code == 0
    # The broker's clock starts when it hears of the start, a moment after the tool's own.
    assert ended.wall_s >= 1.9
    assert ended.cpu_s is not None
    # A quarter of a core; without the limit it would be a whole one.
    assert 0.1 * ended.wall_s < ended.cpu_s < 0.4 * ended.wall_s


async def test_a_reader_that_stalls_does_not_hold_up_the_time_limit(engine: Engine) -> None:
    code = "import os\nwhile True: os.write(1, b'x' * 65536)"
    limits = Limits(wall_s=1, output_bytes=2**30)
    async with leased(engine, await profile(engine, limits)) as lease:
        events = lease.run(python(code))
        await anext(events)
        while any(item.state == "running" for item in await engine.list_owned()):
            pass  # the container dies though nobody reads
        done = await gather(lease, events)
    assert done.ended.cause is EndCause.TIME
    assert done.ended.stdout.total_bytes < 64 * MIB
