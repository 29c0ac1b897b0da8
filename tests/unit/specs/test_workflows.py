"""Workflows: what is read, what is refused and where, what lies outside, and the documents about them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.workflows_lint import lint
from broker.domain.call import CallContext
from broker.domain.tier import Tier
from broker.domain.workflow import WorkflowSpec, outside, run_tier
from broker.errors import InvalidArgumentError
from broker.specs.shipped import shipped_folder
from broker.specs.tiers import CallApproval, WorkflowApproval, load_tiers
from broker.specs.workflows import load_workflows, read_workflow, read_workflows

TEXT = """\
name: close-books
description: Closes the month's books.
owner: ada
workspaces: [finance]
tier: 3
models: [model-a, vendor/model-b@2025]
prompt_versions: [close/4]
tools: [data.query, text.search]
data_classes: [internal, finance_eu]
"""
GOOD: dict[str, Any] = yaml.safe_load(TEXT)
FLOW = WorkflowSpec.model_validate(GOOD)
INSIDE = CallContext(workspace="finance", workflow="close-books", model="model-a", prompt_version="close/4")


def write(folder: Path, text: str, name: str = "a.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_a_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path, TEXT, "z.yaml")
    write(tmp_path, TEXT.replace("close-books", "audit"), "a.yaml")
    write(tmp_path, "no: workflow", "readme.txt")
    found = load_workflows(tmp_path)
    assert list(found) == ["audit", "close-books"]
    assert found["close-books"] == FLOW
    assert found["close-books"].risk is Tier.REGULATED


def test_a_folder_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert load_workflows(tmp_path / "gone") == {}
    assert load_workflows(tmp_path) == {}


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("name: close-books", "name: Close", (1, 7), "match pattern"),
        ("name: close-books", "name: close/books", (1, 7), "match pattern"),
        ("name: close-books\n", "", (1, 1), "the key 'name' is missing"),
        ("owner: ada", "ownr: ada", (3, 1), "did you mean 'owner'?"),
        ("owner: ada", "owner: human:ada", (3, 8), "match pattern"),
        ("[finance]", "[]", (4, 13), "at least 1 item"),
        ("[finance]", "finance", (4, 13), "valid tuple"),
        ("[finance]", "['*']", (4, 14), "match pattern"),
        ("tier: 3", "tier: 5", (5, 7), "less than or equal to 4"),
        ("tier: 3", "tier: '3'", (5, 7), "valid integer"),
        ("tier: 3", "tier: true", (5, 7), "valid integer"),
        ("model-a,", "model-*,", (6, 10), "match pattern"),
        ("model-a,", "'model a',", (6, 10), "match pattern"),
        ("model-a,", "m\u043edel-a,", (6, 10), "match pattern"),
        ("model-a,", "vendor/model-b@2025,", (6, 9), "names one twice"),
        ("[close/4]", "['']", (7, 19), "match pattern"),
        ("[close/4]", "[4]", (7, 19), "valid string"),
        ("data.query", "data.*", (8, 9), "match pattern"),
        ("data.query", "query", (8, 9), "match pattern"),
        ("internal", "Internal", (9, 16), "match pattern"),
        ("data_classes: [internal, finance_eu]\n", "", (1, 1), "the key 'data_classes' is missing"),
        ("[internal, finance_eu]", "&a [x]", (9, 15), "anchors are not allowed"),
        ("tier: 3\n", "tier: 3\ntier: 0\n", (6, 1), "stands twice"),
    ],
)
def test_faults_have_line_and_column(tmp_path: Path, old: str, new: str, place: tuple[int, int], message: str) -> None:
    assert TEXT.count(old) == 1
    path = write(tmp_path, TEXT.replace(old, new))
    found = [item for item in read_workflow(path).findings if message in item.message]
    assert found, [str(item) for item in read_workflow(path).findings]
    assert (found[0].line, found[0].column) == place
    with pytest.raises(InvalidArgumentError) as caught:
        load_workflows(tmp_path)
    assert caught.value.reason == "WORKFLOWS_INVALID"
    assert f"{path}:{place[0]}:{place[1]}" in {item.field for item in caught.value.violations}


def test_hidden_characters_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump({**GOOD, "notes": "fine\u202eenif"}))
    assert "U+202E" in read_workflow(path).findings[0].message


def test_a_name_defined_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, TEXT, "a.yaml")
    second = write(tmp_path, "# again\n" + TEXT, "b.yaml")
    with pytest.raises(InvalidArgumentError, match="already defined") as caught:
        load_workflows(tmp_path)
    assert [item.field for item in caught.value.violations] == [f"{second}:2:7"]


def test_files_that_would_be_passed_over_are_refused(tmp_path: Path) -> None:
    write(tmp_path, TEXT, "a.yml")
    with pytest.raises(InvalidArgumentError, match=r"ends in \.yaml"):
        load_workflows(tmp_path)


@pytest.mark.parametrize("target", ["../outside.yaml", "gone.yaml", "/dev/zero", "a.yaml"])
def test_links_out_of_the_folder_or_to_nowhere_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside.yaml").write_text(TEXT)
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "a.yaml").symlink_to(target)
    with pytest.raises(InvalidArgumentError) as caught:
        load_workflows(folder)
    assert caught.value.reason == "WORKFLOWS_INVALID"


def test_a_folder_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "file").write_text(TEXT)
    for name in ("link", "file"):
        with pytest.raises(InvalidArgumentError) as caught:
            load_workflows(tmp_path / name)
        assert caught.value.reason == "WORKFLOWS_INVALID"


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    write(tmp_path, TEXT + "#" * 300_000)
    with pytest.raises(InvalidArgumentError, match="longer than"):
        load_workflows(tmp_path)


CHANGES: dict[str, Any] = {
    "name": "other",
    "description": "Does something else.",
    "owner": "bob",
    "workspaces": ["finance", "hr"],
    "tier": 2,
    "models": ["model-a"],
    "prompt_versions": ["close/5"],
    "tools": ["data.query"],
    "data_classes": ["internal"],
    "notes": "changed",
}


def test_a_change_of_any_field_is_a_new_version() -> None:
    assert set(CHANGES) == set(WorkflowSpec.model_fields)
    digests = {WorkflowSpec.model_validate({**GOOD, key: value}).digest() for key, value in CHANGES.items()}
    assert len(digests | {FLOW.digest()}) == len(CHANGES) + 1
    assert re.fullmatch("sha256:[0-9a-f]{64}", FLOW.digest())


def test_the_order_of_a_list_is_no_change() -> None:
    turned = {key: value[::-1] if isinstance(value, list) else value for key, value in GOOD.items()}
    assert WorkflowSpec.model_validate(turned).digest() == FLOW.digest()


def beyond(context: CallContext = INSIDE, tool: str = "data.query", classes: tuple[str, ...] = ()) -> list[str]:
    return [item.field for item in outside(FLOW, context=context, tool=tool, data_classes=classes)]


def test_what_is_inside() -> None:
    assert beyond() == []
    assert beyond(replace(INSIDE, model="vendor/model-b@2025"), "text.search", ("internal", "finance_eu")) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"workspace": "hr"}, "workspace"),
        ({"model": "model-c"}, "model"),
        ({"model": ""}, "model"),
        ({"model": "MODEL-A"}, "model"),
        ({"model": "model-a "}, "model"),
        ({"model": "model"}, "model"),
        ({"prompt_version": "close/5"}, "prompt_version"),
        ({"prompt_version": ""}, "prompt_version"),
    ],
)
def test_what_is_outside_is_named_by_its_field(change: dict[str, str], field: str) -> None:
    assert beyond(replace(INSIDE, **change)) == [f"tool_call.context.{field}"]


def test_tools_and_data_outside_are_named_by_their_fields() -> None:
    assert beyond(tool="shell.run") == ["tool_call.tool"]
    assert beyond(classes=("internal", "health", "children")) == ["tool_call.context.data_classes"] * 2
    found = outside(FLOW, context=INSIDE, tool="data.query", data_classes=["health"])
    assert found[0].description == "is 'health', and the workflow has: internal, finance_eu"
    none = WorkflowSpec.model_validate({**GOOD, "data_classes": []})
    assert outside(none, context=INSIDE, tool="data.query", data_classes=["x"])[0].description.endswith("has: none")


def test_all_that_is_outside_is_named_at_once() -> None:
    everywhere = beyond(CallContext(workspace="hr"), "shell.run", ("health",))
    assert sorted(everywhere) == [
        "tool_call.context.data_classes",
        "tool_call.context.model",
        "tool_call.context.prompt_version",
        "tool_call.context.workspace",
        "tool_call.tool",
    ]


SOME = st.sampled_from(["model-a", "close/4", "finance", "data.query", "internal", "", "x", "model-a\x00"])


@given(SOME, SOME, SOME, SOME, st.lists(SOME, max_size=3))
def test_only_what_is_listed_is_inside(workspace: str, model: str, prompt: str, tool: str, classes: list[str]) -> None:
    context = CallContext(workspace=workspace, model=model, prompt_version=prompt)
    inside = (
        workspace in GOOD["workspaces"]
        and model in GOOD["models"]
        and prompt in GOOD["prompt_versions"]
        and tool in GOOD["tools"]
        and set(classes) <= set(GOOD["data_classes"])
    )
    assert (outside(FLOW, context=context, tool=tool, data_classes=classes) == ()) == inside


def test_a_call_runs_at_the_higher_tier() -> None:
    for tool, workflow in itertools.product(Tier, Tier):
        found = run_tier(tool, workflow)
        assert isinstance(found, Tier)
        assert found == max(int(tool), int(workflow))
    assert [run_tier(tool, None) for tool in Tier] == list(Tier)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(CHANGES)),
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=3),
)
def test_whatever_stands_in_a_file_the_answer_is_findings(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = write(tmp_path_factory.mktemp("w"), json.dumps({**GOOD, key: value}))
    loaded = read_workflow(path)
    assert (loaded.workflow is None) == bool(loaded.errors)
    assert all(item.line >= 1 and item.column >= 1 for item in loaded.findings)


@pytest.fixture
def command() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(lint)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command(tmp_path: Path, command: Callable[..., Any]) -> None:
    state = tmp_path / "state"
    write(state, "")
    write(state / "workflows", TEXT)
    clean = command("--state", state)
    assert (clean.exit_code, clean.stdout.strip()) == (0, "1 file(s): 0 error(s), 0 warning(s)")
    bad = write(tmp_path / "more", TEXT.replace("tier: 3", "tier: 9"))
    printed = command(bad, "--state", state)
    assert printed.exit_code == 1
    assert f"{bad}:5:7: error: /tier" in printed.stdout
    found = json.loads(command(bad.parent, "--json", "--state", state).stdout)
    assert (found["files"], found["errors"], found["items"][0]["field"]) == (1, 1, "/tier")


def test_the_command_doubts_tools_that_are_not_there_or_of_a_higher_tier(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    text = TEXT.replace("tier: 3", "tier: 1").replace("text.search", "shell.run, no.tool")
    path = write(tmp_path, text)
    doubtful = command(path, "--json", "--state", tmp_path)
    assert doubtful.exit_code == 0
    said = [(item["line"], item["column"], item["message"]) for item in json.loads(doubtful.stdout)["items"]]
    assert said == [
        (8, 21, "shell.run is Tier 2: calls run at that tier, but the workflow is approved as Tier 1"),
        (8, 32, "there is no tool no.tool"),
    ]
    assert command(path, "--strict", "--state", tmp_path).exit_code == 1


def test_the_command_refuses_what_is_not_there(tmp_path: Path, command: Callable[..., Any]) -> None:
    for path in (tmp_path, tmp_path / "gone.yaml"):
        assert isinstance(command(path).exception, InvalidArgumentError)


def test_the_shipped_examples_are_clean(repository: Path) -> None:
    folder = repository / "examples" / "workflows"
    assert load_workflows(folder)
    assert [item.findings for item in read_workflows([folder])] == [()] * len(list(folder.iterdir()))
    for path in folder.iterdir():
        first = path.read_text("utf-8").partition("\n")[0]
        schema = folder / first.removeprefix("# yaml-language-server: $schema=")
        assert schema.resolve() == shipped_folder() / "workflow.schema.json"


def test_the_documented_example_is_the_shipped_one(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "workflows.md").read_text("utf-8")
    write(tmp_path, text.partition("```yaml\n")[2].partition("```")[0])
    documented = load_workflows(tmp_path)
    shipped = load_workflows(repository / "examples" / "workflows")
    assert len(documented) == 1
    assert documented.items() <= shipped.items()
    fields = re.search(r"\| field \|.*?\n\n", text, re.DOTALL)
    assert fields is not None
    named = set(re.findall(r"`([a-z_]+)`", "".join(line.split("|")[1] for line in fields[0].splitlines() if line)))
    assert named == set(WorkflowSpec.model_fields)


def people(approval: CallApproval | WorkflowApproval | None) -> str:
    """Those who agree, in the order of the file."""
    if approval is None:
        return "nobody"
    assert approval.requirement().people == sum(entry.people for entry in approval.roles)
    return ", ".join(f"{entry.people} {entry.role}" for entry in approval.roles)


def test_the_documented_tiers_are_the_shipped_ones(repository: Path) -> None:
    lines = [
        "| tier | a call must carry | each call is agreed to by | a workflow is approved by |",
        "|---|---|---|---|",
    ]
    for row in load_tiers().tiers:
        carried = ", ".join(row.must_carry)
        cells = (f"{row.tier} {row.name}", carried, people(row.call_approval), people(row.workflow_approval))
        lines.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    document = (repository / "docs" / "workflows.md").read_text("utf-8")
    assert "\n".join(lines) + "\n\n" in document


def test_the_documented_approval_is_that_of_tier_4(repository: Path) -> None:
    document = (repository / "docs" / "workflows.md").read_text("utf-8")
    documented = yaml.safe_load(document.split("```yaml\n")[2].partition("```")[0])
    shipped = yaml.safe_load((shipped_folder() / "tiers.yaml").read_text("utf-8"))
    assert documented["call_approval"] == shipped["tiers"][4]["call_approval"]
