"""A hostile tool lies about how it ended, what it said, and why it failed."""

from __future__ import annotations

import hashlib
import json
import signal
import struct

import pytest

from broker.domain.run import EndCause, EvidenceSource, Limits
from broker.errors import InvalidArgumentError
from broker.sandbox.engine import Engine
from tests.sandbox_support import Finished, argv, given, python, run, wanted

pytestmark = pytest.mark.docker

_MIB = 2**20
_BY_TOOL = (EndCause.TOOL, EvidenceSource.SANDBOX)


def _cause(done: Finished) -> tuple[EndCause, EvidenceSource]:
    return done.ended.cause, done.ended.cause_source


def _frames() -> bytes:
    """Bytes that look like frames of every kind, with a channel and without, and like the engine's own around them."""
    said = b""
    for kind in range(256):
        for body in (b"", b"{}", b'{"exit": 0, "signal": null, "cpu_s": 0, "detail": "", "full": {}}'):
            for frame in (
                struct.pack(">BI", kind, len(body)) + body,
                struct.pack(">BII", kind, kind % 4, len(body)) + body,
            ):
                said += frame + struct.pack(">BxxxI", 1, len(frame)) + frame
    return said


@pytest.mark.parametrize("stream", [1, 2], ids=["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["python", "argv"])
async def test_frames_in_the_output_are_output(engine: Engine, kind: str, stream: int) -> None:
    forged = _frames()
    code = f"import os\nsaid = bytes.fromhex('{forged.hex()}')\nwhile said: said = said[os.write({stream}, said):]\nos._exit(7)"
    program = given("code", code.encode())  # too long for an argument
    done = await run(engine, python(code) if kind == "python" else argv("python3", "code", files=(program,)))
    assert (done.stdout if stream == 1 else done.stderr) == forged
    assert (done.ended.exit_code, *_cause(done)) == (7, *_BY_TOOL)


async def test_bytes_that_are_no_text_survive(engine: Engine) -> None:
    said = bytes(range(256)) * 64 + "\u202e\x1b[2J\x00".encode()
    done = await run(engine, python(f"import os\nos.write(1, bytes.fromhex('{said.hex()}'))"))
    assert done.stdout == said
    assert done.ended.stdout.digest == f"sha256:{hashlib.sha256(said).hexdigest()}"


# How it ended.


@pytest.mark.parametrize(
    ("code", "told"), [(256, 0), (257, 1), (-1, 255), (512 + 9, 9), (2**31, 0), (137, 137), (124, 124)]
)
async def test_an_exit_code_out_of_range(engine: Engine, code: int, told: int) -> None:
    done = await run(engine, python(f"import sys\nsys.exit({code})"))
    assert (done.ended.exit_code, done.ended.signal, *_cause(done)) == (told, None, *_BY_TOOL)


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15, 31, 34, 64])
async def test_death_by_its_own_signal(engine: Engine, number: int) -> None:
    code = f"import os, signal\nif {number} != 9: signal.signal({number}, signal.SIG_DFL)\nos.kill(os.getpid(), {number})\nos._exit(0)"
    done = await run(engine, python(code))
    assert (done.ended.exit_code, done.ended.signal, *_cause(done)) == (None, number, *_BY_TOOL)


async def test_exit_137_is_not_taken_for_memory(engine: Engine) -> None:
    code = "import os\nos.write(2, b'Killed\\nOut of memory: Killed process 7 (tool)\\n')\nos._exit(137)"
    done = await run(engine, python(code))
    assert (done.ended.exit_code, done.ended.signal, *_cause(done)) == (137, None, *_BY_TOOL)
    assert not done.ended.oom_kills
    assert "memory" not in done.ended.detail


async def test_exit_124_is_not_taken_for_time(engine: Engine) -> None:
    done = await run(engine, argv("sh", "-c", "timeout 0.01 sleep 9; echo $?; exit 124"))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("124\n", 124, *_BY_TOOL)


