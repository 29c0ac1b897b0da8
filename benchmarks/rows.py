"""A change of 100 rows and its undo, in tables of 1,000 and of 100,000, by the whole broker, beside `pg_dump` of the table.

The database is a real PostgreSQL that is reached by TLS and a password; the tool is the example `sql.execute` as it lies there.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.report import Measure, percentile
from benchmarks.undo_steps import Steps, watching
from broker.app import running
from broker.client import AsyncBroker, CallContext
from broker.errors import FailedPreconditionError
from broker.settings import StatePaths, load_settings
from tests.postgres_server import program
from tests.served import AGENT, make_state
from tests.shop_database import DATABASE, TOOL, ShopDatabase, shop_database

ROWS = (1_000, 100_000)
"""Rows of the two tables."""
CHANGED = 100
_ROUNDS = 9
_WARM_UP = 2
_DUMPS = 5
_NOTES = {
    "plan": "from the request to the end of the dry run, its container and its login included",
    "capture": "the rollback artifact, encrypted and on record",
    "rehearse": "applied, taken back and compared in one transaction that is rolled back",
    "apply": "looked at again, on record, written, guarded by each row as it was",
    "change": "the whole call, seen by its caller",
    "undo": "the whole call that takes it back",
}


async def measured(place: Path) -> tuple[Measure, ...]:
    """All measures of rows.

    Args:
        place: a folder for the state and the certificates.
    """
    (place / "tls").mkdir()
    with shop_database(place / "tls") as database:
        for size in ROWS:
            database.do(
                f"CREATE TABLE stock_{size} (id integer PRIMARY KEY, name text NOT NULL, amount integer, note text)",
                f"INSERT INTO stock_{size} "  # noqa: S608 - of this benchmark
                f"SELECT n, 'item ' || n, 0, repeat('x', 40) FROM generate_series(1, {size}) n",
                f"VACUUM ANALYZE stock_{size}",
            )
        taken = await _governed(place / "state", database)
        dumps = {size: await asyncio.to_thread(_dumped, database, size) for size in ROWS}
    return tuple(_measures(taken, dumps))


def _measures(taken: Mapping[int, Mapping[str, float]], dumps: Mapping[int, float]) -> Iterator[Measure]:
    for size in ROWS:
        for step, note in _NOTES.items():
            yield Measure(f"rows_{step}_{size}_{CHANGED}_ms", taken[size][step], "ms", note=note)
        yield Measure(f"pg_dump_{size}_ms", dumps[size], "ms", note="`pg_dump` of the table")


async def _governed(state: Path, database: ShopDatabase) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, list[float]]] = {size: {step: [] for step in _NOTES} for size in ROWS}
    async with _client(state, database) as client:
        with watching() as steps:
            for turn in range(_ROUNDS + _WARM_UP):
                for size in ROWS:
                    for step, value in (await _round(client, steps, size, turn + 1)).items():
                        if turn >= _WARM_UP:
                            found[size][step].append(value)
    return {size: {step: percentile(values, 50) for step, values in one.items()} for size, one in found.items()}


async def _round(client: AsyncBroker, steps: Steps, size: int, amount: int) -> dict[str, float]:
    """One change and its undo, in milliseconds; the table is as before then."""
    began = steps.begin()
    where = f"WHERE id % {size // CHANGED} = 0"
    sql = f"UPDATE stock_{size} SET amount = {amount} {where}"  # noqa: S608 - of this benchmark
    made = await client.run(TOOL, {"sql": sql})
    change = (time.perf_counter() - began) * 1e3
    effect = None if made.outcome is None else made.outcome.effect
    if effect is None or effect.changed != CHANGED:
        raise FailedPreconditionError(f"the call ended as {made.state}: {made.stderr!r}", reason="UNEXPECTED_OUTPUT")
    taken = {step: steps.taken[step] for step in ("plan", "capture", "rehearse", "apply")}
    began = steps.begin()
    undone = await client.run("workspace.undo", {"call": made.name.removeprefix("calls/")})
    undo = (time.perf_counter() - began) * 1e3
    if undone.outcome is None or undone.outcome.effect is None:
        raise FailedPreconditionError(
            f"the undo ended as {undone.state}: {undone.stderr!r}", reason="UNEXPECTED_OUTPUT"
        )
    return {**taken, "change": change, "undo": undo}


@asynccontextmanager
async def _client(state: Path, database: ShopDatabase) -> AsyncIterator[AsyncBroker]:
    """A client of the agent, of a broker in this process that may log in at the database."""
    settings = database.settings()
    password = state.parent / "password"
    password.write_text(next(iter(database.environment.values())), "utf-8")
    password.chmod(0o600)
    settings["secrets"]["shop-db"]["source"] = f"file:{password}"
    make_state(state, settings={"pool_ceiling": 0, **settings})
    database.add_tool(state)
    async with (
        running(state, load_settings(state)) as served,
        AsyncBroker.connect(
            served.address,
            identity=state / "identities" / "agent" / AGENT,
            ca=StatePaths(state).root / "ca" / "ca.pem",
            context=CallContext(workspace="demo"),
        ) as client,
    ):
        yield client


def _dumped(database: ShopDatabase, size: int) -> float:
    command = [program("pg_dump"), "-t", f"stock_{size}", "-d", database.server.url(DATABASE)]
    times = []
    for _ in range(_DUMPS):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - began) * 1e3)
    return percentile(times, 50)
