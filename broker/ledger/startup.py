"""Verifies the whole ledger before a broker takes calls: none is recorded on top of something broken."""

from __future__ import annotations

from collections.abc import Iterator

from broker.domain.ports import Store, Transaction
from broker.errors import DataLossError
from broker.ledger.verdict import Report, Verdict
from broker.ledger.verifier import Row, verify

_PAGE = 2000


async def verify_store(store: Store) -> Report:
    """Checks every entry of a store's ledger, off the event loop.

    Raises:
        DataLossError: ``LEDGER_NOT_VERIFIED``; names verdict and place.
    """
    report = await store.read(lambda tx: verify(_rows(tx)))
    if report.verdict is not Verdict.OK:
        place = report.place
        where = "" if place is None else f" at entry {place.seq}, {place.field}: {place.why}"
        raise DataLossError(
            f"the ledger doesn't verify: {report.verdict.value}{where}",
            reason="LEDGER_NOT_VERIFIED",
            hint="Keep the file as it is, look with `broker ledger verify`, and restore a backup.",
            metadata={"verdict": report.verdict.value},
        )
    return report


def _rows(tx: Transaction) -> Iterator[Row]:
    first = 0
    while page := tx.ledger.entries(first, _PAGE):
        yield from (Row(item.seq, item.prev, item.leaf, item.data) for item in page)
        first = page[-1].seq + 1
