"""Reads a file of a specification folder: a plain file, inside the folder, of bounded size."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 256 * 2**10
"""Longest file that a specification may name."""


class FileRefusedError(ValueError):
    """The file is missing, lies outside the folder, or isn't a plain file of bounded size."""


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
