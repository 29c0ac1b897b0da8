"""A hostile tool takes all it can get: processes, memory in every form, space, names, descriptors, output, time."""

from __future__ import annotations

import hashlib
import signal

import pytest

from broker.domain.run import EndCause, EvidenceSource, Limits
from broker.sandbox.engine import Engine
from tests.attacks.sandbox_probes import probe
from tests.sandbox_support import Finished, argv, python, run, says_killed, wanted

pytestmark = pytest.mark.docker

_MIB = 2**20
_SMALL = Limits(memory_bytes=64 * _MIB)


def _cause(done: Finished) -> tuple[EndCause, EvidenceSource]:
    return done.ended.cause, done.ended.cause_source


_BY_TOOL = (EndCause.TOOL, EvidenceSource.SANDBOX)
_BY_TIME = (EndCause.TIME, EvidenceSource.BROKER)
_BY_MEMORY = (EndCause.MEMORY, EvidenceSource.ENGINE)
_BY_PROCESSES = (EndCause.PROCESSES, EvidenceSource.ENGINE)
_BY_DISK = (EndCause.DISK, EvidenceSource.ENGINE)
_BY_INODES = (EndCause.INODES, EvidenceSource.ENGINE)


# Processes.


async def test_a_fork_bomb_of_the_shell(engine: Engine) -> None:
    bomb = 'bomb() { bomb | bomb & }; bomb; echo lit; wait; while :; do "$(which true)" || exit 9; done'
    done = await run(engine, argv("bash", "-c", bomb), Limits(processes=32, wall_s=2))
    assert done.text.startswith("lit")
    assert _cause(done) in {_BY_PROCESSES, _BY_TIME}
    assert done.ended.exit_code != 0
    assert b"Resource temporarily unavailable" in done.stderr


async def test_a_fork_bomb_in_python(engine: Engine) -> None:
    code = "import os\nprint('lit', flush=True)\nwhile True: os.fork()"
    done = await run(engine, python(code), Limits(processes=32, wall_s=4))
    assert _cause(done) == _BY_PROCESSES
    assert done.ended.exit_code == 1
    assert b"BlockingIOError" in done.stderr


async def test_a_fork_bomb_that_never_gives_up(engine: Engine) -> None:
    code = "import os\nprint('lit', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    done = await run(engine, python(code), Limits(processes=64, wall_s=1))
    assert done.stdout.startswith(b"lit\n")
    assert _cause(done) == _BY_TIME


async def test_a_bomb_of_threads(engine: Engine) -> None:
    code = (
        "import os, threading\nstay = threading.Event()\n"
        "try:\n    for n in range(500): threading.Thread(target=stay.wait, daemon=True).start()\n"
        "except RuntimeError as error:\n    print(n, error, flush=True)\n    os._exit(9)"
    )
    done = await run(engine, python(code), Limits(processes=40))
    number, _, words = done.text.partition(" ")
    assert (int(number), words) == (39, "can't start new thread\n")
    assert (done.ended.exit_code, *_cause(done)) == (9, *_BY_PROCESSES)


async def test_processes_that_flee_into_sessions_of_their_own(engine: Engine) -> None:
    code = (
        "import os, time\nmade = 0\n"
        "while made < 20:\n"
        "    made += 1\n"
        "    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(600)\n        os._exit(0)\n"
        "    os.wait()\n"
        "print(made, flush=True)\nos._exit(3)"
    )
    done = await run(engine, python(code), Limits(processes=40))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("20\n", 3, *_BY_TOOL)


# Memory.


@pytest.mark.parametrize(
    "grab",
    [
        "keep = []\nwhile True: keep.append(bytearray(b'x') * 2**20)",
        "import mmap\nkeep = []\nwhile True:\n    keep.append(mmap.mmap(-1, 2**20)); keep[-1].write(b'x' * 2**20)",
        "import mmap\nkeep = mmap.mmap(-1, 2**30, flags=mmap.MAP_SHARED)\nwhile True: keep.write(b'x' * 2**20)",
        "import os\nhandle = os.memfd_create('x')\nwhile True: os.write(handle, b'x' * 2**20)",
        "handle = open('/work/x', 'wb', 0)\nwhile True: handle.write(b'x' * 2**20)",
    ],
    ids=["heap", "mapping", "shared mapping", "memfd", "tmpfs"],
)
async def test_memory(engine: Engine, grab: str) -> None:
    limits = Limits(memory_bytes=64 * _MIB, disk_bytes=512 * _MIB)
    done = await run(engine, python(f"print('begun', flush=True)\n{grab}"), limits)
    assert done.text == "begun\n"
    assert _cause(done) == _BY_MEMORY
    assert done.ended.signal == signal.SIGKILL
    assert str(64 * _MIB) in done.ended.detail


