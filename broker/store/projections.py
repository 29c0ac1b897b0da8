"""The tables of projections as rows of plain values, for making them anew from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, insert, select, tuple_, type_coerce, update
from sqlalchemy.types import NullType

from broker.domain.projection import KEYS, Cell, Key
from broker.store.tables import VAULT_CHUNK, Base

_PAGE = 1000


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


def _table(name: str) -> Table:
    return Base.metadata.tables[name]


def _is(table: Table, key: Key) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in zip(KEYS[table.name], key, strict=True)))
