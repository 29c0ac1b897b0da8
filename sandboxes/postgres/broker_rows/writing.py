"""Writes a change into the tables, in an order that foreign keys allow.

The agent's statement has no part in this. What may run beside it are triggers that somebody vouches for. They run here as they
ran when the change was planned, so what they wrote may be there already, or come once more: what still differs is written
in another round, until nothing does. Whether nothing else was changed is for the accounting to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from broker_rows import reach
from broker_rows.change import Item, Items, by_table, keys_of
from broker_rows.endings import MovedError, RefusedError, listed
from broker_rows.server import Connection, Row, ServerError, array, quoted, record
from broker_rows.tables import Table

_ROUNDS = 4
INTEGRITY = "23"
"""Class of SQLSTATE of a constraint that isn't kept."""
_IDENTITY = "428C9"
"""A column that the server fills can be given a value when a row is added, and not later."""

_REFERENCES = """
SELECT conrelid, confrelid FROM pg_constraint
WHERE contype = 'f' AND conrelid <> confrelid AND conrelid = ANY ($1::oid[]) AND confrelid = ANY ($1::oid[])
"""

Order = Sequence[Table]
"""Tables, those that others refer to before these."""
Differences = dict[Table, list[Item]]
"""What is there now (``before``) and what is to be there (``after``), where that differs."""


def check_before(connection: Connection, change: Items) -> None:
    """Takes the rows of a change for oneself, and makes sure that each is as the change has it before.

    Raises:
        MovedError: one isn't.
    """
    moved = []
    for table, some in by_table(change.values()).items():
        found = present(connection, table, keys_of(some), locked=True)
        expected = {table.path(item.row): item.before for item in some}
        moved += [path for path, row in expected.items() if found.pop(path, None) != row]
        moved += found
    if moved:
        raise MovedError(f"changed since it was planned: {listed(moved)}; call again, or look at what differs")


def present(connection: Connection, table: Table, keys: Sequence[Row], *, locked: bool = False) -> dict[str, Row]:
    """The rows that have the primary keys of these rows now, by their paths.

    Args:
        locked: nobody else may change them before the transaction ends; others may still refer to them.
    """
    rows = connection.rows(
        f"SELECT {table.selected('t')} FROM ONLY {table.sql} AS t JOIN pg_catalog.unnest($1::{table.sql}[]) AS n"
        f" ON {table.same_key('t', 'n')}{' FOR NO KEY UPDATE OF t' if locked else ''}",
        _rows(keys),
    )
    return {table.path(row): row for row in rows}


def write(connection: Connection, change: Items, triggers: frozenset[str]) -> None:
    """Makes each row of a change be as the change has it after.

    Args:
        triggers: those that may run.

    Raises:
        ServerError: the server refuses it in every order.
        RefusedError: ``NOT_ACCOUNTED``: the rows don't become what they have to be.
    """
    order = _order(connection, list(by_table(change.values())))
    refusal: ServerError | None = None
    for plan in (_in_order, _room_first, _anew):
        if plan is _anew and not _may_remove(connection, order, triggers):
            break
        connection.run("SAVEPOINT written")
        try:
            _settle(connection, change, order, plan)
        except ServerError as error:
            if not (error.sqlstate.startswith(INTEGRITY) or error.sqlstate == _IDENTITY):
                raise
            refusal = refusal or error
            connection.run("ROLLBACK TO SAVEPOINT written")
        else:
            connection.run("RELEASE SAVEPOINT written")
            return
    raise refusal or ServerError("", "", "")


def _may_remove(connection: Connection, order: Order, triggers: frozenset[str]) -> bool:
    """Whether rows may be removed only to be added again: nothing may run then that the change itself doesn't set off."""
    try:
        reach.check(connection, {(table.oid, reach.DELETE) for table in order}, triggers)
    except RefusedError:
        return False
    return True


Plan = Callable[[Connection, Differences, Order], None]


def _settle(connection: Connection, change: Items, order: Order, plan: Plan) -> None:
    for _ in range(_ROUNDS):
        left = _left(connection, change)
        if not left:
            return
        connection.resolve_as_the_role()
        connection.run("SET CONSTRAINTS ALL DEFERRED")
        plan(connection, left, order)
        connection.run("SET CONSTRAINTS ALL IMMEDIATE")
        connection.resolve_nothing()
    if left := _left(connection, change):
        names = listed(table.path(item.row) for table, some in left.items() for item in some)
        raise RefusedError(
            "NOT_ACCOUNTED", f"a trigger makes something else of {names}; such a change can't be applied"
        )


