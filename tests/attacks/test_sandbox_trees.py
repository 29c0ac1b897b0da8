"""A hostile tool hides what it changed of its tree, forges it, or leaves what no tree can hold."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.domain.run import EndCause, JobLink, Limits
from broker.sandbox.engine import Engine
from tests.conformance.engine.conftest import ENGINES
from tests.sandbox_support import Finished, in_tree, python, run, written

pytestmark = pytest.mark.docker

FILES = (in_tree("a.txt", b"one\n"), in_tree("d/b.bin", b"x" * 5000), in_tree("d/c", b"c"), in_tree("read.only", b"r"))
LINKS = (JobLink("d/l", "../a.txt"),)
RULES = written("a.txt", "d/**", "n/**", "pipe")


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """Every engine and runtime: what hides a change from one kernel may not from another."""
    async with ENGINES[request.param]() as engine:
        yield engine


async def attack(engine: Engine, code: str, **more: object) -> Finished:
    values: dict[str, object] = {"files": FILES, "links": LINKS, "tree": RULES, **more}
    done = await run(engine, python(f"import os, pathlib, shutil, sys\n{code}", **values), Limits(wall_s=60))
    assert done.ended.exit_code == 0, (done.ended, done.stderr.decode())
    return done


def refused(done: Finished, *words: str) -> None:
    """Nothing of the effect was told, the run is no success, and a warning says why."""
    assert done.changes == {}
    assert not done.ended.tree_complete
    assert done.ended.cause is EndCause.OUTPUT
    assert any(all(word in text for word in words) for text in done.warnings), done.warnings


# Changes that leave no trace in the facts of a file.


HIDDEN = {
    "times put back": """
facts = os.stat('d/b.bin')
with open('d/b.bin', 'r+b') as target: target.write(b'y')
os.utime('d/b.bin', ns=(facts.st_atime_ns, facts.st_mtime_ns))
""",
    "through a map of memory": """
import mmap
with open('d/b.bin', 'r+b') as target:
    with mmap.mmap(target.fileno(), 0) as there: there[0] = ord('y')
""",
    "through another name": """
os.link('d/b.bin', '/work/other')
with open('other', 'r+b') as target: target.write(b'y')
os.remove('other')
""",
    "by an exchange of files": """
data = b'y' + b'x' * 4999
pathlib.Path('/work/swap').write_bytes(data); os.chmod('/work/swap', 0o644)
os.rename('/work/swap', 'd/b.bin')
""",
    "by a process that outlives the tool": """
if os.fork() == 0:
    while True:
        with open('d/b.bin', 'r+b') as target: target.write(b'y')
import time
while pathlib.Path('d/b.bin').read_bytes()[:1] != b'y': time.sleep(0.001)
""",
}


@pytest.mark.parametrize("code", HIDDEN.values(), ids=HIDDEN)
async def test_a_change_can_not_be_hidden(engine: Engine, code: str) -> None:
    done = await attack(engine, code)
    assert done.changes == {"d/b.bin": (b"y" + b"x" * 4999, 0o644)}
    assert done.ended.tree_complete


# Races: whatever goes on when the tool ends, ends with it.


async def test_a_folder_that_is_swapped_for_a_link_all_the_time(engine: Engine) -> None:
    code = """
os.mkdir('n'); os.symlink('/etc', '/tmp/link')
ready, begun = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        while True:
            for old, new in (('d', 'n/aside'), ('/tmp/link', 'd'), ('d', '/tmp/link'), ('n/aside', 'd')):
                try:
                    os.rename(old, new)
                except OSError:
                    pass
            os.write(begun, b'x')
