"""Makes a casebook from a ledger, and takes in what has come since: verified in the same pass in which it is filed.

The first time all is verified, as ``broker ledger verify`` does it, votes and checkpoints too. Later only what is new is read:
each entry names the hash of the one before, so the new ones prove those that were read before to be the same. The signed
checkpoints that have come meanwhile are compared with a tree that goes on from the kept one.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from broker.errors import DataLossError, UnavailableError
from broker.ledger.held import Held
from broker.ledger.segment import SEGMENT
from broker.ledger.source import Projected, Source, UnreadableError
from broker.ledger.verdict import Report, Verdict
from broker.ledger.verifier import Known, verify_opened, verify_source
from broker.private_file import PRIVATE
from broker.replay.casebook import Casebook, Mark, read_mark, write_mark
from broker.replay.filing_again import QuickFiler
from broker.replay.schema import INDEXES, TABLES, VERSION
from broker.replay.teeing import Filed, SourceBodies, TableBodies, filed
from broker.tlog.merkle import CompactRange, leaf_hash
from broker.tlog.note import NoteError, VerifierKey, verify_note

Progress: TypeAlias = Callable[[int, int], None]

_BUSY_S = 300.0
_STEP = 1000
_JOURNAL = "-journal"
"""What SQLite appends to the name of a database, for what a killed command had begun."""
_GOOD = frozenset({Verdict.OK, Verdict.RECOVERED})
_KEY_ENTRIES = ("signer.rotated", "signer.revoked", "recovered")
"""After one of these other keys may sign: all is verified anew."""


@dataclass(frozen=True, slots=True)
class _State:
    """How far a casebook goes, and by which keys checkpoints were signed then."""

    tree: CompactRange
    leaf: bytes
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Reading:
    """The ledger that is read, how it is opened once more, what is known of it, and who is told how far it is."""

    opening: Callable[[], AbstractContextManager[Source]]
    source: Source
    known: Known
    progress: Progress | None


@contextmanager
def open_casebook(
    opening: Callable[[], AbstractContextManager[Source]],
    known: Known,
    path: Path | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[Casebook]:
    """The casebook of a ledger, made or brought up to date; its entries are read from the ledger for as long as it is open.

    Args:
        opening: opens the ledger, at rest.
        known: what is known of it from elsewhere: checkpoints, keys; whether votes are checked.
        path: where the casebook is kept; ``None`` makes one for this time only, in a temporary file.
        progress: called now and then with the number of entries read and that of all.

    Raises:
        UnavailableError: another command is making this casebook (``CASEBOOK_BUSY``).
        BrokerError: as ``opening`` says; a ledger that doesn't verify is no error, but a mark.
    """
    with opening() as source:
        try:
            with closing(_connect(path)) as connection:
                _bring_up_to_date(connection, _Reading(opening, source, known, progress), path)
                yield Casebook(connection, SourceBodies(source))
        except sqlite3.Error as error:
            raise _unusable(path, error) from error


@contextmanager
def extract_casebook(rows: Iterable[tuple[int, bytes]], mark: Mark) -> Iterator[Casebook]:
    """A casebook of single entries that somebody else has verified; it holds the entries themselves too.

    Args:
        rows: number and bytes of each entry, ascending.
        mark: what is known of them; numbers are filled in here.
    """
    with closing(_connect(None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        filer = QuickFiler(connection, bodies=True)
        count, leaf = 0, b""
        for seq, data in rows:
            leaf = leaf_hash(data)
            filer.take(seq, leaf, data)
            count += 1
            if count % _STEP == 0:
                filer.flush()
        filer.flush()
        connection.executescript(INDEXES)
        write_mark(connection, replace(mark, entries=count, head=leaf.hex()))
        connection.commit()
        yield Casebook(connection, TableBodies(connection))


def _unusable(path: Path | None, error: Exception) -> DataLossError:
    return DataLossError(
        f"the casebook {path or 'in memory'} can't be used: {error}",
        reason="CASEBOOK_UNREADABLE",
        hint="Remove that file: it is made anew from the ledger. Its folder has to be writable, on a disk with room.",
    )


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=PRIVATE, exist_ok=True)
        except OSError as error:
            raise _unusable(path, error) from error
    # An empty name is a temporary database: SQLite keeps it in memory as far as it can, and deletes it in the end.
    connection = sqlite3.connect("" if path is None else path, isolation_level=None, timeout=_BUSY_S)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if path is None:
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("PRAGMA synchronous = OFF")
        else:
            # Who is killed at work leaves the casebook as it was, not half of each: that would be believed. Pages that
            # are new need no journal, so the first making costs nothing more.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -131072")
        connection.execute("PRAGMA threads = 2")  # to sort for indexes
    except sqlite3.DatabaseError:
        version = -1
    if version != VERSION:
        connection = _anew(connection, path)
    return connection


def _anew(connection: sqlite3.Connection, path: Path | None) -> sqlite3.Connection:
    """An empty casebook in the place of one that is empty, of another version or no casebook at all."""
    if path is not None and path.stat().st_size:
        connection.close()
        path.with_name(path.name + _JOURNAL).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return _connect(path)
    connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    return connection


def _bring_up_to_date(connection: sqlite3.Connection, reading: _Reading, path: Path | None) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise UnavailableError(
            f"another command has been making {path} for {_BUSY_S:.0f} s",
            reason="CASEBOOK_BUSY",
            hint="Wait for it, or end it.",
        ) from error
    try:
        mark, changed = read_mark(connection), _meta(connection, "changed")
        state = _state(connection)
        if state is not None and mark.sound and not changed:
            changed = _changed(reading.source, state)
            if not changed and _extend(connection, reading, state):
                connection.commit()
                return
        _make(connection, reading, changed)
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _changed(source: Source, state: _State) -> str:
    """Why this isn't the ledger that was read before; empty where it goes on from that."""
    size = state.tree.size
    count = source.count()
    if count < size:
        return f"it has {count} entries, and had {size} when it was read before"
    row = next(iter(source.rows(size - 1, size - 1)), None) if size else None
    if size and (row is None or not isinstance(row.data, bytes) or leaf_hash(row.data) != state.leaf):
        return f"entry {size - 1} is not the one that was read before"
    return ""


