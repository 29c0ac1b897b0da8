"""A small job goes in one write, of the very bytes that it would go in otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import pytest

from broker.domain.run import Job, JobFile, JobLink
from broker.sandbox.attached import AttachedStream
from broker.sandbox.job_frames import LET_START, encode_job, send_job
from broker.sandbox.wire import PIECE

JOB = Job(kind="python", argv=("<code>",), code="print(1)", env={"A": "b"}, arguments=b'{"code":"print(1)"}')


class Written:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        """See ``AttachedStream``."""
        self.data += data

    async def drain(self) -> None:
        """See ``AttachedStream``."""


async def _nothing() -> AsyncIterator[bytes]:
    for piece in ():
        yield piece


@pytest.mark.parametrize("arguments", [b"", b"{}", JOB.arguments])
async def test_a_small_job_is_the_same_in_one(arguments: bytes) -> None:
    frames, sent = encode_job(replace(JOB, arguments=arguments)), Written()
    await send_job(frames, cast("AttachedStream", sent))
    assert frames.ahead() + LET_START == sent.data


@pytest.mark.parametrize(
    "job",
    [
        replace(JOB, arguments=b"x" * PIECE),
        replace(JOB, code="#" * PIECE),
        replace(JOB, files=(JobFile("a", 0, executable=False, open=_nothing),)),
        replace(JOB, links=(JobLink("a", "b"),)),
    ],
    ids=["arguments", "code", "file", "link"],
)
def test_any_other_job_goes_in_pieces(job: Job) -> None:
    assert encode_job(job).ahead() == b""
