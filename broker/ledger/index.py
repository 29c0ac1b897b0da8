"""Makes entries findable by what they are about: a projection, kept up beside the appends and never in their way."""

from __future__ import annotations

from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.ports import EntryKeys, Transaction
from broker.errors import DataLossError
from broker.ledger.encoding import NotCanonicalError, decode

PAGE = 1000
"""Entries that one transaction makes findable."""


def catch_up(tx: Transaction) -> int:
    """Makes up to ``PAGE`` more entries findable, in a writing transaction; returns how many, 0 when all are.

    Raises:
        DataLossError: ``LEDGER_DAMAGED``: an entry can't be read.
    """
    rows = tx.ledger.entries(tx.ledger.indexed(), PAGE)
    if rows:
        tx.ledger.index({row.seq: keys_of(_read(row.seq, row.data)) for row in rows})
    return len(rows)


def keys_of(entry: JsonObject) -> EntryKeys:
    """By what an entry is found. Members of an unexpected kind count as absent: the entry itself is shown as it is."""
    return EntryKeys(
        type=_text(entry.get("type")),
        ts=_text(entry.get("ts")),
        agent=_member(entry, "agent", "id"),
        call_id=_text(entry.get("call_id")),
        workspace=_text(entry.get("workspace")),
        tool=_member(entry, "tool", "name"),
    )


def _read(seq: int, data: bytes) -> JsonObject:
    try:
        return decode(data)
    except NotCanonicalError as error:
        raise DataLossError(
            f"entry {seq} of the ledger can't be read: {error}",
            reason="LEDGER_DAMAGED",
            hint="Run `broker ledger verify`, keep the file and restore a backup.",
        ) from error


def _member(entry: JsonObject, name: str, inner: str) -> str:
    value = entry.get(name)
    return _text(value.get(inner)) if isinstance(value, dict) else ""


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""
