"""Checks a run of consecutive entries by itself, fast, and sums it up for the chain that it is a part of. Pure.

Most of the work is here, and it needs nothing from before the run, so that several processes can share a ledger. The
summary holds what only the whole chain can judge: where the run begins and ends, in the ledger and for each agent, its
part of the Merkle tree, and the entries that say something about all before them.

This never says which entry is wrong, only that one is: ``broker.ledger.chain`` then looks at the rows one after the other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from operator import le
from typing import Any, TypeAlias

import msgspec
import orjson

from broker.domain.canonical import JsonObject
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.entry import HEX_32, MAX_BYTES, VERSION
from broker.ledger.entry_checks import FoundError, read_heads
from broker.ledger.source import Row
from broker.ledger.votes import TYPES, concerns
from broker.ledger.votes_reading import ran_of
from broker.tlog.key_history import KEY_ENTRIES
from broker.tlog.merkle import CompactRange

BATCH = 512
"""Most rows that are checked at once; all but the last batch of a run have as many."""
SEGMENT = 2**15
"""Entries of one run that a worker checks. Aligned, so each whole one is a perfect subtree."""
MAX_LISTED = 1000
"""Most numbers of one kind that are listed."""

_FORM = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_STAMPS = re.compile(r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\n)+")
_STAMP_LENGTH = 28
_OWN_MEMBERS = len(("id", "seq", "prev"))
_ENDS = frozenset({"outcome", "unknown"})
_TELLING = _ENDS | KEY_ENTRIES | {"intent", "heads"}

Part: TypeAlias = tuple[int, str, int, str]
"""Of an agent's own chain in a run: first number, what that entry names before it, last number, its hash (hexadecimal)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something to judge with all that is before entry ``seq``."""

    seq: int
    nodes: tuple[bytes, ...] = ()
    """The tree over the run's entries before it, as a ``CompactRange`` keeps it."""
    data: bytes = b""
    """The entry itself, where it speaks of what is before it; empty where only the tree is asked for."""
    changed: dict[str, tuple[int, str]] = field(default_factory=dict)
    """For ``heads``: last number and hash of each agent that has entries since the ``heads`` before, or in the run."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A run that is sound in itself. Hashes are hexadecimal, but those of the tree."""

    first: int
    count: int
    prev: str
    """What the first entry names before it."""
    last_prev: str
    leaf: str
    """Hash of the last entry."""
    nodes: tuple[bytes, ...]
    origin: str
    first_ts: str
    last_ts: str
    agents: dict[str, Part]
    changed: tuple[str, ...]
    """Agents with entries since the run's last ``heads``, or in the run."""
    boots: tuple[str, ...]
    types: dict[str, int]
    open: tuple[int, ...]
    """Intents without an outcome in the run."""
    outcomes: tuple[tuple[int, int], ...]
    """Outcomes whose intent is before the run: own number, that of the intent."""
    unmatched: tuple[int, ...]
    steps_back: tuple[int, ...]
    marks: tuple[Mark, ...]
    leaves: dict[str, str]
    """Hashes of the entries that were asked for, by number."""
    ballots: tuple[tuple[int, bytes], ...] = ()
    """Numbers and bytes of the entries that concern the votes, where those were asked for."""
    ran: tuple[tuple[str, str, int], ...] = ()
    """What ran below Tier 4: name and version of a tool, and the tier; likewise."""
    began: tuple[tuple[int, int], ...] = ()
    """Numbers of the entries by which calls began, and the place in ``ran`` of what ran."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reader wants to know of all runs: the tree at these sizes, the hashes of these entries, any tree at all, and the
    entries that concern the votes.
    """

    sizes: frozenset[int] = frozenset()
    leaves: frozenset[int] = frozenset()
    tree: bool = True
    votes: bool = False


class _FloatError(Exception):
    pass


def _found_float(_: str) -> float:
    raise _FloatError


_decode: Callable[[bytes], Any] = msgspec.json.Decoder(float_hook=_found_float).decode


def read(data: bytes) -> JsonObject:
    """Reads an entry from its canonical form, like ``encoding.decode`` and nearly always several times faster.

    Raises:
        NotCanonicalError: the bytes are not the RFC 8785 form of a JSON object.
    """
    # ASCII without floats: there orjson writes what RFC 8785 writes. Tests compare both for any bytes.
    try:
        value = _decode(data)
        if type(value) is dict and orjson.dumps(value, option=_FORM) == data and data.isascii():
            return value
    except (ValueError, TypeError, RecursionError, _FloatError):
        pass
    return decode(data)


