"""What a tool's program does: reads its specification's words and the call's arguments, takes one step, says how it ended."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from broker_rows import reach, steps
from broker_rows.endings import Ending, MovedError, RefusedError
from broker_rows.server import Address, ConnectionLostError, ServerError
from broker_rows.steps import Rules

_ORIGIN = Path("origin/arguments.json")
"""Arguments of the call that is taken back, in the steps of an undo."""
_CANNOT_TELL = 4
"""Whatever keeps ``verify`` from reading the rows."""
_WITHHELD = "the server's own words may hold what lies in rows, so they aren't shown"


def main(step: str) -> int:
    """Takes a step; returns the exit code, and says why on standard error where that isn't 0."""
    try:
        _step(step)
    except Ending as ending:
        ended = ending
    except ServerError as error:
        ended = _ending(error, step)
    except ConnectionLostError as error:
        text = f"the database can't be reached, or no more: {error}; nothing was changed; look at the way there, then try again"
        ended = Ending("CONNECTION_LOST", text)
    else:
        return 0
    sys.stderr.write(f"{ended}\n")
    return _CANNOT_TELL if step == "verify" else ended.code


def _step(step: str) -> None:
    rules = _rules(os.environ)
    takes: Mapping[str, Callable[[], None]] = {
        "plan": lambda: steps.plan(rules, _statement()),
        "rehearse": lambda: steps.rehearse(rules),
        "apply": lambda: steps.apply(rules),
        "undo": lambda: steps.apply(rules),
        "verify": lambda: steps.verify(rules),
    }
    if step not in takes:
        raise RefusedError("STEP_UNKNOWN", f"the step {step!r} is none of {', '.join(takes)}")
    takes[step]()


def _rules(words: Mapping[str, str]) -> Rules:
    """The words of the specification's ``env``."""
    missing = [name for name in ("SQL_DATABASE", "SQL_USER") if not words.get(name)]
    if missing:
        raise RefusedError("SPECIFICATION", f"the tool's env has to have {' and '.join(missing)}")
    port, max_rows = (_number(words, name, default) for name, default in (("SQL_PORT", 5432), ("SQL_MAX_ROWS", 1000)))
    address = Address(words.get("SQL_HOST") or "127.0.0.1", port, words["SQL_DATABASE"], words["SQL_USER"])
    return Rules(address, max_rows, reach.vouched(words.get("SQL_TRIGGERS", "")))


def _number(words: Mapping[str, str], name: str, default: int) -> int:
    text = words.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise RefusedError("SPECIFICATION", f"{name} in the tool's env has to be a number from 1 to 65535")
    return int(text)


def _statement() -> str:
    file = _ORIGIN if _ORIGIN.exists() else Path(os.environ["BROKER_ARGUMENTS"])
    arguments = json.loads(file.read_text("utf-8"))
    sql = arguments.get("sql") if isinstance(arguments, dict) else None
    if not isinstance(sql, str) or len(arguments) != 1:
        raise RefusedError("ARGUMENTS", "the call takes one argument, sql, which is a text")
    return sql


def _ending(error: ServerError, step: str) -> Ending:
    """How a step ends that the server refused to carry out."""
    state = error.sqlstate
    if state == "40001" and step != "plan":
        return MovedError("somebody changed a row at the same time; call again, or look at what differs")
    if state in {"40001", "40P01", "55P03"}:
        return RefusedError("BUSY", f"somebody else works on the same rows ({error}); try again")
    if state in {"57014", "25P03", "57P05"}:
        return RefusedError("TIMEOUT", f"it takes longer than is allowed ({error}); change less in one call")
    if state == "42501":
        return RefusedError("PERMISSION_DENIED", f"{error.message}; the role needs that privilege, or leave it out")
    if state.startswith("23"):
        return RefusedError("CONSTRAINT", f"the rows would not keep a constraint ({error}); change something else")
    return RefusedError("DATABASE_REFUSED", f"{error}; {_WITHHELD}; try a part of it where you may see them")
