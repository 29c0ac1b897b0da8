"""The RFC 6962 Merkle tree over the entries' leaf hashes: its root, its proofs, and their verification (RFC 9162, 2.1).

Making roots and proofs needs only hashes of perfect subtrees, O(log n) of them: a ``Node`` says where they come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of a tree without leaves."""

HASH_BYTES = 32
"""Length of every hash here."""

MAX_SIZE = 2**63 - 1
"""Most leaves of a tree; a proof has fewer than 64 hashes for an inclusion and fewer than 128 for a consistency."""

Node: TypeAlias = Callable[[int, int], bytes]
"""(level, index) -> the hash of the perfect subtree of ``2**level`` leaves that starts at leaf ``index * 2**level``."""


class ProofError(ValueError):
    """A proof doesn't show what it should; the text says where it fails."""


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data), 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange:
    """A tree of ``size`` leaves as the roots of its perfect subtrees, largest first: O(log n) to keep and to extend."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._size = 0
        self._roots: list[bytes] = []
        for leaf in leaves:
            self.append(leaf)

    @classmethod
    def restore(cls, size: int, nodes: Iterable[bytes]) -> CompactRange:
        """The tree of ``size`` leaves whose ``nodes`` were kept.

        Raises:
            ValueError: a tree of this size has another number of nodes, or one isn't 32 bytes long.
        """
        roots = list(nodes)
        if (
            not 0 <= size <= MAX_SIZE
            or len(roots) != size.bit_count()
            or any(len(node) != HASH_BYTES for node in roots)
        ):
            raise ValueError(f"{len(roots)} nodes are not those of a tree of {size} leaves")
        tree = cls()
        tree._size, tree._roots = size, roots
        return tree

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The perfect subtrees' roots, largest first: as many as the size has one bits."""
        return tuple(self._roots)

    def append(self, leaf: bytes) -> None:
        """Adds one leaf hash (32 bytes)."""
        # Each trailing one bit of the size is a perfect subtree that the new leaf completes to a larger one.
        node, size = leaf, self._size
        while size & 1:
            node = node_hash(self._roots.pop(), node)
            size >>= 1
        self._roots.append(node)
        self._size += 1

    def append_subtree(self, level: int, node: bytes) -> None:
        """Adds ``2**level`` leaves at once, as the root of their perfect subtree (32 bytes).

        Raises:
            ValueError: such a subtree can't begin at this size, which is no multiple of ``2**level``.
        """
        size = self._size >> level
        if size << level != self._size:
            raise ValueError(f"a subtree of level {level} can't begin at leaf {self._size}")
        while size & 1:
            node = node_hash(self._roots.pop(), node)
            size >>= 1
        self._roots.append(node)
        self._size += 1 << level

    def root(self) -> bytes:
        """The tree's root, 32 bytes."""
        return _fold(self._roots)


def tree_root(size: int, node: Node) -> bytes:
    """The root of the tree of the first ``size`` leaves, 32 bytes."""
    return _range_root(0, size, node)


def inclusion_proof(index: int, size: int, node: Node) -> tuple[bytes, ...]:
    """The hashes that lead from leaf ``index`` to the root of the tree of ``size`` leaves, the leaf's sibling first.

    Raises:
        ProofError: there is no such leaf in that tree.
    """
    if not 0 <= index < size:
        raise ProofError(f"a tree of {size} leaves has no leaf {index}")
    proof = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            # Only the first right sibling of these may be less than perfect: from there on the subtree is perfect.
            proof.append(_range_root(middle, end, node))
            end = middle
        else:
            proof.append(_range_root(begin, middle, node))
            begin = middle
    return tuple(reversed(proof))


def consistency_proof(old_size: int, new_size: int, node: Node) -> tuple[bytes, ...]:
    """The hashes that show that the tree of ``new_size`` leaves extends the tree of ``old_size`` leaves.

    Empty where ``old_size`` is 0 or ``new_size``.

    Raises:
        ProofError: ``old_size`` is the larger one, or negative.
    """
    if not 0 <= old_size <= new_size:
        raise ProofError(f"a tree of {new_size} leaves can't extend one of {old_size}")
    if old_size in {0, new_size}:
        return ()
    proof = []
    begin, end = 0, new_size
    while old_size != end:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            proof.append(_range_root(middle, end, node))
            end = middle
        else:
            proof.append(_range_root(begin, middle, node))
            begin = middle
    if begin:  # otherwise it is the old tree itself, whose root the verifier has
        proof.append(_range_root(begin, end, node))
    return tuple(reversed(proof))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Checks that the leaf hash ``leaf`` stands at ``index`` in the tree of ``size`` leaves with this ``root``.

    Raises:
        ProofError: it doesn't follow from the proof.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"a tree of {size} leaves has no leaf {index}")
    _check_hashes(leaf, root, *proof)
    position, last, node = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofError("the proof goes on above the root")
        if position & 1 or position == last:
            node = node_hash(step, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, step)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the proof ends below the root")
    if node != root:
        raise ProofError(f"the proof leads from leaf {index} to another root")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Checks that the tree of ``new_size`` leaves begins with the leaves of the tree of ``old_size``.

    Raises:
        ProofError: it doesn't follow from the proof.
    """
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise ProofError(f"a tree of {new_size} leaves can't extend one of {old_size}")
    _check_hashes(old_root, new_root, *proof)
    if any(size == 0 and root != EMPTY_ROOT for size, root in ((old_size, old_root), (new_size, new_root))):
        raise ProofError("a tree without leaves has another root")
    if old_size in {0, new_size}:
        if proof:
            raise ProofError(f"from {old_size} to {new_size} leaves a proof has no hash")
        if old_size == new_size and old_root != new_root:
            raise ProofError(f"two different roots of {old_size} leaves")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)  # a perfect tree is a node of the new one
    if not path:
        raise ProofError("the proof has no hash")
    old, new = _climb(old_size, new_size, path)
    if old != old_root:
        raise ProofError(f"the proof leads to another root of {old_size} leaves")
    if new != new_root:
        raise ProofError(f"the proof leads to another root of {new_size} leaves")


def _climb(old_size: int, new_size: int, path: list[bytes]) -> tuple[bytes, bytes]:
    """Both roots that a consistency proof leads to (RFC 9162, 2.1.4.2)."""
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            raise ProofError("the proof goes on above the root")
        if position & 1 or position == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, step)
        position >>= 1
        last >>= 1
    if last:
        raise ProofError("the proof ends below the root")
    return old, new


def _check_hashes(*hashes: bytes) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise ProofError(f"a hash is not {HASH_BYTES} bytes long")


def _split(width: int) -> int:
    """The largest power of two below ``width``, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _range_root(begin: int, end: int, node: Node) -> bytes:
    """The root over leaves ``begin`` to ``end``, where ``begin`` is a multiple of a power of two not below their number."""
    roots, width = [], end - begin
    for level in range(width.bit_length() - 1, -1, -1):
        if width >> level & 1:
            roots.append(node(level, begin >> level))
            begin += 1 << level
    return _fold(roots)


def _fold(roots: Sequence[bytes]) -> bytes:
    """One root over perfect subtrees, largest first."""
    if not roots:
        return EMPTY_ROOT
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = node_hash(left, root)
    return root
