"""Running a tool: both kinds, their ends, their streams, their surroundings."""

from __future__ import annotations

import hashlib
import json
import signal
import uuid

import pytest

from broker.domain.run import EndCause, Ended, Output, OutputRules, Profile
from broker.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from broker.sandbox.engine import Engine
from tests.sandbox_support import LIMITS, argv, finish, leased, profile, python, run

pytestmark = pytest.mark.docker


async def test_python_runs_and_ends_by_itself(engine: Engine) -> None:
    done = await run(engine, python("print(1)"))
    assert (done.text, done.stderr) == ("1\n", b"")
    assert (done.ended.exit_code, done.ended.signal, done.ended.cause) == (0, None, EndCause.TOOL)
    assert done.warnings == ()
    assert done.ended.wall_s > 0


async def test_a_program_runs_and_ends_by_itself(engine: Engine) -> None:
    done = await run(engine, argv("/bin/echo", "hello"))
    assert (done.text, done.ended.exit_code, done.ended.cause) == ("hello\n", 0, EndCause.TOOL)


@pytest.mark.parametrize(
    ("code", "exit_code", "stderr"),
    [
        ("raise SystemExit(3)", 3, b""),
        ("raise SystemExit", 0, b""),
        ("raise SystemExit('why')", 1, b"why\n"),
        ("import os; os._exit(9)", 9, b""),
        ("import sys; sys.exit(True)", 1, b""),
    ],
)
async def test_python_exit_codes(engine: Engine, code: str, exit_code: int, stderr: bytes) -> None:
    done = await run(engine, python(code))
    assert (done.ended.exit_code, done.stderr, done.ended.cause) == (exit_code, stderr, EndCause.TOOL)


async def test_a_programs_exit_code_and_signal(engine: Engine) -> None:
    assert (await run(engine, argv("sh", "-c", "exit 7"))).ended.exit_code == 7
    dead = (await run(engine, argv("sh", "-c", "kill -SEGV $$"))).ended
    assert (dead.exit_code, dead.signal, dead.cause) == (None, signal.SIGSEGV, EndCause.TOOL)


async def test_a_traceback_shows_the_tools_lines_and_none_of_ours(engine: Engine) -> None:
    done = await run(engine, python("def f():\n    return 1 / 0\n\nf()\n"))
    text = done.stderr.decode()
    assert done.ended.exit_code == 1
    assert text.endswith("ZeroDivisionError: division by zero\n")
    assert "return 1 / 0" in text
    assert "runner" not in text


