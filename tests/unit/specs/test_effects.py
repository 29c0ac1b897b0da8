"""Specifications of tools that change their workspace: what has to stand together, and what never does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.domain.spec import ToolSpec
from broker.specs.lint import lint_file

EFFECTS: dict[str, Any] = {"effects": "workspace", "workspace": {"writes": ["reports/**"]}, "reversibility": "exact"}
HOST = {"host": "api.example.com", "kind": "https", "paths": ["/v1/"]}
SECRET = {**HOST, "secret": {"name": "token", "header": "authorization"}}
WITHOUT = "must be empty for a tool with `effects: workspace`: it runs without hosts and secrets"


def faults(write: Callable[..., Path], spec: dict[str, Any]) -> dict[str, str]:
    """Field -> message of what lint refuses."""
    return {item.field: item.message for item in lint_file(write(spec)) if not item.warning}


def test_a_tool_that_changes_its_workspace_is_clean(good: dict[str, Any], write: Callable[..., Path]) -> None:
    assert faults(write, {**good, **EFFECTS}) == {}


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"egress": [HOST]}, "/egress", WITHOUT),
        ({"egress": [SECRET]}, "/egress", WITHOUT),
        ({"egress": [SECRET]}, "/egress/0/secret", "gets no secret"),
        ({"workspace": None}, "/effects", "needs the paths that it may change in `workspace.writes`"),
        ({"workspace": {"reads": ["**"]}}, "/effects", "needs the paths that it may change in `workspace.writes`"),
        ({"workspace": {}}, "/workspace", "needs paths in `reads` or in `writes`"),
        ({"workspace": {"writes": ["../**"]}}, "/workspace/writes/0", ""),
        ({"workspace": {"writes": ["**"], "max_changes": 10_001}}, "/workspace/max_changes", ""),
        ({"reversibility": "no_effect"}, "/reversibility", "must be `exact` for a tool with `effects: workspace`"),
        ({"reversibility": "compensable"}, "/reversibility", "must be `exact` for a tool with `effects: workspace`"),
        ({"effects": "none"}, "/workspace/writes", "needs `effects: workspace` beside it"),
        ({"effects": "none", "workspace": None}, "/reversibility", "must be `no_effect` for a tool without effects"),
        ({"effects": "database"}, "/effects", ""),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_field(
    good: dict[str, Any], write: Callable[..., Path], changed: dict[str, Any], field: str, message: str
) -> None:
    spec = {key: value for key, value in {**good, **EFFECTS, **changed}.items() if value is not None}
    found = faults(write, spec)
    assert field in found, found
    assert message in found[field]


OUTSIDE: dict[str, Any] = {
    "effects": "outside",
    "reversibility": "exact",
    "egress": [SECRET],
    "result": None,
    "files": None,
    "run": {"python": {"file": "steps.py"}},
    "outside": {"plan": "steps.py", "rehearse": "steps.py", "undo": "steps.py", "verify": "steps.py"},
}


def _outside(good: dict[str, Any], write: Callable[..., Path], **changed: Any) -> dict[str, str]:  # noqa: ANN401 - values of a file
    path = write({key: value for key, value in {**good, **OUTSIDE, **changed}.items() if value is not None})
    (path.parent / "steps.py").write_text("import sys\n", "utf-8")
    return {item.field: item.message for item in lint_file(path) if not item.warning}


def test_a_tool_with_programs_for_what_it_changes_outside_is_clean(
    good: dict[str, Any], write: Callable[..., Path]
) -> None:
    assert _outside(good, write) == {}
    steps = {key: name for key, name in OUTSIDE["outside"].items() if key != "rehearse"}
    assert _outside(good, write, reversibility="compensable", outside=steps) == {}
    assert _outside(good, write, reversibility="irreversible", outside=None) == {}
    assert _outside(good, write, workspace={"writes": ["*.db"]}, egress=[]) == {}


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"reversibility": "no_effect"}, "/reversibility", "must be `exact` or `compensable`"),
        ({"reversibility": "irreversible"}, "/reversibility", "must be `exact` or `compensable`"),
        ({"outside": None}, "/outside", "is needed for `exact`"),
        ({"outside": None, "reversibility": "no_effect"}, "/reversibility", "must be `irreversible`"),
        (
            {"outside": {"plan": "steps.py", "undo": "steps.py", "verify": "steps.py"}},
            "/outside/rehearse",
            "never tried",
        ),
        ({"outside": {**OUTSIDE["outside"], "undo": "gone.py"}}, "/outside/undo", "there is no file gone.py"),
        ({"outside": {**OUTSIDE["outside"], "undo": "../steps.py"}}, "/outside/undo", ""),
        ({"outside": {"plan": "steps.py"}}, "/outside/undo", ""),
        ({"run": {"argv": ["/bin/true"]}}, "/run", "must be a Python file without `args`"),
        ({"run": {"python": {"file": "steps.py", "args": ["x"]}}}, "/run", "must be a Python file without `args`"),
        ({"result": {"type": "object"}}, "/outside", "without `result` and `files.outputs`"),
        ({"files": {"outputs": ["out/*"]}}, "/outside", "without `result` and `files.outputs`"),
        ({"workspace": {"writes": ["*.db"]}}, "/egress", "works on its workspace's files"),
        ({"workspace": {"reads": ["*.db"]}}, "/egress", "works on its workspace's files"),
        ({"effects": "none", "reversibility": "no_effect"}, "/outside", "needs `effects: outside` beside it"),
        ({"egress": [{**SECRET, "record": "1MiB"}]}, "/egress/0/record", "its call is several runs"),
    ],
)
def test_what_does_not_go_together_outside_is_refused_with_its_field(
    good: dict[str, Any], write: Callable[..., Path], changed: dict[str, Any], field: str, message: str
) -> None:
    found = _outside(good, write, **changed)
    assert field in found, found
    assert message in found[field]


def test_a_tool_that_only_reads_its_workspace_may_reach_hosts(good: dict[str, Any], write: Callable[..., Path]) -> None:
    assert faults(write, {**good, "workspace": {"reads": ["**"]}, "egress": [SECRET]}) == {}


def test_the_version_of_a_tool_without_a_workspace_is_what_it_was(good: dict[str, Any]) -> None:
    assert not {"effects", "workspace"} & ToolSpec.model_validate(good).normalised().keys()
    first, second = ({**good, **EFFECTS, "workspace": {"writes": [name]}} for name in ("a", "b"))
    assert ToolSpec.model_validate(first).digest({}) != ToolSpec.model_validate(second).digest({})


def test_the_example_of_the_document_is_one(good: dict[str, Any], repository: Path) -> None:
    text = (repository / "docs" / "tools.md").read_text("utf-8")
    example = next(part for part in text.split("```") if part.startswith("yaml\neffects:"))
    spec = ToolSpec.model_validate({**good, **yaml.safe_load(example.removeprefix("yaml\n"))})
    assert spec.planned
    assert spec.workspace is not None
    assert spec.workspace.gets == ("rules/**", "reports/**")