class Run:
    """Takes the rows of one run in batches.

    Args:
        first: number of the first entry; a multiple of the largest number of entries that it will hold, rounded up to a
            power of two, unless no tree is asked for.
        asked: what the reader wants to know.
    """

    def __init__(self, first: int, asked: Asked) -> None:
        self._first = self._next = first
        self._asked = asked
        self._tree = CompactRange()
        self._prev = self._last_prev = self._leaf = ""
        self._origin = self._first_ts = self._last_ts = ""
        self._begun: dict[str, tuple[int, str]] = {}
        self._agents: dict[str, tuple[int, str]] = {}
        self._changed: set[str] = set()
        self._boots: set[str] = set()
        self._types: Counter[str] = Counter()
        self._open: dict[int, None] = {}
        self._outcomes: list[tuple[int, int]] = []
        self._unmatched: list[int] = []
        self._steps_back: list[int] = []
        self._marks: list[Mark] = []
        self._leaves: dict[str, str] = {}
        self._ballots: list[tuple[int, bytes]] = []
        self._of_votes = TYPES if asked.votes else frozenset[str]()
        self._ran: dict[tuple[str, str, int], int] = {}
        self._began: list[tuple[int, int]] = []

    def add(self, rows: Sequence[Row]) -> bool:
        """Takes the next rows, ``BATCH`` or the last fewer; ``False`` where anything in them is wrong: the run is void."""
        try:
            return not rows or self._add(rows)
        except (KeyError, TypeError, ValueError, NotCanonicalError, FoundError):
            return False

    def summary(self) -> Summary | None:
        """What the chain needs of the rows taken; ``None`` if there were none."""
        if self._next == self._first:
            return None
        return Summary(
            first=self._first,
            count=self._next - self._first,
            prev=self._prev,
            last_prev=self._last_prev,
            leaf=self._leaf,
            nodes=self._tree.nodes,
            origin=self._origin,
            first_ts=self._first_ts,
            last_ts=self._last_ts,
            agents={name: (*begun, *self._agents[name]) for name, begun in self._begun.items()},
            changed=tuple(self._changed),
            boots=tuple(self._boots),
            types=dict(self._types),
            open=tuple(self._open),
            outcomes=tuple(self._outcomes),
            unmatched=tuple(self._unmatched),
            steps_back=tuple(self._steps_back),
            marks=tuple(self._marks),
            leaves=self._leaves,
            ballots=tuple(self._ballots),
            ran=tuple(self._ran),
            began=tuple(self._began),
        )

    def _add(self, rows: Sequence[Row]) -> bool:
        first, count = self._next, len(rows)
        seqs, prevs, leaves, datas = zip(*rows, strict=True)
        if seqs != tuple(range(first, first + count)) or set(map(type, seqs)) != {int}:
            return False
        if set(map(type, datas)) != {bytes} or max(map(len, datas)) >= MAX_BYTES:
            return False
        digests = [sha256(b"\x00" + data).digest() for data in datas]
        if tuple(digests) != leaves or set(map(type, leaves)) != {bytes}:
            return False
        hexes = [digest.hex() for digest in digests]
        if prevs[1:] != tuple(hexes[:-1]) or type(prevs[0]) is not str or not HEX_32.fullmatch(prevs[0]):
            return False
        if self._leaf and prevs[0] != self._leaf:
            return False
        self._entries(digests, zip(seqs, prevs, hexes, datas, strict=True))
        if self._next == self._first:
            self._prev = prevs[0]
        self._last_prev, self._leaf = prevs[-1], hexes[-1]
        self._tell(digests, hexes)
        self._next += count
        return True

    def _entries(self, digests: Sequence[bytes], rows: Any) -> None:  # noqa: ANN401 - an iterator of checked columns
        """What every entry must say, in one pass: this is where the time goes."""
        kinds: list[str] = []
        origins: list[str] = []
        stamps: list[str] = []
        boots: list[str] = []
        for seq, prev, leaf, data in rows:
            entry: Any = read(data)
            own, version, kind = entry["seq"], entry["v"], entry["type"]
            if own != seq or entry["prev"] != prev or version != VERSION or not type(own) is type(version) is int:
                raise ValueError
            kinds.append(kind)
            origins.append(entry["origin"])
            stamps.append(entry["ts"])
            boots.append(entry["boot_id"])
            if kind in _TELLING:
                self._told(seq, kind, entry, data, digests)
            if kind in self._of_votes and (kind != "outcome" or "effect" in entry):
                self._vote(seq, kind, entry, data)
            if "agent" in entry:
                self._own_chain(entry["agent"], leaf)
        self._columns(kinds, origins, stamps, boots)

    def _vote(self, seq: int, kind: str, entry: JsonObject, data: bytes) -> None:
        if concerns(kind, entry):
            self._ballots.append((seq, data))
        ran = ran_of(kind, entry)
        if ran is not None:
            self._began.append((seq, self._ran.setdefault(ran, len(self._ran))))

    def _own_chain(self, agent: Any, leaf: str) -> None:  # noqa: ANN401 - any JSON
        name, number, before = agent["id"], agent["seq"], agent["prev"]
        if type(number) is not int or len(agent) != _OWN_MEMBERS:
            raise ValueError
        last = self._agents.get(name)
        if last is None:
            if type(name) is not str or not name or number < 0 or type(before) is not str:
                raise ValueError
            self._begun[name] = number, before
        elif number != last[0] + 1 or before != last[1]:
            raise ValueError
        self._agents[name] = number, leaf
        self._changed.add(name)

    def _told(self, seq: int, kind: str, entry: JsonObject, data: bytes, digests: Sequence[bytes]) -> None:
        if kind == "intent":
            self._open[seq] = None
        elif kind in _ENDS:
            self._outcome(seq, entry.get("intent_seq"))
        else:
            self._mark(seq, kind, entry, data, digests)

    def _columns(self, kinds: list[str], origins: list[str], stamps: list[str], boots: list[str]) -> None:
        if not self._origin:
            self._origin = origins[0]
            _texts({self._origin})
        if set(origins) != {self._origin}:
            raise ValueError
        _texts(found := set(kinds))
        if ("genesis" in found) != (self._next == 0) or "genesis" in kinds[1:]:
            raise ValueError
        _texts(started := set(boots))
        joined = "\n".join(stamps) + "\n"
        if len(joined) != _STAMP_LENGTH * len(stamps) or not _STAMPS.fullmatch(joined):
            raise ValueError
        if not all(map(le, stamps, stamps[1:])) or stamps[0] < self._last_ts:
            before = [self._last_ts, *stamps]
            for place, (earlier, later) in enumerate(zip(before, stamps, strict=False)):
                if later < earlier and len(self._steps_back) < MAX_LISTED:
                    self._steps_back.append(self._next + place)
        self._first_ts = self._first_ts or stamps[0]
        self._last_ts = stamps[-1]
        self._boots |= started
        self._types.update(kinds)

    def _outcome(self, seq: int, intent: object) -> None:
        if type(intent) is int and intent in self._open:
            del self._open[intent]
        elif type(intent) is int and 0 <= intent < self._first:
            self._outcomes.append((seq, intent))
        elif len(self._unmatched) < MAX_LISTED:
            self._unmatched.append(seq)

    def _mark(self, seq: int, kind: str, entry: JsonObject, data: bytes, digests: Sequence[bytes]) -> None:
        if kind == "heads":
            read_heads(entry, seq)
            changed = {name: self._agents[name] for name in self._changed}
            self._marks.append(Mark(seq, data=data, changed=changed))
            self._changed.clear()
        else:
            self._marks.append(Mark(seq, self._nodes(digests[: seq - self._next]), data))

    def _tell(self, digests: list[bytes], hexes: list[str]) -> None:
        """Adds the batch to the tree, and what was asked for."""
        first, last = self._next, self._next + len(digests) - 1
        for seq in self._asked.leaves:
            if first <= seq <= last:
                self._leaves[str(seq)] = hexes[seq - first]
        if not self._asked.tree:
            return
        for size in sorted(self._asked.sizes):
            # The tree at the run's first entry is the chain's own.
            if max(first, self._first + 1) <= size <= last:
                self._marks.append(Mark(size, self._nodes(digests[: size - first])))
        self._tree = self._with(digests)

    def _nodes(self, digests: Sequence[bytes]) -> tuple[bytes, ...]:
        return self._with(digests).nodes if self._asked.tree else ()

    def _with(self, digests: Sequence[bytes]) -> CompactRange:
        tree, at = CompactRange.restore(self._tree.size, self._tree.nodes), 0
        for level in range(len(digests).bit_length() - 1, -1, -1):
            if len(digests) >> level & 1:
                tree.append_subtree(level, _root(digests[at : at + (1 << level)]))
                at += 1 << level
        return tree


def _root(row: Sequence[bytes]) -> bytes:
    """The root of a perfect tree over these leaf hashes."""
    while len(row) > 1:
        row = [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]


def _texts(values: set[str]) -> None:
    if set(map(type, values)) != {str} or "" in values:
        raise ValueError
