"""A hostile tool leaves traps where its result files and its result are collected.

The plain rules (links, pipes, patterns, limits) are in the conformance suite; here they are under attack.
"""

from __future__ import annotations

import pytest

from broker.domain.run import EndCause, EvidenceSource, Limits
from broker.sandbox.engine import Engine
from tests.sandbox_support import Finished, argv, python, run, wanted

pytestmark = pytest.mark.docker

_MIB = 2**20
_RESULT = "import os\nresult = os.environ['BROKER_RESULT']\n"


def _clean(done: Finished) -> None:
    """The tool did all that the attack needs, and ended by itself."""
    assert done.ended.exit_code == 0, (done.ended, done.stderr.decode())


# Links.


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "/proc/1/environ",
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/1/fd/0",
        "/dev/zero",
        "/dev/stdin",
        "/job/arguments.json",
        "/usr/libexec/broker/runner/serve.py",
        "../../../../etc/shadow",
        "out",
        "nowhere",
    ],
)
async def test_a_link_to_what_is_not_the_tools(engine: Engine, target: str) -> None:
    code = f"import os\nos.symlink({target!r}, 'out')\nos.makedirs('deep')\nos.symlink({target!r}, 'deep/out')"
    done = await run(engine, python(code, outputs=wanted("out", "deep/*", "**/out")))
    _clean(done)
    assert done.files == {}
    assert len(done.ended.warnings) == 2
    assert all("symbolic link" in text for text in done.ended.warnings)


@pytest.mark.parametrize("target", ["/proc/self", "/proc/1", "/etc", "/", "..", "."])
async def test_a_link_to_a_folder(engine: Engine, target: str) -> None:
    code = f"import os\nos.symlink({target!r}, 'out')"
    done = await run(engine, python(code, outputs=wanted("out/**", "out/passwd", "out/environ", "**/hostname")))
    _clean(done)
    assert done.files == {}
    assert done.ended.warnings


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc/hostname", "/job/arguments.json", "/proc/self/environ"])
async def test_a_hard_link_to_what_is_not_the_tools(engine: Engine, target: str) -> None:
    code = f"import os\ntry: os.link({target!r}, 'out')\nexcept OSError as error: print(error.errno)"
    done = await run(engine, python(code, outputs=wanted("out")))
    _clean(done)
    assert done.text in {"18\n", "1\n"}  # EXDEV, EPERM
    assert done.files == {}


async def test_hard_links_count_as_often_as_they_are_there(engine: Engine) -> None:
    code = "import os\nopen('0', 'wb').write(b'x' * 100_000)\nfor n in range(1, 100): os.link('0', str(n))"
    done = await run(engine, python(code, outputs=wanted("*", max_files=200, max_bytes=1_000_000)))
    _clean(done)
    assert len(done.files) == 10
    assert (done.ended.cause, done.ended.cause_source) == (EndCause.OUTPUT, EvidenceSource.SANDBOX)


async def test_swapping_a_file_and_a_link_while_files_are_collected(engine: Engine) -> None:
    code = (
        "import os\nreading, writing = os.pipe()\nos.mkdir('a')\nopen('a/passwd', 'w').write('mine')\nopen('real', 'w').write('mine')\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n    n = 0\n"
        "    while True:\n"
        "        n += 1\n"
        "        os.symlink('/etc/passwd', 'next'); os.rename('next', 'out')\n"
        "        os.link('real', 'next'); os.rename('next', 'out')\n"
        "        os.rename('a', 'b'); os.symlink('/etc', 'a'); os.unlink('a'); os.rename('b', 'a')\n"
        "        if n == 100: os.write(writing, b'x')\n"
        "os.read(reading, 1)\nos._exit(0)"
    )
    for _ in range(4):
        done = await run(engine, python(code, outputs=wanted("out", "a/*", "b/*")))
        _clean(done)
        assert set(done.files.values()) <= {b"mine"}


# Files that are not what they seem.


@pytest.mark.parametrize("change", ["'ab'", "'wb'"], ids=["growing", "rewritten"])
async def test_a_file_that_changes_while_files_are_collected(engine: Engine, change: str) -> None:
    code = (
        "import os\nreading, writing = os.pipe()\nopen('out', 'wb').write(b'x' * 500_000)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n    n = 0\n"
        "    while True:\n"
        f"        n += 1\n        open('out', {change}).write(b'x' * 1000 * n)\n"
        "        if n == 50: os.write(writing, b'x')\n"
        "        if n == 200: n = 100; os.truncate('out', 0)\n"
        "os.read(reading, 1)\nos._exit(0)"
    )
    done = await run(engine, python(code, outputs=wanted("out", max_bytes=2**26)))
    _clean(done)
    assert done.files["out"] == b"x" * len(done.files["out"])


