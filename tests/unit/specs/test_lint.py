"""Lint: every finding stands at its line and column."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.tools_lint import lint
from broker.specs.lint import lint_file, lint_paths
from broker.specs.schema import SCHEMAS, schema_text
from broker.specs.shipped import shipped_folder
from broker.specs.tiers import load_tiers

GOOD: dict[str, Any] = {
    "name": "demo.echo",
    "description": "Says what it is told.",
    "owner": "platform",
    "tier": 1,
    "image": "python",
    "run": {"argv": ["/bin/echo", "--", {"argument": "text"}]},
    "arguments": {
        "type": "object",
        "additionalProperties": False,
        "required": ["text"],
        "properties": {"text": {"type": "string", "maxLength": 10, "description": "What to say."}},
    },
    "result": {"type": "object"},
    "limits": {"memory": "64MiB"},
    "files": {},
    "env": {},
    "data_classes": [],
    "retention": "1d",
    "reversibility": "no_effect",
    "egress": [],
}

SPEC = """\
name: demo.echo
description: Says what it is told.
owner: platform
tier: 1
image: python
run:
  argv: [/bin/echo, --, {argument: text}]
arguments:
  type: object
  additionalProperties: false
  required: [text]
  properties:
    text: {type: string, maxLength: 10, description: What to say.}
limits:
  memory: 64MiB
  disk: 1MiB
