"""What was erased is in no file of the database any more, or it is said that it still is."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest

from broker.domain.approval import ChatAccount
from broker.domain.ports import Transaction
from broker.errors import FailedPreconditionError, UnavailableError
from broker.store import postgres_rewriting
from broker.store.opening import DatabaseTarget, create_store, open_store
from broker.store.postgres_connection import PostgresAddress
from broker.store.postgres_rewriting import rewrite
from broker.store.postgres_schema import REWRITTEN_TABLES
from broker.vault.destruction import destroy, drop_all
from broker.vault.vault import SealedVault
from tests.postgres_server import APPLICATION, OWNER, PostgresServer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENCE_S = 10.0
OBJECTS = 40
LAST = OBJECTS - 1
"""The one that is erased: what VACUUM moves within a page doesn't come to lie over it."""
_numbers = count()


@dataclass(frozen=True)
class Erased:
    """A database from which something was erased, beside much that stays; and the bytes that must not be found."""

    server: PostgresServer
    name: str
    url: str
    owner: str
    gone: dict[str, bytes]
    kept: dict[str, bytes]

    def found(self, bytes_of: dict[str, bytes]) -> set[str]:
        """Which of them are in any file of the database."""
        with self.server.superuser(self.name) as connection:
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
        assert row is not None
        data = b"".join(path.read_bytes() for path in self.server._folder.glob(f"data/base/{row[0]}/*"))
        return {name for name, value in bytes_of.items() if value in data}


def account_of(number: int) -> ChatAccount:
    """A person's account, as no other bytes of the database are."""
    return ChatAccount("slack", "T0TEAM", f"U0{number:04d}ACCOUNTOFAPERSON", f"hum_{number}")


async def _erased(server: PostgresServer, folder: Path, owner: str) -> Erased:
    name = f"rewritten_{next(_numbers)}"
    url, owners = server.url(name, owner=owner), server.url(name, owner, owner=owner)
    target = DatabaseTarget(folder / "none.db", url)
    create_store(target, DatabaseTarget(target.path, owners))
    vault = SealedVault(secrets.token_bytes(32))
    ids = [f"call_{number}" for number in range(OBJECTS)]

    def fill(tx: Transaction) -> None:
        for number, item in enumerate(ids):
            made = vault.create(
                tx,
                object_id=item,
                owner="agt_1",
                kind="call",
                now=NOW,
                expires=None,
                workspace=f"shop{number}",
                call=item,
            )
            made.put(tx, {0: b"content of " + item.encode()})
            tx.voters.map_account(account_of(number), number)

    def bytes_of(number: int) -> dict[str, bytes]:
        queries = {
            "keys": (b"SELECT wrapped FROM broker.vault_object WHERE id = %s", f"call_{number}"),
            "content": (b"SELECT sealed FROM broker.vault_chunk WHERE object_id = %s", f"call_{number}"),
            "workspace key": (b"SELECT wrapped FROM broker.workspace_key WHERE workspace = %s", f"shop{number}"),
        }
        found = {"chat account": account_of(number).user.encode()}
        with server.superuser(name) as connection:
            for what, (query, key) in queries.items():
                row = connection.execute(query, (key,)).fetchone()
                assert row is not None
                assert isinstance(row[0], bytes)
                found[what] = row[0]
        return found

    async with open_store(target) as store:
        await store.write(fill)
        with server.superuser(name) as connection:
            connection.execute("ANALYZE")  # the planner's samples are a copy too
        gone, kept = bytes_of(LAST), bytes_of(8)
        destroyed = await store.write(lambda tx: destroy(tx, ids[LAST:], NOW).ids)
        await store.write(lambda tx: tx.workspace_keys.delete(f"shop{LAST}"))
        last = account_of(LAST)
        await store.write(lambda tx: tx.voters.unmap_account(last.service, last.team, last.user))
        await drop_all(store, destroyed)
        await store.scrub()
    return Erased(server, name, url, owners, gone, kept)