async def test_a_sparse_file_within_the_limit_is_nothing_but_zeros(engine: Engine) -> None:
    done = await run(
        engine,
        python("open('out', 'wb').truncate(2**24)", outputs=wanted("out", max_bytes=2**24)),
        Limits(disk_bytes=4 * _MIB),
    )
    _clean(done)
    assert done.files == {"out": bytes(2**24)}


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 - 4096], ids=["TiB", "EiB", "the largest"])
async def test_a_sparse_file_beyond_all_measure(engine: Engine, size: int) -> None:
    code = f"import os\nhandle = os.open('out', os.O_CREAT | os.O_WRONLY)\nos.ftruncate(handle, {size})\nprint(os.stat('out').st_size)"
    done = await run(engine, python(code, outputs=wanted("out")))
    _clean(done)
    assert int(done.text) == size
    assert done.files == {}
    assert (done.ended.cause, done.ended.cause_source) == (EndCause.OUTPUT, EvidenceSource.SANDBOX)
    assert str(size) in done.ended.warnings[0]


async def test_closing_the_working_folder(engine: Engine) -> None:
    done = await run(
        engine, python("import os\nopen('out', 'w').write('x')\nos.chmod('/work', 0)", outputs=wanted("out", "**"))
    )
    _clean(done)
    assert done.files == {}
    assert "Permission denied" in done.ended.warnings[0]


async def test_closing_a_folder_on_the_way(engine: Engine) -> None:
    code = "import os\nos.makedirs('a/b')\nopen('a/b/out', 'w').write('x')\nos.chmod('a/b', 0o000)\nopen('z', 'w').write('z')"
    done = await run(engine, python(code, outputs=wanted("a/b/out", "**/out", "z")))
    _clean(done)
    assert done.files == {"z": b"z"}
    assert any("'a/b'" in text and "Permission denied" in text for text in done.ended.warnings)


async def test_a_file_where_a_folder_is_asked_for_and_the_other_way_round(engine: Engine) -> None:
    code = "import os\nopen('a', 'w').write('x')\nos.mkdir('b')"
    done = await run(engine, python(code, outputs=wanted("a/out", "b")))
    _clean(done)
    assert done.files == {}
    assert done.ended.warnings


# Names.


async def test_names_that_only_look_like_ways_out(engine: Engine) -> None:
    names = [
        "...",
        "..a",
        "-rf",
        "~",
        "a\\..\\b",
        "%2e%2e",
        "CON",
        "$(id)",
        "`id`",
        "a;b",
        "'",
        '"',
        "*",
        " ",
        "x" * 255,
        "ä" * 127,
    ]
    code = f"for name in {names!r}: open(name, 'w').write(name)"
    done = await run(engine, python(code, outputs=wanted("*", max_files=100)))
    _clean(done)
    assert done.files == {name: name.encode() for name in names}


async def test_names_that_are_one_to_the_eye_and_two_to_the_kernel(engine: Engine) -> None:
    names = ["caf\u00e9", "cafe\u0301", "report.csv", "REPORT.csv", "r\u0435port.csv"]
    done = await run(engine, python(f"for name in {names!r}: open(name, 'w').write(name)", outputs=wanted("*")))
    _clean(done)
    assert done.files == {name: name.encode() for name in names}


@pytest.mark.parametrize(
    "name",
    ["a\\nb", "\\r\\x1b[2J", "\\x7f", "\\x85", "\\t", "\\ud800"],
    ids=["line", "screen", "del", "nel", "tab", "half"],
)
async def test_names_that_act_on_a_terminal(engine: Engine, name: str) -> None:
    code = f"import os\nname = '{name}'\nopen(name.encode('utf-8', 'surrogatepass'), 'w').write('x')\nprint(len(os.listdir('.')))"
    done = await run(engine, python(code, outputs=wanted("**")))
    _clean(done)
    assert done.text == "1\n"
    assert done.files == {}
    assert len(done.ended.warnings) == 1
    assert done.ended.warnings[0].isprintable()


