"""Does a SQLite write-ahead log hold a commit that SQLite will read? The format is SQLite's "WAL-mode File Format".

SQLite ignores a log whose header or first frames are damaged, and says nothing. A verifier must not.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_VERSION = 3007000
_PAGE_SIZES = frozenset(2**power for power in range(9, 17))


def holds_commit(path: Path) -> bool:
    """Is there at least one whole transaction at the start of this log? A missing or empty file holds none."""
    try:
        with path.open("rb") as file:
            return _holds_commit(file)
    except FileNotFoundError:
        return False


def _holds_commit(file: BinaryIO) -> bool:
    raw = file.read(_HEADER.size)
    if len(raw) < _HEADER.size:
        return False
    magic, version, page_size, _, salt_1, salt_2, sum_1, sum_2 = _HEADER.unpack(raw)
    if magic not in (_MAGIC_LITTLE, _MAGIC_BIG) or version != _VERSION or page_size not in _PAGE_SIZES:
        return False
    order = "<" if magic == _MAGIC_LITTLE else ">"
    sums = _checksum(order, raw[:24], (0, 0))
    if sums != (sum_1, sum_2):
        return False
    while True:
        head, page = file.read(_FRAME.size), file.read(page_size)
        if len(head) < _FRAME.size or len(page) < page_size:
            return False
        _, pages_after_commit, *salts, sum_1, sum_2 = _FRAME.unpack(head)
        sums = _checksum(order, page, _checksum(order, head[:8], sums))
        if salts != [salt_1, salt_2] or sums != (sum_1, sum_2):
            return False
        if pages_after_commit:
            return True


def _checksum(order: str, data: bytes, start: tuple[int, int]) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