async def test_memory_of_pipes(engine: Engine) -> None:
    code = (
        "import fcntl, os\nkeep, held = [], 0\n"
        "try:\n"
        "    while True:\n"
        "        keep.append(os.pipe())\n"
        "        fcntl.fcntl(keep[-1][1], 1031, 2**20)\n"  # F_SETPIPE_SZ
        "        os.set_blocking(keep[-1][1], False)\n"
        "        held += os.write(keep[-1][1], b'x' * 2**20)\n"
        "except OSError as error:\n    os.write(1, b'%d %d' % (error.errno, held))\n    os._exit(9)"
    )
    done = await run(engine, python(code), _SMALL)
    # The kernel's own limit on pipes of a user may strike first; either way it is no more than was allowed.
    if done.ended.exit_code is None:
        assert _cause(done) == _BY_MEMORY
    else:
        assert done.ended.exit_code == 9
        assert int(done.text.split()[1]) <= 64 * _MIB


async def test_memory_of_socket_buffers(engine: Engine) -> None:
    code = (
        "import os, socket\nkeep, held = [], 0\n"
        "try:\n"
        "    while True:\n"
        "        pair = socket.socketpair()\n        keep.append(pair)\n        pair[0].setblocking(False)\n"
        "        pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**24)\n"
        "        try:\n            while True: held += pair[0].send(b'x' * 65536)\n        except BlockingIOError: pass\n"
        "except OSError as error:\n    os.write(1, b'%d %d' % (error.errno, held))\n    os._exit(9)"
    )
    done = await run(engine, python(code), Limits(memory_bytes=64 * _MIB, open_files=1024))
    if done.ended.exit_code is None:
        assert _cause(done) == _BY_MEMORY
    else:
        assert int(done.text.split()[1]) <= 64 * _MIB


async def test_memory_that_only_a_child_took(engine: Engine) -> None:
    eat = "keep = []\nwhile True: keep.append(bytearray(b'x') * 2**20)"
    code = f"import os, subprocess, sys\nos.write(1, b'%d' % subprocess.call([sys.executable, '-c', {eat!r}]))\nos._exit(0)"
    done = await run(engine, python(code), _SMALL)
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("-9", 0, *_BY_TOOL)
    assert done.ended.oom_kills == 1
    assert "memory" in done.ended.warnings[0]


async def test_memory_of_all_at_once(engine: Engine) -> None:
    code = "import os\nfor n in range(3): os.fork()\nkeep = []\nwhile True: keep.append(bytearray(b'x') * 2**20)"
    done = await run(engine, python(code), _SMALL)
    assert _cause(done) == _BY_MEMORY
    assert done.ended.oom_kills


async def test_a_kill_by_its_own_hand_is_no_memory(engine: Engine) -> None:
    done = await run(engine, python("import os\nkeep = bytearray(b'x') * 2**23\nos.kill(os.getpid(), 9)"), _SMALL)
    assert (done.ended.signal, *_cause(done)) == (signal.SIGKILL, *_BY_TOOL)
    assert not done.ended.oom_kills


async def test_swap(engine: Engine) -> None:
    code = (
        "limits = [open(p).read().split()[0] for p in ('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes', "
        "'/sys/fs/cgroup/memory.swap.max') if os.path.exists(p)]\nfound['limits'] = limits"
    )
    found = await probe(engine, code, limits=_SMALL)
    assert set(found["limits"]) <= {"0", str(64 * _MIB)}


async def test_locked_memory(engine: Engine) -> None:
    code = (
        "import mmap\nkeep = mmap.mmap(-1, 2**29)\n"
        "found['mlockall'] = libc.mlockall(7)\n"
        "found['mlock'] = libc.mlock(ctypes.addressof(ctypes.c_char.from_buffer(keep)), 2**29)"
    )
    found = await probe(engine, code)
    assert found["mlock"] == -1


# Space and names.


@pytest.mark.parametrize("folder", ["/work", "/tmp"])  # noqa: S108  # inside the sandbox
async def test_filling_a_folder(engine: Engine, folder: str) -> None:
    code = f"handle = open('{folder}/x', 'wb', 0)\nwhile True: handle.write(b'x' * 65536)"
    done = await run(engine, python(code), Limits(disk_bytes=8 * _MIB))
    assert b"No space left on device" in done.stderr
    assert (done.ended.exit_code, *_cause(done)) == (1, *_BY_DISK)


@pytest.mark.parametrize(("folder", "most"), [("/dev/shm", 8), ("/job", 34)])  # noqa: S108  # the same
async def test_filling_a_folder_that_is_not_for_files(engine: Engine, folder: str, most: int) -> None:
    code = (
        f"held, handle = 0, open('{folder}/x', 'wb', 0)\n"
        "try:\n    while True: held += handle.write(b'x' * 65536)\nexcept OSError as error: found['end'] = name_of(error.errno)\n"
        "found['held'] = held"
    )
    found = await probe(engine, code)
    assert found["end"] == "ENOSPC"
    assert (most - 1) * _MIB < found["held"] <= most * _MIB