async def test_names_of_every_byte(engine: Engine) -> None:
    code = (
        "import os\nfor byte in range(1, 256):\n"
        "    if byte != 0x2F: os.close(os.open(bytes([0x61, byte]), os.O_CREAT | os.O_WRONLY))\nprint(len(os.listdir('.')))"
    )
    done = await run(engine, python(code, outputs=wanted("*", max_files=500)))
    _clean(done)
    assert done.text == "254\n"
    assert set(done.files) == {f"a{chr(byte)}" for byte in range(0x20, 0x7F) if byte != 0x2F}
    assert all(text.isprintable() for text in done.ended.warnings)


async def test_a_path_too_long_for_anybody(engine: Engine) -> None:
    code = "import os\nfor n in range(20):\n    os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('out', 'w').write('x')\nprint('made')"
    done = await run(engine, python(code, outputs=wanted("**/out")))
    _clean(done)
    assert (done.text, done.files) == ("made\n", {})
    assert done.ended.warnings


async def test_a_tree_of_a_thousand_floors(engine: Engine) -> None:
    code = "import os\nfor n in range(1000):\n    open('out', 'w').close(); os.mkdir('d'); os.chdir('d')\nprint('made')"
    done = await run(engine, python(code, outputs=wanted("**/out", max_files=100)), Limits(inodes=8192))
    _clean(done)
    assert done.text == "made\n"
    assert all(len(path.split("/")) <= 32 for path in done.files)
    assert any("too deep" in text for text in done.ended.warnings)


async def test_a_folder_wider_than_the_search(engine: Engine) -> None:
    code = "import os\nos.mkdir('w')\nos.mknod('w/x')\nfor n in range(100_500): os.link('w/x', f'w/{n}')\nprint('made', flush=True)"
    done = await run(
        engine, python(code, outputs=wanted("w/nothing")), Limits(inodes=200_000, wall_s=60, memory_bytes=512 * _MIB)
    )
    assert done.text == "made\n"
    assert done.files == {}
    assert len(done.ended.warnings) <= 40


# The structured result.


@pytest.mark.parametrize(
    ("make", "why"),
    [
        ("os.mkfifo(result)", "no plain file"),
        ("os.mkdir(result)", "no plain file"),
        ("os.symlink('/etc/passwd', result)", "no result"),
        ("open('/work/r', 'w').write('{}'); os.symlink('/work/r', result)", "no result"),
        ("import socket; socket.socket(socket.AF_UNIX).bind(result)", "no result"),
        ("open(result, 'w').write('{}'); os.chmod(result, 0)", "no result"),
        ("os.chmod('/job', 0)", "no result"),
        ("pass", "no result"),
    ],
    ids=["pipe", "folder", "link out", "link in", "socket", "closed", "closed folder", "nothing"],
)
async def test_a_result_that_is_no_file(engine: Engine, make: str, why: str) -> None:
    done = await run(engine, python(f"{_RESULT}{make}", wants_result=True))
    _clean(done)
    assert done.result is None
    assert len(done.ended.warnings) == 1
    assert why in done.ended.warnings[0]


@pytest.mark.parametrize("size", [4 * _MIB + 1, 2**40], ids=["a byte too long", "sparse TiB"])
async def test_a_result_beyond_its_limit(engine: Engine, size: int) -> None:
    done = await run(engine, python(f"{_RESULT}open(result, 'w').truncate({size})", wants_result=True))
    _clean(done)
    assert done.result is None
    assert (done.ended.cause, done.ended.cause_source) == (EndCause.OUTPUT, EvidenceSource.SANDBOX)
    assert str(size) in done.ended.warnings[0]


async def test_a_result_of_just_its_limit(engine: Engine) -> None:
    done = await run(engine, python(f"{_RESULT}open(result, 'w').write(' ' * {4 * _MIB})", wants_result=True))
    assert done.result == b" " * (4 * _MIB)
    assert done.ended.cause is EndCause.TOOL


async def test_a_result_that_nobody_asked_for(engine: Engine) -> None:
    code = "import os\nopen('/job/result.json', 'w').write('{}')\nprint('BROKER_RESULT' in os.environ)"
    done = await run(engine, python(code))
    _clean(done)
    assert (done.text, done.result) == ("False\n", None)


async def test_arguments_rewritten_by_the_tool_are_not_taken_back(engine: Engine) -> None:
    script = (
        'chmod u+w "$BROKER_ARGUMENTS" && echo "{\\"forged\\": 1}" > "$BROKER_ARGUMENTS" && cat "$BROKER_ARGUMENTS"'
    )
    done = await run(
        engine, argv("sh", "-c", script, arguments=b'{"true": 1}', outputs=wanted("**"), wants_result=True)
    )
    assert done.text == '{"forged": 1}\n'  # its own copy is its own
    assert (done.result, done.files) == (None, {})
