"""What a sandbox's image gets of this environment's Python packages, and that its name tells of every byte of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.build_images import PACKAGES_FILE, BuildError, inputs_digest, package_files


def listing(folder: Path, text: str) -> Path:
    (folder / PACKAGES_FILE).write_text(text)
    return folder


def test_a_folder_without_a_list_gets_none(tmp_path: Path) -> None:
    assert package_files(tmp_path) == {}


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


def test_one_byte_more_is_another_image(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "copies").mkdir()
    folder = listing(tmp_path / "image", "pg8000")
    files = package_files(folder)
    copies = {name: tmp_path / "copies" / str(number) for number, name in enumerate(files)}
    for name, path in files.items():
        shutil.copy(path, copies[name])

    def digest(packages: dict[str, Path], base_id: str = "sha256:1") -> str:
        return inputs_digest(folder, packages, "base", base_id)

    whole = digest(files)
    assert digest(copies) == whole
    assert digest({}) != whole
    assert digest(files, "sha256:2") != whole
    assert digest({name.replace("core", "kern"): path for name, path in files.items()}) != whole
    with copies["packages/pg8000/core.py"].open("ab") as stream:
        stream.write(b"#")
    assert digest(copies) != whole