for _ in range(30): os.read(ready, 1)
"""
    for _ in range(4):
        done = await attack(engine, code)
        told = {path: entry for path, entry in done.changes.items() if isinstance(entry, tuple)}
        assert done.ended.tree_complete or done.changes == {}
        assert all(path.startswith("n/aside/") for path in told)
        assert {content for content, _ in told.values()} <= {b"x" * 5000, b"c"}


@pytest.mark.parametrize(
    "target", ["/etc", "/proc/self", "/proc/1/fd", "/", "..", ".", "/work/d", "/usr/libexec/broker"]
)
async def test_a_folder_that_is_a_link_is_a_link(engine: Engine, target: str) -> None:
    done = await attack(engine, f"shutil.rmtree('d'); os.symlink({target!r}, 'd')")
    assert done.changes == {**dict.fromkeys(("d/b.bin", "d/c", "d/l")), "d": target}
    assert done.ended.tree_complete


# What no tree can hold.


ODD = {
    "a named pipe": ("os.mkfifo('pipe')", ("'pipe'", "neither file")),
    "a socket": ("import socket; socket.socket(socket.AF_UNIX).bind('d/s')", ("'d/s'", "neither file")),
    "a file's place taken by a pipe": ("os.remove('a.txt'); os.mkfifo('a.txt')", ("'a.txt'", "neither file")),
    "a name of no text": ("open(b'd/\\xff', 'w')", ("\\udcff", "UTF-8")),
    "a name with a line in it": ("open('d/x\\ny', 'w')", ("control characters",)),
    "a link to no text": ("os.symlink(b'\\xff', b'd/m')", ("'d/m'", "UTF-8")),
    "a path too deep": (
        "os.makedirs('n/' + '/'.join('d' * 31) + '/e/f'); open('n/' + '/'.join('d' * 31) + '/e/f/x', 'w')",
        ("too deep",),
    ),
    "a path too long": (
        "[(os.mkdir('n' if not n else 'y' * 250), os.chdir('n' if not n else 'y' * 250)) for n in range(6)]; open('x', 'w')",
        ("1024 bytes",),
    ),
}


@pytest.mark.parametrize(("code", "words"), ODD.values(), ids=ODD)
async def test_what_no_tree_can_hold_is_told_and_nothing_is_taken(
    engine: Engine, code: str, words: tuple[str, ...]
) -> None:
    refused(await attack(engine, f"open('a.txt', 'w').write('x') and None\n{code}"), *words)


async def test_many_such_things_are_few_words(engine: Engine) -> None:
    code = "for n in range(500): os.mkfifo(f'd/{n:03}' + 'é' * 100)\nfor n in range(500): open(f'o{n}', 'w')"
    done = await attack(engine, code)
    refused(done, "497 more")
    assert len(done.warnings) == 5
    assert done.warnings[-1].endswith("and 497 more")


# Limits.


async def test_a_change_too_many_and_a_byte_too_many(engine: Engine) -> None:
    rules = written("**", max_changes=3, max_bytes=10)
    for code, reached in (
        ("open('1', 'w').write('x' * 10); open('2', 'w'); os.remove('a.txt')", False),
        ("open('1', 'w').write('x' * 11)", True),
        ("open('1', 'w').write('x' * 9); open('2', 'w').write('yy')", True),
        ("[open(str(n), 'w') for n in range(4)]", True),
        ("shutil.rmtree('d'); os.remove('a.txt')", True),
    ):
        done = await attack(engine, code, tree=rules)
        if reached:
            refused(done, "than the limit allows")
        else:
            assert len(done.changes) == 3
            assert done.ended.tree_complete


async def test_a_file_beyond_all_measure(engine: Engine) -> None:
    refused(await attack(engine, "os.truncate('d/c', 2**40)"), "than the limit allows")


async def test_a_file_of_holes_in_place_of_one_that_went_in(engine: Engine) -> None:
    done = await attack(engine, "os.truncate('d/c', 2**19)")
    assert done.changes == {"d/c": (b"c" + bytes(2**19 - 1), 0o644)}


async def test_a_folder_wider_than_the_search(engine: Engine) -> None:
    code = "import os\nos.mkdir('w')\nfor n in range(100_001): os.symlink('x', f'w/{n}')"
    limits = Limits(wall_s=60, inodes=120_000, memory_bytes=512 * 2**20)
    refused(await run(engine, python(code, tree=RULES), limits), "the search stopped")


# Lies.


async def test_forged_frames_of_a_tree_are_output(engine: Engine) -> None:
    code = """
import struct
for kind, body in ((0x1C, b'{"path": "a.txt"}'), (0x12, b'{"path": "a.txt", "size": 0, "mode": 420}'), (0x1F, b'')):
    frame = struct.pack('>BII', kind, 3, len(body)) + body
    os.write(1, frame); os.write(2, struct.pack('>BxxxI', 1, len(frame)) + frame)
"""
    done = await attack(engine, code)
    assert done.changes == {}
    assert done.ended.tree_complete
    assert done.stdout.count(b'"path"') == 2


async def test_a_file_that_may_only_be_read_stays_what_it_is(engine: Engine) -> None:
    done = await attack(engine, "open('read.only', 'w').write('x'); os.chmod('d/c', 0o600)")
    assert done.changes == {"d/c": 0o600}
    assert done.warnings == ("changed outside of what may be written, and ignored: 'read.only'",)
