"""A database for tests of ``sql.execute``: a server that trusts loopback, as the gate does, and the tool's program, as it is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, LiteralString, cast
from unittest import mock

import psycopg

from broker_rows import program
from broker_rows.server import Address
from tests.postgres_server import PostgresServer, postgres_server

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "examples" / "tool_specs" / "sql_execute.py"
ROLE = "clerk"
"""The role that the tool has: no superuser, and no owner of anything."""

_ROWS = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""

_DATABASE = "world"

_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

_SCHEMAS = """
SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
"""


@dataclass(frozen=True)
class Done:
    """How a step ended, and what it left."""

    code: int
    error: str
    folder: Path
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    now: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        return self.error.partition(":")[0]


@dataclass
class SqlWorld:
    """One database, and the tool at work on it."""

    server: PostgresServer
    database: str
    scratch: Path
    env: dict[str, str] = field(default_factory=dict)
    as_program: bool = False
    """Whether each step is a process of its own, as it is for the broker; in this one it is sooner done."""
    _count: int = 0

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.server.port, self.database, ROLE)

    def admin(self) -> psycopg.Connection[Any]:
        """A superuser's connection."""
        return self.server.superuser(self.database)

    def do(self, *statements: str) -> None:
        """What the owner of the database does, one statement after the other."""
        with self.admin() as connection:
            for statement in statements:
                connection.execute(cast("LiteralString", statement))

    def ask(self, sql: str) -> list[Any]:
        """Rows of a query; of one column, its values."""
        with self.admin() as connection:
            found = connection.execute(cast("LiteralString", sql)).fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    def everything(self) -> dict[str, list[str]]:
        """Every row of every table as text."""
        return {
            table: sorted(self.ask(f"SELECT t::text FROM ONLY {table} AS t"))  # noqa: S608  # a quoted name
            for table in self.ask(_ROWS)
        }

    def folder(self) -> Path:
        """A working folder of its own."""
        self._count += 1
        made = self.scratch / f"step-{self._count}"
        made.mkdir()
        return made

    def environment(self, **more: str) -> dict[str, str]:
        """The variables under which the program runs."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT / "sandboxes" / "postgres"),
            "SQL_HOST": "127.0.0.1",
            "SQL_PORT": str(self.server.port),
            "SQL_DATABASE": self.database,
            "SQL_USER": ROLE,
            **self.env,
            **more,
        }

    def start(self, step: str, folder: Path, arguments: object = None, **more: str) -> subprocess.Popen[str]:
        """Starts the program in a folder."""
        return subprocess.Popen(
            [sys.executable, PROGRAM, step],
            cwd=folder,
            env=self.environment(**self._arguments(folder, arguments), **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def step(self, step: str, folder: Path, arguments: object = None, **more: str) -> Done:
        """Takes a step in a folder."""
        if self.as_program:
            return finished(self.start(step, folder, arguments, **more), folder)
        environment = self.environment(**self._arguments(folder, arguments), **more)
        with inside(folder), mock.patch.dict(os.environ, environment, clear=True), redirect_stderr(StringIO()) as error:
            code = program.main(step)
        return done(code, error.getvalue(), folder)

    def _arguments(self, folder: Path, arguments: object) -> dict[str, str]:
        file = self.scratch / f"arguments-{folder.name}.json"
        file.write_text(json.dumps(arguments or {}), "utf-8")
        return {"BROKER_ARGUMENTS": str(file)}

    def plan(self, sql: str, **more: str) -> Done:
        """Plans a statement."""
        return self.step("plan", self.folder(), {"sql": sql}, **more)

    def on(self, step: str, before: Mapping[str, str], after: Mapping[str, str], **more: str) -> Done:
        """Takes a step on a change."""
        folder = self.folder()
        lay(folder / "before", before)
        lay(folder / "after", after)
        return self.step(step, folder, **more)

    def apply(self, planned: Done, **more: str) -> Done:
        """Applies what was planned."""
        return self.on("apply", planned.before, planned.after, **more)

    def undo(self, planned: Done, **more: str) -> Done:
        """Takes back what was planned."""
        return self.on("undo", planned.after, planned.before, **more)

    def rehearse(self, planned: Done, **more: str) -> Done:
        """Tries what was planned."""
        return self.on("rehearse", planned.before, planned.after, **more)

    def there_and_back(self, sql: str, **more: str) -> Done:
        """Plans, rehearses, applies, verifies and takes back; all has to be as the statement and the plan say."""
        was = self.everything()
        planned = self.plan(sql, **more)
        assert planned.code == 0, planned.error
        assert self.everything() == was
        rehearsed = self.rehearse(planned, **more)
        assert rehearsed.code == 0, rehearsed.error
        assert self.everything() == was
        applied = self.apply(planned, **more)
        assert applied.code == 0, applied.error
        verified = self.on("verify", planned.before, planned.after, **more)
        assert (verified.code, verified.now) == (0, planned.after), verified.error
        undone = self.undo(planned, **more)
        assert undone.code == 0, undone.error
        assert self.everything() == was
        verified = self.on("verify", planned.after, planned.before, **more)
        assert (verified.code, verified.now) == (0, planned.before), verified.error
        return planned

    def refused(self, sql: str, reason: str, *words: str, **more: str) -> Done:
        """Plans a statement that has to be refused, with nothing changed and nothing written."""
        was = self.everything()
        done = self.plan(sql, **more)
        assert (done.code, done.reason) == (3, reason), (done.code, done.error)
        assert all(word in done.error for word in words), done.error
        assert len(done.error.splitlines()) == 1, done.error
        assert not done.before
        assert not done.after
        assert self.everything() == was
        return done


def finished(process: subprocess.Popen[str], folder: Path) -> Done:
    """Waits for a step."""
    _, error = process.communicate(timeout=200)
    return done(process.returncode, error, folder)


def done(code: int, error: str, folder: Path) -> Done:
    """How a step ended, with what lies in its folder."""
    return Done(code, error, folder, *(files(folder / side) for side in ("before", "after", "now")))


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Makes a folder the current one."""
    was = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(was)


