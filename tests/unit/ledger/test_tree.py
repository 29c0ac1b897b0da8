"""Roots and proofs from tiles, against a tree that is built from all leaves each time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.ports import TILE_WIDTH
from broker.errors import DataLossError
from broker.ledger.tree import Tree, grow
from broker.tlog.merkle import EMPTY_ROOT, node_hash, verify_consistency, verify_inclusion

LEAVES = [hashlib.sha256(str(number).encode()).digest() for number in range(3 * TILE_WIDTH + 17)]


class Tiles:
    """The part of ``LedgerTable`` that a tree needs, in memory; counts what is read."""

    def __init__(self) -> None:
        self.all: list[bytes] = []
        self.kept: dict[tuple[int, int], bytes] = {}
        self.reads = 0

    def leaves(self, first: int, limit: int) -> Sequence[bytes]:
        self.reads += 1
        return self.all[first : first + limit]

    def tile(self, level: int, index: int) -> bytes | None:
        self.reads += 1
        return self.kept.get((level, index))

    def put_tile(self, level: int, index: int, hashes: bytes) -> None:
        self.kept[level, index] = hashes


def grown(size: int, leaves: Sequence[bytes] = LEAVES) -> Tiles:
    table = Tiles()
    for leaf in leaves[:size]:
        table.all.append(leaf)
        grow(table, len(table.all))  # type: ignore[arg-type]  # the three methods that it uses
    return table


def naive_root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


TABLE = grown(len(LEAVES))


def tree(size: int, table: Tiles = TABLE) -> Tree:
    return Tree(table, size)  # type: ignore[arg-type]  # the methods that it uses


@given(size=st.integers(0, len(LEAVES)))
@settings(deadline=None)
def test_the_root_is_that_of_the_whole_tree(size: int) -> None:
    assert tree(size).root() == naive_root(LEAVES[:size])


@given(data=st.data(), size=st.integers(1, len(LEAVES)))
@settings(deadline=None)
def test_proofs_lead_to_the_root(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    root = naive_root(LEAVES[:size])
    verify_inclusion(LEAVES[index], index, size, tree(size).inclusion_proof(index), root)
    verify_consistency(old, naive_root(LEAVES[:old]), size, root, tree(size).consistency_proof(old))


def test_tiles_are_complete_at_the_bottom_and_grow_above() -> None:
    table = grown(2 * TILE_WIDTH + 5)
    assert {key: len(value) // 32 for key, value in table.kept.items()} == {(0, 0): 256, (0, 1): 256, (1, 0): 2}
    assert table.kept[0, 1] == b"".join(LEAVES[256:512])
    assert table.kept[1, 0] == naive_root(LEAVES[:256]) + naive_root(LEAVES[256:512])


def test_a_full_tile_of_tiles_begins_the_next_level() -> None:
    leaf = LEAVES[0]
    table = Tiles()
    table.all = [leaf] * TILE_WIDTH * TILE_WIDTH
    for size in range(TILE_WIDTH, len(table.all) + 1, TILE_WIDTH):
        grow(table, size)  # type: ignore[arg-type]  # the three methods that it uses
    assert len(table.kept[1, 0]) == 256 * 32
    assert len(table.kept[2, 0]) == 32
    node = leaf
    for _ in range(16):
        node = node_hash(node, node)
    assert table.kept[2, 0] == node == tree(len(table.all), table).root()


@pytest.mark.parametrize("lost", [(0, 1), (1, 0)])
def test_a_lost_tile_is_computed_from_what_lies_below(lost: tuple[int, int]) -> None:
    table = grown(3 * TILE_WIDTH)
    del table.kept[lost]
    assert tree(3 * TILE_WIDTH, table).root() == naive_root(LEAVES[: 3 * TILE_WIDTH])


def test_a_lost_leaf_is_said() -> None:
    table = grown(10)
    table.all.pop()
    with pytest.raises(DataLossError, match="no leaf 9"):
        tree(10, table).root()


def test_a_proof_reads_a_few_tiles_whatever_the_size() -> None:
    table = grown(len(LEAVES))
    table.reads = 0
    tree(len(LEAVES), table).inclusion_proof(300)
    assert table.reads <= 6
