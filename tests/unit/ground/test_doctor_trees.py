"""The folder of workspaces' trees, as the doctor sees it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from broker.doctor.directory import Node
from broker.doctor.finding import Status
from broker.doctor.trees import judge_folder, probe_folder
from broker.settings import Settings

PATH = Path("/srv/trees")


@pytest.mark.parametrize(
    ("mode", "owner", "directory", "writable", "sound", "said"),
    [
        (0o700, 7, True, True, True, "is private"),
        (0o700, 0, True, True, True, "is private"),
        (0o750, 7, True, True, False, "mode 0750"),
        (0o701, 7, True, True, False, "mode 0701"),
        (0o700, 8, True, True, False, "belongs to user 8"),
        (0o700, 7, False, True, False, "is no folder"),
        (0o700, 7, True, False, False, "can't be written to"),
    ],
)
def test_a_folder(*, mode: int, owner: int, directory: bool, writable: bool, sound: bool, said: str) -> None:
    kind = stat.S_IFDIR if directory else stat.S_IFREG
    found = judge_folder(Node(PATH, kind | mode, owner, directory), path=PATH, user=7, writable=writable)
    assert said in found.found
    assert (found.status is Status.OK) is sound


def test_one_that_is_not_there_is_made_where_it_can_be() -> None:
    assert judge_folder(None, path=PATH, user=7, writable=True).status is Status.OK
    assert judge_folder(None, path=PATH, user=7, writable=False).status is Status.FAIL


def test_the_folder_that_is_looked_at_is_that_of_the_settings(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    elsewhere.chmod(0o755)
    assert probe_folder(tmp_path, Settings(workspaces_dir=str(elsewhere))).status is Status.FAIL
    assert probe_folder(tmp_path, Settings()).status is Status.OK
