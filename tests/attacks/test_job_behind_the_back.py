"""The job or a file is another than was approved when it is sent: the runner hears nothing of it, or never the last frame."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from broker.domain.run import Job, JobFile, JobLink, OutputRules, TreeRules
from broker.errors import FailedPreconditionError
from broker.sandbox.job_frames import encode_job, frame_digest
from broker.sandbox.wire import PIECE, FrameKind, encode
from tests.puppet_runner import EXIT, Puppet, puppet, said
from tests.sandbox_support import argv, finish, given, in_tree, python

WITHIN_S = 20
OTHER = f"sha256:{'0' * 64}"
JOB = argv("echo", "x", env={"A": "1"}, arguments=b'{"n":1}', files=(given("in.csv", b"data"),))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Heard:
    """A runner that writes down each frame, and runs nothing but what is whole."""

    frames: list[tuple[FrameKind, bytes]] = field(default_factory=list)

    async def __call__(self, runner: Puppet) -> None:
        while not self.frames or self.frames[-1][0] is not FrameKind.END_OF_INPUT:
            kind, _, payload = await runner.hear()
            self.frames.append((kind, payload))
        runner.say(said(FrameKind.STARTED), said(FrameKind.EXIT, dict(EXIT)), said(FrameKind.END))
        await runner.gone()

    @property
    def kinds(self) -> list[FrameKind]:
        """Of the frames, in their order."""
        return [kind for kind, _ in self.frames]


async def refusal(folder: Path, job: Job, digest: str = "") -> tuple[FailedPreconditionError, Heard]:
    heard = Heard()
    async with puppet(folder, heard) as (lease, _), asyncio.timeout(WITHIN_S):
        events = lease.run(job, frame_digest=digest)
        with pytest.raises(FailedPreconditionError) as caught:
            await anext(events)
    assert caught.value.reason == "ENVELOPE_CHANGED"
    assert FrameKind.END_OF_INPUT not in heard.kinds
    return caught.value, heard


async def test_the_digest_is_that_of_the_very_bytes(tmp_path: Path) -> None:
    job = replace(JOB, arguments=b'"' + b"x" * (2 * PIECE) + b'"')
    heard = Heard()
    async with puppet(tmp_path, heard) as (lease, _), asyncio.timeout(WITHIN_S):
        await finish(lease, job)
    apart = {FrameKind.FILE_DATA, FrameKind.FILE_END, FrameKind.END_OF_INPUT}
    sent = b"".join(encode(kind, payload) for kind, payload in heard.frames if kind not in apart)
    assert frame_digest(job) == sha256(sent)
    assert heard.kinds == [
        *(FrameKind.JOB, FrameKind.ARGUMENTS, FrameKind.ARGUMENTS, FrameKind.ARGUMENTS),
        *(FrameKind.FILE_BEGIN, FrameKind.FILE_DATA, FrameKind.FILE_END, FrameKind.END_OF_INPUT),
    ]


async def test_the_approved_job_runs(tmp_path: Path) -> None:
    heard = Heard()
    async with puppet(tmp_path, heard) as (lease, _), asyncio.timeout(WITHIN_S):
        events = [event async for event in lease.run(JOB, frame_digest=frame_digest(JOB))]
    assert type(events[0]).__name__ == "Started"


CHANGES: dict[str, dict[str, Any]] = {
    "kind": {"kind": "python"},
    "argv": {"argv": ("echo", "y")},
    "code": {"code": "pass"},
    "env": {"env": {"A": "2"}},
    "arguments": {"arguments": b'{"n":2}'},
    "no_arguments": {"arguments": b""},
    "files": {"files": ()},
    "path": {"files": (given("in.txt", b"data"),)},
    "size": {"files": (given("in.csv", b"datas"),)},
    "executable": {"files": (given("in.csv", b"data", executable=True),)},
    "outputs": {"outputs": OutputRules(("*",))},
    "max_files": {"outputs": OutputRules(max_files=1)},
    "max_bytes": {"outputs": OutputRules(max_bytes=1)},
    "wants_result": {"wants_result": True},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_another_job_than_was_approved_is_not_sent(tmp_path: Path, change: dict[str, Any]) -> None:
    other = replace(JOB, **change)
    error, heard = await refusal(tmp_path, other, frame_digest(JOB))
    assert heard.frames == []
    assert error.metadata == {"expected": frame_digest(JOB), "found": frame_digest(other), "field": "job_frame"}
    assert f"job_frame is {frame_digest(other)} instead of {frame_digest(JOB)}" in error.message


def test_ports_and_proxy_are_in_the_digest_and_openers_are_not() -> None:
    digests = {frame_digest(job) for job in (JOB, replace(JOB, proxy=True), replace(JOB, forwards=(5000,)))}
    assert len(digests) == 3
    assert frame_digest(replace(JOB, files=(given("in.csv", b"DATA"),))) == frame_digest(JOB)  # held to a digest itself


def test_all_of_a_tree_is_in_the_digest() -> None:
    rules, file, link = TreeRules(("d/*",), 1, 2), in_tree("d/f", b"data"), JobLink("d/l", "f")
    tree = replace(JOB, files=(file,), links=(link,), tree=rules)
    jobs = [
        JOB,
        tree,
        *(
            replace(tree, tree=other)
            for other in (TreeRules(), replace(rules, max_changes=2), replace(rules, max_bytes=3))
        ),
        *(replace(tree, files=(other,)) for other in (replace(file, path="d/g"), replace(file, size=5))),
        *(replace(tree, files=(other,)) for other in (replace(file, mode=0o600), in_tree("d/f", b"DATA"))),
        *(replace(tree, links=(other,)) for other in (replace(link, path="d/m"), replace(link, target="g"))),
        replace(tree, links=()),
    ]
    assert len({frame_digest(job) for job in jobs}) == len(jobs)


async def test_the_digest_of_a_tree_is_that_of_the_very_bytes(tmp_path: Path) -> None:
    files = (in_tree("d/f", b"data"), given("in.csv", b"x"))
    job = replace(JOB, files=files, links=(JobLink("d/l", "f"), JobLink("a", "b")), tree=TreeRules(("d/*",)))
    heard = Heard()
    async with puppet(tmp_path, heard) as (lease, _), asyncio.timeout(WITHIN_S):
        await finish(lease, job)
    apart = {FrameKind.FILE_DATA, FrameKind.FILE_END, FrameKind.END_OF_INPUT}
    sent = b"".join(encode(kind, payload) for kind, payload in heard.frames if kind not in apart)
    assert frame_digest(job) == sha256(sent)
    assert heard.kinds[-3:] == [FrameKind.LINK, FrameKind.LINK, FrameKind.END_OF_INPUT]


async def test_another_file_of_a_tree_than_was_approved_stops_the_job(tmp_path: Path) -> None:
    file = replace(given("d/f", b"DATA"), digest=sha256(b"data"), mode=0o644)
    job = python("", files=(file,), tree=TreeRules(("d/*",)))
    error, _ = await refusal(tmp_path, job, frame_digest(job))
    assert error.metadata["field"] == "files[d/f]"


def test_what_is_compared_stays_what_it_was() -> None:
    env = {"A": "1"}
    frames = encode_job(replace(JOB, env=env))
    before = frames.digest
    env["LD_PRELOAD"] = "/work/x.so"
    frames.check(before)
    assert frames.digest == before != frame_digest(replace(JOB, env=env))


def holding(content: bytes, *, size: int, digest: str) -> JobFile:
    return replace(given("data/in.csv", content), size=size, digest=digest)


@pytest.mark.parametrize(
    "content",
    [b"other", b"", b"dat", b"data and more", b"data" * 100_000],
    ids=["other_bytes", "none", "fewer", "more", "many_more"],
)
async def test_another_file_than_was_approved_stops_the_job(tmp_path: Path, content: bytes) -> None:
    job = python("", files=(given("first", b"fine"), holding(content, size=4, digest=sha256(b"data"))))
    error, heard = await refusal(tmp_path, job, frame_digest(job))
    assert error.metadata["field"] == "files[data/in.csv]"
    assert error.metadata["expected"] == sha256(b"data")
    assert error.metadata["found"] != sha256(b"data")
    assert error.metadata["expected"] in error.message
    assert error.metadata["found"] in error.message
    assert heard.kinds.count(FrameKind.FILE_END) <= 1  # of the first


async def test_a_file_with_its_digest_goes_in(tmp_path: Path) -> None:
    heard = Heard()
    job = python("", files=(holding(b"data", size=4, digest=sha256(b"data")),))
    async with puppet(tmp_path, heard) as (lease, _), asyncio.timeout(WITHIN_S):
        await finish(lease, job)
    assert (FrameKind.FILE_DATA, b"data") in heard.frames


async def test_a_file_that_changes_between_its_pieces(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"da"
        yield b"TA"

    job = python("", files=(JobFile("x", 4, executable=False, open=pieces, digest=sha256(b"data")),))
    error, _ = await refusal(tmp_path, job)
    assert error.metadata == {"expected": sha256(b"data"), "found": sha256(b"daTA"), "field": "files[x]"}
