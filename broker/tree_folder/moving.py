"""Names that change in one step, and never over what somebody else put there. Linux."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

_NOREPLACE = 1
_EXCHANGE = 2


def move_new(folder: int, name: str, into: int, new: str) -> None:
    """Moves a name from one open folder into another, where nothing may have the new one.

    Raises:
        FileExistsError: something has it.
        OSError: the kernel or the file system can't do this, or refuses.
    """
    _rename(folder, name, into, new, _NOREPLACE)


def swap(folder: int, name: str, other: int, with_name: str) -> None:
    """Two names, each below an open folder, change places.

    Raises:
        OSError: one of them isn't there, or the kernel or the file system can't do this, or refuses.
    """
    _rename(folder, name, other, with_name, _EXCHANGE)


def _rename(folder: int, name: str, into: int, new: str, how: int) -> None:
    done = _renameat2()(
        ctypes.c_int(folder),
        ctypes.c_char_p(os.fsencode(name)),
        ctypes.c_int(into),
        ctypes.c_char_p(os.fsencode(new)),
        ctypes.c_uint(how),
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name, None, new)


@cache
def _renameat2() -> Any:  # noqa: ANN401 - a foreign function
    found = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if found is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "renameat2")
    return found
