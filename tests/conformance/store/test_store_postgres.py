"""What only a server can do to its store: go away, forget, take more than one broker, keep the broker out."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from broker.domain.ports import Head, Transaction, VaultRow
from broker.errors import (
    BrokerError,
    ConflictError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from broker.store.opening import DatabaseTarget, create_store, open_store, open_store_sync
from broker.store.postgres import PostgresDatabase
from broker.store.postgres_connection import PostgresAddress
from tests.postgres_server import APPLICATION, OWNER, PASSWORD, PostgresServer, postgres_server

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_numbers = count()


def _made(server: PostgresServer, folder: Path, name: str = "") -> DatabaseTarget:
    name, path = name or f"own_{next(_numbers)}", folder / "none.db"
    target = DatabaseTarget(path, server.url(name, owner=OWNER))
    create_store(target, DatabaseTarget(path, server.url(name, OWNER, owner=OWNER)))
    return target


@pytest.fixture
def target(postgres: PostgresServer, tmp_path: Path) -> DatabaseTarget:
    return _made(postgres, tmp_path)


@pytest.fixture
async def store(target: DatabaseTarget) -> AsyncIterator[PostgresDatabase]:
    async with open_store(target) as opened:
        assert isinstance(opened, PostgresDatabase)
        yield opened


def _set(tx: Transaction, agent: str) -> None:
    tx.ledger.set_agent_head(agent, Head(0, b"x" * 32), 0)


async def _has(store: PostgresDatabase, agent: str) -> bool:
    return await store.read(lambda tx: tx.ledger.agent_head(agent)) is not None


async def test_a_server_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    with postgres_server() as server:
        async with open_store(_made(server, tmp_path, "restarted")) as store:
            await store.write(lambda tx: _set(tx, "agt_before"))
            before = store.data_version()
            await store.read(lambda tx: tx.ledger.head())
            server.crash()
            assert store.data_version() >= before
            assert await store.read(lambda tx: tx.ledger.agent_head("agt_before")) is not None
            await store.write(lambda tx: _set(tx, "agt_after"))
            assert not store.failed


async def test_a_server_that_goes_away_inside_a_function_has_written_nothing(tmp_path: Path) -> None:
    with postgres_server() as server:
        async with open_store(_made(server, tmp_path, "inside")) as store:

            def work(tx: Transaction) -> None:
                _set(tx, "agt_during")
                server.crash()
                _set(tx, "agt_never")

            with pytest.raises(UnavailableError) as failed:
                await store.write(work)
            assert failed.value.reason == "STORE_FAILED"
            assert "nothing was written" in failed.value.message
            assert not store.failed
            assert await store.read(lambda tx: tx.ledger.agent_head("agt_during")) is None
            await store.write(lambda tx: _set(tx, "agt_during"))
        server.stop()
        with pytest.raises(UnavailableError), open_store_sync(DatabaseTarget(tmp_path, server_url(server))):
            pytest.fail("it opened")


def server_url(server: PostgresServer) -> str:
    return f"postgresql://{APPLICATION}@127.0.0.1:{server.port}/inside"


async def test_a_connection_lost_in_a_commit_that_did_not_happen(
    store: PostgresDatabase, target: DatabaseTarget, postgres: PostgresServer
) -> None:
    # A trigger that PostgreSQL runs inside COMMIT ends the session from within.
    name = target.url.partition("?")[0].rpartition("/")[2]
    with postgres.superuser(name) as owner:
        owner.execute(
            b"CREATE FUNCTION public.die() RETURNS trigger LANGUAGE plpgsql AS"
            b" 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); RETURN NULL; END'"
        )
        owner.execute(
            b"CREATE CONSTRAINT TRIGGER die AFTER INSERT ON broker.refusal DEFERRABLE INITIALLY DEFERRED"
            b" FOR EACH ROW EXECUTE FUNCTION public.die()"
        )
    with pytest.raises(UnavailableError) as failed:
        await store.write(lambda tx: tx.refusals.bump("agt_1", "k", NOW, b"body"))
    assert (failed.value.reason, store.failed) == ("STORE_FAILED", True)
    assert "unknown" in failed.value.message
    with pytest.raises(UnavailableError):
        await store.write(lambda tx: _set(tx, "agt_after"))


class CuttingProxy:
    """Passes everything on to a server until a COMMIT has been answered: that answer is kept back, and the line cut."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.cutting = False
        self._start(self._accept)

    def close(self) -> None:
        """Ends all that passes through."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._server))
                self._ends += [client, far]
                commit = threading.Event()
                self._start(self._forth, client, far, commit)
                self._start(self._back, far, client, commit)

    def _forth(self, source: socket.socket, sink: socket.socket, commit: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.cutting and b"COMMIT\0" in data:
                    commit.set()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _back(self, source: socket.socket, sink: socket.socket, commit: threading.Event) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and not commit.is_set():  # once it has answered, it is done
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
            source.shutdown(socket.SHUT_RDWR)


async def test_a_commit_that_happened_but_was_not_heard_of(
    target: DatabaseTarget, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_PASSWORD", PASSWORD)
    name = target.url.partition("?")[0].rpartition("/")[2]
    with closing(CuttingProxy(postgres.port)) as proxy:
        url = f"postgresql://{APPLICATION}@127.0.0.1:{proxy.port}/{name}?sslmode=disable&gssencmode=disable"
        async with open_store(DatabaseTarget(target.path, url, "env:THE_PASSWORD")) as store:
            await store.write(lambda tx: _set(tx, "agt_before"))
            proxy.cutting = True
            with pytest.raises(UnavailableError) as failed:
                await store.write(lambda tx: _set(tx, "agt_during"))
            proxy.cutting = False
            assert (failed.value.reason, store.failed) == ("STORE_FAILED", True)
            assert "unknown" in failed.value.message
            with pytest.raises(UnavailableError):
                await store.write(lambda tx: _set(tx, "agt_after"))
    async with open_store(target) as again:
        assert isinstance(again, PostgresDatabase)
        found = [await _has(again, agent) for agent in ("agt_before", "agt_during", "agt_after")]
    assert found == [True, True, False]


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_a_server_that_forgets_what_it_has_acknowledged_is_refused(name: str, tmp_path: Path) -> None:
    with postgres_server(**{name: "off"}) as server:
        with pytest.raises(FailedPreconditionError) as refused:
            _made(server, tmp_path)
        assert refused.value.reason == "STORE_NOT_DURABLE"
        assert name in refused.value.message


async def test_a_role_that_is_set_not_to_wait_for_the_disk_waits_all_the_same(
    target: DatabaseTarget, postgres: PostgresServer
) -> None:
    name = target.url.partition("?")[0].rpartition("/")[2]
    with postgres.superuser() as owner:
        owner.execute(f"ALTER ROLE {APPLICATION} IN DATABASE {name} SET synchronous_commit = off".encode())
    async with open_store(target) as store:
        assert isinstance(store, PostgresDatabase)
        shown = await asyncio.wrap_future(
            store._writer.submit_alone(lambda c: c.exec_driver_sql("SHOW synchronous_commit").scalar())
        )
    assert shown == "on"


async def test_one_broker_serves_a_database(target: DatabaseTarget) -> None:
    async with open_store(target) as one, open_store(target) as other:
        await one.serve_alone()
        await one.serve_alone()
        with pytest.raises(FailedPreconditionError) as refused:
            await other.serve_alone()
        assert refused.value.reason == "ALREADY_SERVING"
        await other.write(lambda tx: _set(tx, "agt_1"))  # a command may write beside it
    async with open_store(target) as other:
        await other.serve_alone()


async def test_a_broker_that_lost_its_place_to_another_writes_no_more(
    target: DatabaseTarget, postgres: PostgresServer
) -> None:
    async with open_store(target) as one, open_store(target) as other:
        await one.serve_alone()
        await one.write(lambda tx: _set(tx, "agt_1"))
        with postgres.superuser() as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND objid = 2"
            )
        await other.serve_alone()
        with pytest.raises(FailedPreconditionError) as refused:
            await one.write(lambda tx: _set(tx, "agt_2"))
        assert refused.value.reason == "ALREADY_SERVING"
        assert await other.read(lambda tx: tx.ledger.agent_head("agt_2")) is None


async def test_a_function_that_hides_a_failed_statement_is_undone_and_hurts_nobody(store: PostgresDatabase) -> None:
    def hide(tx: Transaction) -> None:
        _set(tx, "agt_hiding")
        tx.workspace_keys.insert("hiding", b"wrapped", NOW)
        with suppress(ConflictError):
            tx.workspace_keys.insert("hiding", b"wrapped", NOW)

    with pytest.raises(InternalError) as alone:
        await store.write(hide)
    results = await asyncio.gather(
        *(store.write(hide if n == 5 else lambda tx, n=n: _set(tx, f"agt_{n}")) for n in range(10)),
        return_exceptions=True,
    )
    assert "nothing was written" in alone.value.message
    assert [isinstance(result, InternalError) for result in results] == [n == 5 for n in range(10)]
    assert not await _has(store, "agt_hiding")
    assert all([await _has(store, f"agt_{n}") for n in range(10) if n != 5])
    assert not store.failed


async def test_what_an_interrupted_write_left_open_is_not_committed_by_the_next(store: PostgresDatabase) -> None:
    session = store._session
    session.begin()
    _set(session.transaction, "agt_left_open")
    session.begin()
    _set(session.transaction, "agt_next")
    session.commit()
    assert not await _has(store, "agt_left_open")
    assert await _has(store, "agt_next")


async def test_a_held_lock_is_waited_for_and_then_told(store: PostgresDatabase, target: DatabaseTarget) -> None:
    await asyncio.wrap_future(
        store._writer.submit_alone(lambda c: c.exec_driver_sql("SELECT set_config('lock_timeout', '200ms', false)"))
    )
    entered, go_on = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        _set(tx, "agt_holding")
        entered.set()
        go_on.wait()

    async with open_store(target) as other:
        holding = asyncio.create_task(other.write(hold))
        await asyncio.to_thread(entered.wait)
        try:
            with pytest.raises(UnavailableError) as busy:
                await store.write(lambda tx: _set(tx, "agt_1"))
        finally:
            go_on.set()
            await holding
    assert busy.value.reason == "STORE_BUSY"
    await store.write(lambda tx: _set(tx, "agt_1"))


async def test_no_value_or_statement_is_in_an_error(store: PostgresDatabase) -> None:
    secret = "a value that nobody may read"  # noqa: S105 - that is the point
    with pytest.raises(BrokerError) as refused:
        await store.write(lambda tx: tx.refusals.bump("agt\0", secret, NOW, secret.encode()))
    assert refused.value.reason in {"STORE_FAILED", "STORE_REFUSED"}
    for text in (refused.value.message, refused.value.hint, str(refused.value)):
        assert secret not in text
        assert "INSERT" not in text
        assert "refusal" not in text


def test_a_database_is_never_made_over_another(target: DatabaseTarget, postgres: PostgresServer) -> None:
    name = target.url.partition("?")[0].rpartition("/")[2]
    with pytest.raises(ConflictError) as refused:
        create_store(target, DatabaseTarget(target.path, postgres.url(name, OWNER)))
    assert refused.value.reason == "STORE_EXISTS"


def test_a_database_without_the_schema_is_never_filled(postgres: PostgresServer, tmp_path: Path) -> None:
    target = DatabaseTarget(tmp_path / "none.db", postgres.url("empty"))
    with pytest.raises(FailedPreconditionError) as refused, open_store_sync(target):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_MISSING"
    with postgres.superuser("empty") as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'broker'").fetchone() is None


@contextmanager
def _password_file(folder: Path, text: str, mode: int = 0o600) -> Iterator[str]:
    path = folder / "password"
    path.write_text(text)
    path.chmod(mode)
    yield f"file:{path}"
    path.unlink()


def test_the_password_comes_from_a_private_file_or_the_environment(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "by_password"
    _made(postgres, tmp_path, name)
    url, path = postgres.tcp_url(name), tmp_path / "none.db"

    def refused(source: str) -> str:
        with pytest.raises(BrokerError) as error, open_store_sync(DatabaseTarget(path, url, source)):
            pytest.fail("it opened")
        assert PASSWORD not in str(error.value) + repr(error.value.__cause__)
        return error.value.reason

    with (
        _password_file(tmp_path, PASSWORD + "\n") as source,
        open_store_sync(DatabaseTarget(path, url, source)) as store,
    ):
        assert store.read_sync(lambda tx: tx.ledger.head()) is None
    with _password_file(tmp_path, PASSWORD, 0o644) as source:
        assert refused(source) == "KEY_EXPOSED"
    with _password_file(tmp_path, "wrong") as source:
        assert refused(source) in {"STORE_FORBIDDEN", "STORE_FAILED"}
    monkeypatch.delenv("THE_PASSWORD", raising=False)
    assert refused("env:THE_PASSWORD") == "PASSWORD_MISSING"
    monkeypatch.setenv("THE_PASSWORD", PASSWORD)
    with open_store_sync(DatabaseTarget(path, url, "env:THE_PASSWORD")) as store:
        assert store.read_sync(lambda tx: tx.ledger.head()) is None


@pytest.mark.parametrize(
    "url",
    ["postgresql://broker:secret@host/name", "postgresql://broker@host/name?password=secret", "mysql://host/name"],
)
def test_an_address_with_a_password_or_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        PostgresAddress(url)
    assert refused.value.reason == "DATABASE_ADDRESS_INVALID"
    assert "secret" not in str(refused.value)


async def test_deleted_rows_leave_the_tables(postgres: PostgresServer, tmp_path: Path) -> None:
    # Where owner and application are one role it vacuums itself; otherwise PostgreSQL does, told to do so at once.
    for number, owner in enumerate((APPLICATION, OWNER)):
        name, path = f"scrubbed_{number}", tmp_path / "none.db"
        target = DatabaseTarget(path, postgres.url(name, owner=owner))
        create_store(target, DatabaseTarget(path, postgres.url(name, owner)))
        row = VaultRow("blob_1", "agt_1", "blob", b"wrapped", NOW, NOW)
        async with open_store(target) as store:
            await store.write(lambda tx, row=row: tx.vault.insert(row))
            await store.write(lambda tx: tx.vault.delete("blob_1"))
            await store.scrub()
            assert not store.scrub_due
            with postgres.superuser(name) as connection:
                query = "SELECT pg_relation_size('broker.vault_object')"
                async with asyncio.timeout(60):
                    while connection.execute(query.encode()).fetchone() != (0,):
                        await asyncio.to_thread(connection.execute, b"SELECT pg_sleep(0.1)")
