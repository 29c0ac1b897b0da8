"""One attached stream, many channels: whichever of them nobody empties, the others go on, and so do exit and cancel."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from broker.domain.run import (
    EndCause,
    Ended,
    Exited,
    FileData,
    FileEnd,
    FileStart,
    Job,
    JobFile,
    Limits,
    Output,
    RunEvent,
    Started,
)
from broker.sandbox.engine import Duplex, EgressGate, Engine, Lease
from tests.sandbox_support import finish, leased, profile, python, wanted

pytestmark = pytest.mark.docker

MIB = 2**20
WITHIN_S = 30
LIMITS = Limits(wall_s=60, output_bytes=2**30)
ECHO, STUCK = 5001, 5002


class Gate:
    """Echoes on one port; on the other it does what the test wants, until it is cancelled."""

    def __init__(self, stuck: Callable[[Duplex], object] | None = None) -> None:
        self._stuck = stuck
        self.cut = asyncio.Event()
        self.served: list[int] = []

    async def serve(self, listener: int, stream: Duplex) -> None:
        self.served.append(listener)
        if listener == ECHO:
            while data := await stream.read():
                await stream.write(data)
            await stream.end()
            return
        try:
            if self._stuck:
                await self._stuck(stream)  # type: ignore[misc]  # a coroutine function
            await asyncio.Event().wait()
        finally:
            self.cut.set()


async def write_for_ever(stream: Duplex) -> None:
    while True:
        await stream.write(b"x" * 65536)


class Reader:
    """Takes the events of a run, but not those of one channel."""

    def __init__(self, lease: Lease, job: Job, gate: EgressGate, stalled: Callable[[RunEvent], bool]) -> None:
        self._lease = lease
        self._stalled = stalled
        self.held: list[RunEvent] = []
        self.stdout, self.stderr, self.file = bytearray(), bytearray(), bytearray()
        self.changed = asyncio.Condition()
        self.ended: Ended | None = None
        self.task = asyncio.create_task(self._read(lease.run(job, gate)))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    def release(self) -> None:
        self._stalled = lambda _: False
        while self.held:
            self._lease.taken(self.held.pop())

    async def _read(self, events: AsyncIterator[RunEvent]) -> None:
        async for event in events:
            if isinstance(event, Output):
                (self.stdout if event.stream == "stdout" else self.stderr).extend(event.data)
            elif isinstance(event, FileData):
                self.file += event.data
            elif isinstance(event, Ended):
                self.ended = event
            if self._stalled(event):
                self.held.append(event)
            else:
                self._lease.taken(event)
            async with self.changed:
                self.changed.notify_all()


STALLS: Mapping[str, Callable[[RunEvent], bool]] = {
    "stdout": lambda event: isinstance(event, Output) and event.stream == "stdout",
    "stderr": lambda event: isinstance(event, Output) and event.stream == "stderr",
    "files": lambda event: isinstance(event, FileData),
    "gate": lambda _: False,
    "tool": lambda _: False,
}
CODE = f"""
import os, socket, sys
with open('out.bin', 'wb') as file:
    file.write(b'f' * {4 * MIB})
stuck = socket.create_connection(('127.0.0.1', {STUCK}))
wrote, said = os.pipe()
if os.fork() == 0:
    fd = {{'stdout': 1, 'stderr': 2, 'gate': stuck.fileno()}}.get(os.environ['STALL'])
    for number in range(64):
        if fd is not None:
            view = memoryview(b'x' * 65536)
            while view:
                view = view[os.write(fd, view):]
        os.write(said, b'.')
    os._exit(0)
seen = b''
while len(seen) < (8 if os.environ['STALL'].startswith('std') else 1):
    seen += os.read(wrote, 64)
with socket.create_connection(('127.0.0.1', {ECHO})) as echo:
    echo.sendall(b'hello')
    echo.shutdown(socket.SHUT_WR)
    answer = b''.join(iter(lambda: echo.recv(99), b''))
os.write({{'stdout': 2}}.get(os.environ['STALL'], 1), b'answer: ' + answer)
if os.environ['STAY']:
    import time
    time.sleep(600)