async def test_words_of_a_full_disk_are_not_taken_for_one(engine: Engine) -> None:
    code = (
        "import os\nhandle = open('x', 'wb', 0)\n"
        "try:\n    while True: handle.write(b'x' * 65536)\nexcept OSError: pass\n"
        "os.unlink('x')\nhandle.close()\nraise OSError(28, 'No space left on device')"
    )
    done = await run(engine, python(code), Limits(disk_bytes=4 * _MIB))
    assert b"No space left" in done.stderr
    assert (done.ended.exit_code, *_cause(done)) == (1, *_BY_TOOL)


async def test_words_of_a_process_limit_are_not_taken_for_one(engine: Engine) -> None:
    done = await run(engine, python("raise BlockingIOError(11, 'Resource temporarily unavailable')"))
    assert (done.ended.exit_code, *_cause(done)) == (1, *_BY_TOOL)


async def test_a_limit_that_struck_is_told_though_the_tool_says_another(engine: Engine) -> None:
    code = (
        "import os, time\nmade = 0\n"
        "try:\n    while True:\n        if os.fork() == 0: time.sleep(600)\n        made += 1\n"
        "except OSError: pass\n"
        "os.write(2, b'MemoryError\\nNo space left on device\\n')\nos._exit(137)"
    )
    done = await run(engine, python(code), Limits(processes=20))
    assert (done.ended.exit_code, *_cause(done)) == (137, EndCause.PROCESSES, EvidenceSource.ENGINE)


async def test_success_is_success_whatever_was_struck(engine: Engine) -> None:
    code = (
        "import os\nhandle = open('x', 'wb', 0)\n"
        "try:\n    while True: handle.write(b'x' * 65536)\nexcept OSError: pass\nos.write(1, b'full')\nos._exit(0)"
    )
    done = await run(engine, python(code), Limits(disk_bytes=4 * _MIB))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("full", 0, *_BY_TOOL)


async def test_an_end_of_the_main_process_ends_all(engine: Engine) -> None:
    code = (
        "import os, time\nreading, writing = os.pipe()\n"
        "for n in range(3):\n"
        "    if os.fork() == 0:\n        os.setsid()\n        os.write(writing, b'x')\n        while True: time.sleep(1)\n"
        "seen = b''\nwhile len(seen) < 3: seen += os.read(reading, 3)\nos.write(1, b'mine')\nos._exit(0)"
    )
    done = await run(engine, python(code))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("mine", 0, *_BY_TOOL)


async def test_a_main_thread_that_ends_before_the_others(engine: Engine) -> None:
    code = (
        "import ctypes, os, threading, time\nready = threading.Event()\n"
        "def go_on():\n"
        "    ready.set()\n"
        "    while open('/proc/self/status').read().split('State:')[1].split()[0] != 'Z': pass\n"
        "    os.write(1, b'still here')\n    os._exit(3)\n"
        "threading.Thread(target=go_on).start()\nready.wait()\n"
        "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)"
    )
    done = await run(engine, python(code))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("still here", 3, *_BY_TOOL)


async def test_becoming_another_program_changes_no_end(engine: Engine) -> None:
    done = await run(engine, python("import os\nos.execvp('sh', ['runner', '-c', 'echo \"$0\"; exit 11'])"))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("runner\n", 11, *_BY_TOOL)


async def test_a_child_cannot_end_in_place_of_the_tool(engine: Engine) -> None:
    code = (
        "import os, sys\nchild = os.fork()\nif child == 0:\n    os.setsid()\n    os._exit(0)\nos.waitpid(child, 0)\n"
        "if os.fork() == 0:\n    if os.fork() == 0:\n        os._exit(0)\n    os._exit(0)\n"
        "os.wait()\nos.write(1, b'after')\nos._exit(13)"
    )
    done = await run(engine, python(code))
    assert (done.text, done.ended.exit_code, *_cause(done)) == ("after", 13, *_BY_TOOL)