def _left(connection: Connection, change: Items) -> Differences:
    """Where what is there differs from what is to be there."""
    left: Differences = {}
    for table, some in by_table(change.values()).items():
        found = present(connection, table, keys_of(some))
        pairs = [Item(table, found.get(table.path(item.row)), item.after) for item in some]
        if different := [item for item in pairs if item.before != item.after]:
            left[table] = different
    return left


def _in_order(connection: Connection, left: Differences, order: Order) -> None:
    """What others refer to is added first and removed last."""
    for table in order:
        _insert(connection, table, [item.after for item in left.get(table, ()) if item.before is None])
    for table in order:
        _update(connection, table, [item for item in left.get(table, ()) if item.before and item.after])
    for table in reversed(order):
        _delete(connection, table, [item.before for item in left.get(table, ()) if item.after is None])


def _room_first(connection: Connection, left: Differences, order: Order) -> None:
    """What goes makes room for what comes: of two rows with one unique value, for one, where a primary key changes."""
    for table in reversed(order):
        _delete(connection, table, [item.before for item in left.get(table, ()) if item.after is None])
    for table in order:
        _update(connection, table, [item for item in left.get(table, ()) if item.before and item.after])
    for table in order:
        _insert(connection, table, [item.after for item in left.get(table, ()) if item.before is None])


def _anew(connection: Connection, left: Differences, order: Order) -> None:
    """Rows that can't be changed one by one, such as those that pass unique values on, are removed and added."""
    for table in reversed(order):
        _delete(connection, table, [item.before for item in left.get(table, ())])
    for table in order:
        _insert(connection, table, [item.after for item in left.get(table, ())])


def _insert(connection: Connection, table: Table, rows: Iterable[Row | None]) -> None:
    some = [row for row in rows if row is not None]
    if not some:
        return
    written = [quoted(column.name) for column in table.columns if not column.generated]
    connection.run(
        f"INSERT INTO {table.sql} ({', '.join(written)}) OVERRIDING SYSTEM VALUE"
        f" SELECT {', '.join(f'n.{name}' for name in written)} FROM pg_catalog.unnest($1::{table.sql}[]) AS n",
        _rows(some),
    )


def _update(connection: Connection, table: Table, some: Sequence[Item]) -> None:
    """One statement for all rows, so that what they say of each other is looked at when all are written."""
    places = [
        place
        for place, column in enumerate(table.columns)
        if not column.generated and any((item.before or ())[place] != (item.after or ())[place] for item in some)
    ]
    if not places:
        return
    names = [quoted(table.columns[place].name) for place in places]
    connection.run(
        f"UPDATE ONLY {table.sql} AS t SET {', '.join(f'{name} = n.{name}' for name in names)}"
        f" FROM pg_catalog.unnest($1::{table.sql}[]) AS n WHERE {table.same_key('t', 'n')}",
        _rows([item.after for item in some if item.after]),
    )


def _delete(connection: Connection, table: Table, rows: Iterable[Row | None]) -> None:
    some = [row for row in rows if row is not None]
    if not some:
        return
    connection.run(
        f"DELETE FROM ONLY {table.sql} AS t USING pg_catalog.unnest($1::{table.sql}[]) AS n WHERE {table.same_key('t', 'n')}",
        _rows(some),
    )


def _rows(rows: Iterable[Row]) -> str:
    """Rows as the text of an array of the table's row type: its columns' own input functions read them."""
    return array(map(record, rows))


def _order(connection: Connection, tables: Sequence[Table]) -> Order:
    """The tables, those that others refer to first; where they refer to each other in a circle, as it comes."""
    known = {table.oid: table for table in tables}
    referred: dict[int, set[int]] = {oid: set() for oid in known}
    for referring, there in connection.rows(_REFERENCES, array(map(str, known))):
        referred[int(referring or 0)].add(int(there or 0))
    ordered: dict[int, Table] = {}
    while len(ordered) < len(known):
        left = [oid for oid in known if oid not in ordered]
        free = [oid for oid in left if not referred[oid] - ordered.keys()]
        ordered.update((oid, known[oid]) for oid in free or left[:1])
    return list(ordered.values())
