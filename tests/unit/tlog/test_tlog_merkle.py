"""Trees and proofs against the definition: the naive recursive tree of RFC 6962, section 2.1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.tlog.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Node,
    ProofError,
    consistency_proof,
    inclusion_proof,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

LEAVES = tuple(hashlib.sha256(b"\x00" + str(number).encode()).digest() for number in range(700))
SIZES = sorted({0, 1, 2, 3, *range(4, 40), 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 600})
OTHER = hashlib.sha256(b"another").digest()


def _split(size: int) -> int:
    split = 1
    while split * 2 < size:
        split *= 2
    return split


@cache
def naive_root(begin: int, end: int) -> bytes:
    if begin == end:
        return hashlib.sha256(b"").digest()
    if end - begin == 1:
        return LEAVES[begin]
    middle = begin + _split(end - begin)
    return hashlib.sha256(b"\x01" + naive_root(begin, middle) + naive_root(middle, end)).digest()


def naive_path(index: int, begin: int, end: int) -> list[bytes]:
    if end - begin == 1:
        return []
    middle = begin + _split(end - begin)
    if index < middle:
        return [*naive_path(index, begin, middle), naive_root(middle, end)]
    return [*naive_path(index, middle, end), naive_root(begin, middle)]


def naive_subproof(old: int, begin: int, end: int, *, whole: bool) -> list[bytes]:
    if old == end:
        return [] if whole else [naive_root(begin, end)]
    middle = begin + _split(end - begin)
    if old <= middle:
        return [*naive_subproof(old, begin, middle, whole=whole), naive_root(middle, end)]
    return [*naive_subproof(old, middle, end, whole=False), naive_root(begin, middle)]


def node(level: int, index: int) -> bytes:
    return naive_root(index << level, (index + 1) << level)


def within(size: int) -> Node:
    """Nodes of a tree of this size alone: what lies beyond it isn't there."""

    def found(level: int, index: int) -> bytes:
        assert (index + 1) << level <= size, (level, index, size)
        return node(level, index)

    return found


def spoiled(proof: Sequence[bytes], *roots: bytes) -> list[tuple[bytes, ...]]:
    """Every way to cut, stretch, reorder and change a proof, and none of them the proof."""
    whole = tuple(proof)
    ways = [whole[:-1], whole[1:], whole[::-1], (*whole, b""), (b"", *whole)]
    for extra in (OTHER, EMPTY_ROOT, *roots, *whole):
        ways += [(*whole, extra), (extra, *whole)]
    for place, item in enumerate(whole):
        ways.append((*whole[:place], *whole[place + 1 :]))
        ways += [
            (*whole[:place], wrong, *whole[place + 1 :])
            for wrong in (OTHER, item[:-1], item + b"\x00", bytes([item[0] ^ 8]) + item[1:])
        ]
    return [way for way in ways if way != whole]


def refused(check: Callable[[], None]) -> None:
    with pytest.raises(ProofError):
        check()


@pytest.mark.parametrize("size", SIZES)
def test_roots_are_the_definitions(size: int) -> None:
    assert tree_root(size, within(size)) == naive_root(0, size)
    assert CompactRange(LEAVES[:size]).root() == naive_root(0, size)


@pytest.mark.parametrize("size", SIZES)
def test_each_leaf_is_proved_and_proved_nowhere_else(size: int) -> None:
    root = naive_root(0, size)
    for index in range(size):
        proof = inclusion_proof(index, size, within(size))
        assert list(proof) == naive_path(index, 0, size)
        verify_inclusion(LEAVES[index], index, size, proof, root)
        for wrong in {index - 1, index + 1, index ^ 2, index + size, -1, size, size - 1 - index} - {index}:
            refused(lambda: verify_inclusion(LEAVES[index], wrong, size, proof, root))  # noqa: B023 - called at once
        for leaf, top in ((OTHER, root), (LEAVES[index], OTHER), (root, LEAVES[index]), (LEAVES[index], EMPTY_ROOT)):
            if (leaf, top) != (LEAVES[index], root):
                refused(lambda: verify_inclusion(leaf, index, size, proof, top))  # noqa: B023 - called at once
    for index in (-1, size, size + 1):
        refused(lambda: inclusion_proof(index, size, node) and None)  # noqa: B023 - called at once


