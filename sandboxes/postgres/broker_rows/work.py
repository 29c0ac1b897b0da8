"""A piece of work on the database: two connections that see it as it was at one moment, one of which may change it.

What the one changed is told by what both see. A row version that the one made carries its transaction's number, or that of
one of its subtransactions; a row version that it replaced or removed is still seen by the other, and no more by the one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

from broker_rows import tables
from broker_rows.endings import Ending, RefusedError, UnknownOutcomeError
from broker_rows.server import Address, Connection, ConnectionLostError, Row, ServerError, array
from broker_rows.tables import Table

_WRAP = 2**32
"""Numbers of transactions begin anew after so many."""
_MAX_SPAN = 2**31
MAX_BYTES = 16 * 2**20
"""Longest text of the rows of one table that are handled."""
ASKING_S = 30
"""How long somebody is sought who knows what became of a transaction."""

_COUNTS = "SELECT relid, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_all_tables"

Side = dict[str, Row]
"""Rows of one table by their paths."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How often the transaction added, changed and removed a row of a table, as the server counts it."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    @property
    def total(self) -> int:
        """How often it touched a row."""
        return self.added + self.changed + self.removed

    def since(self, earlier: Counts) -> Counts:
        """What came on top."""
        return Counts(self.added - earlier.added, self.changed - earlier.changed, self.removed - earlier.removed)


@dataclass(frozen=True, slots=True)
class Changed:
    """What the transaction changed of one table: the rows that it replaced or removed, and those that it made."""

    table: Table
    counts: Counts
    before: Side
    after: Side

    def is_accounted(self, *, once: bool) -> bool:
        """Whether the rows that were found agree with what the server counts.

        Args:
            once: no row can have been touched twice, or in vain, so that the numbers have to be the same.
        """
        made, gone = self.counts.added + self.counts.changed, self.counts.changed + self.counts.removed
        if once:
            return (len(self.after), len(self.before)) == (made, gone)
        return len(self.after) <= made and len(self.before) <= gone


@dataclass(slots=True)
class Work:
    """``main`` changes, in a transaction; ``watcher`` sees what was there when it began."""

    address: Address
    main: Connection
    watcher: Connection
    snapshot: str
    transaction: int
    """The whole number of ``main``'s transaction; rows carry its lower half."""
    _multi: int
    """The number that the next group of transactions which share a row was to get when the work began."""
    _earlier: dict[int, Counts] = field(default_factory=dict)

    def count_from_here(self) -> None:
        """What was done up to now isn't counted, such as what was rolled back already."""
        self._earlier = self._counted()

    def touched(self) -> dict[int, Counts]:
        """The tables of which the transaction added, changed or removed rows, whatever else they are."""
        every = self._counted()
        news = {oid: counts.since(self._earlier.get(oid, Counts())) for oid, counts in every.items()}
        some = {oid: counts for oid, counts in news.items() if counts != Counts()}
        # The parts of long values lie in tables of their own, which belong to the table.
        sql = "SELECT oid FROM pg_class WHERE oid = ANY ($1::oid[]) AND relkind = 't'"
        parts = {int(oid or 0) for (oid,) in self.main.rows(sql, array(map(str, some)))}
        return {oid: counts for oid, counts in some.items() if oid not in parts}

    def changed(self, max_rows: int) -> dict[int, Changed]:
        """All that the transaction has changed, by table.

        Raises:
            RefusedError: it is too much, or can't be accounted for.
        """
        touched = self.touched()
        known = tables.load(self.main, touched)
        spans = self._spans()
        found = {oid: self._changed(table, touched[oid], spans, max_rows) for oid, table in known.items()}
        if found.keys() != touched.keys():
            raise RefusedError("NOT_ACCOUNTED", "it makes or removes a table")
        return found

    def _changed(self, table: Table, counts: Counts, spans: tuple[int, int], max_rows: int) -> Changed:
        def within(column: str, first: int, span: int) -> str:
            return f"(t.{column}::text::bigint - {first} + {_WRAP}) % {_WRAP} < {span}"

        made_here = within("xmin", self._xid, spans[0])
        marked_here = (
            f"t.xmax <> '0' AND ({within('xmax', self._xid, spans[0])} OR {within('xmax', self._multi, spans[1])})"
        )
        made = _places(self.main, f"SELECT t.ctid FROM ONLY {table.sql} AS t WHERE {made_here}")
        marked = _places(self.watcher, f"SELECT t.ctid FROM ONLY {table.sql} AS t WHERE {marked_here}")
        made = _unseen(self.watcher, table, made)
        gone = _unseen(self.main, table, marked)
        if max(len(made), len(gone)) > max_rows:
            raise too_many(max(len(made), len(gone)), max_rows)
        found = Changed(table, counts, _rows_at(self.watcher, table, gone), _rows_at(self.main, table, made))
        if (len(found.before), len(found.after)) != (len(gone), len(made)):
            raise RefusedError("NOT_ACCOUNTED", f"two rows of {table.schema}.{table.name} have the same path")
        return found

    def _spans(self) -> tuple[int, int]:
        """How many numbers the server gave since the work began: to transactions, and to groups that share a row."""
        # The server says the age as of its first call in a transaction, so that must be a new one.
        self.watcher.run("COMMIT")
        begin_watching(self.watcher, self.snapshot)
        ages = self.watcher.rows("SELECT age($1::xid), mxid_age($2::xid)", str(self._xid), str(self._multi))
        transactions, multis = (int(text or 0) for text in ages[0])
        if not (0 < transactions < _MAX_SPAN and 0 <= multis < _MAX_SPAN):
            raise RefusedError("NOT_ACCOUNTED", "the server has begun its numbers of transactions anew; call again")
        return transactions, multis

    @property
    def _xid(self) -> int:
        return self.transaction % _WRAP

    def _counted(self) -> dict[int, Counts]:
        return {
            int(oid or 0): Counts(int(added or 0), int(changed or 0), int(removed or 0))
            for oid, added, changed, removed in self.main.rows(_COUNTS)
        }

    def commit(self) -> None:
        """Makes the changes last.

        Raises:
            UnknownOutcomeError: whether they do can't be found out.
            ServerError: the server rolled them back.
            RefusedError: they were rolled back as the connection broke.
        """
        refusal: ServerError | None = None
        try:
            self.main.run("COMMIT")
        except ServerError as error:
            refusal = error
        except ConnectionLostError:
            self.main.close()  # so that the server ends what it hasn't begun to commit
        # An error isn't taken at its word: a server that is shut down may say one behind a commit that lasts.
        if not self._has_lasted():
            raise refusal or RefusedError(
                "COMMIT_FAILED", "the connection broke and the server rolled it back; nothing was changed; try again"
            )

    def _has_lasted(self) -> bool:
        """Asks what became of the transaction: here, then on new connections, until one knows."""
        status = ""
        with suppress(ConnectionLostError, ServerError):
            status = self._status(self.main)
        until = time.monotonic() + ASKING_S
        while status not in {"committed", "aborted"}:
            if time.monotonic() > until:
                raise UnknownOutcomeError(
                    f"the connection broke during COMMIT of transaction {self.transaction}, and nobody says what became of"
                    " it; look at the rows before anything else is done"
                )
            time.sleep(0.25)
            with suppress(ConnectionLostError, ServerError, Ending), closing(Connection(self.address)) as asking:
                status = self._status(asking)
        return status == "committed"

    def _status(self, connection: Connection) -> str:
        return connection.one("SELECT pg_catalog.pg_xact_status($1::pg_catalog.xid8)", str(self.transaction))


