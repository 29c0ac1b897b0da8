"""Questions to a ledger of a million entries of all kinds, once its casebook is there.

In this process it is timed from opening ledger and casebook to the answer, each round anew; beside it the whole command, with
the start of Python and all that it imports.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from benchmarks.asked import agent_of, asked_entries, person_of, policy_of
from benchmarks.decisions import extend_ledger
from benchmarks.report import Measure, percentile
from broker.errors import InternalError
from broker.ledger.source_kinds import how_to_open, open_source
from broker.ledger.verifier import Known
from broker.replay.asking.answer import Answer, Span
from broker.replay.asking.outside import changed, irreversible, left, refused
from broker.replay.asking.paths import Wanted, done_by, ran_under, touched
from broker.replay.asking.persons import could_approve, decided_by
from broker.replay.casebook import Casebook
from broker.replay.making import open_casebook
from broker.settings import StatePaths
from tests.served import make_state

_ROUNDS = 9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WANTED = Wanted(data_class="customer*")

Ask = Callable[[Casebook, Span], Answer]
OTHERS: Mapping[str, Ask] = {
    "agent": lambda book, span: done_by(book, agent_of(1), span),
    "person": lambda book, span: decided_by(book, person_of(1), span),
    "policy": lambda book, span: ran_under(book, policy_of(0), span),
    "egress": lambda book, span: left(book, "", span),
    "changes": lambda book, span: changed(book, "", span, removed=True),
    "irreversible": irreversible,
    "refusals": refused,
    "approvers": lambda book, _: could_approve(book, _last(book), lambda _: None, lambda _: ""),
}
"""The other questions, each by what its command is named."""


def asking(folder: Path, size: int) -> tuple[Measure, ...]:
    """The measures of ``broker ask`` on a state directory with so many entries, which is made in a folder."""
    state = folder / "asked"
    make_state(state)
    paths = StatePaths(state)
    extend_ledger(paths.database, asked_entries(), size)
    began = time.perf_counter()
    with _casebook(paths) as book:
        made = time.perf_counter() - began
        last, sound = _last(book), book.mark.sound
    if not sound or not last:
        raise InternalError("the casebook is not what it should be", reason="UNEXPECTED_OUTPUT")
    week = timedelta(days=7)
    since = Span(since=last - week // timedelta(microseconds=1))
    asked = _median_ms(paths, lambda book: touched(book, _WANTED, since))
    others = {name: _median_ms(paths, partial(_all, ask)) for name, ask in OTHERS.items()}
    slowest = max(others, key=lambda name: others[name])
    moment = (_EPOCH + timedelta(microseconds=since.since)).isoformat()
    command = percentile([_command_ms(state, moment) for _ in range(_ROUNDS // 2)], 50)
    return (
        Measure(
            "ask_million_ms", asked, "ms", at_most=1_000, note=f"ask paths, a week of {size:,} entries, casebook there"
        ),
        Measure(
            "ask_slowest_ms", others[slowest], "ms", note=f"the slowest other question, without --since: {slowest}"
        ),
        Measure("ask_command_ms", command, "ms", note="the same ask paths as a command, Python's start included"),
        Measure(
            "ask_first_s",
            made,
            "s",
            note=f"the casebook of {size:,} entries of all kinds made, verified; no votes checked",
        ),
    )


def _casebook(paths: StatePaths) -> AbstractContextManager[Casebook]:
    # Votes here have no signatures. A casebook that is there isn't made again.
    return open_casebook(lambda: open_source(how_to_open(str(paths.database))), Known(), paths.casebook)


def _all(ask: Ask, book: Casebook) -> Answer:
    return ask(book, Span())


def _last(book: Casebook) -> int:
    row = book.one("SELECT ts FROM entry ORDER BY seq DESC LIMIT 1")
    return 0 if row is None else int(row[0])


def _median_ms(paths: StatePaths, ask: Callable[[Casebook], Answer]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        with _casebook(paths) as book:
            ask(book)
            taken.append((time.perf_counter() - began) * 1e3)
    return percentile(taken, 50)


def _command_ms(state: Path, since: str) -> float:
    words = ["ask", "paths", "--data-class", _WANTED.data_class, "--since", since, "--state", str(state), "--json"]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "broker.cli.main", *words],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    return (time.perf_counter() - began) * 1e3