"""


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("name: demo.echo", "name: broker.admin", (1, 7), "the namespace broker is the broker's own"),
        ("owner: platform", "ownr: platform", (3, 1), "unknown key 'ownr'; did you mean 'owner'?"),
        ("owner: platform", "ownr: platform", (1, 1), "the key 'owner' is missing"),
        ("tier: 1", 'tier: "1"', (4, 7), "valid integer"),
        ("{argument: text}", "{argumnt: text}", (7, 26), "did you mean 'argument'?"),
        ("{argument: text}", "{argument: txt}", (7, 25), "'txt'"),
        ("memory: 64MiB", "memory: 64MB", (15, 11), "is not a size"),
        ("memory: 64MiB", "memori: 64MiB", (15, 3), "did you mean 'memory'?"),
        ("maxLength: 10", "maxLenght: 10", (13, 26), "did you mean maxLength?"),
        ("maxLength: 10", "maxLength: x", (13, 37), "is not JSON Schema"),
        ("maxLength: 10", "maxLength: 99, pattern: '(a+)+$'", (13, 50), "may take too long"),
        ("maxLength: 10", "pattern: a", (13, 35), "needs maxLength"),
        ("maxLength: 10", "$ref: https://example.com/s", (13, 32), "nothing is ever fetched"),
        ("maxLength: 10", "$ref: '#/$defs/none'", (13, 32), "leads nowhere"),
        ("  additionalProperties: false\n", "", (9, 3), "needs `additionalProperties: false`"),
        ("tier: 1\n", "tier: 1\ntier: 2\n", (5, 1), "stands twice; first on line 4"),
        ("disk: 1MiB", "disk: 128MiB", (15, 3), "files count as memory"),
        ("/bin/echo, --, {argument: text}", "", (7, 9), "at least 1 item"),
        ("argv: [/bin/echo, --, {argument: text}]", "python: {file: gone.py}", (7, 18), "there is no file gone.py"),
    ],
)
def test_findings_have_line_and_column(
    write: Callable[..., Path], old: str, new: str, place: tuple[int, int], message: str
) -> None:
    line, column = place
    assert old in SPEC
    findings = lint_file(write(SPEC.replace(old, new)))
    found = [finding for finding in findings if message in finding.message]
    assert found, [str(finding) for finding in findings]
    assert (found[0].line, found[0].column) == (line, column)
    assert re.match(rf".*spec\.yaml:{line}:{column}: (error|warning): ", str(found[0]))


def test_the_unspoilt_specification_is_clean(write: Callable[..., Path]) -> None:
    assert lint_file(write(SPEC)) == ()


def test_a_fault_of_one_part_does_not_hide_those_of_another(write: Callable[..., Path]) -> None:
    text = SPEC.replace("tier: 1", "tier: 9").replace("maxLength", "maxLenght").replace("64MiB", "64")
    assert {finding.field for finding in lint_file(write(text))} == {
        "/tier",
        "/arguments/properties/text/maxLenght",
        "/limits/memory",
    }


def test_scripts_are_compiled(write: Callable[..., Path]) -> None:
    text = SPEC.replace("argv: [/bin/echo, --, {argument: text}]", "python: {file: it.py}")
    path = write(text)
    write("x = (\n", "it.py")
    assert "is not Python" in lint_file(path)[0].message
    write(b"\xff", "it.py")
    assert "is not UTF-8" in lint_file(path)[0].message
    write("x = 1\n", "it.py")
    assert lint_file(path) == ()


def test_a_second_definition_is_found_across_folders(tmp_path: Path, write: Callable[..., Path]) -> None:
    first = write(SPEC)
    other = tmp_path / "other"
    other.mkdir()
    (other / "again.yaml").write_text(SPEC)
    (other / "wrong.yml").write_text(SPEC)
    findings = lint_paths([first.parent, other])
    assert [finding.message[:40] for finding in findings] == [
        f"the tool demo.echo is already defined in {first}"[:40],
        "a specification's file name ends in .yaml; another is never loaded"[:40],
    ]


def test_shipped_specifications_and_tiers_are_clean() -> None:
    assert lint_paths([shipped_folder()]) == ()
    names = [row.name for row in load_tiers().tiers]
    assert names == ["internal", "customer assist", "customer-facing", "regulated", "autonomous actions"]


def test_the_schemas_for_editors_are_the_models(repository: Path) -> None:
    folder = repository / "tool_specs"
    assert {path.name for path in folder.glob("*.json")} == set(SCHEMAS)
    for name in SCHEMAS:
        assert (folder / name).read_text("utf-8") == schema_text(name)
    for path in folder.glob("*.yaml"):
        name = "tiers.schema.json" if path.name == "tiers.yaml" else "schema.json"
        assert path.read_text("utf-8").startswith(f"# yaml-language-server: $schema={name}\n")


def test_shipped_scripts_are_short_enough_to_read(repository: Path) -> None:
    # All that decides about rows of a database is in what people accept of the tool, by the digest of its one file.
    longest = {"sqlite_execute.py": 700}
    for path in (repository / "tool_specs").glob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) < longest.get(path.name, 300)


def test_a_tier_table_with_a_hole_is_found(tmp_path: Path) -> None:
    path = tmp_path / "tiers.yaml"
    path.write_text("tiers: []\n")
    assert "0, 1, 2, 3 and 4" in lint_file(path)[0].message


@pytest.fixture
def command() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(lint)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_command(write: Callable[..., Path], command: Callable[..., Any]) -> None:
    clean = command()
    assert (clean.exit_code, clean.stdout.strip()) == (0, "7 file(s): 0 error(s), 0 warning(s)")
    bad = write(SPEC.replace("tier: 1", "tier: 9"))
    printed = command(str(bad))
    assert printed.exit_code == 1
    assert f"{bad}:4:7: error: /tier" in printed.stdout
    output = json.loads(command(str(bad), "--json").stdout)
    assert output["errors"] == 1
    assert output["items"][0]["severity"] == "error"
    assert (output["items"][0]["line"], output["items"][0]["column"], output["items"][0]["field"]) == (4, 7, "/tier")
    doubtful = write(SPEC.replace("disk: 1MiB", "disk: 128MiB"))
    assert command(str(doubtful)).exit_code == 0
    assert command(str(doubtful), "--strict").exit_code == 1


PLACES = [(key,) for key in GOOD] + [
    ("run", "argv"),
    ("arguments", "properties"),
    ("arguments", "required"),
    ("limits", "memory"),
    ("egress",),
    *(
        ("egress", number, key)
        for number in (0, 1)
        for key in ("kind", "host", "port", "methods", "paths", "listen", "secret", "database", "user")
    ),
    *(("egress", number, "secret", key) for number in (0, 1) for key in ("name", "header", "prefix")),
]
EGRESS = {"kind": "https", "host": "a.example", "secret": {"name": "token", "header": "x-key"}}
LOGIN = {"kind": "postgres", "host": "b.example", "listen": 5432, "database": "d", "user": "u", "secret": {"name": "p"}}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["$ref", "#/", "http", "/a", "a.example", "GET"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "$ref", "properties", "argument", "python", "pattern", "enum", "x", "items"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_whatever_stands_in_a_file_lint_answers_with_findings(place: tuple[str | int, ...], value: object) -> None:
    spec: Any = copy.deepcopy({**GOOD, "egress": [EGRESS, LOGIN]})
    inner = spec
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_text(json.dumps(spec), "utf-8")
        for finding in lint_file(path):
            assert finding.line >= 1
            assert finding.column >= 1


def test_the_documented_example_is_clean(repository: Path, write: Callable[..., Path]) -> None:
    text = (repository / "docs" / "tools.md").read_text("utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    assert lint_file(write(example)) == ()