def files(folder: Path) -> dict[str, str]:
    """The texts in a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode(errors="replace")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lay(folder: Path, texts: Mapping[str, str]) -> None:
    """Puts texts into a folder."""
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())


@contextmanager
def sql_server() -> Iterator[PostgresServer]:
    """A server that asks nobody for a password on loopback: that is what the gate offers in a sandbox."""
    with tempfile.TemporaryDirectory(prefix="broker-hba-", dir="/tmp") as folder:  # another account reads it
        access = Path(folder) / "pg_hba.conf"
        access.write_text("local all all trust\nhost all all 127.0.0.1/32 trust\n")
        Path(folder).chmod(0o755)
        with postgres_server(hba_file=str(access), fsync="off") as server:
            with server.superuser() as connection:
                connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
            yield server


def sql_world(server: PostgresServer, scratch: Path) -> SqlWorld:
    """The database of a server, as if it were new: making one for each test would take most of the time."""
    server.url(_DATABASE)
    world = SqlWorld(server, _DATABASE, scratch)
    while world.ask(_END_OTHERS):
        pass
    world.do(
        *(f"DROP SCHEMA {name} CASCADE" for name in world.ask(_SCHEMAS)),
        "DROP FOREIGN DATA WRAPPER IF EXISTS w CASCADE",
        "CREATE SCHEMA public",
        f"REVOKE ALL ON pg_description FROM {ROLE}",
        f"ALTER ROLE {ROLE} IN DATABASE {_DATABASE} RESET ALL",
        f"GRANT TEMP ON DATABASE {_DATABASE} TO PUBLIC",
        f"GRANT USAGE ON SCHEMA public TO {ROLE}",
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {ROLE}",
        f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO {ROLE}",
    )
    return world
