"""Reads a file of a specification folder: a plain file, inside the folder, of bounded size."""

from __future__ import annotations

from pathlib import Path

from broker.errors import InvalidArgumentError

MAX_BYTES = 256 * 2**10
"""Longest file that a specification may name."""


class FileRefusedError(ValueError):
    """The file is missing, lies outside the folder, or isn't a plain file of bounded size."""


def is_there(path: Path) -> bool:
    """Whether something has that name: a link that leads nowhere, or what can't be looked at, is there.

    For what stands in for something else where it is absent: a fault must not make it look absent.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def yaml_files(path: Path) -> list[Path]:
    """A file as such; of a folder, its YAML files by name, with those whose ending will be refused.

    Raises:
        InvalidArgumentError: ``FOLDER_UNREADABLE``: it is a folder that can't be listed.
    """
    if not path.is_dir():
        return [path]
    try:
        return sorted(file for file in path.iterdir() if file.suffix in {".yaml", ".yml"})
    except OSError as error:
        raise InvalidArgumentError(f"{path} can't be listed: {error.strerror}", reason="FOLDER_UNREADABLE") from error


def read_file(folder: Path, name: str) -> bytes:
    """The bytes of ``name`` in ``folder``; a symbolic link may lead only to a file inside the folder.

    Raises:
        FileRefusedError: says why.
    """
    if "/" in name or "\\" in name or name in {"", ".", ".."} or "\x00" in name:
        raise FileRefusedError(f"{name!r} must be the name of a file in the same folder")
    try:
        root = folder.resolve(strict=True)
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise FileRefusedError(f"{name} is a link that leads out of its folder")
        if not path.is_file():
            raise FileRefusedError(f"{name} is not a plain file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise FileRefusedError(f"there is no file {name} in {folder}") from error
    except (OSError, RuntimeError) as error:
        raise FileRefusedError(f"{name} can't be read: {error}") from error
    if len(data) > MAX_BYTES:
        raise FileRefusedError(f"{name} is longer than {MAX_BYTES} bytes")
    return data
