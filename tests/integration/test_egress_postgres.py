"""A real driver through the gate to a real PostgreSQL: the broker logs in, the driver has no password and no TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from cryptography.hazmat.primitives import hashes

from broker.domain.run import EgressKind, EgressVerdict
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.postgres import messages
from tests.database_support import DATABASE, USER, Port, loopback, postgres_rule
from tests.egress_support import NAME, WITHIN_S, Certificates, Tool, World, make_certificates
from tests.fake_postgres import READY, error_fields, startup
from tests.postgres_server import PASSWORD, PostgresServer, postgres_server

_ROLES = {"clear": "password", "hashed": "md5", "anybody": "trust"}
_ACCESS = "".join(f"hostssl all {role} 127.0.0.1/32 {method}\n" for role, method in _ROLES.items())


class Database:
    """A server with TLS, and who vouches for it."""

    def __init__(self, server: PostgresServer, certificates: Certificates) -> None:
        self.server = server
        self.certificates = certificates

    def world(self, password: str = PASSWORD, limits: EgressLimits | None = None, **rule: object) -> World:
        return World(
            postgres_rule(self.server.port, **rule), ca=self.certificates.ca, secrets={"key": password}, limits=limits
        )

    async def sessions(self, wanted: int) -> None:
        """Returns once the server has so many sessions of the tool's user."""
        with self.server.superuser() as boss:
            query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
            async with asyncio.timeout(WITHIN_S):
                while boss.execute(query, (USER,)).fetchone() != (wanted,):  # noqa: ASYNC110  # the server tells nobody
                    await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    made = make_certificates(tmp_path_factory.mktemp("tls"))
    with postgres_server(tls=(made.certificate, made.key), access=_ACCESS) as server:
        server.url(DATABASE)
        with server.superuser() as boss:
            for role in _ROLES:
                boss.execute(f"SET password_encryption = '{'md5' if role == 'hashed' else 'scram-sha-256'}'".encode())
                boss.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'".encode())
        yield Database(server, made)


@asynccontextmanager
async def connected(port: Port, **more: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    connection = await psycopg.AsyncConnection.connect(port.address(**more), autocommit=True)
    async with connection:
        yield connection


async def refused(port: Port, **more: str) -> str:
    """What the driver says of a connection that is refused."""
    with pytest.raises(psycopg.OperationalError) as error:
        async with connected(port, **more):
            pass
    return str(error.value)


async def _row(connection: psycopg.AsyncConnection[tuple[object, ...]], query: str) -> tuple[object, ...] | None:
    return await (await connection.execute(query.encode())).fetchone()


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
async def test_a_driver_without_a_password_works_over_tls_of_the_broker(
    database: Database, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken: list[str] = []
    first = messages.sasl_first

    def heard(mechanism: str, data: str) -> bytes:
        spoken.append(f"{mechanism} {data}")
        return first(mechanism, data)

    monkeypatch.setattr(messages, "sasl_first", heard)  # the server's log doesn't say whether a login was bound
    world = database.world()
    async with loopback(world.session) as port, connected(port, sslmode=mode, application_name="tools") as tool:
        assert not tool.pgconn.ssl_in_use
        assert await _row(tool, "SELECT session_user, current_database(), current_setting('application_name')") == (
            USER,
            DATABASE,
            "tools",
        )
        assert await _row(tool, "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == (
            True,
            "TLSv1.3",
        )
        assert tool.info.backend_pid == (await _row(tool, "SELECT pg_backend_pid()") or (0,))[0]
    assert len(spoken) == 1
    assert spoken[0].startswith("SCRAM-SHA-256-PLUS p=tls-server-end-point,,")
    record = world.record
    assert (record.host, record.port, record.kind) == (NAME, database.server.port, EgressKind.POSTGRES)
    assert (record.verdict, record.listed, record.count) == (EgressVerdict.ALLOWED, True, 1)
    assert record.received_bytes == len(port.got)
    assert PASSWORD.encode() not in port.got


async def test_much_data_both_ways_is_carried_and_counted(database: Database) -> None:
    world = database.world()
    async with loopback(world.session) as port, connected(port) as tool:
        await tool.execute("CREATE TEMP TABLE lines (number int, text text)")
        async with tool.cursor() as cursor, cursor.copy("COPY lines FROM STDIN") as copy:
            for number in range(50_000):
                await copy.write_row((number, "x" * 40))
        assert await _row(tool, "SELECT count(*), sum(length(text)) FROM lines") == (50_000, 2_000_000)
        async with tool.pipeline():
            answers = [await tool.execute("SELECT %s::int", (number,)) for number in range(100)]
        assert [await answer.fetchone() for answer in answers] == [(number,) for number in range(100)]
        async with tool.cursor() as cursor, cursor.copy("COPY lines TO STDOUT") as copy:
            assert sum([len(part) async for part in copy]) > 2_000_000
    assert world.record.sent_bytes > 2_000_000
    assert world.record.received_bytes == len(port.got) > 2_000_000


async def test_what_is_set_in_the_session_works_and_what_stands_in_the_startup_is_dropped(database: Database) -> None:
    world = database.world()
    async with loopback(world.session) as port:
        async with connected(port) as tool:
            await tool.execute("SET statement_timeout = '77s'")
            assert await _row(tool, "SHOW statement_timeout") == ("77s",)
        said = "the broker refused the connection: the tool brings options"
        assert said in await refused(port, options="-c statement_timeout=77")
        raw = Tool(world.session, 5432)
        raw.send(startup("search_path", "evil", "role", "postgres"))
        await raw.until(READY)
        raw.send(
            messages.Message(b"Q", b"SELECT current_setting('search_path') || ' as ' || current_user\x00").encoded()
        )
        await raw.until(b'"$user", public as broker')
        raw.close()
        await raw.all()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"user": "postgres"}, "another user"),
        ({"dbname": "postgres"}, "another database"),
        ({"replication": "database"}, "replication"),
        ({"sslmode": "require"}, "server does not support SSL"),
    ],
)
async def test_what_is_not_the_rules_is_refused_in_words_that_a_driver_shows(
    database: Database, more: dict[str, str], words: str
) -> None:
    async with loopback(database.world().session) as port:
        assert words in await refused(port, **more)


