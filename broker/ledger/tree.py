"""The RFC 6962 tree over the entries, kept as tiles of 256 hashes: each root and proof costs O(log n), never a scan.

Tile ``(level, index)`` holds up to 256 nodes of the tree's level ``8 * level``, from node ``256 * index`` on, as in C2SP's
tiled logs. Tiles are projections: what is missing is computed from the tiles below and, at the bottom, from the leaves.
"""

from __future__ import annotations

from broker.domain.ports import TILE_WIDTH, LedgerTable
from broker.errors import DataLossError
from broker.tlog.merkle import consistency_proof, inclusion_proof, node_hash, tree_root

_HASH_BYTES = 32
_TILE_HEIGHT = 8


class Tree:
    """The tree of the first ``size`` entries; made for one transaction, and reads each tile once.

    Args:
        table: the ledger inside a transaction.
        size: number of leaves; the ledger has at least as many.
    """

    def __init__(self, table: LedgerTable, size: int) -> None:
        self._table = table
        self._size = size
        self._tiles: dict[tuple[int, int], tuple[bytes, ...]] = {}
        self._inner: dict[tuple[int, int], bytes] = {}

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def root(self) -> bytes:
        """The root, 32 bytes."""
        return tree_root(self._size, self.node)

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """The hashes that lead from an entry to the root, lowest first."""
        return inclusion_proof(index, self._size, self.node)

    def consistency_proof(self, old_size: int) -> tuple[bytes, ...]:
        """The hashes that show that the tree of ``old_size`` leaves is the beginning of this one."""
        return consistency_proof(old_size, self._size, self.node)

    def node(self, level: int, index: int) -> bytes:
        """The root of the perfect subtree of ``2**level`` leaves from leaf ``index * 2**level`` on.

        Raises:
            DataLossError: ``LEDGER_LEAVES_MISSING``.
        """
        tile_level, above = divmod(level, _TILE_HEIGHT)
        if above == 0:
            tile, place = divmod(index, TILE_WIDTH)
            return self.tile(tile_level, tile, place + 1)[place]
        known = self._inner.get((level, index))
        if known is None:
            known = node_hash(self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1))
            self._inner[level, index] = known
        return known

    def tile(self, level: int, index: int, width: int) -> tuple[bytes, ...]:
        """At least the first ``width`` hashes of a tile, each 32 bytes.

        Raises:
            DataLossError: ``LEDGER_LEAVES_MISSING``.
        """
        found = self._tiles.get((level, index), ())
        if len(found) < width:
            found = self._tiles[level, index] = self._read(level, index, width)
        return found

    def _read(self, level: int, index: int, width: int) -> tuple[bytes, ...]:
        kept = self._table.tile(level, index) or b""
        hashes = tuple(kept[at : at + _HASH_BYTES] for at in range(0, len(kept), _HASH_BYTES))
        if len(hashes) >= width:
            return hashes
        first = index * TILE_WIDTH
        if level:
            missing = range(first + len(hashes), first + width)
            return (*hashes, *(self._above(level - 1, below) for below in missing))
        # All that the tile has, for the next question is mostly about a neighbour.
        leaves = tuple(self._table.leaves(first, min(TILE_WIDTH, self._size - first)))
        if len(leaves) < width:
            raise DataLossError(
                f"the ledger has no leaf {first + len(leaves)}, though it should have {self._size}",
                reason="LEDGER_LEAVES_MISSING",
                hint="Run `broker ledger verify`.",
            )
        return leaves

    def _above(self, level: int, index: int) -> bytes:
        """The one hash above a complete tile."""
        row = self.tile(level, index, TILE_WIDTH)
        while len(row) > 1:
            row = tuple(node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True))
        return row[0]


def grow(table: LedgerTable, size: int) -> None:
    """Keeps the tiles that the last of ``size`` leaves has completed, and the hashes above them."""
    node, rest = divmod(size, TILE_WIDTH)
    if rest or not size:
        return
    tree = Tree(table, size)
    node -= 1
    table.put_tile(0, node, b"".join(tree.tile(0, node, TILE_WIDTH)))
    level, place = 1, TILE_WIDTH - 1
    while place == TILE_WIDTH - 1:
        index, place = divmod(node, TILE_WIDTH)
        table.put_tile(level, index, b"".join(tree.tile(level, index, place + 1)))
        level, node = level + 1, index
