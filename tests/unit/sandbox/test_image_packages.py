"""What a sandbox's image gets of this environment's Python packages, and that its name tells of every byte of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.build_images import PACKAGES_FILE, BuildError, package_files, packages_digest


def listing(folder: Path, text: str) -> Path:
    (folder / PACKAGES_FILE).write_text(text)
    return folder


def test_a_folder_without_a_list_gets_none(tmp_path: Path) -> None:
    assert package_files(tmp_path) == {}
    assert packages_digest({}) == ""


def test_the_modules_and_what_a_package_says_of_itself(tmp_path: Path) -> None:
    files = package_files(listing(tmp_path, "# a comment\npg8000  # another\n\n"))
    assert "packages/pg8000/core.py" in files
    assert {Path(name).name for name in files if ".dist-info" in name} == {"METADATA", "LICENSE"}
    assert all(path.is_file() for path in files.values())
    assert not [name for name in files if "__pycache__" in name or ".." in name]


def test_a_package_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="isn't installed"):
        package_files(listing(tmp_path, "no-such-package"))


def test_a_package_of_more_than_python(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="Python alone"):
        package_files(listing(tmp_path, "cffi"))


def test_one_byte_more_is_another_digest(tmp_path: Path) -> None:
    files = package_files(listing(tmp_path, "pg8000"))
    copies = {name: tmp_path / str(number) for number, name in enumerate(files)}
    for name, path in files.items():
        shutil.copy(path, copies[name])
    assert packages_digest(copies) == packages_digest(files)
    with copies["packages/pg8000/core.py"].open("ab") as stream:
        stream.write(b"#")
    assert packages_digest(copies) != packages_digest(files)
    renamed = {name.replace("core", "kern"): path for name, path in files.items()}
    assert packages_digest(renamed) != packages_digest(files)
