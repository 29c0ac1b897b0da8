"""Rows of a database that two people let an agent delete, and that were the wrong ones: seen before, and taken back.

The database is a file of the workspace. What is applied are the rows that were shown, and never the statement again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from clean_up import COUNTRIES, WORKSPACE, CleanUp, effect_of
from stage import Stage, check, console, step, tell
from two_people import TwoPeople

TOOL = "sqlite.execute"
DATABASE = "shop.db"
RULES = f"p, demo-rows, agent:janitor, {WORKSPACE}, {TOOL}, call, 4, allow, the janitor deletes rows once two agree\n"
_PER_COUNTRY = 6
_WRONG = "DELETE FROM offer WHERE status <> 'live' OR country = 'LU'"
"""Meant were the drafts alone."""


class CleanRows:
    """The same mistake, in a database."""

    def __init__(self, stage: Stage, people: TwoPeople, clean_up: CleanUp, airports: Path) -> None:
        self._stage = stage
        self._people = people
        self._clean_up = clean_up
        self._airports = airports
        self._before = ""
        self._number = 0

    def prepare(self, folder: Path) -> None:
        """The database, among the files that are brought into the workspace."""
        self._stage.add_rules(RULES)
        with self._airports.open(encoding="utf-8", newline="") as source:
            rows = [row for row in csv.DictReader(source) if row["country"] in COUNTRIES]
        with closing(sqlite3.connect(folder / DATABASE)) as database:
            database.execute(
                "CREATE TABLE offer (airport TEXT PRIMARY KEY, country TEXT NOT NULL, name TEXT, status TEXT)"
            )
            database.execute(
                "CREATE TABLE visit (airport TEXT REFERENCES offer ON DELETE CASCADE, day TEXT, PRIMARY KEY (airport, day))"
            )
            for country in COUNTRIES:
                for number, row in enumerate([row for row in rows if row["country"] == country][:_PER_COUNTRY]):
                    status = "draft" if number % 3 == 2 else "live"
                    database.execute(
                        "INSERT INTO offer VALUES (?, ?, ?, ?)", (row["icao"], country, row["name"], status)
                    )
                    database.execute("INSERT INTO visit VALUES (?, ?)", (row["icao"], "2026-11-01"))
            database.commit()

    def go(self) -> None:
        """All that happens while the broker serves, after the files came back."""
        self._before = self._rows()
        approval = self._asked()
        step("Both agree all the same: these very rows are deleted, if they still are what was shown")
        self._people.agree(approval, "dan")
        gone = self._rows()
        check(gone != self._before, "no row is gone")
        tell(f"rows before {self._before}")
        tell(f"rows now    {gone}")
        self._take_back(approval)

    def _asked(self) -> Mapping[str, Any]:
        step(f"The janitor is to delete the drafts' rows, and sends: {_WRONG}")
        approval = self._clean_up.ask(TOOL, {"database": DATABASE, "sql": _WRONG}, "the drafts are not needed any more")
        check(self._rows() == self._before, "something was changed before anybody agreed")
        shown = str(self._people.says("ada", "approvals", "show", approval["name"])["rendering"])
        console.print("\n".join([*effect_of(shown).splitlines()[:32], "  ..."]), markup=False, style="dim")
        check('"status" text = "live"' in shown, "a row that should stay isn't shown")
        return approval

    def _take_back(self, approval: Mapping[str, Any]) -> None:
        step("Luxembourg's live offers are missed, and what hung on them. Olivia takes it back; two people agree")
        call = str(approval["call"])
        asked = self._people.says("olivia", "undo", call, "--purpose", "Luxembourg is no draft", expect=4)
        self._people.agree(self._people.waiting(asked["call"]), "olivia")
        check(self._people.says("dan", "calls", "show", call)["state"] == "UNDONE", "the deletion isn't UNDONE")
        after = self._rows()
        tell(f"rows after  {after}")
        check(after == self._before, "the rows are others")

    def _rows(self) -> str:
        """SHA-256 over every row of the database, as anybody reads it who takes it out of the workspace."""
        self._number += 1
        out = self._stage.folder / f"database-{self._number}"
        self._people.says("olivia", "workspaces", "export", WORKSPACE, str(out))
        with closing(sqlite3.connect(out / DATABASE)) as database:
            tables = ("offer", "visit")
            rows = {table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}  # noqa: S608 - of this demo
        return f"{hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]} ({', '.join(f'{len(rows[t])} in {t}' for t in tables)})"
