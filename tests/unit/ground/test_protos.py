"""The wire contract keeps its promises: `make lint` refuses a change that old programs would misread."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def contract(repository: Path, tmp_path: Path) -> Path:
    """A copy of all that the check reads."""
    shutil.copytree(repository / "protos", tmp_path / "protos")
    shutil.copy(repository / "buf.yaml", tmp_path)
    return tmp_path


def check(repository: Path, root: Path) -> subprocess.CompletedProcess[str]:
    script = repository / "scripts" / "check_protos.py"
    return subprocess.run(
        [sys.executable, script, "--root", root], check=False, capture_output=True, text=True, timeout=120
    )


def edit(root: Path, name: str, old: str, new: str) -> None:
    path = root / "protos" / "broker" / "v1" / name
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{old!r} is not once in {name}"
    path.write_text(text.replace(old, new), "utf-8")


def test_the_protos_as_they_are_pass(repository: Path, contract: Path) -> None:
    done = check(repository, contract)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_renumbered_field_is_a_breaking_change(repository: Path, contract: Path) -> None:
    edit(contract, "blob.proto", "int64 size = 2;", "int64 size = 22;")
    done = check(repository, contract)
    assert done.returncode == 1
    assert 'field "2" with name "size" on message "Blob" was deleted' in done.stdout
    assert "breaking change" in done.stdout


def test_a_changed_type_is_a_breaking_change(repository: Path, contract: Path) -> None:
    edit(contract, "blob.proto", "string digest = 3;", "bytes digest = 3;")
    done = check(repository, contract)
    assert done.returncode == 1
    assert 'on message "Blob" changed type from "string" to "bytes"' in done.stdout


def test_a_deleted_method_is_a_breaking_change(repository: Path, contract: Path) -> None:
    edit(contract, "administration.proto", "  rpc RevokeIdentity(RevokeIdentityRequest) returns (Identity);\n", "")
    done = check(repository, contract)
    assert done.returncode == 1
    assert '"RevokeIdentity"' in done.stdout


def test_a_new_field_is_no_breaking_change_but_wants_a_comment(repository: Path, contract: Path) -> None:
    field = "string digest = 3;\n"
    edit(contract, "blob.proto", field, field + "  string colour = 99;\n")
    done = check(repository, contract)
    assert done.returncode == 1
    assert 'Field "colour" should have a non-empty comment' in done.stdout
    edit(contract, "blob.proto", "  string colour = 99;\n", "  // Its colour.\n  string colour = 99;\n")
    assert check(repository, contract).returncode == 0


def test_without_the_released_descriptor_nothing_passes(repository: Path, contract: Path) -> None:
    (contract / "protos" / "released.binpb").unlink()
    done = check(repository, contract)
    assert done.returncode == 2
    assert "nothing to compare with" in done.stdout
