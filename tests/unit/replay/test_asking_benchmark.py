"""The benchmark of questions measures what it says, on a ledger that is small; and its ledger has something to say to each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import asking
from benchmarks.asked import asked_entries
from benchmarks.decisions import write_ledger
from broker.ledger.source_kinds import how_to_open, open_source
from broker.ledger.verifier import Known
from broker.replay.asking.answer import Span
from broker.replay.asking.paths import Wanted, touched
from broker.replay.making import open_casebook


def test_a_small_ledger_is_asked_in_process_and_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_ROUNDS", 2)
    measures = {item.key: item for item in asking.asking(tmp_path, 400)}
    assert set(measures) == {"ask_million_ms", "ask_slowest_ms", "ask_command_ms", "ask_first_s"}
    assert all(item.value > 0 for item in measures.values())
    assert measures["ask_million_ms"].at_most == 1_000
    assert measures["ask_slowest_ms"].note.rpartition(" ")[2] in asking.OTHERS


def test_each_question_has_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "asked.db"
    write_ledger(path, asked_entries(), 3_000)
    with open_casebook(lambda: open_source(how_to_open(str(path))), Known()) as book:
        assert book.mark.sound
        for name, ask in asking.OTHERS.items():
            assert ask(book, Span()).lines or name == "approvers", name  # this ledger has no keys of people
        found = touched(book, Wanted(data_class="customer*"), Span())
        assert any(line.cells[-1] for line in found.lines)
        assert all(str(line.cells[0]).startswith("customer.") for line in found.lines)