os._exit(7)
"""


def job(stall: str, *, stay: bool) -> Job:
    env = {"STALL": stall, "STAY": "yes" if stay else ""}
    return python(CODE, env=env, outputs=wanted("out.bin", max_bytes=64 * MIB), forwards=(ECHO, STUCK))


@asynccontextmanager
async def reading(engine: Engine, stall: str, *, stay: bool) -> AsyncIterator[tuple[Lease, Reader, Gate]]:
    gate = Gate(write_for_ever if stall == "tool" else None)
    async with asyncio.timeout(WITHIN_S), leased(engine, await profile(engine, LIMITS)) as lease:
        reader = Reader(lease, job(stall, stay=stay), gate, STALLS[stall])
        yield lease, reader, gate
        await reader.task


def answered(reader: Reader, stall: str) -> bool:
    return (reader.stderr if stall == "stdout" else reader.stdout).endswith(b"answer: hello")


@pytest.mark.parametrize("stall", STALLS)
async def test_a_stalled_channel_holds_up_no_other_and_no_exit(engine: Engine, stall: str) -> None:
    async with reading(engine, stall, stay=False) as (_, reader, gate):
        await reader.until(lambda: answered(reader, stall))
        # Its connections are cut when the tool has ended: the exit came through.
        await gate.cut.wait()
        if stall == "files":
            assert len(reader.file) < 4 * MIB
        else:
            await reader.until(lambda: len(reader.file) == 4 * MIB)
        reader.release()
    assert reader.ended is not None
    assert (reader.ended.exit_code, reader.ended.cause) == (7, EndCause.TOOL)
    assert len(reader.file) == 4 * MIB
    stream = {"stdout": reader.ended.stdout, "stderr": reader.ended.stderr}.get(stall)
    if stream is not None:
        assert 512 * 1024 <= stream.total_bytes < 4 * MIB
        assert stream.total_bytes == len(reader.stdout if stall == "stdout" else reader.stderr)


@pytest.mark.parametrize("stall", [stall for stall in STALLS if stall != "files"])
async def test_a_stalled_channel_does_not_hold_up_a_cancel(engine: Engine, stall: str) -> None:
    async with reading(engine, stall, stay=True) as (lease, reader, gate):
        await reader.until(lambda: answered(reader, stall))
        lease.kill(EndCause.CLIENT, "enough")
        await gate.cut.wait()
        await lease.removed()
    assert reader.ended is not None
    assert reader.ended.cause is EndCause.CLIENT


async def test_stalled_files_can_be_cancelled_after_the_tools_end(engine: Engine) -> None:
    async with reading(engine, "files", stay=False) as (lease, reader, _):
        await reader.until(lambda: len(reader.file) > MIB // 2)
        lease.kill(EndCause.CLIENT, "enough")
        await lease.removed()
    assert reader.ended is not None
    assert reader.ended.cause is EndCause.CLIENT
    assert len(reader.file) < 4 * MIB


async def test_a_reader_that_stalls_slows_the_tool_and_keeps_little(engine: Engine) -> None:
    async with reading(engine, "stdout", stay=True) as (lease, reader, _):
        await reader.until(lambda: answered(reader, "stdout"))
        assert len(reader.stdout) <= 512 * 1024
        reader.release()
        await reader.until(lambda: len(reader.stdout) == 4 * MIB)
        lease.kill(EndCause.CLIENT, "enough")


async def test_binary_output_survives_untouched(engine: Engine) -> None:
    code = (
        "import os, hashlib\nhashes = []\nfor fd in (1, 2):\n    blob = os.urandom(3_000_001)\n"
        "    view = memoryview(blob)\n    while view:\n        view = view[os.write(fd, view):]\n"
        "    hashes.append(hashlib.sha256(blob).hexdigest())\nopen('hashes', 'w').write(' '.join(hashes))"
    )
    async with leased(engine, await profile(engine, LIMITS)) as lease:
        done = await finish(lease, python(code, outputs=wanted("hashes")))
    expected = done.files["hashes"].decode().split()
    assert [hashlib.sha256(done.stdout).hexdigest(), hashlib.sha256(done.stderr).hexdigest()] == expected
    assert [done.ended.stdout.digest, done.ended.stderr.digest] == [f"sha256:{text}" for text in expected]


async def test_the_largest_files_pass_through_in_both_directions(engine: Engine) -> None:
    size = 64 * MIB
    piece = os.urandom(65536)
    limits = Limits(wall_s=60, disk_bytes=65 * MIB, memory_bytes=160 * MIB)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    expected, found, got, largest = hashlib.sha256(piece * (size // len(piece))).hexdigest(), hashlib.sha256(), 0, 0
    moved = python(
        "import os\nos.rename('in.bin', 'out.bin')",
        files=(JobFile("in.bin", size, executable=False, open=pieces),),
        outputs=wanted("out.bin", max_bytes=size),
    )
    kinds = []
    async with leased(engine, await profile(engine, limits)) as lease:
        async for event in lease.run(moved):
            if isinstance(event, FileData):
                found.update(event.data)
                got += len(event.data)
                largest = max(largest, len(event.data))
            else:
                kinds.append(type(event))
            lease.taken(event)
    assert (got, found.hexdigest()) == (size, expected)
    assert largest <= 65536
    assert kinds == [Started, Exited, FileStart, FileEnd, Ended]