def _extend(connection: sqlite3.Connection, reading: _Reading, state: _State) -> bool:
    """Takes in what is new; ``False`` where all has to be read anew."""
    source, known = reading.source, reading.known
    size, count = state.tree.size, source.count()
    if count == size:
        return _at_rest(source, known, count)
    keys = [VerifierKey.parse(text) for text in state.keys]
    sizes = {item.checkpoint.size for item in known.held}
    connection.execute("SAVEPOINT new")
    filer = QuickFiler(connection, bodies=False)
    tee = filed(source, filer, state.tree, sizes)
    report = verify_source(tee, Known(), first=size, progress=_step(reading.progress, count))
    filer.flush()
    agreed = 0
    fits = report.verdict in _GOOD and not any(report.types.get(name) for name in _KEY_ENTRIES)
    for item in known.held if fits else ():
        if item.checkpoint.size in tee.roots:
            fits = fits and _fits(item, tee.roots[item.checkpoint.size], keys)
            agreed = max(agreed, item.checkpoint.size)
        elif item.checkpoint.size > tee.tree.size:
            fits = False
    if not fits:
        connection.execute("ROLLBACK TO new")
        return False
    mark = read_mark(connection)
    found = replace(mark, entries=tee.tree.size, head=tee.leaf.hex())
    if agreed > mark.checkpoint_size:
        found = replace(found, checkpoint_size=agreed, checkpoint_root=tee.roots[agreed].hex())
    write_mark(connection, found)
    _keep(connection, _State(tee.tree, tee.leaf, state.keys))
    return True


def _at_rest(source: Source, known: Known, count: int) -> bool:
    """Does nothing say that the ledger has or had more entries than these?"""
    if source.incomplete or any(item.checkpoint.size > count for item in known.held):
        return False
    return not (isinstance(source, Projected) and source.beyond(count))


def _fits(item: Held, root: bytes, keys: Iterable[VerifierKey]) -> bool:
    try:
        verify_note(item.note, keys)
    except NoteError:
        return False
    return item.checkpoint.root == root


