"""What the ledger's own projections must hold, from its entries alone: tiles, agents' heads and the index."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from broker.domain.canonical import JsonObject
from broker.domain.ports import TILE_WIDTH, LedgerTable, StoredEntry
from broker.domain.projection import Expected
from broker.ledger.encoding import decode
from broker.ledger.index import keys_of
from broker.tlog.merkle import CompactRange

_PAGE = 2000


def walk(table: LedgerTable) -> Iterator[tuple[StoredEntry, JsonObject]]:
    """Every entry in order, with what it says.

    Raises:
        NotCanonicalError: an entry can't be read; not after the ledger has verified.
    """
    first = 0
    while page := table.entries(first, _PAGE):
        for row in page:
            yield row, decode(row.data)
        first = page[-1].seq + 1


class AgentHeads:
    """The last entry of each agent's own chain."""

    def __init__(self) -> None:
        self._rows: dict[str, Expected] = {}

    def entry(self, row: StoredEntry, entry: JsonObject) -> None:
        """Takes the next entry."""
        agent = entry.get("agent")
        if isinstance(agent, dict):
            name, seq = agent.get("id"), agent.get("seq")
            if isinstance(name, str) and isinstance(seq, int):
                self._rows[name] = {"agent": name, "seq": seq, "leaf": row.leaf, "entry_seq": row.seq}

    def rows(self) -> Iterator[Expected]:
        """Rows of ``ledger_agent``, by their keys."""
        return (self._rows[name] for name in sorted(self._rows))


def index_rows(table: LedgerTable, listen: Callable[[StoredEntry, JsonObject], None]) -> Iterator[Expected]:
    """Rows of ``ledger_index``, by their keys; ``listen`` hears every entry on the way."""
    for row, entry in walk(table):
        listen(row, entry)
        keys = keys_of(entry)
        yield {
            "seq": row.seq,
            "type": keys.type,
            "ts": keys.ts,
            "agent": keys.agent or None,
            "call_id": keys.call_id or None,
            "workspace": keys.workspace or None,
            "tool": keys.tool or None,
        }


def tile_rows(table: LedgerTable) -> Iterator[Expected]:
    """Rows of ``ledger_tile``, by their keys: those of level 0 once they are complete, those above as far as they go."""
    above: list[bytes] = []
    index = 0
    while len(leaves := table.leaves(index * TILE_WIDTH, TILE_WIDTH)) == TILE_WIDTH:
        yield {"level": 0, "idx": index, "hashes": b"".join(leaves)}
        above.append(CompactRange(leaves).root())
        index += 1
    level = 1
    while above:
        tiles = [above[at : at + TILE_WIDTH] for at in range(0, len(above), TILE_WIDTH)]
        for at, tile in enumerate(tiles):
            yield {"level": level, "idx": at, "hashes": b"".join(tile)}
        above = [CompactRange(tile).root() for tile in tiles if len(tile) == TILE_WIDTH]
        level += 1
