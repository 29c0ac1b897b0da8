"""A PostgreSQL server of the tests' own: made in a temporary directory, reached on loopback and by a socket, durable."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from typing import Any
from urllib.parse import quote

import psycopg

OWNER = "broker_owner"
"""A role that owns databases, and serves none."""
APPLICATION = "broker"
"""The role that the broker serves with."""
PASSWORD = "only for tests"  # noqa: S105 - of a server that lives as long as a test
"""Both roles' password, for who comes by TCP."""

_BINARIES = "/usr/lib/postgresql/*/bin"
_SUPERUSER = "postgres"


class PostgresServer:
    """A server that runs; ``restart`` and ``crash`` are for tests of its own going away."""

    def __init__(self, folder: Path, port: int, account: str, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._account = account
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    def url(self, database: str, role: str = APPLICATION, *, owner: str = APPLICATION) -> str:
        """The address of a database by the socket, as a role; made for ``owner`` where there is none."""
        self._make(database, owner)
        return f"postgresql://{role}@/{database}?host={quote(str(self._folder), safe='')}&port={self.port}"

    def tcp_url(self, database: str, role: str = APPLICATION, *, owner: str = APPLICATION) -> str:
        """The same by TCP on loopback, where the password is asked for."""
        self._make(database, owner)
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def superuser(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection that may do anything."""
        return psycopg.connect(
            host=str(self._folder), port=self.port, user=_SUPERUSER, dbname=database, autocommit=True
        )

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [program("postgres"), "-D", str(self._folder / "data"), "-k", str(self._folder), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_as(self._account))
        # pg_ctl looks at the state file that the server itself keeps.
        waiting = [program("pg_isready"), "-h", str(self._folder), "-p", str(self.port), "-q", "-t", "1"]
        while subprocess.run(waiting, check=False).returncode != 0:
            if self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text("utf-8", "replace")[-2000:])

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops it; by default at once and in order, with SIGQUIT as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def crash(self) -> None:
        """Ends it without a checkpoint, and starts it again."""
        self.stop(signal.SIGQUIT)
        self.start()

    def _make(self, database: str, owner: str) -> None:
        with self.superuser() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
                return
            connection.execute(
                f'CREATE DATABASE "{database}" OWNER "{owner}" TEMPLATE template0 ENCODING \'UTF8\''.encode()
            )


@contextmanager
def postgres_server(
    *, tls: tuple[Path, Path] | None = None, access: str = "", **settings: str
) -> Iterator[PostgresServer]:
    """Makes a server, starts it and removes it at the end; ``settings`` come on top of the durable ones.

    With ``tls``, the files of a certificate and of its key, it takes nobody by TCP without TLS. ``access`` are lines of
    ``pg_hba.conf`` before its own.

    Raises:
        FileNotFoundError: PostgreSQL isn't installed; ``scripts/postgres.sh`` does it.
    """
    account = _unprivileged() if os.geteuid() == 0 else ""
    folder = Path(tempfile.mkdtemp(prefix="broker-pg-", dir="/tmp"))
    server: PostgresServer | None = None
    try:
        if account:
            shutil.chown(folder, account)
        made = [program("initdb"), "-D", str(folder / "data"), "-U", _SUPERUSER, "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run([*made, "-A", "trust"], check=True, capture_output=True, **_as(account))
        kind = "host" if tls is None else "hostssl"
        own = f"local all all trust\n{kind} all all 127.0.0.1/32 scram-sha-256\n"
        (folder / "data" / "pg_hba.conf").write_text(access + own)
        with create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        durable = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "autovacuum_naptime": "1",
            **({} if tls is None else _tls(folder / "data", account, *tls)),
        }
        server = PostgresServer(folder, port, account, {**durable, **settings})
        server.start()
        with server.superuser() as connection:
            for role in (OWNER, APPLICATION):
                connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'".encode())
        yield server
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)  # what it would write to the disk in order is removed at once
        for _ in range(10):  # the server's own processes may outlive it by a moment, and write
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break


def _tls(data: Path, account: str, certificate: Path, key: Path) -> dict[str, str]:
    # The server reads a key only where it is its own and nobody else's.
    for source, name in ((certificate, "server.crt"), (key, "server.key")):
        copy = data / name
        copy.write_bytes(source.read_bytes())
        copy.chmod(0o600)
        if account:
            shutil.chown(copy, account)
    return {"ssl": "on", "ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}


def program(name: str) -> str:
    """Path of a program of PostgreSQL."""
    newest = sorted(Path("/").glob(_BINARIES[1:]), key=lambda folder: int(folder.parent.name.split(".")[0]))
    where = os.pathsep.join([*(str(folder) for folder in reversed(newest)), os.environ.get("PATH", "")])
    found = shutil.which(name, path=where)
    if found is None:
        message = f"PostgreSQL's {name} is not installed; scripts/postgres.sh installs it"
        raise FileNotFoundError(message)
    return found


def _unprivileged() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return _SUPERUSER if _SUPERUSER in known else "nobody"


def _as(account: str) -> dict[str, Any]:
    # The server refuses to run as root.
    if not account:
        return {"cwd": "/"}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}
