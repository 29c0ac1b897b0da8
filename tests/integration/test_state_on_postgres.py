"""A state directory whose database is on a PostgreSQL server, from `broker init` to served calls."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
import yaml

from broker.cli.init import create_state
from broker.errors import BrokerError, ConflictError, InvalidArgumentError
from broker.ledger.ledger import Ledger
from broker.store.opening import DatabaseTarget, open_store_sync
from tests.postgres_server import OWNER, PASSWORD, PostgresServer
from tests.served import AGENT, OPERATOR, command, command_json, serving

_numbers = count()


@pytest.fixture
def name() -> str:
    return f"state_{next(_numbers)}"


def _init(server: PostgresServer, name: str, state: Path) -> None:
    password = state.parent / "password"
    password.write_text(PASSWORD + "\n")
    password.chmod(0o600)
    command_json(
        state,
        *("init", "--operator", OPERATOR),
        *("--database", server.tcp_url(name, owner=OWNER), "--database-password", f"file:{password}"),
        *("--database-owner", server.tcp_url(name, OWNER, owner=OWNER), "--database-owner-password", "env:OWNERS"),
        OWNERS=PASSWORD,
    )


def test_a_state_is_made_and_used_by_commands(postgres: PostgresServer, name: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    _init(postgres, name, state)
    assert not (state / "broker.db").exists()
    settings = yaml.safe_load((state / "settings.yaml").read_text("utf-8"))
    assert set(settings) == {"database", "database_password"}
    for file in state.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()
    command_json(state, "identity", "issue", "agent", AGENT, "--owner", OPERATOR)
    listed = command_json(state, "identity", "list")
    assert AGENT in json.dumps(listed)
    found = json.loads(command(state, "doctor", "--only", "ledger", "--only", "state", "--json", check=False).stdout)
    assert {item["status"] for item in found["findings"]} == {"ok"}, found
    refused = command(state, "migrate", "--json", check=False)
    assert "STORE_FORBIDDEN" in refused.stdout, refused
    owner = ("--database-owner", postgres.url(name, OWNER))
    migrated = command_json(state, "migrate", *owner)
    assert migrated["before"] == migrated["after"]


def test_the_doctor_says_where_the_broker_owns_its_tables(postgres: PostgresServer, name: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    command_json(state, "init", "--operator", OPERATOR, "--database", postgres.url(name))
    found = json.loads(command(state, "doctor", "--only", "ledger", "--json", check=False).stdout)
    assert any("owns the ledger's table" in item["found"] for item in found["findings"]), found


def test_an_init_that_fails_leaves_nothing_in_the_database(
    postgres: PostgresServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(name)

    def fail(*_: object, **__: object) -> int:
        raise InvalidArgumentError("no entry today")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "append", fail)
        with pytest.raises(InvalidArgumentError):
            create_state(tmp_path / "state", operator="ada", hosts=(), chosen={"database": url})
    with postgres.superuser(name) as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'broker'").fetchone() is None
    create_state(tmp_path / "state", operator="ada", hosts=(), chosen={"database": url})
    with pytest.raises(ConflictError) as refused:
        create_state(tmp_path / "other", operator="ada", hosts=(), chosen={"database": url})
    assert refused.value.reason == "STORE_EXISTS"
    with open_store_sync(DatabaseTarget(tmp_path / "none.db", url)) as store:  # the first one's is as it was
        head = store.read_sync(lambda tx: tx.ledger.head())
    assert head is not None


@pytest.mark.parametrize("url", ["postgresql://a:secret@host/name", "mysql://host/name", "postgresql://host"])
def test_an_address_that_is_wrong_or_holds_a_password_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(BrokerError) as refused:
        create_state(tmp_path / "state", operator="ada", hosts=(), chosen={"database": url})
    assert refused.value.reason == "SETTINGS_INVALID"
    assert "secret" not in refused.value.message
    assert not (tmp_path / "state").exists()


def test_an_erasure_rewrites_the_files_or_says_that_it_did_not(
    postgres: PostgresServer, name: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    _init(postgres, name, state)
    command_json(state, "identity", "issue", "agent", AGENT, "--owner", OPERATOR)
    command_json(state, "identity", "revoke", "agent", AGENT, "--reason", "left")
    agent = next(item["id"] for item in command_json(state, "identity", "list")["items"] if item["name"] == AGENT)
    erase = ("ledger", "erase", "--subject", agent, "--yes")
    with postgres.superuser(name) as connection:
        own_right = connection.info.server_version >= 170000
    by_itself = command(state, *erase, "--json", check=False)
    told, *error = [json.loads(line) for line in by_itself.stdout.splitlines()]
    assert told["entries"]
    assert told["scrubbed"] == own_right
    if not own_right:
        assert "VACUUM FULL broker.vault_object" in told["scrub_hint"]
        assert (by_itself.returncode, error[0]["reason"]) == (2, "SCRUB_FORBIDDEN")
        in_words = command(state, *erase, check=False)
        assert "can still be read there" in in_words.stdout
        assert "still in the database's files" in " ".join(in_words.stderr.split())
    owner = ("--database-owner", postgres.tcp_url(name, OWNER), "--database-owner-password", "env:OWNERS")
    wrong = command(state, *erase, *owner, "--json", check=False, OWNERS="wrong")
    assert json.loads(wrong.stdout.splitlines()[0])["scrubbed"] is False
    assert wrong.returncode != 0
    done = command_json(state, *erase, *owner, OWNERS=PASSWORD)
    assert (done["scrubbed"], done["scrub_hint"]) == (True, "")


def test_an_owner_is_refused_where_the_database_is_a_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command_json(state, "init", "--operator", OPERATOR)
    owner = ("--database-owner", "postgresql://a@localhost/b")
    refused = command(state, "ledger", "erase", "--subject", "demo", "--yes", *owner, "--json", check=False)
    assert json.loads(refused.stdout)["reason"] == "DATABASE_OWNER_UNFIT"


@pytest.mark.docker
async def test_calls_are_served(postgres: PostgresServer, name: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    _init(postgres, name, state)
    command_json(state, "identity", "issue", "agent", AGENT, "--owner", OPERATOR)
    settings = yaml.safe_load((state / "settings.yaml").read_text("utf-8"))
    (state / "settings.yaml").write_text(yaml.safe_dump({**settings, "listen": "127.0.0.1:0"}), "utf-8")
    with serving(state) as served:
        async with served.client() as client:
            assert (await client.run("python.run", {"code": "print(6 * 7)"})).stdout == b"42\n"
        served.kill()
    with serving(state) as served:
        opening = ("--address", served.address, "--identity", f"human/{OPERATOR}")
        session = command_json(state, "sessions", "start", "--agent", AGENT, "--workspace", "demo", *opening)["name"]
        async with served.client(session=session) as client:
            call = await client.run("python.run", {"code": "print('again')"})
            assert call.stdout == b"again\n"
        _replay(state, call.name, session, tmp_path)


def _replay(state: Path, call: str, session: str, place: Path) -> None:
    """Each command of a replay, once, while the broker serves."""
    name = call.removeprefix("calls/")
    assert command_json(state, "replay", "rerun", call)["verdict"] == "reproduced"
    for _ in range(2):  # filed, and looked up in what was filed
        done = command_json(state, "ask", "agent", AGENT)
        assert (done["mark"]["verdict"], {line["values"]["tool"] for line in done["lines"]}) == ("ok", {"python.run"})
    told = command_json(state, "replay", "timeline", "--call", name, "--html", str(place / "page.html"))
    assert (told["mark"]["sound"], [item["call"] for item in told["calls"]]) == (True, [name])
    again = command_json(state, "replay", "session", session)
    assert [(step["call"], step["rerun"]["verdict"]) for step in again["steps"]] == [(call, "reproduced")]
    policy = str(state / "policy" / "policy.csv")
    tried = command_json(state, "replay", "whatif", "--policy", policy, "--fail-on", "any")
    assert tried["control"]["reproduced"] == tried["totals"]["requests"] == 2
    packed = command_json(state, "replay", "bundle", str(place / "case.zip"), "--agent", AGENT, "--names")
    assert packed["verdict"] == "ok"
    assert command_json(place, "ask", "agent", AGENT, "--bundle", str(place / "case.zip"))["mark"]["sound"]
