"""Makes entries findable by what they are about: a projection, kept up beside the appends and never in their way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

import structlog

from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.ports import EntryKeys, Store, Transaction
from broker.errors import BrokerError, DataLossError
from broker.ledger.encoding import NotCanonicalError, decode

PAGE = 1000
"""Entries that one transaction makes findable."""

_log = structlog.get_logger(__name__)


class Indexer:
    """Makes entries findable while a broker runs, now and then; an async context manager.

    What it hasn't come to is found all the same, by reading the entries themselves.

    Args:
        store: of the ledger.
        interval_s: how long new entries may wait.
    """

    def __init__(self, store: Store, interval_s: float = 2.0) -> None:
        self._store = store
        self._interval_s = interval_s
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="ledger-index")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                while not self._stop.is_set() and await self._store.read(_behind):
                    await self._store.write(catch_up)
            except BrokerError as error:
                _log.warning("ledger.index_behind", reason=error.reason, error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._stop.wait()


def _behind(tx: Transaction) -> bool:
    head = tx.ledger.head()
    return head is not None and tx.ledger.indexed() <= head.seq


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
