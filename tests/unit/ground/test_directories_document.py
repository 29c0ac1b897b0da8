"""docs/directories.md says what the code says; and what the doctor says of bound directories."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.doctor.finding import Status
from broker.doctor.folders import Seen, judge_folder, probe_folders
from broker.domain.tree import STAGED
from broker.pipeline.folders import BY, REASON
from broker.settings import Settings
from broker.tree_folder.memory import TICK_NS
from broker.workspace import host_folder

MODULES = (
    *("workspace/host_folder", "tree_folder/scanning", "tree_folder/applying", "tree_folder/staging"),
    *("pipeline/folders", "pipeline/tree_import"),
)
REASONS = re.compile(r'"((?:FOLDER|JOURNAL)_[A-Z_]+)"')


def page(repository: Path) -> str:
    return (repository / "docs" / "directories.md").read_text("utf-8")


def test_each_refusal_is_named_and_exists(repository: Path) -> None:
    table = page(repository).partition("## What is refused\n")[2]
    named = set(re.findall(r"^\| `([A-Z_]+)` ", table, re.MULTILINE))
    source = "".join((repository / "broker" / f"{module}.py").read_text("utf-8") for module in MODULES)
    assert named == set(REASONS.findall(source))


def test_the_bounds_and_names_are_those_of_the_code(repository: Path) -> None:
    said = " ".join(page(repository).split())
    assert host_folder._LOOKS == 6
    assert "After six looks" in said
    assert TICK_NS == 2 * 10**9
    assert "less than two seconds before it was read" in said
    assert f"`by` is `{BY}` and `reason` is `{REASON}`" in said
    assert f"`{STAGED}...`" in said


GOOD = Seen("shop", "/srv/shop", writable=True)


@pytest.mark.parametrize(
    ("seen", "running", "status", "said"),
    [
        (GOOD, False, Status.OK, "is there and can be written to"),
        (Seen("shop", "/srv/shop", "Not a directory"), False, Status.FAIL, "can't be opened: Not a directory"),
        (Seen("shop", "/srv/shop"), False, Status.FAIL, "can't be written to by the broker's user"),
        (Seen("shop", "/srv/shop", writable=True, journal=True), False, Status.WARN, "was cut half-way"),
        (Seen("shop", "/srv/shop", writable=True, journal=True), True, Status.OK, "is there"),
        (Seen("shop", "/srv/shop", writable=True, aside=2), True, Status.WARN, "has 2 journal(s)"),
    ],
)
def test_the_doctor_on_one(seen: Seen, *, running: bool, status: Status, said: str) -> None:
    found = judge_folder(seen, running=running)
    assert found.status is status
    assert said in found.found
    assert "/srv/shop, the tree of workspace shop," in found.found


def test_the_doctor_looks_at_all_of_them(tmp_path: Path) -> None:
    state = tmp_path / "state"
    kept = state / "workspace_folders"
    kept.mkdir(parents=True)
    (tmp_path / "shop").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shop")
    (kept / "c.left-00112233").touch()
    (tmp_path / "c").mkdir()
    bound = {"a": "shop", "b": "link", "c": "c"}
    settings = Settings(workspace_folders={name: str(tmp_path / path) for name, path in bound.items()})
    found = probe_folders(state, settings, running=False)
    assert [item.status for item in found] == [Status.OK, Status.FAIL, Status.WARN]
    assert probe_folders(state, Settings(), running=False) == ()
    nested = Settings(workspace_folders={"a": str(kept)})
    [refused] = probe_folders(state, nested, running=False)
    assert (refused.status, "the state directory" in refused.found) == (Status.FAIL, True)
    elsewhere = Settings(
        workspaces_dir=str(tmp_path / "shop" / "objects"), workspace_folders={"a": str(tmp_path / "shop")}
    )
    [refused] = probe_folders(state, elsewhere, running=False)
    assert "workspaces_dir" in refused.found
    assert list((tmp_path / "shop").iterdir()) == []
