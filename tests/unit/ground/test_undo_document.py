"""docs/undo.md says what the code says: reasons, bounds, entries and fields."""

from __future__ import annotations

import re
from pathlib import Path

from broker.domain.events import AppliedEffect, Outcome
from broker.domain.outside import Step
from broker.domain.planned import Planned
from broker.domain.run import EndCause, EvidenceSource
from broker.domain.tree import Effect
from broker.ledger.entry import ENTRY_TYPES
from broker.rollback.artifact import KIND, MAX_MANIFEST
from broker.rollback.shown import MAX_LINES, MAX_SHOWN, MAX_TEXT
from broker.specs.shipped import shipped_folder
from broker.vault.artifacts import MAX_BYTES

DECIDES = (
    *("planning", "applying", "rehearsing", "taking_back", "tree_inputs"),
    *("../rollback/artifact", "../rollback/back", "../rollback/restore", "../rollback/shown"),
)
ELSEWHERE = {"CERTIFICATE_REVOKED"}
"""Of calls of any kind: identity.md has it."""
REASON = re.compile(r'reason="([A-Z_]+)"')


def text(repository: Path, page: str = "undo") -> str:
    return (repository / "docs" / f"{page}.md").read_text("utf-8")


def table(repository: Path, heading: str, page: str = "undo") -> list[list[str]]:
    part = text(repository, page).partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def named(repository: Path, heading: str, page: str = "undo") -> set[str]:
    return {name for row in table(repository, heading, page) for name in re.findall(r"`([^`]+)`", row[0])}


def test_each_refusal_is_named_and_each_that_is_named_exists(repository: Path) -> None:
    pipeline = repository / "broker" / "pipeline"
    raised = {reason for module in DECIDES for reason in REASON.findall((pipeline / f"{module}.py").read_text("utf-8"))}
    assert len(raised) > 10
    listed = named(repository, "What is refused")
    assert raised - ELSEWHERE <= listed, raised - ELSEWHERE - listed
    source = "".join(path.read_text("utf-8") for path in (repository / "broker").rglob("*.py"))
    assert {reason for reason in listed if f'"{reason}"' not in source} == set()


OUTSIDE = (
    "outside",
    "outside_inputs",
    "outside_plan",
    "outside_steps",
    "undoing_outside",
    "../domain/outside",
    "admission_check",
)


def test_each_refusal_about_what_lies_outside_is_named_and_exists(repository: Path) -> None:
    pipeline = repository / "broker" / "pipeline"
    raised = {reason for module in OUTSIDE for reason in REASON.findall((pipeline / f"{module}.py").read_text("utf-8"))}
    listed = named(repository, "What is refused", "outside")
    known = listed | named(repository, "What is refused")
    of_all_calls = {"NOT_AN_AGENT", "TOOL_NOT_FOUND", "TOOL_VERSION_CHANGED", "IMAGE_MISSING", "REQUEST_ID_REUSED"}
    assert raised - of_all_calls <= known, raised - known
    source = "".join(path.read_text("utf-8") for path in (repository / "broker").rglob("*.py"))
    assert {reason for reason in listed if f'"{reason}' not in source} - {"PLAN_TOO_LARGE"} == set()
    assert "PLAN_TOO_LARGE:" in source


def test_the_steps_are_those_of_the_code(repository: Path) -> None:
    assert named(repository, "The steps", "outside") >= {step.value for step in Step}


def test_the_bounds_are_those_of_the_code(repository: Path) -> None:
    said = " ".join(text(repository).split())
    assert f"A file of more than {MAX_TEXT >> 20} MiB or {MAX_LINES:,} lines" in said
    assert f"more than {MAX_SHOWN >> 20} MiB of differences" in said
    assert f"more than {MAX_BYTES >> 30} GiB, or the list of what changes more than {MAX_MANIFEST >> 20} MiB" in said
    retention = re.search(
        r"^retention: (\d+)d$", (shipped_folder() / "workspace.undo.yaml").read_text("utf-8"), re.MULTILINE
    )
    assert retention is not None
    assert f"An undo is kept for {retention[1]} days" in said


def test_the_entries_are_those_of_the_ledger(repository: Path) -> None:
    rows = {row[0]: row[1] for row in table(repository, "On record")}
    assert named(repository, "On record") <= ENTRY_TYPES
    assert f"`kind` is `{KIND}`" in rows["`artifact`"]
    fields = re.search(r"`effect\{([^}]*)\}`", rows["`outcome`"])
    assert fields is not None
    assert set(fields[1].split(", ")) == set(AppliedEffect.__dataclass_fields__)
    planned = re.search(r"`effect\{([^}]*)\}`", rows["`plan.outcome`"])
    assert planned is not None
    ended = Outcome(cause=EndCause.TOOL, cause_source=EvidenceSource.BROKER, detail="")
    bound = Planned("base", "selection", Effect(()), "artifact", ended).bound("0" * 64)
    assert set(planned[1].split(", ")) == set(bound)
