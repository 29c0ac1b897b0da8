"""The tables of projections as rows of plain values, for making them anew from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    and_,
    cast,
    delete,
    func,
    insert,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.types import NullType

from broker.domain.ports import OBJECT_COST
from broker.domain.projection import KEYS, Cell, Key
from broker.store.tables import VAULT_CHUNK, VAULT_OBJECT, Base

_PAGE = 1000
_CHUNKS = (
    select(func.coalesce(func.sum(func.length(VAULT_CHUNK.c.sealed)), 0))
    .where(VAULT_CHUNK.c.object_id == VAULT_OBJECT.c.id)
    .scalar_subquery()
)
# Labels are ASCII: they have as many bytes as characters.
_COST = OBJECT_COST + func.length(VAULT_OBJECT.c.data_classes) + _CHUNKS
_OWNER = VAULT_OBJECT.c.owner
_USAGE = select(type_coerce(_OWNER, NullType()), cast(func.sum(_COST), BigInteger)).group_by(_OWNER).order_by(_OWNER)


class SqlProjectionTable:
    """Implements ``broker.domain.projection.ProjectionTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, table: str) -> Iterator[Mapping[str, Cell]]:
        """All rows of a table in the order of their keys; not to be mixed with ``put`` and ``delete``."""
        found = _table(table)
        names = [column.name for column in found.columns]
        keys = [found.c[name] for name in KEYS[table]]
        places = [names.index(name) for name in KEYS[table]]
        # As they are: a column's type would stumble over what somebody else has put there.
        page = select(*(type_coerce(column, NullType()) for column in found.columns)).order_by(*keys).limit(_PAGE)
        rows = self._connection.execute(page).all()
        while rows:
            for row in rows:
                yield dict(zip(names, row, strict=True))
            after = tuple_(*(rows[-1][place] for place in places))
            rows = self._connection.execute(page.where(tuple_(*keys) > after)).all()

    def put(self, table: str, row: Mapping[str, Cell]) -> None:
        """Stores a row, in place of one with the same key."""
        found = _table(table)
        key = tuple(row[name] for name in KEYS[table])
        if self._connection.execute(update(found).where(_is(found, key)).values(row)).rowcount == 0:
            self._connection.execute(insert(found).values(row))

    def delete(self, table: str, key: Key) -> None:
        """Deletes a row."""
        found = _table(table)
        self._connection.execute(delete(found).where(_is(found, key)))

    def last_chunk(self, object_id: str) -> int | None:
        """The highest index among an encrypted object's chunks; ``None`` where it has none."""
        last = select(func.max(VAULT_CHUNK.c.idx)).where(VAULT_CHUNK.c.object_id == object_id)
        found: int | None = self._connection.execute(last).scalar()
        return found

    def usage(self) -> Iterator[Mapping[str, Cell]]:
        """What each owner keeps who keeps anything, counted anew: rows of ``vault_usage`` in the order of their keys.

        The database adds up; a page of owners is in memory.
        """
        page = _USAGE.limit(_PAGE)
        rows = self._connection.execute(page).all()
        while rows:
            for owner, stored in rows:
                yield {"owner": owner, "stored": stored}
            rows = self._connection.execute(page.where(VAULT_OBJECT.c.owner > rows[-1][0])).all()


def _table(name: str) -> Table:
    return Base.metadata.tables[name]


def _is(table: Table, key: Key) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in zip(KEYS[table.name], key, strict=True)))