@pytest.mark.parametrize(("folder", "most"), [("/work", 200), ("/tmp", 64), ("/job", 64)])  # noqa: S108  # the same
async def test_using_up_names(engine: Engine, folder: str, most: int) -> None:
    code = (
        "made = 0\n"
        f"try:\n    while made < 5000:\n        os.close(os.open(f'{folder}/{{made}}', os.O_CREAT))\n        made += 1\n"
        "except OSError as error: found['end'] = name_of(error.errno)\nfound['made'] = made"
    )
    found = await probe(engine, code, limits=Limits(inodes=200))
    assert found["end"] == "ENOSPC"
    assert found["made"] <= most


async def test_a_hundred_thousand_files(engine: Engine) -> None:
    code = "import os\nfor n in range(100_000): os.close(os.open(f'/work/{n}', os.O_CREAT))"
    done = await run(engine, python(code, outputs=wanted("*", max_files=4)), Limits(inodes=1000))
    assert (done.ended.exit_code, *_cause(done)) == (1, *_BY_INODES)
    assert len(done.files) == 4


async def test_message_queues(engine: Engine) -> None:
    code = (
        "ctypes.set_errno(0)\nfound['posix'] = libc.mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o600, None), name_of(ctypes.get_errno())\n"
        "attempt('file', lambda: open('/dev/mqueue/q', 'w'))"
    )
    found = await probe(engine, code)
    assert found["posix"] == [-1, "EMFILE"]
    assert found["file"] != "done"


async def test_system_v_memory_counts(engine: Engine) -> None:
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
        "print('begun', flush=True)\n"
        "for n in range(64):\n"
        "    segment = libc.shmget(0, ctypes.c_size_t(2**22), 0o1600)\n"
        "    if segment < 0: raise SystemExit('refused')\n"
        "    ctypes.memset(libc.shmat(segment, None, 0), 1, 2**22)"
    )
    done = await run(engine, python(code), _SMALL)
    assert done.text == "begun\n"
    assert _cause(done) == _BY_MEMORY


async def test_descriptors(engine: Engine) -> None:
    code = (
        "import resource\nkeep = []\n"
        "try:\n    while True: keep.append(os.open('/dev/null', os.O_RDONLY))\nexcept OSError as error: found['end'] = name_of(error.errno)\n"
        "found['held'] = len(keep)\n"
        "try: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\nexcept (OSError, ValueError) as error: found['more'] = type(error).__name__"
    )
    found = await probe(engine, code, limits=Limits(open_files=64))
    assert (found["end"], found["more"]) == ("EMFILE", "ValueError")
    assert 50 < found["held"] <= 61


async def test_an_archive_that_expands(engine: Engine) -> None:
    code = (
        "import io, zipfile\n"
        "with zipfile.ZipFile('/tmp/bomb.zip', 'w', zipfile.ZIP_DEFLATED) as bomb:\n"
        "    for n in range(64): bomb.writestr(f'zeros {n}', bytes(2**20))\n"
        "import os\nprint(os.stat('/tmp/bomb.zip').st_size, flush=True)\n"
        "zipfile.ZipFile('/tmp/bomb.zip').extractall('/work')"
    )
    done = await run(engine, python(code, outputs=wanted("zeros *", max_files=2)), Limits(disk_bytes=16 * _MIB))
    assert int(done.text) < _MIB
    assert b"No space left on device" in done.stderr
    assert (done.ended.exit_code, *_cause(done)) == (1, *_BY_DISK)


# Output.


@pytest.mark.parametrize("streams", [(1,), (2,), (1, 2)], ids=["stdout", "stderr", "both"])
async def test_a_flood_of_output(engine: Engine, streams: tuple[int, ...]) -> None:
    code = f"import os\nfor n in range(64):\n    for stream in {streams}: os.write(stream, b'x' * 2**20)\nos._exit(3)"
    done = await run(engine, python(code), Limits(output_bytes=1000))
    assert (done.ended.exit_code, *_cause(done)) == (3, *_BY_TOOL)
    for number, kept, summary in ((1, done.stdout, done.ended.stdout), (2, done.stderr, done.ended.stderr)):
        expected = b"x" * 2**26 if number in streams else b""
        assert kept == expected[:1000]
        assert (summary.total_bytes, summary.truncated) == (len(expected), number in streams)
        assert summary.digest == f"sha256:{hashlib.sha256(expected).hexdigest()}"


