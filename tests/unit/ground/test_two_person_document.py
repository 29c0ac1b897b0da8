"""The table of docs/two-person-rule.md names code and tests that there are."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROW = re.compile(r"^\| [^|]+ \| `([a-z_.]+):([A-Za-z_.]+)` \| `(tests/[a-z_/]+\.py)(?:::([a-z_]+))?` \|$")


def rows(repository: Path) -> list[re.Match[str]]:
    text = (repository / "docs" / "two-person-rule.md").read_text("utf-8")
    table = text.partition("## What holds")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| what holds")]
    found = [ROW.fullmatch(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if match is None]
    return [match for match in found if match is not None]


def test_the_code_is_there(repository: Path) -> None:
    named = rows(repository)
    assert len(named) > 15
    for module, symbol, _, _ in (match.groups() for match in named):
        value: object = importlib.import_module(module)
        for part in symbol.split("."):
            value = getattr(value, part, None)
        assert value is not None, f"{module}:{symbol}"


def test_the_tests_are_there(repository: Path) -> None:
    for _, _, file, test in (match.groups() for match in rows(repository)):
        tree = ast.parse((repository / file).read_text("utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert test is None or test in names, f"{file}::{test}"


@pytest.mark.parametrize(
    "action",
    ["key.enroll", "identity.issue", "identity.owner", "account.map", "unfreeze", "key.revoke", "identity.revoke"],
)
def test_the_actions_are_those_of_the_broker(repository: Path, action: str) -> None:
    from broker.pipeline.admin_actions import PARAMETERS  # noqa: PLC0415 - brings the broker along

    text = (repository / "docs" / "two-person-rule.md").read_text("utf-8")
    assert f"`{action}`" in text
    assert action in PARAMETERS
