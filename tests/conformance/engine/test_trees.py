"""A tree that goes in with a job, and what is told of what the tool made of it."""

from __future__ import annotations

import os

import pytest

from broker.domain.run import EndCause, JobFile, JobLink, Limits
from broker.errors import InvalidArgumentError
from broker.sandbox.engine import Engine
from tests.sandbox_support import Finished, argv, finish, given, in_tree, leased, profile, python, run, wanted, written

pytestmark = pytest.mark.docker

TREE = (
    in_tree("a.txt", b"one\n"),
    in_tree("run.sh", b"#!/bin/sh\necho ran\n", 0o755),
    in_tree("deep/er/b.bin", bytes(range(256)) * 10),
    in_tree("empty", b""),
    in_tree("deep/secret", b"hidden", 0o600),
    in_tree("gr\u00fc\u00dfe an \u65e5\u672c.txt", "\u65e5\u672c\n".encode()),
)
LINKS = (JobLink("link", "a.txt"), JobLink("deep/up", "../../..//etc/passwd"), JobLink("dead", "no\nwhere \u00fc"))


async def change(engine: Engine, code: str, **more: object) -> Finished:
    """What some code makes of the tree; all of it may be written, and all that it did is told."""
    values: dict[str, object] = {"files": TREE, "links": LINKS, "tree": written("**"), **more}
    done = await run(engine, python(f"import os, pathlib, shutil\n{code}", **values))
    assert done.ended.exit_code == 0, done.stderr.decode()
    return done


def whole(done: Finished) -> None:
    """All was told, and there was nothing to say."""
    assert done.ended.cause is EndCause.TOOL
    assert done.ended.tree_complete
    assert done.warnings == ()


async def test_a_tree_arrives_with_modes_and_links_and_a_tool_that_changes_nothing_has_no_effect(
    engine: Engine,
) -> None:
    code = """
for root, folders, names in os.walk("."):
    for name in sorted(folders + names):
        path = os.path.join(root, name)
        kind = os.readlink(path) if os.path.islink(path) else oct(os.stat(path).st_mode & 0o777)
        if os.path.islink(path) or os.path.isfile(path):
            print(ascii((path, kind)))
"""
    done = await change(engine, code)
    lines = {f"{(f'./{item.path}', oct(item.mode or 0))!a}" for item in TREE}
    lines |= {f"{(f'./{item.path}', item.target)!a}" for item in LINKS}
    assert set(done.text.splitlines()) == lines
    assert done.changes == {}
    whole(done)


