"""Files that would only fail to fit once the sandbox is there: refused before anything is made."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.domain.run import Job, JobFile, Limits
from broker.errors import InvalidArgumentError
from broker.sandbox.jobs import check_job

LIMITS = Limits(disk_bytes=16 * 4096, inodes=16)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _job(*files: tuple[str, int]) -> Job:
    return Job(
        kind="argv",
        argv=("true",),
        code="",
        env={},
        arguments=b"{}",
        files=tuple(JobFile(path, size, executable=False, open=_nothing) for path, size in files),
    )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([(f"f{number}", 1) for number in range(16)], "FILES_TOO_MANY"),
        ([("/".join("abcdefghijklmnop"), 1)], "FILES_TOO_MANY"),
        ([(f"d{number}/f", 1) for number in range(8)], "FILES_TOO_MANY"),
        ([("f", 16 * 4096 + 1)], "FILES_TOO_LARGE"),
        ([("f", 15 * 4096 + 1), ("g", 1)], "FILES_TOO_LARGE"),
    ],
    ids=["count", "deep", "folders", "bytes", "pages"],
)
def test_files_that_do_not_fit_the_sandbox_are_refused(files: list[tuple[str, int]], reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_job(_job(*files), LIMITS)
    assert caught.value.reason == reason
    assert caught.value.violations[0].field == "files"


def test_files_that_just_fit_pass() -> None:
    check_job(_job(*[(f"f{number}", 4096) for number in range(15)]), LIMITS)
    check_job(_job(("/".join("abcdefghijklmno"), 16 * 4096)), LIMITS)
