"""Files of 64 MiB through the whole broker: upload, sandbox, download; never whole in the broker's memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from broker.client import InputFile
from broker.domain.call import CallState
from tests.served import Served

pytestmark = pytest.mark.docker

_SIZE = 64 * 2**20
_SMALL = 8 * 2**20
_COPY = "import os\nos.mkdir('out')\nos.rename('in.bin', 'out/copy.bin')"


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has held so far."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel says nothing of the peak")


async def test_the_largest_file_goes_in_and_comes_out_and_the_broker_never_holds_it(
    served: Served, tmp_path: Path
) -> None:
    source, copy = tmp_path / "in.bin", tmp_path / "copy.bin"
    source.write_bytes(os.urandom(2**20) * (_SIZE // 2**20))
    async with served.client() as client:
        small = InputFile("in.bin", os.urandom(_SMALL))
        await client.run("python.run", {"code": _COPY}, files=[small])  # what a file of any size takes is taken now
        before = _peak_bytes(served.process.pid)
        call = await client.run("python.run", {"code": _COPY}, files=[InputFile("in.bin", source)])
        assert call.state is CallState.SUCCEEDED, call.stderr
        assert call.outcome is not None
        (made,) = call.outcome.files
        assert (made.path, made.size) == ("out/copy.bin", _SIZE)
        await client.download(made, copy)
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    assert _peak_bytes(served.process.pid) - before < _SIZE - 2 * _SMALL
