"""A hostile tool turns on process 1 with what its common user allows: signals, limits, priorities, tracing, planted modules.

Reading and writing what process 1 holds is in ``test_sandbox_escape_proc``, frames and descriptors in
``test_sandbox_runner``.
"""

from __future__ import annotations

import errno
import json
import signal
from typing import Any

import pytest

from broker.domain.run import EndCause, EvidenceSource, Limits
from broker.sandbox.engine import Engine
from tests.attacks.sandbox_probes import DONE, KINDS, PREAMBLE, probe, probed
from tests.sandbox_support import Finished, argv, facts, python, run, wanted

pytestmark = pytest.mark.docker

_ASK = r"""
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(8)
here, there = Part(ctypes.addressof(buffer), 8), Part(0x400000, 8)
call("process_vm_readv", os.getpid(), ctypes.byref(here), 1, ctypes.byref(here), 1, 0, say="process_vm_readv itself")
for name in ("process_vm_readv", "process_vm_writev"):
    call(name, 1, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
for name, number in {"attach": 16, "seize": 0x4206, "peek": 2, "kill": 8, "continue": 7}.items():
    call("ptrace", number, 1, 0, 0, say=f"ptrace {name}")
handle = call("pidfd_open", 1, 0)
for number in range(8):
    call("pidfd_getfd", handle, number, 0, say=f"pidfd_getfd {number}")
call("process_madvise", handle, ctypes.byref(there), 1, 21, 0)
call("kcmp", 1, os.getpid(), 0, 0, 0)
call("move_pages", 1, 0, 0, 0, 0, 0)
call("setns", handle, 0x00020000, say="setns by pidfd")
attempt("setpgid", lambda: os.setpgid(1, os.getpgid(0)))
attempt("join its session", lambda: os.setpgid(0, 1))
attempt("getsid", lambda: os.getsid(1))
"""
found = probed(_ASK)


@pytest.mark.parametrize("name", ["process_vm_readv", "process_vm_writev"])
def test_reaching_into_its_memory(found: dict[str, Any], name: str) -> None:
    assert found["process_vm_readv itself"] in {DONE, "EPERM"}  # newer filters refuse even this
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["attach", "seize"])
def test_tracing_it(found: dict[str, Any], name: str) -> None:
    assert found[f"ptrace {name}"] == "EPERM"


@pytest.mark.parametrize("name", ["peek", "kill", "continue"])
def test_acting_as_if_it_traced_it(found: dict[str, Any], name: str) -> None:
    assert found[f"ptrace {name}"] in {"EPERM", "ESRCH"}


@pytest.mark.parametrize("number", range(8))
def test_taking_a_descriptor_of_its(found: dict[str, Any], number: int) -> None:
    assert found["pidfd_open"] in {DONE, "EPERM"}
    assert found[f"pidfd_getfd {number}"] in ({"EPERM"} if found["pidfd_open"] == DONE else {"EPERM", "EBADF"})


@pytest.mark.parametrize("name", ["process_madvise", "kcmp", "move_pages", "setns by pidfd"])
def test_looking_at_it_from_the_side(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"EPERM", "EBADF", "EACCES"}


@pytest.mark.parametrize("name", ["setpgid", "join its session"])
def test_its_process_group_and_session(found: dict[str, Any], name: str) -> None:
    assert found["getsid"] == DONE
    assert found[name] in {"EPERM", "ESRCH"}


def _ended_by_itself(done: Finished, exit_code: int) -> None:
    assert (done.ended.exit_code, done.ended.signal) == (exit_code, None), done.ended
    assert (done.ended.cause, done.ended.cause_source) == (EndCause.TOOL, EvidenceSource.SANDBOX)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP", "SIGSEGV", "SIGTERM", "SIGINT", "SIGXCPU", "SIGTSTP"])
