"""Each step of an append goes wrong, both undone and done but reported as failed, and by SIGKILL: what was acknowledged
is there afterwards, once, and the next start goes on without a hand.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.domain.ports import Store
from broker.ledger.encoding import decode
from broker.ledger.ledger import Ledger
from broker.ledger.startup import verify_store
from broker.store.opening import DatabaseTarget, create_store
from tests.fault_appender import REFUSED, STEPS, append, opened
from tests.postgres_server import PostgresServer

PROGRAM = Path(__file__).parents[1] / "fault_appender.py"


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        create_store(DatabaseTarget(path=tmp_path / "broker.db"))
        yield str(tmp_path / "broker.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(f"fault_{abs(hash(tmp_path))}")
        create_store(DatabaseTarget(path=tmp_path / "unused", url=url))
        yield url


@pytest.mark.parametrize("how", ["raise", "kill"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_no_acknowledged_entry_is_missing_or_there_twice(target: str, step: str, when: str, how: str) -> None:
    asyncio.run(_begin(target))
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), target, step, when, how],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = ended.stdout.splitlines()
    assert "fault" in lines, f"the fault never came: {ended.stderr}"
    assert ended.returncode == (-9 if how == "kill" else 0), ended.stderr
    told = dict(line.split() for line in lines if line != "fault")
    asyncio.run(_check(target, told))


async def _begin(target: str) -> None:
    ledger = Ledger("brk_fault", "boot_init", lambda: datetime.now(UTC))
    async with opened(target) as store:
        await store.write(lambda tx: ledger.append(tx, "genesis", {}))


async def _check(target: str, told: dict[str, str]) -> None:
    async with opened(target) as store:
        await verify_store(store)
        texts = await _texts(store)
        assert {seq: texts.get(int(seq)) for seq in told} == told
        assert [text for text, count in Counter(texts.values()).items() if count > 1] == []
        assert not REFUSED & set(texts.values())
        # It goes on: nothing has to be mended first.
        await append(store, Ledger("brk_fault", "boot_next", lambda: datetime.now(UTC)), 99)
        await verify_store(store)
        assert len(await _texts(store)) > len(texts)


async def _texts(store: Store) -> dict[int, str]:
    rows = await store.read(lambda tx: tx.ledger.entries(1, 10_000))
    return {row.seq: str(decode(row.data)["text"]) for row in rows}
