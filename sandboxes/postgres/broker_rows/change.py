"""A change as it is planned and kept: for each item the row before and the row after, in the folders of a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker_rows import items, tables
from broker_rows.endings import MovedError, RefusedError, listed
from broker_rows.server import Connection, Row
from broker_rows.tables import Table
from broker_rows.work import Changed

BEFORE, AFTER, NOW = Path("before"), Path("after"), Path("now")


@dataclass(frozen=True, slots=True)
class Item:
    """One row that changes. A side where it doesn't exist is ``None``; both sides have the same primary key."""

    table: Table
    before: Row | None
    after: Row | None

    @property
    def row(self) -> Row:
        """A side where it exists, for its key."""
        row = self.before or self.after
        if row is None:
            raise ValueError("an item exists on one side at least")
        return row

    @property
    def back(self) -> Item:
        """The item of the opposite change."""
        return Item(self.table, self.after, self.before)


Items = dict[str, Item]
"""Items by their paths."""


def items_of(changes: Iterable[Changed]) -> Items:
    """The items in which what a transaction changed differs from what was there."""
    return {
        path: Item(change.table, change.before.get(path), change.after.get(path))
        for change in changes
        for path in sorted(change.before.keys() | change.after.keys())
        if change.before.get(path) != change.after.get(path)
    }


def back(change: Items) -> Items:
    """The change that takes a change back."""
    return {path: item.back for path, item in change.items()}


def write(change: Mapping[str, Item]) -> None:
    """Writes both sides of a change into their folders."""
    for path, item in change.items():
        for folder, row in ((BEFORE, item.before), (AFTER, item.after)):
            if row is not None:
                write_row(folder, path, item.table, row)


def write_row(folder: Path, path: str, table: Table, row: Row) -> None:
    """Writes one row as an item."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(items.content(table.shape, row).encode())


def read(connection: Connection) -> Items:
    """The change that lies in the folders.

    Raises:
        MovedError: the tables aren't as they were when it was planned.
        RefusedError: what lies there isn't a change as it is written.
    """
    sides = {folder: dict(_texts(folder)) for folder in (BEFORE, AFTER)}
    paths = sorted(sides[BEFORE].keys() | sides[AFTER].keys())
    found = tables.by_part(connection, {path.split("/")[0] for path in paths})
    known = tables.load(connection, found.values())
    change = {}
    for path in paths:
        oid = found.get(path.split("/")[0])
        if oid is None:
            raise MovedError(f"no one table is {path.split('/')[0]} any more; call again")
        before, after = (_row(sides[folder].get(path), known[oid], path) for folder in (BEFORE, AFTER))
        change[path] = Item(known[oid], before, after)
    return change


def _row(text: str | None, table: Table, path: str) -> Row | None:
    if text is None:
        return None
    try:
        row = items.parse(text, table.shape, path)
    except items.OtherColumnsError as error:
        raise MovedError(f"{path} has other columns than {table.schema}.{table.name} has now; call again") from error
    if table.path(row) != path:
        raise RefusedError("ITEM_UNREADABLE", f"{path} holds a row with another primary key; call again")
    return row


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and text of each item in a folder."""
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if file.is_symlink() or not (file.is_dir() or file.is_file()):
            raise RefusedError("ITEM_UNREADABLE", f"{path} is no plain file; call again")
        if file.is_dir():
            continue
        if path.count("/") != 1:
            raise RefusedError("ITEM_UNREADABLE", f"{path} is no path of a row; call again")
        try:
            yield path, file.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise RefusedError("ITEM_UNREADABLE", f"{path} isn't UTF-8; call again") from error


def differing(left: Mapping[str, Item], right: Mapping[str, Item]) -> str:
    """The paths of the items in which two changes differ, for a message; empty where they are the same."""
    return listed(path for path in left.keys() | right.keys() if left.get(path) != right.get(path))


def by_table(change: Iterable[Item]) -> dict[Table, list[Item]]:
    """The items of each table."""
    found: dict[Table, list[Item]] = {}
    for item in change:
        found.setdefault(item.table, []).append(item)
    return found


def keys_of(change: Sequence[Item]) -> list[Row]:
    """A row with the key of each item."""
    return [item.row for item in change]