CHANGES: dict[str, tuple[str, dict[str, object]]] = {
    "modified": ("open('a.txt', 'a').write('two\\n')", {"a.txt": (b"one\ntwo\n", 0o644)}),
    "of the same length": ("open('a.txt', 'r+').write('t')", {"a.txt": (b"tne\n", 0o644)}),
    "emptied": ("open('a.txt', 'w')", {"a.txt": (b"", 0o644)}),
    "filled": ("open('empty', 'wb').write(bytes(3))", {"empty": (bytes(3), 0o644)}),
    "written again as it was": ("open('a.txt', 'w').write('one\\n')", {}),
    "replaced by its like": ("os.remove('a.txt'); open('a.txt', 'w').write('one\\n')", {}),
    "touched": ("os.utime('a.txt', (5, 5))", {}),
    "added": (
        "os.makedirs('n/m'); open('n/m/f', 'wb').write(bytes(100_000)); os.chmod('n/m/f', 0o750)",
        {"n/m/f": (bytes(100_000), 0o750)},
    ),
    "added under an odd name": (
        "open('\u00fc b\\'c\"', 'w').write('x'); os.chmod('\u00fc b\\'c\"', 0o600)",
        {"\u00fc b'c\"": (b"x", 0o600)},
    ),
    "an empty folder": ("os.mkdir('nothing')", {}),
    "removed": ("os.remove('a.txt')", {"a.txt": None}),
    "a folder removed": ("shutil.rmtree('deep')", dict.fromkeys(["deep/er/b.bin", "deep/secret", "deep/up"])),
    "renamed": (
        "os.rename('run.sh', 'go.sh')",
        {"run.sh": None, "go.sh": (b"#!/bin/sh\necho ran\n", 0o755)},
    ),
    "its mode": ("os.chmod('run.sh', 0o500)", {"run.sh": 0o500}),
    "a mode that nobody may read by": ("os.chmod('a.txt', 0)", {"a.txt": 0}),
    "special bits": ("os.chmod('a.txt', 0o4644); os.chmod('run.sh', 0o1755)", {}),
    "bytes and mode": ("os.chmod('a.txt', 0o200); open('a.txt', 'w').write('x')", {"a.txt": (b"x", 0o200)}),
    "a link elsewhere": ("os.remove('link'); os.symlink('run.sh', 'link')", {"link": "run.sh"}),
    "a link removed": ("os.remove('dead')", {"dead": None}),
    "a link added": ("os.symlink('/proc/1/environ', 'new')", {"new": "/proc/1/environ"}),
    "a file becomes a link": ("os.remove('a.txt'); os.symlink('empty', 'a.txt')", {"a.txt": "empty"}),
    "a link becomes a file": (
        "os.remove('link'); open('link', 'w').write('y'); os.chmod('link', 0o644)",
        {"link": (b"y", 0o644)},
    ),
    "a folder becomes a file": (
        "shutil.rmtree('deep'); open('deep', 'w').write('z'); os.chmod('deep', 0o644)",
        {**dict.fromkeys(["deep/er/b.bin", "deep/secret", "deep/up"]), "deep": (b"z", 0o644)},
    ),
    "a file becomes a folder": (
        "os.remove('empty'); os.mkdir('empty'); os.rename('a.txt', 'empty/a.txt')",
        {"empty": None, "a.txt": None, "empty/a.txt": (b"one\n", 0o644)},
    ),
    "a folder becomes a link": (
        "shutil.rmtree('deep'); os.symlink('/etc', 'deep')",
        {**dict.fromkeys(["deep/er/b.bin", "deep/secret", "deep/up"]), "deep": "/etc"},
    ),
    "a second name": ("os.link('a.txt', 'twin')", {"twin": (b"one\n", 0o644)}),
    "a second name that nobody may read": (
        "os.link('a.txt', 'twin'); os.chmod('a.txt', 0)",
        {"twin": (b"one\n", 0), "a.txt": 0},
    ),
    "through a link": ("open('link', 'w').write('q')", {"a.txt": (b"q", 0o644)}),
    "in a closed folder": (
        "open('deep/secret', 'w').write('s'); os.chmod('deep', 0); os.chmod('.', 0)",
        {"deep/secret": (b"s", 0o600)},
    ),
}


@pytest.mark.parametrize(("code", "changes"), CHANGES.values(), ids=CHANGES)
async def test_what_changed_is_told_and_nothing_else(engine: Engine, code: str, changes: dict[str, object]) -> None:
    done = await change(engine, code)
    assert done.changes == changes
    whole(done)


async def test_of_two_thousand_files_only_those_that_changed_come_back(engine: Engine) -> None:
    files = tuple(in_tree(f"d{number % 40}/f{number}", b"%d" % number) for number in range(2000))
    code = "for n in (3, 700, 1999): pathlib.Path(f'd{n % 40}/f{n}').write_text('new')"
    limits = Limits(inodes=4096, disk_bytes=64 * 2**20)
    async with leased(engine, await profile(engine, limits)) as lease:
        job = python(f"import pathlib\n{code}", files=files, tree=written("**", max_changes=3, max_bytes=9))
        done = await finish(lease, job)
    assert done.changes == dict.fromkeys(("d3/f3", "d20/f700", "d39/f1999"), (b"new", 0o644))
    whole(done)