@contextmanager
def working(address: Address) -> Iterator[Work]:
    """A piece of work; what isn't committed at its end is rolled back.

    Raises:
        ConnectionLostError, RefusedError: as ``Connection``.
    """
    with closing(Connection(address)) as main, closing(Connection(address)) as watcher:
        main.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE")
        # The snapshot first: so it knows nothing of numbers that are given from now on, one's own among them.
        snapshot = main.one("SELECT pg_export_snapshot()")
        transaction = int(main.one("SELECT pg_current_xact_id()"))
        begin_watching(watcher, snapshot)
        multi = (int(watcher.one("SELECT mxid_age('1')")) + 1) % _WRAP
        work = Work(address, main, watcher, snapshot, transaction, multi)
        work.count_from_here()
        yield work


def begin_watching(watcher: Connection, snapshot: str) -> None:
    """Begins a transaction that sees what another saw when its work began."""
    if not re.fullmatch(r"[0-9A-F-]+", snapshot):
        raise RefusedError("SERVER_UNSUITED", "the server names a snapshot as no PostgreSQL does")
    watcher.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    watcher.run(f"SET TRANSACTION SNAPSHOT '{snapshot}'")


def _unseen(connection: Connection, table: Table, places: list[str]) -> list[str]:
    """Those of some places at which a connection sees no row."""
    return _places(
        connection,
        "SELECT place FROM unnest($1::tid[]) AS place"
        f" WHERE NOT EXISTS (SELECT FROM ONLY {table.sql} AS t WHERE t.ctid = place)",
        array(places),
    )


def too_many(count: int, allowed: int) -> RefusedError:
    """Says that more rows are touched than one call may."""
    return RefusedError("TOO_MANY_ROWS", f"it touches {count} rows, and {allowed} are allowed; change less in one call")


def _places(connection: Connection, sql: str, *values: str) -> list[str]:
    return [place for (place,) in connection.rows(sql, *values) if place]


def _rows_at(connection: Connection, table: Table, places: list[str]) -> Side:
    if not places:
        return {}
    where = f"FROM ONLY {table.sql} AS t WHERE t.ctid = ANY ($1::tid[])"
    size = int(connection.one(f"SELECT coalesce(sum(octet_length(t::text)), 0) {where}", array(places)))
    if size > MAX_BYTES:
        raise RefusedError(
            "TOO_LARGE", f"the rows of {table.schema}.{table.name} have {size} bytes, and {MAX_BYTES} are allowed"
        )
    rows = connection.rows(f"SELECT {table.selected('t')} {where}", array(places))
    return {table.path(row): row for row in rows}
