"""One approval and many who would use it: exactly one does, on either database, and votes that race count once."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from broker.domain.approval import ApprovalState
from broker.errors import BrokerError
from broker.ledger.verdict import Verdict
from tests.approval_core import Kept, copied, make_founded, make_kept, opened
from tests.postgres_server import PostgresServer

PROCESSES = 16
WITHIN_S = 120


def _use(folder: Path, which: str, barrier: Barrier, told: Queue[str]) -> None:
    """What each process does: opens the same store, waits for the others, and begins what was approved."""
    with opened(Kept(folder, {})) as core:
        asked = core.read(lambda tx: core.desk.find(tx, which))
        barrier.wait(WITHIN_S)
        try:
            core.use(asked)
        except BrokerError as error:
            told.put(error.reason)
        else:
            told.put("used")


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes that begin with everything imported, and with nothing of this one's threads or files."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.approval_core"])
    return made


@contextmanager
def processes(context: ForkServerContext, folder: Path, approval: str, told: Queue[str]) -> Iterator[None]:
    """Starts them all, and waits for their ends."""
    barrier = context.Barrier(PROCESSES)
    started = [context.Process(target=_use, args=(folder, approval, barrier, told)) for _ in range(PROCESSES)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.join(WITHIN_S)
            if process.is_alive():
                process.kill()
    assert [process.exitcode for process in started] == [0] * PROCESSES


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_of_many_processes_one_uses_it(
    context: ForkServerContext, tmp_path: Path, postgres: PostgresServer, database: str
) -> None:
    folder = tmp_path / "state"
    kept = make_founded(folder, postgres.url("races") if database == "PostgreSQL" else "")
    with opened(kept) as core:
        asked = core.ask()
        core.vote("ada", asked)
        core.vote("bob", asked)
    told: Queue[str] = context.Queue()
    with processes(context, folder, asked.id, told):
        answers = Counter(told.get(timeout=WITHIN_S) for _ in range(PROCESSES))
    assert answers == {"used": 1, "APPROVAL_CLOSED": PROCESSES - 1}
    with opened(kept) as core:
        assert core.now_of(asked).state is ApprovalState.USED
        report = core.report()
    assert report.verdict is Verdict.OK
    assert report.votes is not None
    assert report.votes.findings == ()


def test_a_second_process_sees_a_denial_that_the_first_took(tmp_path: Path) -> None:
    _, founded = make_kept(tmp_path)
    with copied(founded, tmp_path / "one") as one, opened(Kept(tmp_path / "one", founded.signers)) as other:
        asked = one.ask()
        one.vote("ada", asked)
        one.vote("bob", asked)
        other.now = one.now
        other.vote("cyn", asked, "deny")
        with pytest.raises(BrokerError) as caught:
            one.use(asked)
    assert caught.value.metadata["state"] == "DENIED"
