"""Where the database is, and whether its password may go there, is said by the address alone."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from broker.domain.secret import Secret
from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.settings import Settings
from broker.store.postgres_connection import PostgresAddress, connect
from tests.postgres_server import PostgresServer

REFUSED = [
    "postgresql://broker@localhost/broker?hostaddr=127.0.0.2",
    "postgresql://broker@/broker?host=/nonexistent,127.0.0.2",
    "postgresql://broker@/broker?host=%2Fnonexistent%2C127.0.0.2",
    "postgresql://broker@localhost,127.0.0.2/broker",
    "postgresql://broker@localhost/broker?port=1,2",
    "postgresql://broker@/broker?service=other",
    "postgresql://broker@localhost/broker?passfile=/tmp/words",
    "postgresql://broker@localhost/broker?sslkey=/k&sslpassword=hunter2",
]


@pytest.mark.parametrize("url", REFUSED)
def test_an_address_that_could_lead_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        PostgresAddress(url)
    assert refused.value.reason == "DATABASE_ADDRESS_INVALID"
    assert "hunter2" not in str(refused.value) + refused.value.hint
    with pytest.raises(ValueError, match="database") as told:
        Settings(database=url)
    assert "DATABASE_ADDRESS" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://broker@localhost/broker?options=-csearch_path%3Devil",
        "postgresql://broker@localhost/broker?sslkeylogfile=/tmp/keys",
        "postgresql://broker@localhost/broker?nothing=known",
        "postgresql://broker@local host/broker",
    ],
)
def test_what_an_address_has_no_need_to_say_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        PostgresAddress(url)
    assert refused.value.reason == "DATABASE_ADDRESS_INVALID"


def _asked(monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    with monkeypatch.context() as patched:
        patched.setattr(psycopg, "connect", lambda _, **options: asked.update(options))
        connect(PostgresAddress(url, Secret(b"word")))
    return asked


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://broker@db.example.com/broker", "verify-full"),
        ("postgresql://broker@/broker?host=db.example.com", "verify-full"),
        ("postgresql://broker@127.0.0.2/broker?sslmode=", "verify-full"),
        ("postgresql://broker@db.example.com/broker?sslmode=require", "require"),
        ("postgresql://broker@127.0.0.1/broker", "prefer"),
        ("postgresql://broker@[::1]/broker", "prefer"),
        ("postgresql://broker@/broker?host=/run/postgresql", "prefer"),
        ("postgresql://broker@/broker", "prefer"),
    ],
)
def test_the_password_goes_to_another_machine_only_over_proved_tls(
    monkeypatch: pytest.MonkeyPatch, url: str, mode: str
) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert _asked(monkeypatch, url)["sslmode"] == mode


def test_nothing_is_left_for_the_environment_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    known = psycopg.pq.Conninfo.get_defaults()
    asked = _asked(monkeypatch, "postgresql://broker@/broker")
    assert {item.keyword.decode() for item in known if item.envvar} - asked.keys() == {"service", "require_auth"}
    assert int(asked["tcp_user_timeout"]) > 0
    assert asked["keepalives"] == "1"


def test_the_environment_names_no_other_server(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.url("by_environment")
    for name, value in {
        "PGHOST": "127.0.0.2",
        "PGHOSTADDR": "127.0.0.2",
        "PGPORT": "1",
        "PGUSER": "nobody",
        "PGDATABASE": "nothing",
        "PGSSLMODE": "verify-full",
        "PGOPTIONS": "-c search_path=evil",
    }.items():
        monkeypatch.setenv(name, value)
    with connect(PostgresAddress(url)) as driver:
        row = driver.execute("SELECT current_user::text, current_setting('search_path')").fetchone()
    assert row == ("broker", '"$user", public')
    folder = str(postgres._folder)
    monkeypatch.delenv("PGHOSTADDR")
    monkeypatch.setenv("PGHOST", folder)
    with pytest.raises(psycopg.OperationalError) as failed:
        connect(PostgresAddress(f"postgresql://broker@/by_environment?port={postgres.port}"))
    assert folder not in str(failed.value)
    assert quote(folder, safe="") not in str(failed.value)


def test_a_service_of_the_environment_is_refused(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = PostgresAddress(postgres.url("by_environment"))
    monkeypatch.setenv("PGSERVICE", "other")
    with pytest.raises(FailedPreconditionError) as refused:
        connect(address)
    assert refused.value.reason == "DATABASE_ENVIRONMENT"
