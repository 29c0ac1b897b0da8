"""A hostile tool turns on the runner: it has the same user, and process 1 holds the stream to the broker."""

from __future__ import annotations

import json

import pytest

from broker.domain.run import EndCause
from broker.sandbox.engine import Engine
from tests.sandbox_support import argv, facts, python, run

pytestmark = pytest.mark.docker

TRY = (
    "def attempt(name, action):\n"
    "    try:\n        action()\n"
    "    except OSError as error:\n        found[name] = error.strerror\n"
    "    else:\n        found[name] = 'open'\n"
)
FORGED = (
    r"b'\x20\0\0\0\1\0\0\0\x06forged' + b'\x14\0\0\0\0\0\0\0\x02{}' + b'\x1f\0\0\0\0\0\0\0\0'"
    r" + b'\x21\0\0\0\x10\0\0\0\4\0\0\x0c\x38'"
)


@pytest.mark.parametrize("kind", ["python", "argv"])
async def test_process_1_cannot_be_looked_into(engine: Engine, kind: str) -> None:
    code = (
        f"import os, json\nfound = {{}}\n{TRY}"
        "for name in ('fd', 'fdinfo', 'map_files', 'cwd/x', 'root/x', 'task/1/fd'):\n"
        "    attempt(name, lambda: os.listdir('/proc/1/' + name))\n"
        "for name in ('mem', 'environ', 'maps', 'auxv', 'stack', 'syscall', 'pagemap'):\n"
        "    attempt(name, lambda: open('/proc/1/' + name, 'rb').read(1))\n"
        "for name in ('mem', 'clear_refs', 'comm', 'oom_score_adj', 'coredump_filter'):\n"
        "    attempt('write ' + name, lambda: open('/proc/1/' + name, 'r+b', 0))\n"
        "for number in range(16):\n"
        "    attempt(f'fd {number}', lambda: open(f'/proc/1/fd/{number}', 'wb', 0))\n"
        "print(json.dumps(found))"
    )
    done = await run(engine, python(code) if kind == "python" else argv("python3", "-c", code))
    found = json.loads(done.stdout)
    assert len(found) == 6 + 7 + 5 + 16
    assert {name for name, outcome in found.items() if outcome == "open"} == set()


async def test_process_1_cannot_be_traced_or_its_memory_written(engine: Engine) -> None:
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "found['attach'] = libc.ptrace(16, 1, 0, 0)\nfound['seize'] = libc.ptrace(0x4206, 1, 0, 0)\n"
        "class iovec(ctypes.Structure):\n    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]\n"
        "buffer = ctypes.create_string_buffer(8)\nlocal = iovec(ctypes.addressof(buffer), 8)\nremote = iovec(0x400000, 8)\n"
        "found['readv'] = libc.process_vm_readv(1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)\n"
        "found['writev'] = libc.process_vm_writev(1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)\n"
        "pidfd = libc.syscall(434, 1, 0)\nfound['getfd'] = libc.syscall(438, pidfd, 1, 0)"
    )
    assert await facts(engine, code) == dict.fromkeys(("attach", "seize", "readv", "writev", "getfd"), -1)


async def test_signals_to_process_1_have_no_effect(engine: Engine) -> None:
    code = "import os\nfor number in range(1, 65):\n    try: os.kill(1, number)\n    except OSError: pass\nprint('still heard')"
    done = await run(engine, python(code))
    assert (done.text, done.ended.exit_code, done.ended.cause) == ("still heard\n", 0, EndCause.TOOL)


async def test_a_storm_of_signals_to_process_1(engine: Engine) -> None:
    code = "import os, signal\nfor n in range(200_000):\n    os.kill(1, signal.SIGCHLD)\nprint('still heard')"
    assert (await run(engine, python(code))).text == "still heard\n"


@pytest.mark.parametrize("kind", ["python", "argv"])
async def test_no_descriptor_is_inherited(engine: Engine, kind: str) -> None:
    code = (
        "import os, json\nfound = []\nfor fd in range(3, 256):\n"
        "    try: os.fstat(fd)\n    except OSError: continue\n    found.append(fd)\nprint(json.dumps(found))"
    )
    done = await run(engine, python(code) if kind == "python" else argv("python3", "-c", code))
    assert json.loads(done.stdout) == []


async def test_a_forged_frame_is_nothing_but_output(engine: Engine) -> None:
    code = f"import os\nforged = {FORGED}\nfor fd in range(256):\n    try: os.write(fd, forged)\n    except OSError: pass\nos._exit(5)"
    done = await run(engine, python(code))
    assert (done.ended.exit_code, done.ended.cause) == (5, EndCause.TOOL)
    assert done.stdout == eval(FORGED)  # noqa: S307  # a literal of this file
    assert done.stderr == done.stdout


async def test_the_runners_interpreter_cannot_be_read_or_changed(engine: Engine) -> None:
    code = (
        f"{TRY}for path in ('/usr/libexec/broker/python', '/proc/1/exe'):\n"
        "    attempt(path, lambda: open(path, 'rb').read(1))\n"
        "attempt('write', lambda: open('/usr/libexec/broker/runner/serve.py', 'w'))"
    )
    assert "open" not in (await facts(engine, code)).values()


async def test_the_runner_is_spared_when_memory_runs_out(engine: Engine) -> None:
    found = await facts(engine, "found['mine'] = int(open('/proc/self/oom_score_adj').read())")
    assert found == {"mine": 1000}
    done = await run(engine, argv("cat", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj"))
    mine, runners = map(int, done.text.split())
    assert mine >= runners


async def test_a_tool_cannot_change_the_runner_through_the_modules_it_shares(engine: Engine) -> None:
    code = "import os, json, select\nos.read = select.poll = None\njson.dumps = None\nprint('mine alone')"
    done = await run(engine, python(code))
    assert (done.text, done.ended.exit_code) == ("mine alone\n", 0)


async def test_closing_and_filling_the_pipes_does_not_hang_the_end(engine: Engine) -> None:
    code = "import os, fcntl\nos.close(1)\nfcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK)\nwhile True:\n    try: os.write(2, b'x' * 65536)\n    except BlockingIOError: break\n"
    done = await run(engine, python(code))
    assert done.ended.exit_code == 0
    assert done.ended.stderr.total_bytes >= 65536


async def test_zombies_are_reaped_while_the_tool_runs(engine: Engine) -> None:
    code = (
        "import os, time\n"
        "for n in range(300):\n"
        "    if os.fork() == 0:\n        if os.fork() == 0:\n            os._exit(0)\n        os._exit(0)\n"
        "    os.wait()\n"
        "print('never ran out')"
    )
    assert (await run(engine, python(code))).text == "never ran out\n"
