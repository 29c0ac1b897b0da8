"""An artifact of 256 MiB goes in and out in a few MiB of memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, hashlib, sys
from datetime import timedelta
from pathlib import Path
from broker.store.database import Database
from tests.artifact_world import make_world

MIB = 256
BLOCK = bytes(range(256)) * 4096

def peak_kib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

async def stream():
    for _ in range(MIB):
        yield BLOCK

async def main():
    path = Path(sys.argv[1]) / "broker.db"
    Database.create(path)
    async with Database.open(path) as store:
        world = await make_world(store)
        before, size = peak_kib(), 0
        ref = await world.artifacts.put(
            stream(), workspace="shop", call="call_1", kind="before", retention=timedelta(days=1)
        )
        async for piece in world.artifacts.open(ref.digest):
            size += len(piece)
        await world.artifacts.erase(ref.digest, by="hum_1", reason="undone")
        print(size, peak_kib() - before)

asyncio.run(main())
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    repository = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=repository,
        env={"PYTHONPATH": str(repository), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    size, grown_kib = map(int, result.stdout.split())
    assert size == 256 << 20
    assert grown_kib < 64 << 10
