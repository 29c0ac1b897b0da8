"""Reads the agent's statement by the server's own grammar: one INSERT, UPDATE or DELETE, of one ordinary table, no more.

Two ways of the server to read a statement without running it must agree. The body of a function is analysed when the
function is made, so the functions that the statement calls are known before the server computes anything of it. And
EXPLAIN says what would be done, and takes one statement only.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping

from broker_rows import reach
from broker_rows.endings import RefusedError, listed
from broker_rows.functions import Uses, volatile
from broker_rows.node_tree import Node, Part, read, walk
from broker_rows.server import Connection, ServerError

MAX_CHARACTERS = 20_000

_COMMANDS = {"2": reach.UPDATE, "3": reach.INSERT, "4": reach.DELETE}
"""The server's numbers of commands."""

_BODY = "SELECT p.prosqlbody FROM pg_proc p WHERE p.proname = $1 AND p.pronamespace = pg_my_temp_schema()"

_NAMED = (
    "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2"
)


def check(connection: Connection, sql: str) -> frozenset[reach.Act]:
    """What the statement may do to the table that it names. Nothing of it is run.

    Raises:
        RefusedError: it isn't one that may be run.
    """
    if len(sql) > MAX_CHARACTERS:
        raise RefusedError("SQL_TOO_LONG", f"the statement has {len(sql)} characters, and {MAX_CHARACTERS} are allowed")
    if any(char == "\x00" or "\ud800" <= char <= "\udfff" for char in sql):
        raise RefusedError("SQL_NOT_TEXT", "the statement has a character that PostgreSQL can't hold; leave it out")
    query, uses = _analyse(connection, sql)
    command, oid = _command(query)
    if called := volatile(connection, uses):
        raise RefusedError(
            "VOLATILE_FUNCTION",
            f"it calls {listed(called)}, which may do more than compute a value; write the value out instead",
        )
    if (command, oid) != _explained(connection, sql):
        raise RefusedError("STATEMENT_REFUSED", "its target is no ordinary table; name the table itself")
    updates = {(oid, reach.UPDATE)} if query.word("onConflict") != "<>" else set()
    return frozenset({(oid, command), *updates})


def _analyse(connection: Connection, sql: str) -> tuple[Node, Uses]:
    """The analysed statement, and all that it uses."""
    if connection.one("SELECT has_database_privilege(current_database(), 'TEMP')") != "t":
        raise RefusedError(
            "SERVER_UNSUITED", "the role needs the privilege TEMP on the database: the server analyses statements there"
        )
    name = f"broker_{secrets.token_hex(8)}"
    connection.run("SAVEPOINT analysed")
    connection.resolve_as_the_role()
    try:
        connection.run(f"CREATE FUNCTION pg_temp.{name}() RETURNS void LANGUAGE sql BEGIN ATOMIC\n{sql}\n; END")
        connection.resolve_nothing()
        tree = read(connection.one(_BODY, name))
    except ServerError as error:
        # It comes of the text alone, for nothing was computed; so it holds nothing that lies in a table.
        raise RefusedError("STATEMENT_REFUSED", f"the server says: {error.message}") from error
    finally:
        connection.run("ROLLBACK TO SAVEPOINT analysed")
    queries = [node for node in _top(tree) if node.tag == "QUERY"]
    if len(queries) != 1:
        raise RefusedError("NOT_ONE_CHANGE", "give exactly one statement: an INSERT, UPDATE or DELETE")
    uses = Uses()
    uses.add(tree)
    return queries[0], uses


def _top(parts: list[Part]) -> Iterator[Node]:
    for part in parts:
        if isinstance(part, Node):
            yield part
        elif isinstance(part, list):
            yield from _top(part)


def _command(query: Node) -> tuple[str, int]:
    """What is done, and to which relation, as it is named in the statement."""
    changing = [node for node in walk([query]) if node.tag == "QUERY" and node.word("commandType") != "1"]
    command = _COMMANDS.get(query.word("commandType"))
    if command is None or len(changing) != 1:
        raise RefusedError("NOT_ONE_CHANGE", "it has to be one INSERT, UPDATE or DELETE, without another one inside")
    place = int(query.word("resultRelation") or 0)
    relations = query.nodes("rtable")
    if not 0 < place <= len(relations):
        raise RefusedError("STATEMENT_REFUSED", "its target isn't known")
    return command, int(relations[place - 1].word("relid") or 0)


def _explained(connection: Connection, sql: str) -> tuple[str, int]:
    """The same from EXPLAIN."""
    connection.resolve_as_the_role()
    text = connection.one(f"EXPLAIN (FORMAT JSON, VERBOSE, COSTS OFF)\n{sql}")
    connection.resolve_nothing()
    plans = json.loads(text)
    changing = [node for node in _plans(plans) if node.get("Node Type") == "ModifyTable"]
    if len(plans) != 1 or len(changing) != 1:
        raise RefusedError("NOT_ONE_CHANGE", "it has to be one INSERT, UPDATE or DELETE of one table")
    node = changing[0]
    found = connection.rows(_NAMED, str(node.get("Schema", "")), str(node.get("Relation Name", "")))
    return str(node.get("Operation", "")).lower(), int(found[0][0] or 0) if found else 0


def _plans(parts: object) -> Iterator[Mapping[str, object]]:
    """Every node of a plan, however it hangs together."""
    left = [parts]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left += part.values()
        elif isinstance(part, list):
            left += part
