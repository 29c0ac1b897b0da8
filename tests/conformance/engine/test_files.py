"""Files that go in with a job, and what comes back of what a tool leaves behind."""

from __future__ import annotations

import hashlib
import os

import pytest

from broker.domain.run import EndCause, Limits
from broker.errors import InternalError, InvalidArgumentError
from broker.sandbox.engine import Engine
from tests.sandbox_support import argv, finish, given, keeps, leased, profile, python, run, wanted

pytestmark = pytest.mark.docker


async def test_files_arrive_with_their_bytes_and_modes(engine: Engine) -> None:
    blob = os.urandom(300_000)
    files = (
        given("data/deep/in.bin", blob),
        given("run me.sh", b'#!/bin/sh\nsha256sum data/deep/in.bin; python3 -c "$MODE"', executable=True),
        given("empty", b""),
    )
    mode = "import os; print(oct(os.stat('data/deep/in.bin').st_mode)[-3:])"
    done = await run(engine, argv("./run me.sh", files=files, env={"MODE": mode}))
    assert done.text.split()[0] == hashlib.sha256(blob).hexdigest()
    assert done.text.split()[-1] == "644"


async def test_a_large_file_goes_in_and_comes_back(engine: Engine) -> None:
    blob = os.urandom(24 * 2**20)
    limits = Limits(wall_s=60, disk_bytes=64 * 2**20, memory_bytes=256 * 2**20)
    job = argv("cp", "in.bin", "out.bin", files=(given("in.bin", blob),), outputs=wanted("out.bin", max_bytes=2**25))
    done = await run(engine, job, limits)
    assert done.files == {"out.bin": blob}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        "./a",
        "a/.",
        "a\0b",
        "a\nb",
        "x" * 256,
        "/".join("a" * 40),
        "\udcff",
    ],
)
async def test_an_input_path_that_leads_elsewhere_is_refused(engine: Engine, path: str) -> None:
    async with leased(engine, await profile(engine)) as lease:
        with pytest.raises(InvalidArgumentError) as caught:
            await finish(lease, python("", files=(given(path, b"x"),)))
    assert caught.value.violations[0].field == "files[0].path"


async def test_a_path_given_twice_or_through_a_file_is_refused(engine: Engine) -> None:
    for first, second in (("a", "a"), ("a", "a/b")):
        async with leased(engine, await profile(engine)) as lease:
            with pytest.raises(InvalidArgumentError):
                await finish(lease, python("", files=(given(first, b"x"), given(second, b"y"))))


