"""The steps of a tool whose effects are rows: ``plan``, ``rehearse``, ``apply`` (and ``undo``), ``verify``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from broker_rows import change, reach, statement, writing
from broker_rows.change import Item, Items
from broker_rows.endings import RefusedError, listed
from broker_rows.server import Address, Connection, ServerError
from broker_rows.work import Work, too_many, working


@dataclass(frozen=True, slots=True)
class Rules:
    """What the tool's specification says: the database, and what one call may do to it."""

    address: Address
    max_rows: int
    triggers: frozenset[str]


def plan(rules: Rules, sql: str) -> None:
    """Runs the statement in a transaction that is rolled back, and writes what it changed.

    Raises:
        Ending, ServerError, ConnectionLostError: nothing is written.
    """
    with working(rules.address) as work:
        planned = _plan(work, rules, sql)
    change.write(planned)


def _plan(work: Work, rules: Rules, sql: str) -> Items:
    acts = statement.check(work.main, sql)
    reached = reach.check(work.main, acts, rules.triggers)
    work.count_from_here()
    work.main.resolve_as_the_role()
    work.main.run(sql)
    work.main.run("SET CONSTRAINTS ALL IMMEDIATE")
    work.main.resolve_nothing()
    total = sum(counts.total for counts in work.touched().values())
    if total > rules.max_rows:
        raise too_many(total, rules.max_rows)
    found = work.changed(rules.max_rows)
    others = found.keys() - reached.tables.keys()
    if others and not reached.triggers:
        names = listed(found[oid].table.sql for oid in others)
        raise RefusedError("NOT_ACCOUNTED", f"rows of {names} changed, and nothing says why")
    reach.check_tables(work.main, others, rules.triggers)
    once = not (reached.cascades or reached.triggers)
    if lost := [each.table.sql for each in found.values() if not each.is_accounted(once=once)]:
        raise RefusedError("NOT_ACCOUNTED", f"not every row that changed is found in {listed(lost)}; call again")
    return change.items_of(found.values())


def apply(rules: Rules) -> None:
    """Makes the change that lies in the folders, if all is as it has it before; all of it, or nothing.

    Raises:
        Ending, ServerError, ConnectionLostError: nothing was changed, except with ``UnknownOutcomeError``.
    """
    try:
        with working(rules.address) as work:
            wanted = change.read(work.main)
            _carry_out(work, rules, wanted)
            work.commit()
    except ServerError as error:
        if error.sqlstate.startswith(writing.INTEGRITY):
            _check_again(rules)
        raise


def _check_again(rules: Rules) -> None:
    """Whether what a constraint is about came after the work had begun to look, and is what a change waits for."""
    with working(rules.address) as work:
        writing.check_before(work.main, change.read(work.main))


def rehearse(rules: Rules) -> None:
    """Makes the change, takes it back, and compares; all in a transaction that is rolled back.

    Raises:
        RefusedError: ``REHEARSAL_FAILED``: it can't be made, or it isn't taken back whole.
        Ending, ServerError, ConnectionLostError: it couldn't be tried.
    """
    with working(rules.address) as work:
        wanted = change.read(work.main)
        try:
            _carry_out(work, rules, wanted)
            _carry_back(work, rules, wanted)
        except ServerError as error:
            if not error.sqlstate.startswith(writing.INTEGRITY):
                raise
            raise RefusedError("REHEARSAL_FAILED", f"the server refuses it: {error}") from error
        except RefusedError as error:
            if error.reason != "NOT_ACCOUNTED":
                raise
            raise RefusedError("REHEARSAL_FAILED", str(error)) from error


def _carry_out(work: Work, rules: Rules, wanted: Items) -> None:
    """Writes a change, and makes sure that the transaction has then changed exactly that."""
    reach.check(work.main, {(item.table.oid, _act(item)) for item in wanted.values()}, rules.triggers)
    writing.check_before(work.main, wanted)
    writing.write(work.main, wanted, rules.triggers)
    if others := change.differing(_changed(work, rules), wanted):
        raise RefusedError("NOT_ACCOUNTED", f"applied, it would be another change: {others}; call again")


def _carry_back(work: Work, rules: Rules, wanted: Items) -> None:
    opposite = change.back(wanted)
    reach.check(work.main, {(item.table.oid, _act(item)) for item in opposite.values()}, rules.triggers)
    writing.check_before(work.main, opposite)
    writing.write(work.main, opposite, rules.triggers)
    if others := change.differing(_changed(work, rules), {}):
        raise RefusedError("NOT_ACCOUNTED", f"taking it back leaves other rows than there were: {others}")


def _changed(work: Work, rules: Rules) -> Items:
    return change.items_of(work.changed(rules.max_rows).values())


def _act(item: Item) -> str:
    if item.before is None:
        return reach.INSERT
    return reach.DELETE if item.after is None else reach.UPDATE


def verify(rules: Rules) -> None:
    """Writes what each item of the change in the folders holds now.

    Raises:
        Ending, ServerError, ConnectionLostError: the rows can't be read, or are other items as the tables are now.
    """
    with closing(Connection(rules.address)) as connection:
        connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        wanted = change.read(connection)
        for table, some in change.by_table(wanted.values()).items():
            for path, row in writing.present(connection, table, change.keys_of(some)).items():
                if path in wanted:
                    change.write_row(change.NOW, path, table, row)
