"""The RFC 6962 Merkle tree over the entries' leaf hashes, built as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of a tree without leaves."""


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

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> None:
        """Adds one leaf hash (32 bytes)."""
        # Each trailing one bit of the size is a perfect subtree that the new leaf completes to a larger one.
        node, size = leaf, self._size
        while size & 1:
            node = node_hash(self._roots.pop(), node)
            size >>= 1
        self._roots.append(node)
        self._size += 1

    def root(self) -> bytes:
        """The tree's root, 32 bytes."""
        if not self._roots:
            return EMPTY_ROOT
        root = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            root = node_hash(left, root)
        return root