async def test_one_deadly_signal(engine: Engine, name: str) -> None:
    done = await run(engine, argv("sh", "-c", f"kill -{name[3:]} 1 && echo sent; exit 7"))
    assert done.text == "sent\n"
    _ended_by_itself(done, 7)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_signal_by_every_way(engine: Engine, kind: str) -> None:
    code = (
        f"{PREAMBLE}\nhandle = call('pidfd_open', 1, 0)\nsent = 0\n"
        "for number in range(1, 65):\n"
        "    for send in (lambda: os.kill(1, number), lambda: os.killpg(1, number), lambda: signal.pidfd_send_signal(handle, number)):\n"
        "        try:\n            send()\n        except OSError:\n            continue\n        sent += 1\n"
        "print(sent)\nsys.stdout.flush()\nos._exit(7)"
    )
    done = await run(engine, python(code) if kind == "python" else argv("python3", "-c", code))
    assert int(done.text) >= 64
    _ended_by_itself(done, 7)


async def test_a_signal_to_all(engine: Engine) -> None:
    code = "sleep 600 & sleep 600 & python3 -c \"import os; os.kill(-1, 9); print('fired')\"; echo survivors: $(jobs -r | wc -l)"
    done = await run(engine, argv("setsid", "-w", "sh", "-c", code))
    # kill(-1) takes all of this user's but process 1 and the sender: the shell too.
    assert done.stdout in {b"fired\n", b""}
    assert done.ended.signal == signal.SIGKILL or done.ended.exit_code == 128 + signal.SIGKILL
    assert (done.ended.cause, done.ended.cause_source) == (EndCause.TOOL, EvidenceSource.SANDBOX)


async def _refused(engine: Engine, attack: str) -> None:
    """A tool has the runner's user, and yet it can't hobble it."""
    code = (
        "import os, resource, sys\n"
        f"try:\n    {attack}\n    print('hobbled', flush=True)\nexcept OSError as error: print('refused', error.errno, flush=True)\n"
        "open('out', 'w').write('x' * 100_000)\nsys.stdout.write('y' * 100_000)\nsys.stdout.flush()\n"
        "while os.times().user < 0.2: pass\nos._exit(7)"
    )
    done = await run(engine, python(code, outputs=wanted("out")))
    _ended_by_itself(done, 7)
    assert done.stdout.splitlines() == [b"refused %d" % errno.EPERM, b"y" * 100_000]
    assert done.files == {"out": b"x" * 100_000}


@pytest.mark.parametrize(
    "name", ["CPU", "NOFILE", "AS", "DATA", "FSIZE", "STACK", "NPROC", "SIGPENDING", "RTTIME", "MEMLOCK"]
)
async def test_taking_its_resources_away(engine: Engine, name: str) -> None:
    await _refused(engine, f"resource.prlimit(1, resource.RLIMIT_{name}, (0, 0))")


@pytest.mark.parametrize(
    "attack",
    [
        "os.setpriority(os.PRIO_PROCESS, 1, 19)",
        "os.setpriority(os.PRIO_USER, 0, 19)",
        "os.sched_setaffinity(1, {0})",
        "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
        "os.sched_setscheduler(1, os.SCHED_BATCH, os.sched_param(0))",
    ],
    ids=["nice", "nice of the user", "affinity", "idle", "batch"],
)
async def test_slowing_it_down(engine: Engine, attack: str) -> None:
    await _refused(engine, attack)


async def test_starving_it_does_not_stretch_the_time_limit(engine: Engine) -> None:
    code = (
        "import os\n"
        "try: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))\nexcept OSError: pass\n"
        "print('begun', flush=True)\n"
        "for n in range(30):\n    if os.fork() == 0: break\nwhile True: pass"
    )
    done = await run(engine, python(code), Limits(wall_s=1))
    assert (done.ended.cause, done.ended.cause_source) == (EndCause.TIME, EvidenceSource.BROKER)


