"""The ledger's entries about one call, each checked by itself and against its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from broker.domain.canonical import JsonObject
from broker.domain.ports import EntryQuery, StoredEntry, Transaction
from broker.errors import DataLossError
from broker.ledger.entry_checks import FoundError, check_columns, check_hash, check_members, parse
from broker.ledger.reading import Step, read_step
from broker.ledger.source import Row
from broker.replay.obstacles import doctored

_MOST = 1000
"""Entries about one call that are looked at; a call has a dozen."""


@dataclass(frozen=True, slots=True)
class CallEntry:
    """One entry about a call: its bytes have the stored hash, and the entries beside it are linked to it."""

    seq: int
    type: str
    body: JsonObject

    def part(self, name: str) -> JsonObject:
        """A member that is an object; empty where it is none."""
        found = self.body.get(name)
        return found if isinstance(found, dict) else {}


def entries_of(tx: Transaction, call: str, origin: str) -> tuple[CallEntry, ...]:
    """All entries about a call, oldest first.

    That each is bound to its neighbours says that none of them was changed alone. Whether the whole chain is the one that
    was signed, `broker ledger verify` says.

    Args:
        tx: a transaction.
        call: the call's id.
        origin: of the ledger.

    Raises:
        DataLossError: one of them isn't as it was written (``ENTRY_DOCTORED``), or can't be read (``LEDGER_DAMAGED``).
    """
    found = read_step(tx.ledger, EntryQuery(call_id=call), lambda _: True, Step(entries=_MOST)).entries
    return tuple(_checked(tx, item.row, origin) for item in found)


def of_types(entries: Iterable[CallEntry], *types: str) -> tuple[CallEntry, ...]:
    """Those of some types."""
    return tuple(item for item in entries if item.type in types)


def _checked(tx: Transaction, row: StoredEntry, origin: str) -> CallEntry:
    try:
        data, leaf = check_hash(Row(row.seq, row.prev, row.leaf, row.data), row.seq)
        body = parse(data, row.seq)
        check_columns(Row(row.seq, row.prev, row.leaf, row.data), body, row.seq)
        kind, *_ = check_members(body, row.seq, origin)
    except FoundError as error:
        place = error.place
        raise _doctored(row.seq, f"{place.field} {place.why}") from error
    first = max(row.seq - 1, 0)
    beside = {item.seq: item for item in tx.ledger.entries(first, row.seq + 2 - first)}
    before, after = beside.get(row.seq - 1), beside.get(row.seq + 1)
    if row.seq and (before is None or before.leaf.hex() != row.prev):
        raise _doctored(row.seq, "it doesn't follow the entry before it")
    if after is not None and after.prev != leaf.hex():
        raise _doctored(row.seq, "the entry after it doesn't follow it")
    return CallEntry(row.seq, kind, body)


def _doctored(seq: int, why: str) -> DataLossError:
    return doctored("ENTRY_DOCTORED", f"entry {seq} of the ledger isn't as it was written: {why}")