@pytest.mark.parametrize("owner", [APPLICATION, OWNER])
async def test_erased_bytes_are_in_no_file_after_a_rewrite(
    postgres: PostgresServer, tmp_path: Path, owner: str
) -> None:
    erased = await _erased(postgres, tmp_path, owner)
    assert erased.found(erased.gone)  # VACUUM alone leaves them
    owners = PostgresAddress(erased.owner) if owner == OWNER else None
    assert await asyncio.to_thread(rewrite, PostgresAddress(erased.url), owners, patience_s=PATIENCE_S) == ()
    assert erased.found(erased.gone) == set()
    assert erased.found(erased.kept) == set(erased.kept)
    async with open_store(
        DatabaseTarget(tmp_path / "none.db", erased.url)
    ) as store:  # grants and triggers are as they were
        assert await store.read(lambda tx: tx.vault.get("call_8")) is not None


async def test_a_role_that_may_not_rewrite_says_so(postgres: PostgresServer, tmp_path: Path) -> None:
    erased = await _erased(postgres, tmp_path, OWNER)
    kept = await asyncio.to_thread(rewrite, PostgresAddress(erased.url), patience_s=PATIENCE_S)
    assert set(kept) - {"call"} <= set(REWRITTEN_TABLES)
    with postgres.superuser() as connection:
        own_maintenance = connection.info.server_version >= 170000
    assert (kept == ()) == own_maintenance
    assert own_maintenance or kept == REWRITTEN_TABLES


@pytest.mark.parametrize("counted", [True, False])
async def test_who_may_still_see_it_is_waited_for(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, counted: bool
) -> None:
    if counted:  # whom no list of sessions shows: the server's own count tells
        monkeypatch.setattr(postgres_rewriting, "_is_older", lambda *_: False)
    else:
        monkeypatch.setattr(postgres_rewriting, "_vacuum", lambda *_: 0)
    name = f"seen_{next(_numbers)}"
    url, owners = postgres.url(name, owner=OWNER), postgres.url(name, OWNER, owner=OWNER)
    target = DatabaseTarget(tmp_path / "none.db", url)
    create_store(target, DatabaseTarget(target.path, owners))
    address, owner = PostgresAddress(url), PostgresAddress(owners)
    async with open_store(target) as store:
        await store.write(lambda tx: tx.refusals.bump("agt_1", "k", NOW, b"body"))
        with psycopg.connect(url) as reader:
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT 1 FROM pg_catalog.pg_class")
            await store.write(lambda tx: tx.refusals.bump("agt_1", "k", NOW, b"other"))
            with pytest.raises(UnavailableError) as busy:
                await asyncio.to_thread(rewrite, address, owner, patience_s=0.5)
            assert busy.value.reason == "STORE_BUSY"
            reader.rollback()
    assert await asyncio.to_thread(rewrite, address, owner, patience_s=PATIENCE_S) == ()


async def test_a_table_in_use_is_not_waited_for_long(postgres: PostgresServer, tmp_path: Path) -> None:
    erased = await _erased(postgres, tmp_path, OWNER)
    with psycopg.connect(erased.url) as user:
        user.execute("SELECT 1 FROM broker.refusal")
        with pytest.raises(UnavailableError) as busy:
            await asyncio.to_thread(rewrite, PostgresAddress(erased.url), PostgresAddress(erased.owner), patience_s=1.0)
    assert busy.value.reason == "STORE_BUSY"


async def test_an_owner_of_another_database_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    one, other = [await _erased(postgres, tmp_path, OWNER) for _ in range(2)]
    with pytest.raises(FailedPreconditionError) as refused:
        await asyncio.to_thread(rewrite, PostgresAddress(one.url), PostgresAddress(other.owner), patience_s=1.0)
    assert refused.value.reason == "DATABASE_DIFFERS"