def _make(connection: sqlite3.Connection, reading: _Reading, changed: str) -> None:
    """Reads all, verified to the last signature."""
    found = _beside(connection, reading) or _in_turn(connection, reading)
    for statement in filter(None, map(str.strip, INDEXES.split(";"))):
        connection.execute(statement)
    connection.execute("ANALYZE")
    report, tee = found
    _put(connection, "changed", changed)
    write_mark(connection, _mark(report, tee, changed, votes=reading.known.votes))
    _keep(connection, _State(tee.tree, tee.leaf, report.keys))


def _beside(connection: sqlite3.Connection, reading: _Reading) -> tuple[Report, Filed] | None:
    """Files a large ledger here while other processes verify it; ``None`` where that isn't worth it, or they found anything.

    What was filed is what was verified: both have the same number of entries and the same Merkle root.
    """
    source = reading.source
    if source.reopen is None or _total(source) <= 2 * SEGMENT or len(os.sched_getaffinity(0)) == 1:
        return None
    _empty(connection)
    filer = QuickFiler(connection, bodies=False)
    tee = filed(source, filer, CompactRange(), {item.checkpoint.size for item in reading.known.held})
    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(_verify_again, reading)
        total, step = _total(source), reading.progress
        try:
            for _ in tee.rows():
                if step is not None and not tee.tree.size % _STEP:
                    step(tee.tree.size, total)
        except UnreadableError:
            return None
        filer.flush()
        report = verdict.result()
    same = (report.entries, report.root) == (tee.tree.size, tee.tree.root().hex())
    return (report, tee) if same and report.verdict in _GOOD else None


def _verify_again(reading: _Reading) -> Report:
    workers = len(os.sched_getaffinity(0))
    return verify_opened(reading.opening, reading.known, workers=workers)


def _in_turn(connection: sqlite3.Connection, reading: _Reading) -> tuple[Report, Filed]:
    """Files entries as they are verified, one after the other: it is known which one is wrong first, whatever is."""
    _empty(connection)
    filer = QuickFiler(connection, bodies=False)
    tee = filed(reading.source, filer, CompactRange(), {item.checkpoint.size for item in reading.known.held})
    total = _total(reading.source) if reading.progress is not None else 0
    report = verify_source(tee, reading.known, progress=_step(reading.progress, total))
    filer.flush()
    return report, tee


def _total(source: Source) -> int:
    try:
        return source.count()
    except UnreadableError:
        return 0


def _empty(connection: sqlite3.Connection) -> None:
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for index in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL").fetchall():
        connection.execute(f"DROP INDEX {index[0]}")
    for table in tables:
        if not table.startswith("sqlite_"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - ours


def _mark(report: Report, tee: Filed, changed: str, *, votes: bool) -> Mark:
    place = report.place
    why = "" if place is None else f"entry {place.seq}, {place.field}: {place.why}"
    if place is not None and place.seq is None:
        why = f"{place.field}: {place.why}"
    verdict = report.verdict.value
    if changed and report.verdict in _GOOD:
        verdict, why = "changed", changed
    root = tee.roots.get(report.checkpoint_size, b"").hex()
    return Mark(
        verdict=verdict,
        why=why,
        origin=report.origin,
        entries=tee.tree.size,
        head=tee.leaf.hex(),
        checkpoint_size=report.checkpoint_size,
        checkpoint_root=root,
        votes_checked=report.entries if votes else 0,
    )


def _step(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    return None if progress is None else partial(_tell, progress, total)


def _tell(progress: Progress, total: int, done: int) -> None:
    progress(done, total)


def _state(connection: sqlite3.Connection) -> _State | None:
    text = _meta(connection, "state")
    if not text:
        return None
    found = json.loads(text)
    tree = CompactRange.restore(found["size"], map(bytes.fromhex, found["nodes"]))
    return _State(tree, bytes.fromhex(found["leaf"]), tuple(found["keys"]))


def _keep(connection: sqlite3.Connection, state: _State) -> None:
    nodes = [node.hex() for node in state.tree.nodes]
    found = {"size": state.tree.size, "nodes": nodes, "leaf": state.leaf.hex(), "keys": list(state.keys)}
    _put(connection, "state", json.dumps(found))


def _meta(connection: sqlite3.Connection, key: str) -> str:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return "" if row is None else str(row[0])


def _put(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