async def test_a_cancel_comes_to_nobody(database: Database) -> None:
    world = database.world()
    async with loopback(world.session) as port, connected(port) as tool:
        with pytest.raises(psycopg.Error):
            await tool.cancel_safe()
        assert await _row(tool, "SELECT 1") == (1,)
    assert [(row.verdict, row.count) for row in world.session.records()] == [
        (EgressVerdict.ALLOWED, 1),
        (EgressVerdict.MALFORMED, 1),
    ]


async def test_a_wrong_password_is_no_session_and_is_not_told(database: Database) -> None:
    world = database.world("another one for tests")
    async with loopback(world.session) as port:
        text = await refused(port)
    assert "refused the login (SQLSTATE 28P01)" in text
    assert world.record.verdict is EgressVerdict.UNREACHABLE


@pytest.mark.parametrize(
    ("role", "words"),
    [("clear", "in clear text"), ("hashed", "hashed with MD5"), ("anybody", "without a proof")],
)
async def test_a_real_server_that_asks_otherwise_is_told_nothing(database: Database, role: str, words: str) -> None:
    world = database.world(user=role)
    async with loopback(world.session) as port:
        assert words in await refused(port, user=role)
    assert world.record.verdict is EgressVerdict.UNREACHABLE


async def test_an_unknown_database_is_the_servers_own_answer(database: Database) -> None:
    world = database.world(database="nowhere")
    async with loopback(world.session) as port:
        assert 'database "nowhere" does not exist' in await refused(port, dbname="nowhere")
    assert world.record.verdict is EgressVerdict.ALLOWED


async def test_a_server_without_tls_is_refused(postgres: PostgresServer, database: Database) -> None:
    world = World(postgres_rule(postgres.port), ca=database.certificates.ca, secrets={"key": PASSWORD})
    async with loopback(world.session) as port:
        assert "the server has no TLS" in await refused(port)


async def test_a_tool_that_hangs_up_in_a_transaction_leaves_no_session_behind(database: Database) -> None:
    world = database.world()
    tool = Tool(world.session, 5432)
    tool.send(startup("application_name", "lost"))
    await tool.until(READY)
    tool.send(messages.Message(b"Q", b"BEGIN; CREATE TABLE lost (x int)\x00").encoded())
    await tool.until(b"Z\x00\x00\x00\x05T")
    await database.sessions(1)
    tool.close()
    await tool.all()
    await database.sessions(0)
    assert world.record.verdict is EgressVerdict.ALLOWED


async def test_a_run_that_ends_takes_its_sessions_with_it(database: Database) -> None:
    world = database.world()
    async with loopback(world.session) as port:
        tool = await psycopg.AsyncConnection.connect(port.address())
        await database.sessions(1)
    await database.sessions(0)
    with pytest.raises(psycopg.OperationalError):
        await tool.execute("SELECT 1")
    await tool.close()


async def test_a_server_that_goes_away_ends_the_session(database: Database) -> None:
    world = database.world()
    async with loopback(world.session) as port, connected(port) as tool:
        with database.server.superuser() as boss:
            boss.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (USER,))
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            await tool.execute("SELECT 1")


async def test_silence_ends_a_session(database: Database) -> None:
    world = database.world(limits=EgressLimits(idle_s=0.2, linger_s=0.01))
    tool = Tool(world.session, 5432)
    tool.send(startup())
    got = await tool.all()
    assert got.endswith(READY)
    assert world.record.verdict is EgressVerdict.LIMIT
    await database.sessions(0)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_a_login_is_bound_by_the_hash_of_the_certificates_own_signature(
    tmp_path_factory: pytest.TempPathFactory, version: str
) -> None:
    made = make_certificates(tmp_path_factory.mktemp("tls"), algorithm=hashes.SHA384())
    settings = {"ssl_max_protocol_version": version}
    with postgres_server(tls=(made.certificate, made.key), **settings) as server:
        server.url(DATABASE)
        async with loopback(Database(server, made).world().session) as port, connected(port) as tool:
            query = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert await _row(tool, query) == (version,)


async def test_a_real_server_with_another_names_certificate_is_told_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = make_certificates(tmp_path_factory.mktemp("tls"), "other.example.com")
    with postgres_server(tls=(made.certificate, made.key)) as server:
        world = Database(server, made).world()
        answer = await world.raw(startup(), listener=5432)
    assert error_fields(answer)["C"] == "08001"
    assert "certificate" in world.record.detail
