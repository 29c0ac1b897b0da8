"""The kinds of source that a verifier reads: found by what they look like, and opened again in another process.

Each is imported when it is first needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType

from broker.errors import InternalError
from broker.ledger.source import Reopen, Source

OPENERS: Mapping[str, str] = MappingProxyType(
    {
        "sqlite": "broker.ledger.reader:open_target",
        "postgresql": "broker.ledger.postgres_reader:open_target",
        "bundle": "broker.ledger.bundle_reader:open_target",
    },
)
"""Kind -> ``module:function``, which takes a ``Reopen`` and gives the open source as a context manager."""

_POSTGRES = ("postgresql://", "postgres://")
_ZIP = b"PK\x03\x04"


def how_to_open(target: str, password: str = "") -> Reopen:
    """What kind of source a name stands for, by its form or the first bytes of the file.

    Args:
        target: the address of a PostgreSQL database, or the path of a bundle or of a database file.
        password: for the database, where it needs one.
    """
    if target.startswith(_POSTGRES):
        return Reopen("postgresql", target, password)
    path = Path(target)
    try:
        with path.open("rb") as file:
            kind = "bundle" if file.read(len(_ZIP)) == _ZIP else "sqlite"
    except OSError:
        kind = "sqlite"  # whose opener says what is wrong
    return Reopen(kind, target)


def open_source(how: Reopen) -> AbstractContextManager[Source]:
    """Opens a source.

    Raises:
        InternalError: there is no such kind.
        BrokerError: as that kind's opener says.
    """
    found = OPENERS.get(how.kind)
    if found is None:
        raise InternalError(f"there is no kind of ledger source named {how.kind!r}")
    module, _, name = found.partition(":")
    opener: Callable[[Reopen], AbstractContextManager[Source]] = getattr(importlib.import_module(module), name)
    return opener(how)
