"""Reading entries with filters, in bounded steps: through the index where it reaches, and straight from the ledger beyond.

The index lags behind the appends. What it doesn't hold yet is read entry by entry, so that a reader never misses what is
durable.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from broker.domain.canonical import JsonObject
from broker.domain.ports import EntryKeys, EntryQuery, Head, LedgerTable, StoredEntry
from broker.errors import DataLossError
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.index import keys_of

PUBLIC_TYPES = frozenset({"genesis", "heads", "signer.rotated", "signer.revoked", "recovered"})
"""Entries that whoever may read at all may read: they say which log this is and by which keys it is signed."""

_BATCH = 64


@dataclass(frozen=True, slots=True)
class ReadEntry:
    """An entry as it is stored, and as it is found."""

    row: StoredEntry
    keys: EntryKeys
    body: JsonObject


@dataclass(frozen=True, slots=True)
class Step:
    """How much one step of reading may take up."""

    entries: int
    """Most entries in the answer."""
    looked_at: int = 1_000
    """Most entries that are looked at for it."""
    max_bytes: int = 4 << 20
    """Bytes of entries after which no further one is added."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a step of reading gave. ``next`` is the number to go on from (going down: to go on below); ``None`` at the end."""

    entries: tuple[ReadEntry, ...]
    next: int | None


def read_step(table: LedgerTable, query: EntryQuery, visible: Callable[[EntryKeys], bool], step: Step) -> Read:
    """The next entries that fit and are visible, in the query's order; its ``limit`` is not used.

    Raises:
        DataLossError: ``LEDGER_DAMAGED``: an entry can't be read.
    """
    return read_any(table, (query,), visible, step)


def read_any(
    table: LedgerTable, queries: Sequence[EntryQuery], visible: Callable[[EntryKeys], bool], step: Step
) -> Read:
    """The next entries that fit any of the queries and are visible, each once; none for no query.

    Where an answer ends that isn't the last depends on what is found by the queries, on what of it is visible, and on
    how many entries the index doesn't have yet. So that it tells a reader nothing of others, let the queries find only
    what is visible.

    Args:
        table: the ledger.
        queries: with the same bounds and in the same order.
        visible: may an entry be shown?
        step: how much may be taken up.

    Raises:
        DataLossError: ``LEDGER_DAMAGED``: an entry can't be read.
    """
    found: list[ReadEntry] = []
    size = 0
    for looked_at, (seq, row) in enumerate(_candidates(table, queries)):
        if len(found) == step.entries or looked_at == step.looked_at or size >= step.max_bytes:
            return Read(tuple(found), seq + 1 if queries[0].newest_first else seq)
        if row is not None and visible(row.keys):
            found.append(row)
            size += len(row.row.data)
    return Read(tuple(found), None)


def read_entry(table: LedgerTable, seq: int) -> ReadEntry | None:
    """One entry; ``None`` where the ledger has none of this number.

    Raises:
        DataLossError: ``LEDGER_DAMAGED``.
    """
    rows = table.entries(seq, 1) if seq >= 0 else ()
    return _read(rows[0]) if rows and rows[0].seq == seq else None


def newest(table: LedgerTable, query: EntryQuery) -> ReadEntry | None:
    """The newest entry that fits; ``None`` where there is none.

    Raises:
        DataLossError: ``LEDGER_DAMAGED``.
    """
    found = _candidates(table, (replace(query, newest_first=True),))
    return next((entry for _, entry in found if entry is not None), None)


def heads_at(table: LedgerTable, before: int) -> dict[str, Head]:
    """With which entry each agent's own chain ended when the ledger had ``before`` entries.

    Raises:
        DataLossError: ``LEDGER_DAMAGED``.
    """
    heads = dict(table.agent_heads())
    for agent, _ in table.agent_heads(changed_from=before):
        last = newest(table, EntryQuery(agent=agent, before=before))
        if last is None:
            del heads[agent]
        else:
            heads[agent] = Head(_agent_seq(last), last.row.leaf)
    return heads


def _agent_seq(entry: ReadEntry) -> int:
    agent = entry.body.get("agent")
    seq = agent.get("seq") if isinstance(agent, dict) else None
    if not isinstance(seq, int):
        raise _damaged(entry.row.seq, "it has no number in its agent's chain")
    return seq


def _candidates(table: LedgerTable, queries: Sequence[EntryQuery]) -> Iterator[tuple[int, ReadEntry | None]]:
    """Entries in the queries' order; ``None`` in place of one that was looked at and fits none of them."""
    if not queries:
        return
    query, head = queries[0], table.head()
    end = 0 if head is None else head.seq + 1
    stop = end if query.before is None else min(end, query.before)
    border = table.indexed() if all(map(_filters, queries)) else 0
    each = [_found(table, replace(item, before=min(stop, border))) for item in queries]
    found = _once(heapq.merge(*each, key=lambda item: item[0], reverse=query.newest_first))
    scanned = _scanned(table, queries, max(query.first, border), stop)
    parts = (scanned, found) if query.newest_first else (found, scanned)
    for part in parts:
        yield from part


def _once(items: Iterable[tuple[int, ReadEntry | None]]) -> Iterator[tuple[int, ReadEntry | None]]:
    last = -1
    for item in items:
        if item[0] != last:
            yield item
        last = item[0]


def _found(table: LedgerTable, query: EntryQuery) -> Iterator[tuple[int, ReadEntry | None]]:
    first, before = query.first, query.before or 0
    while first < before:
        numbers = table.find(replace(query, first=first, before=before, limit=_BATCH))
        for seq in numbers:
            entry = read_entry(table, seq)
            if entry is None:
                raise _damaged(seq, "it is missing")
            yield seq, entry
        if len(numbers) < _BATCH:
            return
        if query.newest_first:
            before = numbers[-1]
        else:
            first = numbers[-1] + 1


def _scanned(
    table: LedgerTable, queries: Sequence[EntryQuery], first: int, stop: int
) -> Iterator[tuple[int, ReadEntry | None]]:
    newest_first, starts = queries[0].newest_first, range(first, stop, _BATCH)
    for start in reversed(starts) if newest_first else starts:
        rows = list(table.entries(start, min(_BATCH, stop - start)))
        if newest_first:
            rows.reverse()
        for row in rows:
            entry = _read(row)
            yield row.seq, entry if any(_fits(entry.keys, query) for query in queries) else None


def _filters(query: EntryQuery) -> bool:
    return any((query.types, query.agent, query.call_id, query.workspace, query.tool, query.ts_from, query.ts_before))


def _fits(keys: EntryKeys, query: EntryQuery) -> bool:
    wanted = ((query.agent, keys.agent), (query.call_id, keys.call_id), (query.workspace, keys.workspace))
    return (
        all(not want or want == have for want, have in (*wanted, (query.tool, keys.tool)))
        and (not query.types or keys.type in query.types)
        and keys.ts >= query.ts_from
        and (not query.ts_before or keys.ts < query.ts_before)
    )


def _read(row: StoredEntry) -> ReadEntry:
    try:
        body = decode(row.data)
    except NotCanonicalError as error:
        raise _damaged(row.seq, str(error)) from error
    return ReadEntry(row, keys_of(body), body)


def _damaged(seq: int, why: str) -> DataLossError:
    return DataLossError(
        f"entry {seq} of the ledger can't be read: {why}",
        reason="LEDGER_DAMAGED",
        hint="Run `broker ledger verify`, keep the file and restore a backup.",
    )
