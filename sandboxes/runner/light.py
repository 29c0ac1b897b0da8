"""Small stand-ins for parts of the library (json, contextlib, signal with its enums) that take longer to import than a
job may wait, and what is imported after all while nothing is to be done.

A sandbox that waits for its job imports what tools mostly use; one whose job is there already doesn't let it wait.
"""

from __future__ import annotations

import gc
from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class _Rules:
    """What the interpreter's own scanner of JSON wants to know."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  # the scanner's own


_scan = make_scanner(_Rules)  # type: ignore[arg-type]  # it wants these names, of whatever they are


def _refuse(value: object) -> object:
    raise TypeError(type(value).__name__)


_pieces = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)  # noqa: FBT003  # it takes no names


class suppress:  # noqa: N801  # named as that of contextlib
    """Ends the block without a word where one of these is raised."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        """Begins the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        """Ends it."""
        return kind is not None and issubclass(kind, self._kinds)


def read_json(data: bytes) -> object:
    """A JSON text that the broker wrote, or the runner itself."""
    value: object = _scan(data.decode(), 0)[0]
    return value


def as_json(value: object) -> bytes:
    """A value of dictionaries, lists, texts, numbers, truth values and nothing as JSON."""
    return "".join(_pieces(value, 0)).encode("ascii")


def preload() -> None:
    """Imports what tools mostly use, and what the runner itself may need later; collects what that has left behind."""
    import contextlib  # noqa: F401, PLC0415  # for the tool
    import json  # noqa: F401, PLC0415  # for the tool
    import signal  # noqa: F401, PLC0415  # for the tool

    from runner import outputs  # noqa: F401, PLC0415  # for the runner

    gc.collect()


def settle() -> None:
    """What is here now is never looked at by a collection again, neither here nor in a fork, which so shares its pages.
    From now on garbage is collected.
    """
    gc.freeze()
    gc.enable()
