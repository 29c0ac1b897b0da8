"""The benchmark of what-ifs measures what it says, on a ledger's file that is small."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import decisions, replay


def test_a_small_ledger_is_decided_again_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (decisions, replay):
        monkeypatch.setattr(module, "RULES", 200)
    path, snapshot, chosen = replay.million(tmp_path, size=300, distinct=60)
    assert len(set(chosen)) == 60
    measures = {item.key: item for item in replay.whatif(path, snapshot, chosen, 300)}
    assert all(item.value > 0 for item in measures.values())
    assert measures["whatif_cold_per_s"].at_least == 5_000
    assert measures["whatif_decisions_per_s"].at_least == 20_000
