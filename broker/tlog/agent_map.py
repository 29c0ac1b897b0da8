"""Which entry each agent's chain ends with, as one hash: a sparse binary Merkle trie, by SHA-256 of the agent's id.

A subtree without leaves is 32 zero bytes, a subtree of one leaf is that leaf, and any other is node(0-bit, 1-bit):

    leaf = SHA-256(0x00 || SHA-256(agent id) || u64 number || last leaf hash)
    node = SHA-256(0x01 || left || right)

Going down by the bits of an agent's key (the highest first) ends at one place only, whoever made the root: so a root
says of every agent where its chain ends, or that it has none, and can't say two things.
"""

from __future__ import annotations

import hashlib
import re

from broker.domain.canonical import MAX_SAFE_INTEGER, JsonObject, JsonValue
from broker.tlog.merkle import HASH_BYTES, ProofError, node_hash

EMPTY_MAP_ROOT = bytes(HASH_BYTES)
"""Root of a map without agents."""

_BITS = 8 * HASH_BYTES
_HEX = re.compile("[0-9a-f]{64}")


class _Leaf:
    __slots__ = ("hash", "key", "leaf", "seq")

    def __init__(self, key: bytes, seq: int, leaf: bytes) -> None:
        self.key, self.seq, self.leaf = key, seq, leaf
        self.hash = _leaf_hash(key, seq, leaf)


class _Inner:
    __slots__ = ("children", "hash")

    def __init__(self) -> None:
        self.children: list[_Leaf | _Inner | None] = [None, None]
        self.hash: bytes | None = None
        """``None`` until it is asked for after a change below."""


class AgentMap:
    """Agents and the last entry of each one's own chain. The root depends on these alone, not on their order."""

    def __init__(self) -> None:
        self._top: _Leaf | _Inner | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def set(self, agent: str, seq: int, leaf: bytes) -> None:
        """Says where an agent's chain ends: the entry's number in that chain and its leaf hash (32 bytes).

        Raises:
            ValueError: that is no number of an entry, or no leaf hash.
        """
        if not 0 <= seq <= MAX_SAFE_INTEGER or len(leaf) != HASH_BYTES:
            raise ValueError(f"an agent's chain can't end with number {seq} and a leaf hash of {len(leaf)} bytes")
        new = _Leaf(_key(agent), seq, leaf)
        parent, at, depth = None, self._top, 0
        while isinstance(at, _Inner):
            at.hash = None
            parent, at, depth = at, at.children[_bit(new.key, depth)], depth + 1
        put: _Leaf | _Inner = new
        if at is None or at.key != new.key:
            self._count += 1
            if at is not None:
                put = _fork(at, new, depth)
        if parent is None:
            self._top = put
        else:
            parent.children[_bit(new.key, depth - 1)] = put

    def root(self) -> bytes:
        """The hash over all of it, 32 bytes; only what lies above a change is hashed anew."""
        return _hash(self._top)

    def prove(self, agent: str) -> JsonObject:
        """What shows where an agent's chain ends, or that the map has no such agent.

        ``siblings`` are the hashes beside the way down, the root's child first. ``other`` is the leaf where the way of an
        agent that isn't there ends, as ``{"key", "seq", "leaf"}``; ``null`` where it ends at its own leaf or at nothing.
        """
        key, at = _key(agent), self._top
        siblings: list[JsonValue] = []
        while isinstance(at, _Inner):
            bit = _bit(key, len(siblings))
            siblings.append(_hash(at.children[1 - bit]).hex())
            at = at.children[bit]
        other: JsonObject | None = None
        if at is not None and at.key != key:
            other = {"key": at.key.hex(), "seq": at.seq, "leaf": at.leaf.hex()}
        return {"siblings": siblings, "other": other}


def verify_head(root: bytes, agent: str, head: tuple[int, bytes] | None, proof: JsonObject) -> None:
    """Checks that the map with this ``root`` says this of an agent.

    Args:
        root: 32 bytes.
        agent: the agent's id.
        head: number and leaf hash of the last entry of its chain; ``None``: it isn't in the map.
        proof: what ``AgentMap.prove`` gave, as JSON from anywhere.

    Raises:
        ProofError: it doesn't follow from the proof.
    """
    if set(proof) != {"siblings", "other"}:
        raise ProofError("the proof of an agent's head has not the members siblings and other alone")
    key, siblings, other = _key(agent), proof["siblings"], proof["other"]
    if not isinstance(siblings, list) or len(siblings) > _BITS:
        raise ProofError(f"siblings is not a list of at most {_BITS} hashes")
    node = _end(key, head, other, len(siblings))
    for depth in range(len(siblings) - 1, -1, -1):
        sibling = _unhex(siblings[depth])
        node = node_hash(sibling, node) if _bit(key, depth) else node_hash(node, sibling)
    if node != root:
        raise ProofError(f"the proof of the head of agent {agent!r} leads to another root")


def _end(key: bytes, head: tuple[int, bytes] | None, other: JsonValue, depth: int) -> bytes:
    """The hash of what the way down ends at."""
    if head is not None:
        if other is not None:
            raise ProofError("the proof shows another agent's head")
        seq, leaf = head
        if not 0 <= seq <= MAX_SAFE_INTEGER or len(leaf) != HASH_BYTES:
            raise ProofError("the head is no number of an entry with a leaf hash")
        return _leaf_hash(key, seq, leaf)
    if other is None:
        return EMPTY_MAP_ROOT
    if not isinstance(other, dict) or set(other) != {"key", "seq", "leaf"}:
        raise ProofError("other is not a head with key, seq and leaf")
    found, seq_there = _unhex(other["key"]), other["seq"]
    if type(seq_there) is not int or not 0 <= seq_there <= MAX_SAFE_INTEGER:
        raise ProofError("the other head has no number of an entry")
    if found == key:
        raise ProofError("the other head is the agent's own")
    if any(_bit(found, bit) != _bit(key, bit) for bit in range(depth)):
        raise ProofError("the other head doesn't lie on the agent's way")
    return _leaf_hash(found, seq_there, _unhex(other["leaf"]))


def _fork(there: _Leaf, new: _Leaf, depth: int) -> _Inner:
    """What stands in place of a leaf at ``depth`` once a second one comes there: it goes down as far as both agree."""
    top = inner = _Inner()
    while (bit := _bit(new.key, depth)) == _bit(there.key, depth):
        below = _Inner()
        inner.children[bit] = below
        inner, depth = below, depth + 1
    inner.children[bit], inner.children[1 - bit] = new, there
    return top


def _hash(at: _Leaf | _Inner | None) -> bytes:
    if at is None:
        return EMPTY_MAP_ROOT
    if at.hash is None:
        left, right = at.children
        at.hash = node_hash(_hash(left), _hash(right))
    return at.hash


def _key(agent: str) -> bytes:
    return hashlib.sha256(agent.encode()).digest()


def _bit(key: bytes, depth: int) -> int:
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def _leaf_hash(key: bytes, seq: int, leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + key + seq.to_bytes(8, "big") + leaf).digest()


def _unhex(value: JsonValue) -> bytes:
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise ProofError("a hash in the proof is not 64 hexadecimal digits")
    return bytes.fromhex(value)
