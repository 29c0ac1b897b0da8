"""What one call leaves is never seen by another: not by the one beside it, nor by the one after it.

Each residue has code that leaves it and code that looks for it. The looking is proved first: inside the call that left
it, it finds. Then containers that waited beside that call since before it, and one that was made after it, must not.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from broker.domain.meter import Claim
from broker.domain.run import Limits, Profile
from broker.sandbox.engine import Engine, Lease
from broker.sandbox.pool import Pool
from broker.sandbox.pool_sizing import Sizing
from tests.memory_engine import Bell, Counting
from tests.sandbox_support import finish, profile, python

pytestmark = pytest.mark.docker

NEVER_S = 3600.0

CONTEXT = """
import os, socket, sys, time

def daemon(work):
    '''Runs work in a process that is nobody's child, in a session of its own, and waits until it says that it works.'''
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            kept = work()
            for fd in (0, 1, 2):
                os.dup2(os.open('/dev/null', os.O_RDWR), fd)
            os.write(theirs, b'1')
            os.close(theirs)
            while True:
                time.sleep(60)
        os._exit(0)
    os.close(theirs)
    assert os.read(ours, 1) == b'1'

def processes():
    '''Command lines and names of all that runs.'''
    for entry in os.listdir('/proc'):
        if entry.isdigit():
            try:
                with open(f'/proc/{entry}/comm') as file:
                    yield file.read().strip()
            except OSError:
                continue

def open_files():
    '''Names of all files that this uid's processes hold open.'''
    for entry in os.listdir('/proc'):
        if entry.isdigit() and os.access(f'/proc/{entry}/fd', os.R_OK):
            for fd in os.listdir(f'/proc/{entry}/fd'):
                try:
                    yield os.readlink(f'/proc/{entry}/fd/{fd}')
                except OSError:
                    continue

def rename(name):
    with open('/proc/self/comm', 'w') as file:
        file.write(name)