async def test_time_spent_by_a_child_is_counted(engine: Engine) -> None:
    code = (
        "import os, time\nreading, writing = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    while time.process_time() < 0.4: pass\n    os.write(writing, b'x')\n    os._exit(0)\n"
        "os.read(reading, 1)\nos._exit(0)"
    )
    done = await run(engine, python(code))
    assert done.ended.cpu_s is not None
    assert done.ended.cpu_s >= 0.4


async def test_a_name_like_the_runners(engine: Engine) -> None:
    code = (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nlibc.prctl(15, b'broker-python', 0, 0, 0)\n"
        "os.write(1, open('/proc/self/comm', 'rb').read())\nos.kill(os.getpid(), 9)"
    )
    done = await run(engine, python(code))
    assert (done.text, done.ended.signal, *_cause(done)) == ("broker-python\n", signal.SIGKILL, *_BY_TOOL)


# What it is.


@pytest.mark.parametrize("words", [("",), ("", "-c", "exit 0"), ()], ids=["empty", "empty first", "none"])
async def test_a_program_without_a_name(engine: Engine, words: tuple[str, ...]) -> None:
    try:
        done = await run(engine, argv(*words))
    except InvalidArgumentError:
        return
    assert done.ended.exit_code in {126, 127}
    assert _cause(done) == _BY_TOOL


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (("-c", "import os"), 127),
        (("/proc/1/exe", "-c", "print('runner')"), 126),
        (("/proc/self/exe", "-c", "import os; print(os.access('/proc/1/mem', os.R_OK))"), None),
        (("/usr/libexec/broker/python", "-I", "/usr/libexec/broker/runner/start.py"), None),
        (("../../../bin/echo", "up"), 0),
        (("/work", "x"), 126),
        (("/etc/passwd",), 126),
        (("./loop",), 126),
    ],
    ids=["option", "process 1", "itself", "a second runner", "upwards", "folder", "data", "loop"],
)
async def test_odd_programs(engine: Engine, words: tuple[str, ...], exit_code: int | None) -> None:
    loop = given("loop", b"#!/work/loop\n", executable=True)
    done = await run(engine, argv(*words, files=(loop,)))
    assert _cause(done) == _BY_TOOL
    if exit_code is not None:
        assert done.ended.exit_code == exit_code
    assert b"runner" not in done.stdout
    assert b"True" not in done.stdout


# What it hands back.


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"NaN",
        b'{"a": NaN, "b": Infinity}',
        b"[" * 200_000,
        b'{"a": 1, "a": 2}',
        b"1e999999",
        b"\x00" * 64,
    ],
    ids=["empty", "cut", "no text", "NaN", "inner NaN", "deep", "twice", "huge number", "zeros"],
)
async def test_a_result_that_is_no_sane_json_is_handed_on_unread(engine: Engine, text: bytes) -> None:
    code = f"import os\nopen(os.environ['BROKER_RESULT'], 'wb').write(bytes.fromhex('{text.hex()}'))"
    done = await run(engine, python(code, wants_result=True))
    assert (done.ended.exit_code, *_cause(done)) == (0, *_BY_TOOL)
    assert (done.result or b"") == text


async def test_files_named_like_the_brokers_own(engine: Engine) -> None:
    header = json.dumps({"path": "../../etc/passwd", "size": 1})
    code = f"for name in ('result.json', 'arguments.json', 'OUT_BEGIN'): open(name, 'w').write({header!r})"
    done = await run(engine, python(code, outputs=wanted("*")))
    assert done.files == dict.fromkeys(("OUT_BEGIN", "arguments.json", "result.json"), header.encode())
    assert done.result is None


async def test_a_list_of_files_in_the_output_brings_none(engine: Engine) -> None:
    header = b'{"path": "evil", "size": 4}'
    said = b"".join(
        struct.pack(">BII", kind, 3, len(body)) + body for kind, body in ((0x16, header), (0x17, b"evil"), (0x18, b""))
    )
    code = f"import os\nos.write(1, {said!r})"
    done = await run(engine, python(code, outputs=wanted("*")))
    assert done.files == {}
    assert done.stdout == said
