"""A what-if over a million recorded decisions with 20,000 distinct inputs, from the ledger's file; then questions to a million
entries of all kinds (``benchmarks.asking``).

Cold is all of it: every entry read and verified, its facts filed, all inputs decided again, the report made. Warm is the
same once the casebook is there. Beside it: casbin as its manual says, a decision at a time, and reading the file alone.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from benchmarks.asking import asking
from benchmarks.decisions import RULES, agent_of, asked, decisions, write_ledger
from benchmarks.policy import plain_decider, policy_text
from benchmarks.report import Measure, Report
from broker.domain.call import PolicyRequest
from broker.errors import InternalError
from broker.ledger.source_kinds import how_to_open, open_source
from broker.ledger.verifier import Known
from broker.policy.snapshot import Snapshot
from broker.policy.whatif_report import Report as WhatifReport
from broker.replay.asking.answer import Span
from broker.replay.making import open_casebook
from broker.replay.naming import KnownNames
from broker.replay.questions_asked import Question
from broker.replay.redeciding import Redecider
from broker.replay.whatif_making import Case, Rules, Tried, make_report
from broker.specs.tiers import load_tiers

MILLION = 1_000_000
DISTINCT = 20_000
_PLAIN = 20
_COLD_ROUNDS = 3

T = TypeVar("T")


def measure() -> Report:
    """Takes all measures; some minutes, most of them for making the ledgers, and three GiB in the folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="broker-benchmark-") as folder:
        path, snapshot, chosen = million(Path(folder))
        measures = whatif(path, snapshot, chosen, MILLION)
    with tempfile.TemporaryDirectory(prefix="broker-benchmark-") as folder:
        questions = asking(Path(folder), MILLION)
    return Report(
        "a what-if over a million recorded decisions, and questions to a million entries", measures + questions
    )


def million(folder: Path, size: int = MILLION, distinct: int = DISTINCT) -> tuple[Path, Snapshot, list[PolicyRequest]]:
    """A ledger's file with so many decisions, the policy that made them, and the distinct requests."""
    path = folder / "million.db"
    snapshot, chosen = asked(distinct)
    write_ledger(path, decisions(snapshot, chosen), size + 1)
    return path, snapshot, chosen


def whatif(path: Path, snapshot: Snapshot, chosen: list[PolicyRequest], size: int) -> tuple[Measure, ...]:
    """The measures of ``broker replay whatif`` on such a file."""
    names = KnownNames({agent_of(request): request.subject for request in chosen})
    floor = _seconds(lambda: _read(path))[0]
    casebook = path.with_name("casebook.db")
    cold, first = _seconds(lambda: _report(path, casebook, snapshot, names))
    warm, second = _seconds(lambda: _report(path, casebook, snapshot, names))
    if first != second or first.totals.requests != size or first.control.reproduced != size or not first.ledger.sound:
        raise InternalError("the what-if is not what it should be", reason="UNEXPECTED_OUTPUT")
    questions = [_question(number, request) for number, request in enumerate(chosen, 1)]
    candidate = Snapshot.load(candidate_text())
    again = min(_seconds(lambda: _decide(candidate, questions, names))[0] for _ in range(_COLD_ROUNDS))
    plain = _seconds_each(plain_decider(snapshot.text), chosen[:_PLAIN])
    return (
        Measure(
            "whatif_cold_per_s",
            len(chosen) / again,
            "1/s",
            at_least=5_000,
            note=f"distinct inputs decided, {RULES} rules",
        ),
        Measure(
            "whatif_decisions_per_s", size / cold, "1/s", at_least=20_000, note=f"{size:,} from the file, verified"
        ),
        Measure("whatif_warm_per_s", size / warm, "1/s", note="the same once the casebook is there"),
        Measure("whatif_cold_s", cold, "s", note="all of it"),
        Measure("whatif_warm_s", warm, "s", note="all of it, with the casebook"),
        Measure("plain_casbin_per_s", 1 / plain, "1/s", note="casbin as its manual says, a decision at a time"),
        Measure(
            "read_entries_per_s", size / floor, "1/s", note="floor: the entries' bytes out of SQLite, nothing else"
        ),
    )


def candidate_text() -> str:
    """The policy to try: each tenth rule reaches less far, and one deny is gone."""
    lines = policy_text(RULES).splitlines()
    changed = [
        line.replace(", call, 2, allow", ", call, 1, allow") if not n % 10 else line for n, line in enumerate(lines)
    ]
    return "\n".join(changed[1:]) + "\n"


def _report(path: Path, casebook: Path, snapshot: Snapshot, names: KnownNames) -> WhatifReport:
    how, tiers = how_to_open(str(path)), load_tiers()
    with open_casebook(lambda: open_source(how), Known(votes=True), casebook) as book:
        case = Case(book, names, {}, {snapshot.digest: snapshot.text}.get)
        tried = Tried(Snapshot.load(candidate_text()), tiers)
        return make_report(case, tried, Rules(snapshot, tiers), Span())


def _decide(candidate: Snapshot, questions: list[Question], names: KnownNames) -> None:
    redecider = Redecider(candidate, names)  # it remembers nothing of the round before
    for question in questions:
        redecider.answer(question)


def _question(number: int, request: PolicyRequest) -> Question:
    tier = str(int(request.tier))
    return Question(number, agent_of(request), request.workspace, request.obj, request.action, tier)


def _read(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return sum(len(data) for (data,) in database.execute("SELECT data FROM ledger_entry ORDER BY seq"))


def _seconds(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def _seconds_each(decide: Callable[[PolicyRequest], bool], chosen: list[PolicyRequest]) -> float:
    began = time.perf_counter()
    for request in chosen:
        decide(request)
    return (time.perf_counter() - began) / len(chosen)
