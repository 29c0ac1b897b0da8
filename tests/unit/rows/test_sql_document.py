"""docs/sql.md says what the code says: reasons, bounds, settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker_rows import server, statement, work

RAISED = re.compile(r'(?:Error|Ending|__init__)\(\s*"([A-Z_]+)"')


@pytest.fixture
def text(repository: Path) -> str:
    return (repository / "docs" / "sql.md").read_text("utf-8")


def test_each_reason_is_named_and_each_that_is_named_exists(repository: Path, text: str) -> None:
    package = repository / "sandboxes" / "postgres" / "broker_rows"
    raised = {reason for file in package.glob("*.py") for reason in RAISED.findall(file.read_text("utf-8"))}
    table = text.partition("## What is refused\n")[2].partition("\n## ")[0]
    first_cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    assert raised == {name for cell in first_cells for name in re.findall(r"`([A-Z_]+)`", cell)}
    assert len(raised) > 20


def test_the_bounds_are_those_of_the_code(text: str) -> None:
    said = " ".join(text.split())
    assert f"as long as a statement may take ({server.STATEMENT_TIMEOUT_S} s)" in said
    assert f"waits for no lock longer than {server.LOCK_TIMEOUT_S} s" in said
    assert f"nobody answers for {work.ASKING_S} s" in said
    assert f"more than {statement.MAX_CHARACTERS:,} characters" in said
    assert f"rows of a table with more than {work.MAX_BYTES >> 20} MiB" in said


def test_what_the_specification_may_say_is_what_is_read(repository: Path, text: str) -> None:
    program = (repository / "sandboxes" / "postgres" / "broker_rows" / "program.py").read_text("utf-8")
    assert set(re.findall(r"SQL_[A-Z_]+", program)) == set(re.findall(r"SQL_[A-Z_]+", text)) - {
        "SQL_ASCII",
        "SQL_TOO_LONG",
        "SQL_NOT_TEXT",
    }