@pytest.mark.parametrize("path", ["/work", "/tmp"])  # noqa: S108  # inside the sandbox
async def test_modules_planted_for_it(engine: Engine, path: str) -> None:
    code = (
        "import os, subprocess, sys\n"
        f"os.chdir({path!r})\n"
        "for name in ('json', 'traceback', 'struct', 'stat', 'fnmatch', 'itertools', 'encodings', 'sitecustomize', 'usercustomize', 'runner', 'site'):\n"
        "    open(name + '.py', 'w').write('import os; os.write(1, b\"planted\"); os._exit(66)')\n"
        "print(subprocess.run([sys.executable, '-c', 'import traceback'], env={'PYTHONPATH': os.getcwd()}).returncode, flush=True)\n"
        "open('out', 'w').write('mine')\nos._exit(7)"
    )
    done = await run(engine, python(code, outputs=wanted("**/*.py", max_files=20)))
    assert done.text == "planted66\n"  # the trap works on who walks into it
    _ended_by_itself(done, 7)


async def test_a_linker_and_interpreter_environment_of_its_own(engine: Engine) -> None:
    code = (
        "import os, subprocess, sys\n"
        "open('/work/evil.so', 'wb').write(b'\\x7fELF')\nopen('/work/sitecustomize.py', 'w').write('import os; os._exit(66)')\n"
        "more = {'LD_PRELOAD': '/work/evil.so', 'LD_LIBRARY_PATH': '/work', 'PYTHONPATH': '/work', 'PYTHONHOME': '/work', 'PYTHONSTARTUP': '/work/x'}\n"
        "os.environ.update(more)\nopen('/work/.pth', 'w').write('import os; os._exit(66)')\n"
        "os.execvp('sh', ['sh', '-c', 'echo $PYTHONHOME; exit 7'])"
    )
    done = await run(engine, python(code))
    assert done.text == "/work\n"
    _ended_by_itself(done, 7)


async def test_its_files_are_not_replaced(engine: Engine) -> None:
    code = (
        "home = '/usr/libexec/broker'\n"
        "attempt('read', lambda: open(home + '/runner/serve.py').read())\n"
        "attempt('write', lambda: open(home + '/runner/serve.py', 'w'))\n"
        "attempt('append', lambda: open(home + '/runner/serve.py', 'a'))\n"
        "attempt('rename', lambda: os.rename(home + '/runner', home + '/old'))\n"
        "attempt('unlink', lambda: os.unlink(home + '/runner/serve.py'))\n"
        "attempt('link over', lambda: os.symlink('/work/serve.py', home + '/runner/json.py'))\n"
        "attempt('hard link', lambda: os.link(home + '/runner/serve.py', '/work/serve.py'))\n"
        "attempt('compiled', lambda: open(home + '/runner/__pycache__/x.pyc', 'w'))\n"
        "attempt('mode', lambda: os.chmod(home + '/python', 0o777))\n"
        "attempt('owner', lambda: os.chown(home + '/python', 65534, 65534))\n"
        "attempt('times', lambda: os.utime(home + '/runner/serve.py', (0, 0)))\n"
        "attempt('attribute', lambda: os.setxattr(home + '/runner/serve.py', 'user.x', b'x'))\n"
        "attempt('truncate', lambda: os.truncate(home + '/runner/serve.py', 0))\n"
        "attempt('interpreter', lambda: open(home + '/python', 'rb'))\n"
    )
    found = await probe(engine, code)
    assert found.pop("read") == DONE  # it is no secret
    assert found.pop("hard link") in {"EXDEV", "EPERM"}
    assert found.pop("interpreter") == "EACCES"
    assert len(found) == 11
    assert set(found.values()) <= {"EROFS", "EACCES", "EPERM"}