@pytest.mark.parametrize(
    ("code", "last"),
    [
        (
            "import os\nheld = [os.open('/dev/null', os.O_RDONLY) for _ in range(4096)]\n",
            "Too many open files: '/dev/null'",
        ),
        ("import sys\nsys.meta_path.clear()\n1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.path.clear()\nsys.meta_path[:] = [None]\n1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
async def test_a_failure_that_leaves_nothing_to_import_with_is_the_tools_alone(
    engine: Engine, code: str, last: str
) -> None:
    done = await run(engine, python(code))
    text = done.stderr.decode()
    assert done.ended.exit_code == 1
    assert text.endswith(f"{last}\n")
    assert text.count("Traceback") == 1
    assert "runner" not in text


async def test_code_that_does_not_compile_is_the_tools_failure(engine: Engine) -> None:
    done = await run(engine, python("def"))
    assert done.ended.exit_code == 1
    assert b"SyntaxError" in done.stderr
    assert b"runner" not in done.stderr


async def test_both_streams_carry_every_byte(engine: Engine) -> None:
    blob = bytes(range(256)) * 1000
    code = (
        "import os\nblob = bytes(range(256)) * 1000\n"
        "for fd in (1, 2):\n    view = memoryview(blob)\n    while view:\n        view = view[os.write(fd, view):]\n"
    )
    done = await run(engine, python(code))
    assert done.stdout == blob
    assert done.stderr == blob
    assert done.ended.stdout.digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    assert not done.ended.stdout.truncated


async def test_output_comes_while_the_tool_still_runs(engine: Engine) -> None:
    code = "print('first')\nimport time\ntime.sleep(600)"
    seen = []
    async with leased(engine, await profile(engine)) as lease:
        async for event in lease.run(python(code)):
            seen.append(event)
            if isinstance(event, Output):
                lease.kill(EndCause.CLIENT, "enough")
    assert Output("stdout", b"first\n") in seen
    assert isinstance(seen[-1], Ended)
    assert seen[-1].cause is EndCause.CLIENT


async def test_arguments_reach_a_program_as_written(engine: Engine) -> None:
    words = ["a b", "$(id)", "`id`", "'\";|&<>", "*", "", "\n", "--", "ü"]
    done = await run(engine, argv("python3", "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *words))
    assert json.loads(done.stdout) == words


async def test_the_environment_is_exact(engine: Engine) -> None:
    expected = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/work",
        "TMPDIR": "/tmp",  # noqa: S108  # inside the sandbox
        "LANG": "C.UTF-8",
        "BROKER_ARGUMENTS": "/job/arguments.json",
        "COLOUR": "blue = red",
    }
    env = {"COLOUR": "blue = red", "HOME": "/elsewhere"}
    done = await run(engine, argv("env", "-0", env=env))
    assert dict(item.split("=", 1) for item in done.text.rstrip("\0").split("\0")) == expected
    done = await run(engine, python("import os, json; print(json.dumps(dict(os.environ)))", env=env, wants_result=True))
    assert json.loads(done.stdout) == {**expected, "BROKER_RESULT": "/job/result.json"}


async def test_arguments_in_and_result_out(engine: Engine) -> None:
    code = (
        "import json, os\n"
        "with open(os.environ['BROKER_ARGUMENTS']) as file:\n    given = json.load(file)\n"
        "with open(os.environ['BROKER_RESULT'], 'w') as file:\n    json.dump({'twice': given['n'] * 2}, file)\n"
    )
    done = await run(engine, python(code, arguments=b'{"n":21}', wants_result=True))
    assert done.result == b'{"twice": 42}'


async def test_large_arguments_arrive_whole(engine: Engine) -> None:
    arguments = json.dumps({"text": "x" * 3_000_000}).encode()
    code = "import os, hashlib\nprint(hashlib.sha256(open(os.environ['BROKER_ARGUMENTS'], 'rb').read()).hexdigest())"
    done = await run(engine, argv("python3", "-c", code, arguments=arguments))
    assert done.text.strip() == hashlib.sha256(arguments).hexdigest()


async def test_a_result_that_is_missing_or_no_file_is_said(engine: Engine) -> None:
    done = await run(engine, python("pass", wants_result=True))
    assert done.result is None
    assert "left no result" in done.warnings[0]
    done = await run(engine, python("import os; os.symlink('/etc/passwd', '/job/result.json')", wants_result=True))
    assert done.result is None
    assert done.warnings


async def test_standard_input_is_empty(engine: Engine) -> None:
    assert (await run(engine, python("import sys; print(repr(sys.stdin.read()))"))).text == "''\n"
    assert (await run(engine, argv("cat"))).ended.exit_code == 0


async def test_a_program_that_is_not_there(engine: Engine) -> None:
    ended = (await run(engine, argv("no-such-program"))).ended
    assert (ended.exit_code, ended.cause) == (127, EndCause.TOOL)
    assert "no-such-program" in ended.detail


async def test_python_ends_as_an_interpreter_does(engine: Engine) -> None:
    code = (
        "import atexit, threading, time\n"
        "file = open('/work/left-open.txt', 'w')\nfile.write('flushed')\n"
        "atexit.register(lambda: print(open('/work/left-open.txt').read() == '', 'atexit'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "print(__name__, 'end', end=' ')"
    )
    done = await run(engine, argv("true"))
    done = await run(engine, python(code))
    assert done.text == "__main__ end thread\nTrue atexit\n"


LEAVING = {
    "a_file_that_a_function_holds": (
        "file = open('out', 'w')\nfile.write('kept')\ndef hold(): return file",
        b"",
        0,
    ),
    "a_file_that_a_signal_handler_holds": (
        "import signal\nfile = open('out', 'w')\nfile.write('kept')\nsignal.signal(signal.SIGUSR1, lambda *_: file)",
        b"",
        0,
    ),
    "a_file_of_another_module": (
        (
            "import sys, types\nmodule = sys.modules['mine'] = types.ModuleType('mine')\n"
            "module.file = open('out', 'w')\nmodule.file.write('kept')\nmodule.self = module"
        ),
        b"",
        0,
    ),
    "a_finaliser": (
        "class Last:\n    def __del__(self): open('out', 'w').write('kept')\nlast = Last()\nlast.self = last",
        b"",
        0,
    ),
    "words_of_the_c_library": (
        "import ctypes\nctypes.CDLL(None).printf(b'from C')\nopen('out', 'w').write('kept')",
        b"from C",
        0,
    ),
    "a_daemon_thread": (
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
            "file = open('out', 'w')\nfile.write('kept')\nraise SystemExit(4)"
        ),
        b"",
        4,
    ),
    "no_main_module": (
        "import sys\nfile = open('out', 'w')\nfile.write('kept')\ndel sys.modules['__main__'], file",
        b"",
        0,
    ),
    "a_full_device": (
        (
            "import sys, os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nsys.stdout.reconfigure(line_buffering=False)\n"
            "open('out', 'w').write('kept')\nprint('lost')"
        ),
        b"",
        120,
    ),
}


@pytest.mark.parametrize(("code", "stdout", "exit_code"), LEAVING.values(), ids=LEAVING)
async def test_python_leaves_nothing_unwritten(engine: Engine, code: str, stdout: bytes, exit_code: int) -> None:
    done = await run(engine, python(code, outputs=OutputRules(("out",))))
    assert done.files == {"out": b"kept"}, done.stderr.decode()
    assert (done.stdout, done.ended.exit_code) == (stdout, exit_code)


async def test_python_can_start_itself_and_see_itself(engine: Engine) -> None:
    code = (
        "import sys, subprocess, os\n"
        "print(subprocess.run([sys.executable, '-c', 'print(6*7)'], capture_output=True, text=True).stdout.strip())\n"
        "print(sorted(os.listdir('/proc/self/fd'))[:3], open('/dev/stdin').read() == '')\n"
        "print([name for name in sys.modules if 'runner' in name], [p for p in sys.path if 'broker' in p])"
    )
    assert (await run(engine, python(code))).text == "42\n['0', '1', '2'] True\n[] []\n"


async def test_multiprocessing_works(engine: Engine) -> None:
    code = "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n    print(pool.map(abs, [-1, -2]))"
    done = await run(engine, python(code))
    assert done.text == "[1, 2]\n", done.stderr.decode()


async def test_what_a_job_may_not_say_is_refused(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        for job in (argv(), argv("a\0b"), argv("x", env={"a=b": "c"}), python("", kind="shell")):
            with pytest.raises(InvalidArgumentError):
                await finish(lease, job)
        assert (await finish(lease, python("print(2)"))).text == "2\n"


async def test_a_lease_runs_one_job(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        await finish(lease, python("print(1)"))
        with pytest.raises(InternalError):
            await finish(lease, python("print(2)"))


async def test_a_missing_image_is_named_with_what_to_do(engine: Engine) -> None:
    missing = Profile(f"sha256:{uuid.uuid4().hex}{uuid.uuid4().hex}", LIMITS)
    with pytest.raises(FailedPreconditionError) as caught:
        async with leased(engine, missing):
            pass
    assert (caught.value.reason, caught.value.hint) == ("IMAGE_MISSING", "run: make images")
    with pytest.raises(FailedPreconditionError):
        await engine.image("no-such-image")
