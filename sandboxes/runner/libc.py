"""The few functions of the C library that Python has no names for.

``ctypes`` has them too, but its import is half of all that the runner would import; this is what it stands on.
"""

from __future__ import annotations

import _ctypes
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SOCK_FPROG = struct.Struct("HxxxxxxP")
_INSTRUCTION_BYTES = 8


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001  # ctypes itself names it so
    _type_ = "i"


class _Char(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001  # the same
    _type_ = "c"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class FilterProgram:
    """A system call filter's program as the kernel takes it.

    Args:
        code: its instructions.
    """

    def __init__(self, code: bytes) -> None:
        kind = type("_Code", (_ctypes.Array,), {"_type_": _Char, "_length_": len(code)})
        self._code: Any = kind.from_buffer_copy(code)
        self.head = _SOCK_FPROG.pack(len(code) // _INSTRUCTION_BYTES, _ctypes.addressof(self._code))
        """A ``struct sock_fprog``; good for as long as this object lives."""


_library = _ctypes.dlopen(None, 0)


def function(name: str) -> Callable[..., int]:
    """A function that takes whole numbers and bytes, and returns a whole number."""
    found: Callable[..., int] = _Function(_ctypes.dlsym(_library, name))
    return found


def failure(what: str) -> OSError:
    """The error of the last function that failed."""
    return OSError(_ctypes.get_errno(), what)