async def test_output_byte_by_byte(engine: Engine) -> None:
    code = "import os\nfor n in range(50_000): os.write(1 + n % 2, b'%d' % (n % 10))"
    done = await run(engine, python(code))
    assert done.stdout == b"02468" * 5000
    assert done.stderr == b"13579" * 5000


async def test_output_that_never_ends(engine: Engine) -> None:
    done = await run(engine, argv("cat", "/dev/zero"), Limits(wall_s=1, output_bytes=1000))
    assert _cause(done) == _BY_TIME
    assert done.ended.stdout.truncated
    assert done.stdout == bytes(1000)


async def test_output_of_children_that_outlive_the_tool(engine: Engine) -> None:
    code = (
        "import os\nreading, writing = os.pipe()\n"
        "if os.fork() == 0:\n    os.setsid()\n    os.write(1, b'child ')\n    os.write(writing, b'x')\n    while True: os.write(1, b'x' * 4096)\n"
        "os.read(reading, 1)\nos._exit(0)"
    )
    done = await run(engine, python(code), Limits(output_bytes=6))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("child ", 0, *_BY_TOOL)


async def test_closing_its_output(engine: Engine) -> None:
    done = await run(engine, python("import os\nos.write(1, b'last')\nos.closerange(0, 256)\nos._exit(4)"))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("last", 4, *_BY_TOOL)


async def test_output_into_a_closed_stream_of_its_own(engine: Engine) -> None:
    code = "import os\nos.close(1)\nif os.fork() == 0:\n    os.execvp('sh', ['sh', '-c', 'exec >&2; echo heard'])\nos.wait()\nos._exit(5)"
    done = await run(engine, python(code))
    assert (done.stdout, done.stderr, done.ended.exit_code) == (b"", b"heard\n", 5)


# Time.


async def test_spinning_to_the_time_limit(engine: Engine) -> None:
    done = await run(engine, python("print('begun', flush=True)\nwhile True: pass"), Limits(wall_s=0.5))
    assert (done.text, *_cause(done)) == ("begun\n", *_BY_TIME)
    assert says_killed(done.ended)


async def test_ignoring_every_signal(engine: Engine) -> None:
    code = (
        "import os, signal\n"
        "for number in range(1, 65):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('deaf', flush=True)\nwhile True: signal.pause()"
    )
    done = await run(engine, python(code), Limits(wall_s=0.5))
    assert (done.text, *_cause(done)) == ("deaf\n", *_BY_TIME)


async def test_stopping_itself(engine: Engine) -> None:
    code = "import os, signal\nos.write(1, b'asleep')\nos.kill(os.getpid(), signal.SIGSTOP)\nos.write(1, b'awake')"
    done = await run(engine, python(code), Limits(wall_s=0.5))
    assert (done.text, *_cause(done)) == ("asleep", *_BY_TIME)


async def test_stopped_children_left_behind(engine: Engine) -> None:
    code = (
        "import os, signal\n"
        "for n in range(5):\n"
        "    child = os.fork()\n    if child == 0:\n        while True: signal.pause()\n"
        "    os.kill(child, signal.SIGSTOP)\n    os.waitpid(child, os.WUNTRACED)\n"
        "os.write(1, b'five')\nos._exit(6)"
    )
    done = await run(engine, python(code))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("five", 6, *_BY_TOOL)


async def test_a_child_that_waits_in_vfork(engine: Engine) -> None:
    code = (
        "import ctypes, os\nprint('begun', flush=True)\n"
        "if os.fork() == 0:\n    ctypes.CDLL(None).vfork() or ctypes.CDLL(None).pause()\nos._exit(8)"
    )
    done = await run(engine, python(code))
    assert (done.ended.exit_code, *_cause(done)) == (8, *_BY_TOOL)


async def test_more_priority(engine: Engine) -> None:
    code = (
        "attempt('nice', lambda: os.nice(-5))\n"
        "attempt('setpriority', lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))\n"
        "attempt('real time', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))\n"
        "attempt('round robin', lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)))\n"
        "call('ioprio_set', 1, 0, 1 << 13)\n"
        "attempt('nice user', lambda: os.setpriority(os.PRIO_USER, 0, -1))"
    )
    assert set((await probe(engine, code)).values()) <= {"EPERM", "EACCES"}


async def test_more_than_its_share_of_the_processor(engine: Engine) -> None:
    code = (
        "import os, time\nfor n in range(3):\n    if os.fork() == 0:\n        while True: pass\n"
        "while time.process_time() < 0.05: pass\nos._exit(0)"
    )
    done = await run(engine, python(code), Limits(cpu_cores=0.25))
    assert done.ended.cpu_s is not None
    assert done.ended.cpu_s <= 0.25 * (done.ended.wall_s + 0.5) + 0.2  # a quarter of the time, and the runner's start