@given(st.data())
def test_no_other_proof_shows_an_inclusion(data: st.DataObject) -> None:
    size = data.draw(st.one_of(st.integers(1, 66), st.sampled_from(SIZES[1:])))
    index = data.draw(st.integers(0, size - 1))
    root = naive_root(0, size)
    proof = inclusion_proof(index, size, node)
    for way in spoiled(proof, root, LEAVES[index]):
        refused(lambda: verify_inclusion(LEAVES[index], index, size, way, root))  # noqa: B023 - called at once
    # Another size has another root; with this root, one that needs the same steps is not told apart by RFC 9162.
    for other in {0, size - 1, size + 1, size * 2, size // 2} - {size}:
        refused(lambda: verify_inclusion(LEAVES[index], index, other, proof, naive_root(0, min(other, 700))))  # noqa: B023
        if other <= index or inclusion_steps(index, other) != inclusion_steps(index, size):
            refused(lambda: verify_inclusion(LEAVES[index], index, other, proof, root))  # noqa: B023 - called at once


def inclusion_steps(index: int, size: int) -> list[bool]:
    """On which side each hash of a proof goes: true is left."""
    steps = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        steps.append(index >= middle)
        begin, end = (middle, end) if index >= middle else (begin, middle)
    return steps


@pytest.mark.parametrize("new", range(71))
def test_consistency_between_all_sizes(new: int) -> None:
    root = naive_root(0, new)
    for old in range(new + 1):
        proof = consistency_proof(old, new, within(new))
        assert list(proof) == ([] if old == 0 else naive_subproof(old, 0, new, whole=True))
        before = naive_root(0, old)
        verify_consistency(old, before, new, root, proof)
        for first, second in ((OTHER, root), (before, OTHER), (root, before)):
            if (first, second) != (before, root) and not (old == 0 and first == before):
                refused(lambda: verify_consistency(old, first, new, second, proof))  # noqa: B023 - called at once
    refused(lambda: consistency_proof(new + 1, new, node) and None)
    refused(lambda: consistency_proof(-1, new, node) and None)


def test_from_nothing_to_anything_is_consistent_without_a_proof() -> None:
    verify_consistency(0, EMPTY_ROOT, 5, naive_root(0, 5), ())
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, ())
    refused(lambda: verify_consistency(0, OTHER, 5, naive_root(0, 5), ()))
    refused(lambda: verify_consistency(0, EMPTY_ROOT, 5, naive_root(0, 5), (OTHER,)))
    refused(lambda: verify_consistency(0, OTHER, 0, OTHER, ()))
    refused(lambda: verify_consistency(0, EMPTY_ROOT, 0, OTHER, ()))


@given(st.data())
def test_no_other_proof_shows_consistency(data: st.DataObject) -> None:
    new = data.draw(st.one_of(st.integers(1, 70), st.sampled_from(SIZES[1:])))
    old = data.draw(st.integers(1, new))
    before, root = naive_root(0, old), naive_root(0, new)
    proof = consistency_proof(old, new, node)
    for way in spoiled(proof, before, root):
        refused(lambda: verify_consistency(old, before, new, root, way))  # noqa: B023 - called at once
    # Sizes that are wrong, with the roots that are theirs and with those that were claimed.
    for first, second in {(old - 1, new), (old + 1, new), (old, new + 1), (old, new - 1), (old * 2, new), (new, old)}:
        if (first, second) == (old, new) or not 0 < first <= second <= 700:
            continue
        if first == second:
            continue
        other = consistency_proof(first, second, node)
        if other != proof:
            mine = naive_root(0, first), naive_root(0, second)
            refused(lambda: verify_consistency(first, mine[0], second, mine[1], proof))  # noqa: B023 - called at once


