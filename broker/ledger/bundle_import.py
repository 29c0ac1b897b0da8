"""Takes the entries of a bundle into an empty ledger, with the projections of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from broker.domain.ports import Head, StoredEntry, Transaction
from broker.errors import DataLossError, InvalidArgumentError
from broker.ledger.bundle_reader import BundleSource
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.index import catch_up
from broker.ledger.source import UnreadableError
from broker.ledger.tree import grow
from broker.ledger.verify_bundle import UsageError, verify
from broker.tlog.merkle import CompactRange

_PAGE = 1000


class Writes(Protocol):
    """Runs a function in a writing transaction; what it wrote is durable when this returns."""

    def __call__(self, work: Callable[[Transaction], int], /) -> int:
        """What the function returned."""


def check_bundle(path: Path, *, key: str, checkpoint: bytes | None) -> dict[str, object]:
    """Verifies a bundle before anything is taken from it; see ``broker.ledger.verify_bundle.verify``.

    Raises:
        InvalidArgumentError: ``USAGE``: a key is none, or the bundle can't answer for that checkpoint.
        DataLossError: ``BUNDLE_NOT_VERIFIED``; names verdict and place.
    """
    try:
        report = verify(str(path), (key,) if key else (), () if checkpoint is None else (checkpoint,))
    except UsageError as error:
        raise InvalidArgumentError(str(error), reason="USAGE", hint="Nothing was imported.") from error
    if report["verdict"] not in ("ok", "recovered"):
        place = report["place"]
        where = " ".join(str(place[name]) for name in ("file", "seq", "field") if place[name] not in ("", None))
        raise DataLossError(
            f"the bundle doesn't verify: {report['verdict']}{f' at {where}' if where else ''}: {place['why']}",
            reason="BUNDLE_NOT_VERIFIED",
            hint="Nothing was imported. Get the bundle again from who made it, or from somebody else.",
            metadata={"verdict": str(report["verdict"])},
        )
    return report


def import_entries(source: BundleSource, write: Writes, *, root: str) -> int:
    """Takes all entries into an empty ledger; returns how many.

    Args:
        source: the bundle.
        write: runs each step in a transaction of its own.
        root: the root (hexadecimal) of the verified entries; these must be the same.

    Raises:
        DataLossError: ``BUNDLE_CHANGED``: the file isn't the one that was verified.
    """
    tree = CompactRange()
    for page in _pages(source):
        for row in page:
            tree.append(row.leaf)
        write(lambda tx, page=page: _take(tx, page))  # type: ignore[misc]  # mypy can't infer a lambda's default
    if tree.root().hex() != root:
        raise _changed("its entries have another root now")
    while write(catch_up):
        pass
    return tree.size


def _pages(source: BundleSource) -> Iterator[list[StoredEntry]]:
    page: list[StoredEntry] = []
    try:
        for row in source.rows():
            if not (isinstance(row.data, bytes) and isinstance(row.leaf, bytes)):
                raise _changed("an entry is no bytes")
            if not (isinstance(row.seq, int) and isinstance(row.prev, str)):
                raise _changed("an entry has no number")
            page.append(StoredEntry(row.seq, row.prev, row.leaf, row.data))
            if len(page) == _PAGE:
                yield page
                page = []
    except UnreadableError as error:
        raise _changed(str(error)) from error
    if page:
        yield page


def _take(tx: Transaction, page: Sequence[StoredEntry]) -> int:
    for row in page:
        tx.ledger.insert(row)
        try:
            agent = decode(row.data).get("agent")
        except NotCanonicalError as error:
            raise _changed(f"entry {row.seq} can't be read") from error
        if isinstance(agent, dict):
            name, number = agent.get("id"), agent.get("seq")
            if not isinstance(name, str) or not isinstance(number, int):
                raise _changed(f"entry {row.seq} has no agent")
            tx.ledger.set_agent_head(name, Head(number, row.leaf), row.seq)
        grow(tx.ledger, row.seq + 1)
    return len(page)


def _changed(why: str) -> DataLossError:
    return DataLossError(
        f"the bundle was changed while it was imported: {why}",
        reason="BUNDLE_CHANGED",
        hint="Nothing is left of the import. Copy the bundle to a place of your own, and try again.",
    )
