"""The benchmark of directories: it measures each step that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import directory
from benchmarks.directory import measured


async def test_each_step_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_OLD_S", 0)
    taken = await measured(tmp_path, 1000, 1)
    assert set(taken) == {"first", "again", "changed", "ready", "carry_out", "finish", "apply"}
    assert all(value > 0 for value in taken.values())