def test_a_larger_trees_proof_is_none_of_a_smaller_tree() -> None:
    # Made so that the hashes come out: what refuses them is only that the smaller tree has no such level.
    refused(lambda: verify_inclusion(LEAVES[1], 0, 1, (LEAVES[0],), naive_root(0, 2)))
    refused(lambda: verify_inclusion(LEAVES[1], 1, 2, (LEAVES[0], OTHER), node_hash(OTHER, naive_root(0, 2))))
    proof = (LEAVES[2], LEAVES[3], naive_root(0, 2))
    verify_consistency(3, naive_root(0, 3), 4, naive_root(0, 4), proof)
    old, new = node_hash(OTHER, naive_root(0, 3)), node_hash(OTHER, naive_root(0, 4))
    refused(lambda: verify_consistency(3, old, 4, new, (*proof, OTHER)))


def test_the_hashes_of_a_node_end_where_they_end() -> None:
    pair = naive_root(0, 2)
    left, right = LEAVES[0] + LEAVES[1][:1], LEAVES[1][1:]  # the same 64 bytes
    refused(lambda: verify_inclusion(left, 0, 2, (right,), pair))
    refused(lambda: verify_inclusion(right, 1, 2, (left,), pair))
    refused(lambda: verify_consistency(1, left, 2, pair, (right,)))


def test_bounds_of_sizes() -> None:
    refused(lambda: verify_inclusion(LEAVES[0], 0, 2**63, (), LEAVES[0]))
    refused(lambda: verify_inclusion(LEAVES[0], 2**64, 2**64 + 1, (), LEAVES[0]))
    refused(lambda: verify_consistency(1, LEAVES[0], 2**63, OTHER, (OTHER,)))


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(0, 600))
def test_a_tree_grows_by_subtrees_as_by_leaves(levels: list[int], start: int) -> None:
    tree = CompactRange(LEAVES[:start])
    for level in levels:
        size = tree.size
        if size + (1 << level) > len(LEAVES):
            break
        if size % (1 << level):
            with pytest.raises(ValueError, match="can't begin"):
                tree.append_subtree(level, OTHER)
            assert (tree.size, tree.root()) == (size, naive_root(0, size))
            continue
        tree.append_subtree(level, node(level, size >> level))
        assert tree.size == size + (1 << level)
        assert tree.root() == naive_root(0, tree.size)
        assert tree.nodes == CompactRange(LEAVES[: tree.size]).nodes


@given(st.integers(0, 600))
def test_a_tree_goes_on_from_what_was_kept(size: int) -> None:
    kept = CompactRange(LEAVES[:size]).nodes
    tree = CompactRange.restore(size, kept)
    assert (tree.size, tree.root()) == (size, naive_root(0, size))
    tree.append(LEAVES[size])
    assert tree.root() == naive_root(0, size + 1)
    for wrong in ((*kept, OTHER), kept[1:] if kept else (OTHER,), tuple(item[1:] for item in kept) or (b"",)):
        with pytest.raises(ValueError, match="nodes are not those"):
            CompactRange.restore(size, wrong)


def test_proofs_need_few_nodes() -> None:
    asked: list[tuple[int, int]] = []

    def counted(level: int, index: int) -> bytes:
        asked.append((level, index))
        return OTHER

    for size in (10**6, 2**40 - 1, 2**63 - 1):
        for index in (0, 1, size // 2, size // 3, size - 1):
            asked.clear()
            inclusion_proof(index, size, counted)
            assert len(asked) <= 2 * size.bit_length()
            asked.clear()
            consistency_proof(index + 1, size, counted)
            assert len(asked) <= 2 * size.bit_length()