"""


def file_in(folder: str) -> tuple[str, str]:
    path = f"{folder}/left-behind"
    return (
        f"with open({path!r}, 'w') as file: file.write('x')",
        f"seen = os.path.lexists({path!r}) or 'left-behind' in os.listdir({folder!r})",
    )


RESIDUES = {
    "file_in_work": file_in("/work"),
    "file_in_tmp": file_in("/tmp"),  # noqa: S108  # the sandbox's own
    "file_in_shm": file_in("/dev/shm"),  # noqa: S108  # the same
    "file_in_job": file_in("/job"),
    "hidden_folder_in_home": (
        "os.makedirs(os.path.expanduser('~/.config/left'))",
        "seen = os.path.exists(os.path.expanduser('~/.config'))",
    ),
    "link_in_tmp": ("os.symlink('/nowhere', '/tmp/link')", "seen = os.path.islink('/tmp/link')"),
    "fifo_in_tmp": ("os.mkfifo('/tmp/fifo')", "seen = os.path.exists('/tmp/fifo')"),
    "locked_folder": ("os.makedirs('/work/a/b'); os.chmod('/work/a', 0)", "seen = os.path.exists('/work/a')"),
    "module_on_the_path": (
        "with open('/work/json.py', 'w') as file: file.write('raise SystemExit(66)')",
        "seen = os.path.exists('/work/json.py')",
    ),
    "background_process": ("daemon(lambda: rename('leftover'))", "seen = 'leftover' in list(processes())"),
    "stopped_process": (
        "daemon(lambda: (rename('halted'), os.fork() or os.kill(os.getpid(), 19)))",
        "seen = 'halted' in list(processes())",
    ),
    "file_of_a_deleted_name": (
        "daemon(lambda: (file := open('/tmp/gone', 'w+'), os.unlink('/tmp/gone'), rename('holder')))",
        "seen = '/tmp/gone (deleted)' in list(open_files())",
    ),
    "sysv_shared_memory": (
        "import ctypes; assert ctypes.CDLL(None).shmget(0x4242, 4096, 0o1666) >= 0",
        "seen = len(open('/proc/sysvipc/shm').readlines()) > 1",
    ),
    "sysv_semaphore": (
        "import ctypes; assert ctypes.CDLL(None).semget(0x4242, 1, 0o1666) >= 0",
        "seen = len(open('/proc/sysvipc/sem').readlines()) > 1",
    ),
    "sysv_message_queue": (
        "import ctypes; assert ctypes.CDLL(None).msgget(0x4242, 0o1666) >= 0",
        "seen = len(open('/proc/sysvipc/msg').readlines()) > 1",
    ),
    "posix_shared_memory": (
        "import _posixshmem; _posixshmem.shm_open('/left', os.O_CREAT | os.O_RDWR, mode=0o600)",
        "seen = bool(os.listdir('/dev/shm'))",
    ),
    "abstract_socket": (
        r"daemon(lambda: (s := socket.socket(socket.AF_UNIX), s.bind('\0left'), s.listen()))",
        "seen = '@left' in open('/proc/net/unix').read()",
    ),
    "socket_in_the_file_system": (
        "daemon(lambda: (s := socket.socket(socket.AF_UNIX), s.bind('/tmp/left.sock'), s.listen()))",
        "seen = os.path.exists('/tmp/left.sock') or '/tmp/left.sock' in open('/proc/net/unix').read()",
    ),
    "listener_on_loopback": (
        "daemon(lambda: (s := socket.socket(), s.bind(('127.0.0.1', 8099)), s.listen()))",
        "seen = socket.socket().connect_ex(('127.0.0.1', 8099)) == 0",
    ),
    "environment": ("os.environ['LEFT'] = 'x'", "seen = 'LEFT' in os.environ"),
    "umask": ("os.umask(0o777)", "old = os.umask(0o022); os.umask(old); seen = old == 0o777"),
    "working_folder": ("os.mkdir('/tmp/elsewhere'); os.chdir('/tmp/elsewhere')", "seen = os.getcwd() != '/work'"),
    "niceness": ("os.nice(7)", "seen = os.getpriority(os.PRIO_PROCESS, 0) == 7"),
    "limit_of_open_files": (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (17, 17))",
        "import resource; seen = resource.getrlimit(resource.RLIMIT_NOFILE)[1] == 17",
    ),
    "ignored_signal": (
        "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "import signal; seen = signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN",
    ),
    "changed_module": (
        "import json as module; module.dumps_of_ours = module.dumps",
        "import json as module; seen = hasattr(module, 'dumps_of_ours')",
    ),
    "processor_affinity": (
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "seen = os.cpu_count() > 1 and len(os.sched_getaffinity(0)) == 1",
    ),
    "locale_of_the_process": (
        "import locale; locale.setlocale(locale.LC_ALL, 'C')",
        "import locale; seen = locale.setlocale(locale.LC_ALL) == 'C'",
    ),
}


@dataclass
class World:
    """A pool with three containers ready; it makes no more while a test runs."""

    pool: Pool
    profile: Profile
    meter: Counting


@pytest.fixture
async def world(engine: Engine) -> AsyncIterator[World]:
    meter = Counting(Bell())
    wanted = await profile(engine, Limits())
    async with Pool(engine, Sizing(floor=3, creates=3, quiet_s=NEVER_S, refill_wait_s=NEVER_S), meter=meter) as pool:
        pool.prewarm([wanted])
        await meter.bell.until(lambda: (pool.status().idle, pool.status().making) == (3, 0))
        yield World(pool, wanted, meter)
    assert await engine.list_owned() == []


@asynccontextmanager
async def call(world: World, name: str) -> AsyncIterator[Lease]:
    async with world.pool.lease(name, world.profile) as lease:
        yield lease


async def seen(lease: Lease, code: str) -> object:
    """Runs code that sets ``seen``; gives its value."""
    done = await finish(lease, python(f"{CONTEXT}\n{code}\nimport sys; sys.stdout.write('true' if seen else 'false')"))
    assert done.ended.exit_code == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RESIDUES)
async def test_what_a_call_leaves_no_other_call_sees(world: World, name: str) -> None:
    leave, look = RESIDUES[name]
    async with call(world, "call_dirty") as dirty:
        assert await seen(dirty, f"{leave}\n{look}") is True
        async with call(world, "call_beside") as beside:
            assert await seen(beside, look) is False
    for number in range(2):
        async with call(world, f"call_after_{number}") as after:
            assert await seen(after, look) is False
    assert world.meter.claims == [Claim.WARM] * 3 + [Claim.COLD]


async def test_what_a_call_does_to_its_own_chance_of_being_killed_stays_its_own(world: World) -> None:
    read = "print(open('/proc/self/oom_score_adj').read().strip(), end='')"
    values = []
    for number, change in enumerate(["open('/proc/self/oom_score_adj', 'w').write('1000')", "pass"]):
        async with call(world, f"call_{number}") as lease:
            done = await finish(lease, python(f"{change}\n{read}"))
            values.append(done.text)
    assert values == ["1000", "1000"]  # the highest from the start: there is nothing to change


async def test_a_message_queue_cannot_be_made_at_all(world: World) -> None:
    code = "import os\nos.open('/dev/mqueue/left', os.O_CREAT | os.O_RDWR, 0o600)"
    async with call(world, "call_queue") as lease:
        done = await finish(lease, python(code))
    assert b"Too many open files" in done.stderr
    async with call(world, "call_after") as lease:
        assert await seen(lease, "seen = bool(os.listdir('/dev/mqueue'))") is False


async def test_a_container_never_runs_a_second_job(world: World) -> None:
    async with call(world, "call_first") as first:
        await finish(first, python("print(1)"))
    used = first.container_id
    for number in range(3):
        async with call(world, f"call_{number}") as lease:
            assert lease.container_id != used
            await finish(lease, python("print(1)"))