async def test_a_million_tiny_files_are_refused_before_anything_is_sent(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        with pytest.raises(InvalidArgumentError) as caught:
            await finish(lease, python("", files=(given("tiny", b"x"),) * 1_000_000))
    assert caught.value.reason == ("FILES_TOO_MANY" if (await keeps(engine)).inodes else "FILES_TOO_LARGE")


async def test_files_that_do_not_fit_are_refused(engine: Engine) -> None:
    limits = Limits(disk_bytes=2**20)
    async with leased(engine, await profile(engine, limits)) as lease:
        with pytest.raises(InvalidArgumentError) as caught:
            await finish(lease, python("", files=(given("large", b"x" * (2**20 + 1)),)))
    assert caught.value.reason == "FILES_TOO_LARGE"
    # Each takes whole pages, so that these fit by their bytes and not in truth.
    async with leased(engine, await profile(engine, limits)) as lease:
        with pytest.raises(InvalidArgumentError) as caught:
            await finish(lease, python("", files=tuple(given(f"f{n}", b"x") for n in range(300))))
    assert caught.value.reason == "FILES_TOO_LARGE"


@pytest.mark.parametrize("size", [0, 9, 11])
async def test_a_file_of_another_size_than_said_stops_the_run(engine: Engine, size: int) -> None:
    file = given("short", b"x" * size)
    lying = type(file)(file.path, 10, file.executable, file.open)
    async with leased(engine, await profile(engine)) as lease:
        with pytest.raises(InternalError) as caught:
            await finish(lease, python("", files=(lying,)))
    assert caught.value.reason == "INPUT_FILE_BROKEN"


async def test_patterns_choose_what_comes_back(engine: Engine) -> None:
    code = (
        "import os\nos.makedirs('a/b/c')\n"
        "for name in ('top.csv', 'top.txt', 'a/one.csv', 'a/b/two.csv', 'a/b/c/three.csv', '.hidden.csv'):\n"
        "    open(name, 'w').write(name)\n"
    )
    for pattern, expected in {
        "*.csv": {"top.csv", ".hidden.csv"},
        "a/*.csv": {"a/one.csv"},
        "a/**": {"a/one.csv", "a/b/two.csv", "a/b/c/three.csv"},
        "**/*.csv": {"top.csv", ".hidden.csv", "a/one.csv", "a/b/two.csv", "a/b/c/three.csv"},
        "a/**/t*.csv": {"a/b/two.csv", "a/b/c/three.csv"},
        "t?p.[tc]??": {"top.csv", "top.txt"},
    }.items():
        done = await run(engine, python(code, outputs=wanted(pattern)))
        assert done.files == {name: name.encode() for name in expected}, pattern


async def test_a_pattern_that_nothing_matches_is_said(engine: Engine) -> None:
    done = await run(engine, python("", outputs=wanted("report.csv")))
    assert done.files == {}
    assert "report.csv" in done.warnings[0]
    assert done.ended.cause is EndCause.TOOL


@pytest.mark.parametrize(
    ("make", "why"),
    [
        ("os.symlink('/etc/passwd', 'out')", "symbolic link"),
        ("os.symlink('real', 'out'); open('real', 'w').write('x')", "symbolic link"),
        ("os.mkfifo('out')", "named pipe"),
        ("import socket; socket.socket(socket.AF_UNIX).bind('out')", "socket"),
        ("open('out', 'w').write('x'); os.chmod('out', 0)", "Permission denied"),
    ],
)
async def test_a_result_that_is_no_plain_file_is_refused_and_named(engine: Engine, make: str, why: str) -> None:
    done = await run(engine, python(f"import os\n{make}", outputs=wanted("out")))
    assert done.ended.exit_code == 0, done.stderr.decode()
    assert done.files == {}
    assert len(done.warnings) == 1
    assert "'out'" in done.warnings[0]
    assert why in done.warnings[0]


async def test_a_linked_folder_is_not_entered(engine: Engine) -> None:
    done = await run(engine, python("import os; os.symlink('/etc', 'out')", outputs=wanted("out/*", "out/passwd")))
    assert done.files == {}
    assert len(done.warnings) == 2


async def test_a_sparse_file_counts_by_its_apparent_size(engine: Engine) -> None:
    done = await run(engine, python("open('out', 'wb').truncate(2**40)", outputs=wanted("out")))
    assert done.files == {}
    assert done.ended.cause is EndCause.OUTPUT
    assert str(2**40) in done.warnings[0]


async def test_too_many_and_too_large_results_are_named(engine: Engine) -> None:
    code = "for n in range(5):\n    open(f'{n}.out', 'w').write('x' * 100)"
    done = await run(engine, python(code, outputs=wanted("*.out", max_files=2)))
    assert (len(done.files), len(done.warnings), done.ended.cause) == (2, 3, EndCause.OUTPUT)
    done = await run(engine, python(code, outputs=wanted("*.out", max_bytes=250)))
    assert (len(done.files), len(done.warnings), done.ended.cause) == (2, 3, EndCause.OUTPUT)


async def test_odd_names_are_refused_and_written_visibly(engine: Engine) -> None:
    code = (
        "for name in ('a\\nb', 'esc\\x1b[31m', 'bidi\\u202e', os.fsdecode(b'\\xff\\xfe')):\n    open(name, 'w').close()"
    )
    done = await run(engine, python(f"import os\n{code}", outputs=wanted("*")))
    assert list(done.files) == ["bidi\u202e"]
    assert len(done.warnings) == 3
    assert all(text.isprintable() for text in done.warnings)


async def test_a_million_tiny_results_stay_bounded(engine: Engine) -> None:
    code = "for n in range(1_000_000):\n    open(f'{n:06}', 'w').close()"
    # A kernel of the sandbox's own takes long to fill its memory with files: less of that, and more time for it.
    limits = Limits(wall_s=120, memory_bytes=128 * 2**20)
    done = await run(engine, python(code, outputs=wanted("*", max_files=8)), limits)
    if not (await keeps(engine)).inodes:
        assert done.ended.cause is EndCause.MEMORY  # which ends the whole sandbox, before anything is fetched
        return
    assert done.ended.cause is EndCause.INODES
    assert len(done.files) == 8
    assert len(done.warnings) < 50
    assert "more things were not fetched" in done.warnings[-1]


async def test_a_very_deep_tree_is_not_followed_to_its_end(engine: Engine) -> None:
    code = "import os\nfor n in range(1000):\n    os.mkdir('d'); os.chdir('d')\nopen('leaf', 'w').close()"
    done = await run(engine, python(code, outputs=wanted("**/leaf")))
    assert done.ended.exit_code == 0
    assert done.files == {}
    assert any("too deep" in text for text in done.warnings)