_FORGE = (
    "import os, ctypes\nlibc = ctypes.CDLL(None)\n"
    "forged = b'\\x20' + bytes([0, 0, 0, 1, 0, 0, 0, 6]) + b'forged' + b'\\x14' + bytes([0, 0, 0, 0, 0, 0, 0, 2]) + b'{}'\n"
    "doors = ['/proc/1/fd/%d' % n for n in range(16)] + ['/proc/1/task/1/fd/%d' % n for n in range(16)]\n"
    "doors += ['/proc/self/../1/fd/%d' % n for n in range(4)] + ['/proc/1/root/proc/1/fd/1', '/proc/1/cwd/../proc/1/fd/1']\n"
    "opened = 0\n"
    "for door in doors:\n"
    "    try: handle = os.open(door, os.O_WRONLY | os.O_NONBLOCK)\n    except OSError: continue\n"
    "    opened += 1\n    os.write(handle, forged)\n"
    "os.write(1, b'%d of %d' % (opened, len(doors)))\nos._exit(7)"
)


@pytest.mark.parametrize("kind", KINDS)
async def test_forged_frames_through_every_door_of_proc(engine: Engine, kind: str) -> None:
    done = await run(engine, python(_FORGE) if kind == "python" else argv("python3", "-c", _FORGE))
    opened, _, doors = done.text.split()
    assert (opened, doors) == ("0", "38")
    _ended_by_itself(done, 7)


@pytest.mark.parametrize("how", ["os.abort()", "os.kill(os.getpid(), 11)", "import ctypes; ctypes.string_at(0)"])
async def test_a_core_dump(engine: Engine, how: str) -> None:
    code = (
        "import os, resource\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), flush=True)\n"
        "try: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\nexcept (OSError, ValueError) as error: print(type(error).__name__, flush=True)\n"
        f"{how}"
    )
    done = await run(engine, python(code, outputs=wanted("core*", "**/core*")))
    hard = json.loads(done.text.splitlines()[0].replace("(", "[").replace(")", "]"))[1]
    assert hard in {0, 1}  # 1 also keeps it from a program of the host that would take it from a pipe
    assert done.text.splitlines()[1] == "ValueError"  # Python's word for EPERM here
    assert done.files == {}
    assert done.ended.signal in {signal.SIGABRT, signal.SIGSEGV}
    assert done.ended.cause is EndCause.TOOL


async def test_orphans_that_ask_it_to_trace_them(engine: Engine) -> None:
    code = (
        "import ctypes, os, signal\nlibc = ctypes.CDLL(None)\nreading, writing = os.pipe()\n"
        "for n in range(5):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0:\n"
        "            while os.getppid() != 1: pass\n"
        "            os.write(writing, b'x' if libc.ptrace(0, 0, 0, 0) == 0 else b'-')\n"
        "            os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        os._exit(0)\n    os.wait()\n"
        "seen = b''\nwhile len(seen) < 5: seen += os.read(reading, 5)\n"
        "os.write(1, seen)\nos._exit(7)"
    )
    done = await run(engine, python(code))
    assert done.stdout == b"xxxxx"
    _ended_by_itself(done, 7)


async def test_a_tool_that_makes_it_its_tracer_tells_no_false_end(engine: Engine) -> None:
    code = (
        "import ctypes, os, signal\n"
        "os.write(1, b'traced' if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else b'refused')\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\nos._exit(7)"
    )
    done = await run(engine, python(code), Limits(wall_s=1))
    assert done.text in {"traced", "refused"}
    assert done.ended.exit_code is None, "a stop was told as an end"
    assert done.ended.cause is EndCause.TIME


async def test_the_tool_is_the_first_victim_and_cannot_change_that(engine: Engine) -> None:
    code = (
        "found['before'] = int(open('/proc/self/oom_score_adj').read())\n"
        "try: os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000')\nexcept OSError as error: found['lower'] = error.errno\n"
        "found['after'] = int(open('/proc/self/oom_score_adj').read())\n"
        "found['runner'] = int(open('/proc/1/oom_score_adj').read())\n"
    )
    found = await facts(engine, code)
    assert (found["before"], found["after"], found["lower"]) == (1000, 1000, 13)
    assert isinstance(found["runner"], int)
    assert found["runner"] < 1000