async def test_only_what_may_be_written_is_told_and_the_rest_named(engine: Engine) -> None:
    code = """
open('a.txt', 'w').write('x'); os.remove('run.sh'); open('deep/new', 'w').write('n'); os.chmod('deep/new', 0o644)
open('other', 'w'); os.mkfifo('pipe'); open('in.csv', 'w').write('mine'); open('r.out', 'w').write('r')
"""
    files = (*TREE, given("in.csv", b"input"))
    done = await change(engine, code, files=files, tree=written("deep/**"), outputs=wanted("*.out"))
    assert done.changes == {"deep/new": (b"n", 0o644)}
    assert done.files == {"r.out": b"r"}
    assert done.ended.tree_complete
    assert done.warnings == (
        "changed outside of what may be written, and ignored: 'a.txt', 'other', 'pipe' and 1 more",
    )


async def test_a_program_changes_a_tree_too_and_its_failure_is_told_with_it(engine: Engine) -> None:
    done = await run(engine, argv("sh", "-c", "./run.sh > a.txt; exit 3", files=TREE, tree=written("a.txt")))
    assert (done.ended.exit_code, done.changes) == (3, {"a.txt": (b"ran\n", 0o644)})
    whole(done)


async def test_a_large_file_comes_back_whole(engine: Engine) -> None:
    blob = os.urandom(24 * 2**20)
    job = argv("cp", "in.bin", "out.bin", files=(in_tree("in.bin", blob),), tree=written("out.bin", max_bytes=2**25))
    done = await run(engine, job, Limits(wall_s=60))
    assert done.changes == {"out.bin": (blob, 0o644)}


async def test_a_job_without_a_tree_has_no_effect_on_one(engine: Engine) -> None:
    done = await run(engine, python("open('x', 'w')"))
    assert (done.changes, done.ended.tree_complete) == ({}, False)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"tree": None}, "tree"),
        ({"tree": None, "files": ()}, "tree"),
        ({"tree": written("../x")}, "tree.patterns[0]"),
        ({"tree": written(max_changes=-1)}, "tree"),
        ({"files": (in_tree("f", b"", 0o1000),)}, "files[0].mode"),
        ({"files": (in_tree("f", b"", -1),)}, "files[0].mode"),
        ({"files": (JobFile("f", 0, executable=False, open=given("f", b"").open, mode=0),)}, "files[0].digest"),
        ({"files": (given("f", b""),)}, "files[0].path"),
        ({"files": (in_tree("f", b""), in_tree("f/g", b""))}, "files"),
        ({"files": (in_tree("link/g", b""),)}, "files"),
        ({"files": (in_tree("link", b""),)}, "links[0].path"),
        ({"links": (JobLink("/l", "x"),)}, "links[0].path"),
        ({"links": (JobLink("l", "x"), JobLink("l", "y"))}, "links[1].path"),
        ({"links": (JobLink("l", ""),)}, "links[0].target"),
        ({"links": (JobLink("l", "x\0y"),)}, "links[0].target"),
        ({"links": (JobLink("l", "\udc80"),)}, "links[0].target"),
        ({"links": (JobLink("l", "x" * 4096),)}, "links[0].target"),
    ],
)
async def test_a_tree_that_can_not_be_put_in_place_is_refused(
    engine: Engine, more: dict[str, object], field: str
) -> None:
    values: dict[str, object] = {"files": TREE, "links": LINKS, "tree": written("**"), **more}
    async with leased(engine, await profile(engine)) as lease:
        with pytest.raises(InvalidArgumentError) as caught:
            await finish(lease, python("", **values))
    assert caught.value.violations[0].field == field


async def test_a_long_link_and_a_deep_path_arrive(engine: Engine) -> None:
    target, deep = "\x01" * 4095, "/".join("d" * 32)
    code = f"assert os.readlink('l') == '\\x01' * 4095\nos.rename({deep!r}, 'e')\nos.rename('l', 'm')"
    done = await change(engine, code, files=(in_tree(deep, b"d"),), links=(JobLink("l", target),))
    assert done.changes == {deep: None, "e": (b"d", 0o644), "l": None, "m": target}
    whole(done)
