"""No acknowledged entry is lost when the power goes: at every moment, every write that no sync followed is thrown away."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.ledger.ledger import Ledger
from broker.ledger.reader import verify_file
from broker.ledger.verdict import Verdict
from broker.store.database import Database
from tests.power_loss import Step, after_power_loss, record

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: apt-get install strace")

APPENDERS, ENTRIES = 3, 12
PROGRAM = Path(__file__).parents[1] / "power_appender.py"


@dataclass
class Recorded:
    before: Path
    folder: Path
    steps: list[Step]

    @property
    def cuts(self) -> list[int]:
        """Right after each acknowledgement, and before and after each sync: between those nothing changes for the better."""
        return [index + 1 for index, step in enumerate(self.steps) if step.told or step.call in {"fsync", "fdatasync"}]

    def acknowledged(self, cut: int) -> list[int]:
        return [int(line) for step in self.steps[:cut] if step.told for line in step.told.split()]


def recorded(tmp_path: Path, synchronous: str) -> Recorded:
    folder, before = tmp_path / "state", tmp_path / "before"
    folder.mkdir()
    database = folder / "broker.db"
    Database.create(database)
    ledger = Ledger("brk_power", "boot_init", lambda: datetime.now(UTC))
    with Database.open_sync(database) as store:
        store.write_sync(lambda tx: ledger.append(tx, "genesis", {}))
    shutil.copytree(folder, before)
    command = [sys.executable, str(PROGRAM), str(database), str(APPENDERS), str(ENTRIES), synchronous]
    return Recorded(before, folder, record(command, folder, tmp_path / "trace"))


def survivors(found: Recorded, cut: int, into: Path) -> int:
    """Entries that a broker finds after a power loss at that moment; the ledger must verify."""
    after_power_loss(found.steps[:cut], found.before, found.folder, into)
    with Database.open_sync(into / "broker.db") as store:
        head = store.read_sync(lambda tx: tx.ledger.head())
    assert verify_file(into / "broker.db").verdict is Verdict.OK
    return 0 if head is None else head.seq + 1


def test_no_acknowledged_entry_is_lost_whenever_the_power_goes(tmp_path: Path) -> None:
    found = recorded(tmp_path, "FULL")
    assert len(found.acknowledged(len(found.steps))) == APPENDERS * ENTRIES
    for cut in found.cuts:
        left = survivors(found, cut, tmp_path / "after")
        lost = [seq for seq in found.acknowledged(cut) if seq >= left]
        assert not lost, f"cut after step {cut}: {lost} had been acknowledged"


def test_the_same_loses_entries_where_a_commit_does_not_sync(tmp_path: Path) -> None:
    found = recorded(tmp_path, "NORMAL")
    lost = [
        seq
        for cut in found.cuts
        for left in [survivors(found, cut, tmp_path / "after")]
        for seq in found.acknowledged(cut)
        if seq >= left
    ]
    assert lost
