"""A runner that dies, lies, floods or stalls at any point: the broker says so, keeps little, and goes on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from broker.domain.run import EndCause, Ended, Exited, Job, JobFile, Limits, Output, OutputRules, RunEvent, Started
from broker.errors import (
    BrokerError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from broker.sandbox import docker_lease
from broker.sandbox.address import Endpoint
from broker.sandbox.attached import AttachedStream
from broker.sandbox.docker_lease import DockerLease
from broker.sandbox.docker_stream import attach
from broker.sandbox.engine import Duplex
from broker.sandbox.wire import (
    CONNECTION_WINDOW,
    FRAME_COST,
    MAX_CONNECTIONS,
    OUTPUT_WINDOW,
    PIECE,
    STDERR,
    STDOUT,
    FrameKind,
    encode_number,
)
from tests.puppet_runner import EXIT, Puppet, Script, puppet, said
from tests.sandbox_support import finish, python, wanted

WITHIN_S = 20
NEVER_S = 3600.0
PORT = 5000
JOB = python("", outputs=wanted("*.out"), wants_result=True, forwards=(PORT,))

STARTED = said(FrameKind.STARTED)
STDOUT_DATA = said(FrameKind.DATA, b"x", STDOUT)
OPEN = encode_number(FrameKind.OPEN, PORT, 16)
ENDED = said(FrameKind.EXIT, dict(EXIT))
FILE = said(FrameKind.OUT_BEGIN, {"path": "a.out", "size": 2})
END = said(FrameKind.END)
WHOLE = [
    STARTED,
    STDOUT_DATA,
    OPEN,
    ENDED,
    said(FrameKind.RESULT, b"{}"),
    FILE,
    said(FrameKind.OUT_DATA, b"xy"),
    said(FrameKind.OUT_END),
]


class Silent:
    """A gate that neither reads nor writes."""

    def __init__(self) -> None:
        self.serving = 0

    async def serve(self, listener: int, stream: Duplex) -> None:
        del listener, stream
        self.serving += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.serving -= 1


def tells(*frames: bytes, stay: bool = False) -> Script:
    """Takes the job, says something, and hangs up or waits."""

    async def script(runner: Puppet) -> None:
        await runner.take_job()
        runner.say(*frames)
        if stay:
            await runner.gone()

    return script


async def failure(lease: DockerLease, job: Job = JOB) -> UnavailableError:
    gate = Silent()
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(UnavailableError) as caught:
            await finish(lease, job, gate)
    assert caught.value.reason == "ENGINE_FAILED"
    assert gate.serving == 0
    return caught.value


async def test_a_whole_run_by_a_puppet_ends_well(tmp_path: Path) -> None:
    async with puppet(tmp_path, tells(*WHOLE, END)) as (lease, _):
        done = await finish(lease, JOB, Silent())
    assert (done.stdout, done.files, done.result) == (b"x", {"a.out": b"xy"}, b"{}")


@pytest.mark.parametrize("said_before", range(len(WHOLE) + 1))
async def test_a_runner_that_dies_at_any_point_is_our_failure(tmp_path: Path, said_before: int) -> None:
    async with puppet(tmp_path, tells(*WHOLE[:said_before])) as (lease, _):
        assert "ended while" in (await failure(lease)).message


@pytest.mark.parametrize("said_before", [0, *range(4, len(WHOLE) + 1)])
async def test_a_runner_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said_before: int
) -> None:
    monkeypatch.setattr(docker_lease, "STARTUP_S", 0.05 if said_before == 0 else 60)
    monkeypatch.setattr(docker_lease, "COLLECT_S", 0.05)
    async with puppet(tmp_path, tells(*WHOLE[:said_before], stay=True)) as (lease, _):
        assert "fell silent" in (await failure(lease)).message


@pytest.mark.parametrize("said_before", [1, 2, 3])
async def test_a_runner_that_never_reports_an_end_meets_the_time_limit(tmp_path: Path, said_before: int) -> None:
    async with puppet(tmp_path, tells(*WHOLE[:said_before], stay=True), Limits(wall_s=0.05)) as (lease, hands):
        async with asyncio.timeout(WITHIN_S):
            done = await finish(lease, JOB, Silent())
        assert hands.removals == 1
    assert done.ended.cause is EndCause.TIME


@pytest.mark.parametrize("said_before", range(len(WHOLE) + 1))
@pytest.mark.parametrize("how", ["kill", "destroy"])
async def test_a_run_can_be_ended_at_any_point(tmp_path: Path, said_before: int, how: str) -> None:
    told = asyncio.Event()

    async def script(runner: Puppet) -> None:
        await runner.take_job()
        runner.say(*WHOLE[:said_before])
        told.set()
        await runner.gone()

    async with puppet(tmp_path, script) as (lease, hands), asyncio.timeout(WITHIN_S):
        run = asyncio.create_task(finish(lease, JOB, Silent()))
        await told.wait()
        if how == "kill":
            lease.kill(EndCause.OPERATOR, "enough")
            assert (await run).ended.cause is EndCause.OPERATOR
        else:
            await lease.destroy()
            with pytest.raises(UnavailableError):
                await run
        await lease.removed()
        assert hands.removals == 1


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_runner_may_leave_before_it_is_killed_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, leaves: bool
) -> None:
    monkeypatch.setattr(docker_lease, "LEAVE_S", NEVER_S if leaves else 0.01)
    removed, kills_when_left = asyncio.Event(), []

    async def script(runner: Puppet) -> None:
        await runner.take_job()
        runner.say(*WHOLE, END)
        await runner.gone()
        kills_when_left.append(hands.removals)
        if not leaves:
            await removed.wait()

    async with puppet(tmp_path, script) as (lease, hands), asyncio.timeout(WITHIN_S):
        await finish(lease, JOB, Silent())
        await lease.destroy()
        await lease.removed()
        assert hands.removals == 1
        assert hands.watch.died.is_set() is leaves
        assert kills_when_left == [0]
        removed.set()


@pytest.mark.parametrize("how", ["killed", "destroyed", "forged end"])
async def test_a_tool_that_may_still_run_loses_its_runner_though_the_engine_removes_nothing(
    tmp_path: Path, how: str
) -> None:
    told, hung_up, stuck = asyncio.Event(), asyncio.Event(), asyncio.Event()
    forged = how == "forged end"  # by a tool that can speak in the runner's place

    async def script(runner: Puppet) -> None:
        await runner.take_job()
        runner.say(*WHOLE, *([END] if forged else []))
        told.set()
        await runner.gone()
        hung_up.set()

    async with puppet(tmp_path, script, isolated=not forged) as (lease, hands), asyncio.timeout(WITHIN_S):
        hands.stuck = stuck
        run = asyncio.create_task(finish(lease, JOB, Silent()))
        try:
            await told.wait()
            if how == "killed":
                lease.kill(EndCause.OPERATOR, "enough")
            if how != "destroyed":
                await run
            await lease.destroy(linger_s=NEVER_S)
            await hung_up.wait()
        finally:
            stuck.set()
            await asyncio.gather(run, return_exceptions=True)
        await lease.removed()


LIES = {
    "output_before_the_start": [STDOUT_DATA],
    "started_twice": [STARTED, STARTED],
    "end_without_exit": [STARTED, END],
    "exit_twice": [STARTED, ENDED, ENDED],
    "refused_after_the_start": [STARTED, said(FrameKind.REFUSED, b"no")],
    "pong_unasked": [STARTED, said(FrameKind.PONG, bytes(8))],
    "a_frame_that_only_the_broker_sends": [STARTED, b"\x01" + bytes(8)],
    "an_endless_frame": [STARTED, struct.pack(">BII", FrameKind.DATA, STDOUT, 2**32 - 1)],
    "output_on_the_files": [STARTED, said(FrameKind.DATA, b"x", 3)],
    "a_connection_after_the_exit": [STARTED, ENDED, OPEN],
    "a_connection_out_of_turn": [STARTED, encode_number(FrameKind.OPEN, PORT, 17)],
    "a_connection_to_another_port": [STARTED, encode_number(FrameKind.OPEN, PORT + 1, 16)],
    "a_connection_twice": [STARTED, OPEN, OPEN],
    "too_many_connections": [
        STARTED,
        *[encode_number(FrameKind.OPEN, PORT, 16 + number) for number in range(MAX_CONNECTIONS + 1)],
    ],
    "data_of_no_connection": [STARTED, said(FrameKind.DATA, b"x", 16)],
    "data_after_its_end": [STARTED, OPEN, said(FrameKind.END_OF_DATA, channel=16), said(FrameKind.DATA, b"x", 16)],
    "an_end_twice": [STARTED, OPEN, *[said(FrameKind.END_OF_DATA, channel=16)] * 2],
    "data_after_a_break": [STARTED, OPEN, said(FrameKind.RESET, channel=16), said(FrameKind.DATA, b"x", 16)],
    "a_close_unasked": [STARTED, OPEN, said(FrameKind.CLOSE, channel=16)],
    "credit_that_was_never_used": [STARTED, OPEN, encode_number(FrameKind.CREDIT, 1, 16)],
    "no_credit_for_ever": [STARTED, OPEN, encode_number(FrameKind.CREDIT, 0, 16)],
    "a_connection_over_its_window": [
        STARTED,
        OPEN,
        *[said(FrameKind.DATA, b"x" * PIECE, 16)] * (CONNECTION_WINDOW // PIECE + 1),
    ],
    "tiny_frames_over_a_connections_window": [
        STARTED,
        OPEN,
        *[said(FrameKind.DATA, b"x", 16)] * (CONNECTION_WINDOW // FRAME_COST),
    ],
}


@pytest.mark.parametrize("frames", LIES.values(), ids=LIES)
async def test_a_runner_that_lies_is_our_failure(tmp_path: Path, frames: list[bytes]) -> None:
    async with puppet(tmp_path, tells(*frames, stay=True)) as (lease, _):
        assert "nonsense" in (await failure(lease)).message


async def test_a_channel_of_the_engine_that_does_not_exist(tmp_path: Path) -> None:
    async def script(runner: Puppet) -> None:
        await runner.take_job()
        runner.write(struct.pack(">B3xI", 3, 1) + b"x")
        await runner.gone()

    async with puppet(tmp_path, script) as (lease, _):
        assert "nonsense" in (await failure(lease)).message


@pytest.mark.parametrize("channel", [STDOUT, STDERR])
@pytest.mark.parametrize("length", [1, 1000, PIECE])
async def test_a_flood_over_the_window_is_a_violation_and_little_is_kept(
    tmp_path: Path, channel: int, length: int
) -> None:
    count = 2 * OUTPUT_WINDOW // (length + FRAME_COST)
    kept: list[RunEvent] = []
    limits = Limits(output_bytes=2**30)
    frames = [STARTED, *[said(FrameKind.DATA, b"x" * length, channel)] * count]
    async with puppet(tmp_path, tells(*frames, stay=True), limits) as (lease, _), asyncio.timeout(WITHIN_S):
        with suppress(UnavailableError):
            async for event in lease.run(JOB, Silent()):
                kept.append(event)  # noqa: PERF401  # what came before the error counts
    assert not any(isinstance(event, Ended) for event in kept)
    assert sum(FRAME_COST + len(event.data) for event in kept if isinstance(event, Output)) <= OUTPUT_WINDOW


async def test_credit_comes_back_for_what_is_cut_and_for_what_is_taken(tmp_path: Path) -> None:
    given = 0

    async def script(runner: Puppet) -> None:
        nonlocal given
        await runner.take_job()
        runner.say(STARTED)
        left = OUTPUT_WINDOW
        for _ in range(64):
            while left < PIECE + FRAME_COST:
                kind, channel, payload = await runner.hear()
                assert (kind, channel) == (FrameKind.CREDIT, STDOUT)
                left += int.from_bytes(payload, "big")
                given += int.from_bytes(payload, "big")
            runner.say(said(FrameKind.DATA, b"x" * PIECE, STDOUT))
            left -= PIECE + FRAME_COST
        runner.say(ENDED, END)
        await runner.gone()

    async with puppet(tmp_path, script, Limits(output_bytes=20 * PIECE + 7)) as (lease, _), asyncio.timeout(WITHIN_S):
        done = await finish(lease, JOB, Silent())
    assert (done.ended.stdout.total_bytes, len(done.stdout)) == (64 * PIECE, 20 * PIECE + 7)
    assert 55 * PIECE < given < 65 * (PIECE + FRAME_COST)


async def test_a_reader_that_takes_nothing_does_not_use_up_the_runners_time(tmp_path: Path) -> None:
    full = [said(FrameKind.DATA, b"x" * PIECE, STDOUT)] * (OUTPUT_WINDOW // (PIECE + FRAME_COST))
    limits = Limits(output_bytes=2**30)
    async with puppet(tmp_path, tells(STARTED, ENDED, *full, stay=True), limits) as (lease, _):
        events = lease.run(JOB, Silent())
        assert isinstance(await anext(events), Started)
        assert isinstance(await anext(events), Exited)
        held = [await anext(events) for _ in full]
        assert lease._patience is not None
        assert lease._patience._timer is None
        for event in held:
            lease.taken(event)
        assert lease._patience._timer is not None
        lease.kill(EndCause.CLIENT, "enough")
        assert [event.cause async for event in events if not isinstance(event, Output)] == [EndCause.CLIENT]


async def test_a_runner_that_reads_nothing_fills_no_memory(tmp_path: Path) -> None:
    async def deaf(runner: Puppet) -> None:
        del runner
        await asyncio.Event().wait()

    asked = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(1024):
            asked += 1
            yield b"x" * PIECE

    job = Job("argv", ("true",), "", {}, b"{}", (JobFile("big", 1024 * PIECE, executable=False, open=pieces),))
    async with puppet(tmp_path, deaf, Limits(disk_bytes=2**30)) as (lease, _), asyncio.timeout(WITHIN_S):
        run = asyncio.create_task(finish(lease, job))
        while lease._stream._room.is_set():
            await asyncio.wait({run}, timeout=0.001)
        assert asked < 64
        lease.kill(EndCause.CLIENT, "enough")
        assert (await run).ended.cause is EndCause.CLIENT


async def answers(runner: Puppet) -> None:
    kind, _, payload = await runner.hear()
    assert kind is FrameKind.PING
    runner.say(said(FrameKind.PONG, payload))


async def test_a_runner_that_waits_is_ready_and_may_be_asked_again(tmp_path: Path) -> None:
    async def script(runner: Puppet) -> None:
        for _ in range(3):
            await answers(runner)
        await tells(*WHOLE, END, stay=True)(runner)

    async with puppet(tmp_path, script) as (lease, _):
        assert [await lease.ready() for _ in range(3)] == [True] * 3
        assert (await finish(lease, JOB, Silent())).stdout == b"x"
        assert not await lease.ready()


async def nothing(runner: Puppet) -> None:
    await runner.gone()


async def hangs_up(runner: Puppet) -> None:
    await runner.hear()


async def answers_another(runner: Puppet) -> None:
    await runner.hear()
    runner.say(said(FrameKind.PONG, bytes(8)))
    await runner.gone()


async def starts_unasked(runner: Puppet) -> None:
    runner.say(STARTED)
    await runner.gone()


async def babbles(runner: Puppet) -> None:
    runner.write(b"HTTP/1.1 500\r\n\r\n" * 100)
    await runner.gone()


@pytest.mark.parametrize("script", [nothing, hangs_up, answers_another, starts_unasked, babbles])
async def test_any_other_runner_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    monkeypatch.setattr(docker_lease, "FIRST_READY_S", 0.05 if script is nothing else WITHIN_S)
    async with puppet(tmp_path, script) as (lease, _), asyncio.timeout(WITHIN_S):
        assert not await lease.ready()
        if script is not nothing:
            with pytest.raises(BrokerError):
                await finish(lease, JOB, Silent())


class Held:
    """A runner that has a job which may not start, says something, and keeps what else it is sent."""

    def __init__(self, says: bytes = b"") -> None:
        self.rest = asyncio.get_running_loop().create_future()
        self._says = says

    async def __call__(self, runner: Puppet) -> None:
        await takes_ahead(runner)
        if self._says:
            runner.say(self._says)
        self.rest.set_result(await runner.rest())


async def takes_ahead(runner: Puppet) -> None:
    """Answers, and hears all of a small job but the frame that lets it start."""
    await answers(runner)
    assert [(await runner.hear())[0] for _ in range(2)] == [FrameKind.JOB, FrameKind.ARGUMENTS]


async def test_a_job_that_is_handed_over_is_let_start_when_it_is_run(tmp_path: Path) -> None:
    async def script(runner: Puppet) -> None:
        await takes_ahead(runner)
        assert (await runner.hear())[0] is FrameKind.END_OF_INPUT
        runner.say(*WHOLE, END)

    async with puppet(tmp_path, script) as (lease, _), asyncio.timeout(WITHIN_S):
        assert await lease.ready(JOB)
        assert not await lease.ready()
        assert (await finish(lease, JOB, Silent())).stdout == b"x"


@pytest.mark.parametrize(
    "said_ahead", [STARTED, STDOUT_DATA, OPEN, ENDED, END], ids=["start", "data", "open", "exit", "end"]
)
async def test_a_runner_that_starts_a_job_by_itself_is_our_failure_and_hears_no_more(
    tmp_path: Path, said_ahead: bytes
) -> None:
    held = Held(said_ahead)
    async with puppet(tmp_path, held) as (lease, _):
        async with asyncio.timeout(WITHIN_S):
            assert await lease.ready(JOB)
            assert await held.rest == b""
        assert "spoke nonsense" in (await failure(lease)).message


async def test_a_runner_that_refuses_a_job_beforehand_is_heard_when_it_is_run(tmp_path: Path) -> None:
    held = Held(said(FrameKind.REFUSED, b"no room"))
    async with puppet(tmp_path, held) as (lease, _), asyncio.timeout(WITHIN_S):
        assert await lease.ready(JOB)
        await lease._over.wait()
        with pytest.raises(InvalidArgumentError, match="no room"):
            await finish(lease, JOB, Silent())
    assert await held.rest == b""


async def test_what_was_handed_over_is_the_only_job_that_can_be_run(tmp_path: Path) -> None:
    held = Held()
    async with puppet(tmp_path, held) as (lease, _), asyncio.timeout(WITHIN_S):
        assert await lease.ready(JOB)
        for other in (replace(JOB), replace(JOB, code="print(2)")):
            with pytest.raises(InternalError, match="once"):
                await finish(lease, other, Silent())
    assert await held.rest == b""


@pytest.mark.parametrize("how", ["kill", "destroy"])
async def test_a_job_that_is_handed_over_and_ended_before_it_is_run_is_never_let_start(
    tmp_path: Path, how: str
) -> None:
    held = Held()
    async with puppet(tmp_path, held) as (lease, _), asyncio.timeout(WITHIN_S):
        assert await lease.ready(JOB)
        if how == "kill":
            lease.kill(EndCause.OPERATOR, "enough")
            assert (await finish(lease, JOB, Silent())).ended.cause is EndCause.OPERATOR
        else:
            await lease.destroy()
        assert await held.rest == b""


async def test_a_job_whose_frames_are_not_those_that_were_approved_is_never_let_start(tmp_path: Path) -> None:
    held = Held()
    async with puppet(tmp_path, held) as (lease, _), asyncio.timeout(WITHIN_S):
        assert await lease.ready(JOB)
        with pytest.raises(FailedPreconditionError) as caught:
            await anext(lease.run(JOB, Silent(), frame_digest=f"sha256:{'0' * 64}"))
        assert caught.value.reason == "ENVELOPE_CHANGED"
    assert await held.rest == b""


async def test_a_large_job_is_not_handed_over_before_it_is_run(tmp_path: Path) -> None:
    async def script(runner: Puppet) -> None:
        await answers(runner)
        await answers(runner)
        await tells(*WHOLE, END)(runner)

    large = replace(JOB, code="#" * PIECE)
    async with puppet(tmp_path, script) as (lease, _), asyncio.timeout(WITHIN_S):
        assert await lease.ready(large)
        assert await lease.ready(large)  # it has been given nothing
        assert (await finish(lease, large, Silent())).stdout == b"x"


async def test_an_engine_that_refuses_or_hangs_up_gives_no_stream(tmp_path: Path) -> None:
    heads = [b"HTTP/1.1 404 no\r\n\r\n", b"", b"nonsense\r\n\r\n", b"x" * 200_000]

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(heads.pop())
        writer.close()

    server = await asyncio.start_unix_server(engine, tmp_path / "engine.sock")
    while heads:
        with pytest.raises(UnavailableError):
            await attach(Endpoint(path=str(tmp_path / "engine.sock")), "1.41", "c1")
    server.close()


async def test_output_rules_are_kept_by_the_broker_too(tmp_path: Path) -> None:
    big = said(FrameKind.OUT_BEGIN, {"path": "a.out", "size": 2**21})
    async with puppet(tmp_path, tells(STARTED, ENDED, big, stay=True)) as (lease, _):
        job = python("", outputs=OutputRules(("*.out",), 1, 2**20))
        assert "more files" in (await failure(lease, job)).message


async def test_a_runner_that_floods_after_its_end_is_not_heard(tmp_path: Path) -> None:
    stuck = asyncio.Event()

    async def flood(runner: Puppet) -> None:
        await runner.take_job()
        runner.say(*WHOLE, END)
        try:
            async with asyncio.timeout(1):  # read, all of it would be gone in a fifth of that
                for _ in range(1024):
                    runner.say(bytes(PIECE))
                    await runner.drain()
        except TimeoutError:
            stuck.set()
        await runner.gone()

    async with puppet(tmp_path, flood) as (lease, _), asyncio.timeout(WITHIN_S):
        assert (await finish(lease, JOB, Silent())).stdout == b"x"
        await stuck.wait()


@pytest.mark.parametrize("code", ["", "#" * PIECE], ids=["small", "large"])
async def test_a_run_whose_end_was_ordered_before_it_began_never_gets_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    async with puppet(tmp_path, nothing) as (lease, _), asyncio.timeout(WITHIN_S):
        sent: list[bytes] = []
        monkeypatch.setattr(AttachedStream, "write", lambda _, data: sent.append(data))
        lease.kill(EndCause.OPERATOR, "first")
        done = await finish(lease, python(code))
        assert (done.ended.cause, done.ended.detail) == (EndCause.OPERATOR, "first")
        assert sent == []
