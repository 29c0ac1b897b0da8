"""Which functions an analysed statement calls that may do more than compute a value: those declared volatile.

Everything that the server would call is looked for where the server itself wrote it down: function calls, operators,
aggregates and what they are made of, sampling methods, input and output of types, checks of domains, and the views that
the statement reads, with all that these call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from broker_rows.endings import RefusedError, listed
from broker_rows.node_tree import Part, numbers, read, walk
from broker_rows.server import Connection, array

_FUNCTIONS = frozenset({"funcid", "opfuncid", "hashfuncid", "negfuncid", "aggfnoid", "winfnoid", "tsmhandler"})
_OPERATORS = frozenset({"opno", "opnos", "eqop", "sortop"})
_RELATIONS = frozenset({"relid"})

_READ = """
SELECT c.oid, c.relkind, r.ev_action
FROM pg_class c LEFT JOIN pg_rewrite r ON r.ev_class = c.oid AND c.relkind = 'v'
WHERE c.oid = ANY ($1::oid[])
"""

_DESCENDANTS = "SELECT inhrelid FROM pg_inherits WHERE inhparent = ANY ($1::oid[])"

_TYPES = """
SELECT t.typbasetype, t.typelem, r.rngsubtype, m.rngtypid, a.atttypid
FROM pg_type t
LEFT JOIN pg_range r ON r.rngtypid = t.oid
LEFT JOIN pg_range m ON m.rngmultitypid = t.oid
LEFT JOIN pg_attribute a ON t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
WHERE t.oid = ANY ($1::oid[])
"""

_DOMAIN_CHECKS = "SELECT conbin FROM pg_constraint WHERE contypid = ANY ($1::oid[]) AND conbin IS NOT NULL"

_VOLATILE = """
WITH called(oid) AS (
    SELECT unnest($1::oid[])
    UNION SELECT oprcode FROM pg_operator WHERE oid = ANY ($2::oid[])
    UNION SELECT part FROM pg_aggregate, unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn,
        aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]) AS part WHERE aggfnoid = ANY ($1::oid[])
    UNION SELECT part FROM pg_type, unnest(ARRAY[typinput, typoutput]::oid[]) AS part
        WHERE oid = ANY ($3::oid[]) AND typtype <> 'p'
)
SELECT p.oid::regprocedure
FROM called JOIN pg_proc p USING (oid) JOIN pg_language l ON l.oid = p.prolang
WHERE (p.provolatile = 'v' OR p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '_to_xml')
    AND NOT ($4::boolean AND (
        p.pronamespace = 'pg_catalog'::regnamespace
            AND p.proname IN ('nextval', 'gen_random_uuid', 'random', 'clock_timestamp', 'timeofday')
        OR l.lanname = 'c' AND p.probin = '$libdir/uuid-ossp'))
"""
"""Functions that make a table or a view into XML are stable by name, and run whatever a view calls."""


@dataclass(slots=True)
class Uses:
    """What some analysed expressions use, by object identifier."""

    functions: set[int] = field(default_factory=set)
    operators: set[int] = field(default_factory=set)
    types: set[int] = field(default_factory=set)
    relations: set[int] = field(default_factory=set)

    def add(self, parts: list[Part]) -> None:
        """Adds all that nodes use, however deep."""
        for node in walk(parts):
            for name, behind in node.fields.items():
                into = self._place(name)
                if into is not None:
                    into.update(numbers(behind))

    def _place(self, name: str) -> set[int] | None:
        if name in _FUNCTIONS:
            return self.functions
        if name in _OPERATORS:
            return self.operators
        if name in _RELATIONS:
            return self.relations
        return self.types if name.lower().endswith(("type", "types", "typeid")) else None


def volatile(connection: Connection, uses: Uses, *, as_default: bool = False) -> list[str]:
    """The names of the volatile functions among what is used, and among what that uses.

    Args:
        as_default: it is how a table fills its columns: the sequences, clocks and random numbers of the server are taken
            for granted, for the plan keeps the values that they gave.

    Raises:
        RefusedError: ``FOREIGN_TABLE``: another server would be asked.
    """
    _follow_relations(connection, uses)
    _follow_types(connection, uses)
    found = connection.rows(
        _VOLATILE, _oids(uses.functions), _oids(uses.operators), _oids(uses.types), "t" if as_default else "f"
    )
    return sorted(name for (name,) in found if name)


def _follow_relations(connection: Connection, uses: Uses) -> None:
    known: set[int] = set()
    foreign = []
    while new := uses.relations - known:
        known |= new
        for oid, kind, action in connection.rows(_READ, _oids(new)):
            if kind == "f":
                foreign.append(connection.one("SELECT $1::regclass", oid))
            if action:
                uses.add(read(action))
        uses.relations |= _numbers(connection, _DESCENDANTS, new)
    if foreign:
        raise RefusedError("FOREIGN_TABLE", f"it reads {listed(foreign)}, which lies on another server; leave it out")


def _follow_types(connection: Connection, uses: Uses) -> None:
    known: set[int] = set()
    while new := uses.types - known:
        known |= new
        uses.types |= _numbers(connection, _TYPES, new)
        for (check,) in connection.rows(_DOMAIN_CHECKS, _oids(new)):
            uses.add(read(check or ""))


def _numbers(connection: Connection, sql: str, oids: Iterable[int]) -> set[int]:
    return {int(each) for row in connection.rows(sql, _oids(oids)) for each in row if each and each != "0"}


def _oids(oids: Iterable[int]) -> str:
    return array(map(str, oids))
