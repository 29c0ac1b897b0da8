"""What a change of a table's rows sets off: foreign keys that carry it on, and what tables have that would then run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from broker_rows import tables
from broker_rows.endings import RefusedError, listed
from broker_rows.functions import Uses, volatile
from broker_rows.node_tree import read
from broker_rows.server import Connection, array
from broker_rows.tables import Table

INSERT, UPDATE, DELETE = "insert", "update", "delete"
Act = tuple[int, str]
"""A table, and what is done with rows of it."""

_REFERRING = """
SELECT confrelid, conrelid, confdeltype, confupdtype FROM pg_constraint
WHERE contype = 'f' AND confrelid = ANY ($1::oid[])
"""

_TRIGGERS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(t.tgname)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgrelid = ANY ($1::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 28 <> 0
"""
"""Triggers of a session that is no replica, for INSERT, UPDATE or DELETE."""

_EXPRESSIONS = """
SELECT conbin FROM pg_constraint WHERE contype = 'c' AND conrelid = ANY ($1::oid[])
UNION ALL SELECT adbin FROM pg_attrdef WHERE adrelid = ANY ($1::oid[])
"""

_COLUMN_TYPES = "SELECT atttypid FROM pg_attribute WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped"

_PART = r'(?:[^\s",.]+|"(?:[^"]|"")+")'
_NAME = rf"{_PART}\.{_PART}\.{_PART}"
_NAMES = re.compile(rf"\s*(?:{_NAME}\s*(?:,\s*{_NAME}\s*)*)?")


def vouched(text: str) -> frozenset[str]:
    """The triggers that an operator vouches for: ``schema.table.trigger`` each, as the server writes names, with commas.

    Raises:
        RefusedError: ``SPECIFICATION``: it isn't such a list.
    """
    if not _NAMES.fullmatch(text):
        raise RefusedError(
            "SPECIFICATION", f"SQL_TRIGGERS has to be schema.table.trigger, with commas between: {text!r}"
        )
    return frozenset(re.findall(_NAME, text))


@dataclass(frozen=True, slots=True)
class Reach:
    """The tables of which rows may change, and what carries the change on."""

    tables: dict[int, Table]
    cascades: bool
    """Whether foreign keys do: then a row may be touched more than once."""
    triggers: bool
    """Whether triggers do, which may touch rows of other tables as well."""


def check(connection: Connection, acts: Iterable[Act], vouched_for: frozenset[str]) -> Reach:
    """How far these acts reach.

    Args:
        vouched_for: the triggers that may run.

    Raises:
        RefusedError: one of the tables isn't fit, or would run what nobody vouches for.
    """
    first = frozenset(acts)
    every = _reached(connection, first)
    found = tables.load(connection, {oid for oid, _ in every})
    return Reach(found, cascades=every != first, triggers=check_tables(connection, found, vouched_for))


def check_tables(connection: Connection, oids: Iterable[int], vouched_for: frozenset[str]) -> bool:
    """Makes sure that nothing runs unseen when rows of these tables change; true where triggers run that may.

    Raises:
        RefusedError: ``TRIGGERS`` or ``VOLATILE_FUNCTION``.
    """
    wanted = array(map(str, oids))
    triggers = {name for (name,) in connection.rows(_TRIGGERS, wanted) if name}
    if unknown := triggers - vouched_for:
        raise RefusedError(
            "TRIGGERS",
            f"{listed(unknown)} would run, and nobody vouches for what it does;"
            " the tool's SQL_TRIGGERS names those whose writes stay in this database",
        )
    uses = Uses(types={int(oid or 0) for (oid,) in connection.rows(_COLUMN_TYPES, wanted)})
    for (expression,) in connection.rows(_EXPRESSIONS, wanted):
        uses.add(read(expression or ""))
    if called := volatile(connection, uses, as_default=True):
        raise RefusedError(
            "VOLATILE_FUNCTION",
            f"a default or a check of the table calls {listed(called)}, which may do more than compute a value",
        )
    return bool(triggers)


def _reached(connection: Connection, acts: frozenset[Act]) -> frozenset[Act]:
    """These acts, and those that foreign keys make of them."""
    done: frozenset[Act] = frozenset()
    while new := acts - done:
        done |= new
        for referred, referring, on_delete, on_update in connection.rows(
            _REFERRING, array({str(oid) for oid, _ in new})
        ):
            there, here = int(referred or 0), int(referring or 0)
            if (there, DELETE) in new and on_delete in {"c", "n", "d"}:
                acts = acts | {(here, DELETE if on_delete == "c" else UPDATE)}
            if (there, UPDATE) in new and on_update in {"c", "n", "d"}:
                acts = acts | {(here, UPDATE)}
    return done
