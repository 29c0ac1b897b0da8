"""What the catalogue says of tables: their columns, their primary key, and whether their rows can be accounted for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker_rows import items
from broker_rows.endings import RefusedError
from broker_rows.server import Connection, Row, array, quoted

_KINDS = {
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a type",
}

_FACTS = """
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relispartition, a.amname,
    EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)),
    EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid),
    row_security_active(c.oid),
    n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
WHERE c.oid = ANY ($1::oid[])
"""

_COLUMNS = """
SELECT attrelid, attnum, attname, format_type(atttypid, atttypmod), attgenerated
FROM pg_attribute WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum
"""

_KEYS = """
SELECT i.indrelid, k.attnum, n.nspname, o.oprname
FROM pg_index i
CROSS JOIN unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, opclass, place)
JOIN pg_opclass c ON c.oid = k.opclass
JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
    AND a.amopstrategy = 3
JOIN pg_operator o ON o.oid = a.amopopr
JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE i.indrelid = ANY ($1::oid[]) AND i.indisprimary AND i.indisvalid AND k.place <= i.indnkeyatts
ORDER BY i.indrelid, k.place
"""

_NAMES = """
SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column; a generated one is compared, and never written."""

    name: str
    type: str
    generated: bool


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column of the primary key: its place among the columns, and the operator by which its index finds a value."""

    place: int
    equals: str


@dataclass(frozen=True, slots=True)
class Table:
    """An ordinary table with a primary key, whose rows the role sees whole."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[KeyColumn, ...]

    @property
    def sql(self) -> str:
        """Its name in a statement."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def shape(self) -> tuple[tuple[str, str], ...]:
        """Name and type of each column."""
        return tuple((column.name, column.type) for column in self.columns)

    def path(self, row: Row) -> str:
        """The path of a row's item."""
        key = items.key_part([row[part.place] for part in self.key])
        return f"{items.table_part(self.schema, self.name)}/{key}"

    def selected(self, alias: str) -> str:
        """All its columns in a statement."""
        return ", ".join(f"{alias}.{quoted(column.name)}" for column in self.columns)

    def same_key(self, left: str, right: str) -> str:
        """The condition that two rows have the same primary key."""
        names = ((quoted(self.columns[part.place].name), part.equals) for part in self.key)
        return " AND ".join(f"{left}.{name} {equals} {right}.{name}" for name, equals in names)


def load(connection: Connection, oids: Iterable[int]) -> dict[int, Table]:
    """The tables with these object identifiers.

    Raises:
        RefusedError: ``TABLE_UNSUITED``: one of them is something whose rows can't be accounted for.
    """
    wanted = array(map(str, oids))
    columns: dict[int, dict[int, Column]] = defaultdict(dict)
    for oid, number, name, kind, generated in connection.rows(_COLUMNS, wanted):
        columns[int(oid or 0)][int(number or 0)] = Column(name or "", kind or "", bool(generated))
    keys: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for oid, number, schema, operator in connection.rows(_KEYS, wanted):
        keys[int(oid or 0)].append((int(number or 0), f"OPERATOR({quoted(schema or '')}.{operator})"))
    return {
        table.oid: table
        for table in (_table(facts, columns[int(facts[0] or 0)], keys) for facts in connection.rows(_FACTS, wanted))
    }


def _table(facts: Row, columns: Mapping[int, Column], keys: Mapping[int, list[tuple[int, str]]]) -> Table:
    oid, schema, name = int(facts[0] or 0), facts[1] or "", facts[2] or ""
    places = {number: place for place, number in enumerate(columns)}
    key = tuple(KeyColumn(places[number], equals) for number, equals in keys.get(oid, ()))
    if fault := _fault(facts, tuple(columns.values()), has_key=bool(key)):
        raise RefusedError("TABLE_UNSUITED", f"{schema}.{name} {fault}; such rows can't be accounted for")
    return Table(oid, schema, name, tuple(columns.values()), key)


def _fault(facts: Row, columns: tuple[Column, ...], *, has_key: bool) -> str:
    _, _, _, kind, persistence, partition, method, inherits, rules, policies, system = facts
    checks = (
        (kind != "r", f"is {_KINDS.get(kind or '', 'no table')}"),
        (system == "t", "belongs to the server"),
        (partition == "t", "is a partition"),
        (inherits == "t", "inherits, or is inherited from"),
        (persistence != "p", "is temporary or unlogged"),
        (method != "heap", f"is stored by {method}"),
        (rules == "t", "has rules"),
        (policies == "t", "has row security that is active for this role"),
        (not has_key, "has no primary key"),
        (any(not column.type.isprintable() for column in columns), "has a type whose name can't be printed"),
    )
    return next((text for holds, text in checks if holds), "")


def by_part(connection: Connection, parts: Iterable[str]) -> dict[str, int]:
    """The tables that parts of paths name; one that names none, or more than one, is left out."""
    wanted = set(parts)
    found: dict[str, list[int]] = defaultdict(list)
    for oid, schema, name in connection.rows(_NAMES):
        part = items.table_part(schema or "", name or "")
        if part in wanted:
            found[part].append(int(oid or 0))
    return {part: oids[0] for part, oids in found.items() if len(oids) == 1}
