"""A ledger file, read without the broker: while it runs, after it crashed, or as a copy on an auditor's machine.

Nothing is ever written to the file or beside its copy. What is read is one consistent state. Whether that is the newest
state can't be seen in the entries, so the file itself says it: ``in_use`` in ``store_meta`` is not 0 from before the first
commit that lies in the write-ahead log alone until the last clean close (see ``broker.store.usage``). A marked file
whose log is missing, empty or damaged is not complete.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.errors import DataLossError, InvalidArgumentError, UnavailableError
from broker.ledger.projections import PROJECTIONS, TILES, named_beyond, tiles_beyond
from broker.ledger.source import Reopen, Row, UnreadableError
from broker.ledger.verdict import Expectation, Report
from broker.ledger.verifier import Known, verify_opened
from broker.ledger.wal import holds_commit

_ATTEMPTS = 3
_LONGEST_VALUE = 2**20
_LOWEST = -(2**63)
_NEEDS_LOG = (
    "the file was in use when it was last written, and its -wal file is missing, empty or damaged: the newest entries may"
    " be missing"
)


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """An open ledger file: a ``broker.ledger.source.Source``.

    ``incomplete`` says why the newest entries may be missing; empty where the file holds all that was committed.
    """

    path: Path
    incomplete: str
    _connection: sqlite3.Connection

    def count(self) -> int:
        """Number of entries, by the last one's number: quick, and not verified."""
        try:
            row = self._connection.execute("SELECT max(seq) FROM ledger_entry").fetchone()
        except sqlite3.Error as error:
            raise UnreadableError(_text(error)) from error
        return row[0] + 1 if isinstance(row[0], int) else 0

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def reopen(self) -> Reopen:
        """The same file in another process: a later state perhaps, but entries that were there stay as they are."""
        return Reopen("sqlite", str(self.path.absolute()))

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """Entries from a number on, up to another one (included), as they are stored.

        Raises:
            UnreadableError: SQLite can't read the file any further.
        """
        until = "" if last is None else " AND seq <= :last"
        statement = f"SELECT seq, prev, leaf, data FROM ledger_entry WHERE seq >= :first{until} ORDER BY seq"  # noqa: S608 - no input
        try:
            # From the beginning is from wherever it begins: a row with a number below 0 is seen, and found.
            values = {"first": first or _LOWEST, "last": last}
            with closing(self._connection.execute(statement, values)) as cursor:
                yield from map(Row._make, cursor)
        except sqlite3.Error as error:
            raise UnreadableError(_text(error)) from error

    def beyond(self, count: int) -> str:
        """What names an entry that the first ``count`` entries don't have; empty where nothing does.

        Raises:
            UnreadableError: SQLite can't read it.
        """
        try:
            for item in PROJECTIONS:
                if item.column in self._columns(item.table):
                    row = self._connection.execute(f"SELECT max({item.column}) FROM {item.table}").fetchone()  # noqa: S608 - ours
                    if why := named_beyond(row[0], count, item):
                        return why
            return (
                tiles_beyond(self._connection.execute(TILES), count) if "hashes" in self._columns("ledger_tile") else ""
            )
        except sqlite3.Error as error:
            raise UnreadableError(_text(error)) from error

    def _columns(self, table: str) -> set[str]:
        return {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}


def open_target(how: Reopen) -> AbstractContextManager[LedgerFile]:
    """Opens a ledger file for ``broker.ledger.source_kinds``."""
    return open_ledger(Path(how.target))


@contextmanager
def open_ledger(path: Path) -> Iterator[LedgerFile]:
    """Opens a ledger file for reading, on one consistent snapshot.

    Raises:
        InvalidArgumentError: ``LEDGER_MISSING``: there is no such file.
        DataLossError: ``LEDGER_UNREADABLE``: it is no SQLite file, or holds no ledger of a broker.
        UnavailableError: ``LEDGER_BUSY``: a broker started or stopped just now; try again.
    """
    if not path.is_file():
        raise InvalidArgumentError(
            f"there is no ledger file {path}",
            reason="LEDGER_MISSING",
            hint="Name the database file (broker.db), or its state directory with --state.",
        )
    # Without a log the file alone is the state: "immutable" then keeps SQLite from making files beside it.
    alone = not _log_exists(path)
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            in_use = _in_use(connection, path)
            incomplete = _NEEDS_LOG if in_use and not _log_is_read(path) else ""
            yield LedgerFile(path, incomplete, connection)
            if alone and _log_exists(path):
                raise UnavailableError(
                    f"a broker began to use {path} while it was being read", reason="LEDGER_BUSY", retry_after_s=0.0
                )
    except sqlite3.Error as error:
        raise _unreadable(path, _text(error)) from error


def verify_file(
    path: Path,
    *,
    expected: Expectation | None = None,
    progress: Callable[[int, int], None] | None = None,
    known: Known | None = None,
    first: int = 0,
    workers: int = 1,
) -> Report:
    """Verifies a ledger file.

    Args:
        path: the database file; its ``-wal`` is read with it where there is one.
        expected: an entry that must be in the ledger, known from elsewhere; part of ``known`` where that is given.
        progress: called now and then with the number of entries checked and that of all.
        known: what else is known from elsewhere.
        first: where to begin; what is before it is trusted.
        workers: most processes to share the work among.

    Raises:
        InvalidArgumentError: ``LEDGER_MISSING``.
        UnavailableError: ``LEDGER_BUSY``: brokers kept starting meanwhile.
    """
    facts = known or Known(expected)
    return verify_opened(lambda: open_ledger(path), facts, first=first, workers=workers, progress=progress)


def _in_use(connection: sqlite3.Connection, path: Path) -> bool:
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"ledger_entry", "store_meta"} <= tables:
        raise _unreadable(path, "it has no ledger in it, or only a -wal file that is missing has")
    row = connection.execute("SELECT value FROM store_meta WHERE key = 'in_use'").fetchone()
    return row is None or row[0] != "0"


def _log_exists(path: Path) -> bool:
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists() and beside.stat().st_size:
            return True
    return False


def _log_is_read(path: Path) -> bool:
    # A running broker may begin the log anew just between two reads of ours, so one look is not enough to call it bad.
    log = path.with_name(f"{path.name}-wal")
    return any(holds_commit(log) for _ in range(_ATTEMPTS))


def _unreadable(path: Path, why: str) -> DataLossError:
    return DataLossError(
        f"{path} can't be read as a ledger: {why}",
        reason="LEDGER_UNREADABLE",
        hint="Name a broker's database file (broker.db), with its -wal file beside it if there is one.",
    )


def _text(error: sqlite3.Error) -> str:
    return f"{error} ({getattr(error, 'sqlite_errorname', 'no error name')})"
