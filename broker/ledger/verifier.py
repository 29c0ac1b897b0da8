"""Checks a ledger by nothing but its rows, one after the other, in bounded memory. Pure: no file, no clock.

The stored bytes are the truth: each hash is computed from them, and each column beside them must agree with what they
say. The first thing that is wrong decides the verdict; what follows it proves nothing any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from broker.domain.canonical import JsonObject, JsonValue
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.entry import ENTRY_TYPES, GENESIS_PREV, HEX_32, MAX_BYTES, TIMESTAMP, VERSION
from broker.ledger.merkle import CompactRange, leaf_hash
from broker.ledger.verdict import Expectation, Place, Report, Verdict

MAX_LISTED = 1000
"""Most numbers that a report lists of one kind."""


class Row(NamedTuple):
    """One stored entry as it was found; any of it may be wrong."""

    seq: object
    prev: object
    leaf: object
    data: object


class UnreadableError(Exception):
    """Raised by a source of rows that can't be read any further; the text says why."""


class _FoundError(Exception):
    """Ends the verification with a verdict."""

    def __init__(self, verdict: Verdict, seq: int | None, field: str, why: str) -> None:
        super().__init__(why)
        self.verdict = verdict
        self.place = Place(seq, field, why)


def verify(
    rows: Iterable[Row],
    *,
    expected: Expectation | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Checks a ledger from its first entry to its last.

    Args:
        rows: the stored entries in the order of their numbers.
        expected: an entry that must be in the ledger; without it a shortened ledger can't be told from a younger one.
        progress: called with the number of entries checked, now and then.
    """
    check = _Check(expected)
    try:
        for row in rows:
            check.entry(row)
            if progress is not None and check.count % 1024 == 0:
                progress(check.count)
        check.end()
    except _FoundError as found:
        return check.report(found.verdict, found.place)
    except UnreadableError as error:
        return check.report(Verdict.MALFORMED, Place(check.count, "file", f"the file is damaged here: {error}"))
    return check.report(Verdict.OK, None)


class _Check:
    def __init__(self, expected: Expectation | None) -> None:
        self.count = 0
        self._expected = expected
        self._tree = CompactRange()
        self._leaf = b""
        self._prev = ""
        self._origin = ""
        self._first_ts = ""
        self._last_ts = ""
        self._agents: dict[str, tuple[int, str]] = {}
        self._boots: set[str] = set()
        self._types: Counter[str] = Counter()
        self._open: dict[int, None] = {}
        self._unmatched: list[int] = []
        self._steps_back: list[int] = []

    def entry(self, row: Row) -> None:
        """Checks the next row and takes it in."""
        seq = self._number(row.seq)
        data, leaf = self._hash(row, seq)
        entry = _parse(data, seq)
        self._columns(row, entry, seq)
        prev = _text(entry, "prev", seq)
        self._link(prev, seq)
        self._members(entry, seq)
        self._agent(entry, leaf, seq)
        self._facts(entry, seq)
        self._expect(seq, leaf.hex())
        self._tree.append(leaf)
        self._leaf, self._prev = leaf, prev
        self.count += 1

    def end(self) -> None:
        """Checks what only the end shows."""
        expected = self._expected
        if expected is not None and expected.seq >= self.count:
            why = f"entry {expected.seq} is expected, but the ledger ends after {self.count} entries"
            raise _FoundError(Verdict.TRUNCATED, self.count - 1 if self.count else None, "seq", why)
        if self.count == 0:
            raise _FoundError(Verdict.TRUNCATED, None, "seq", "there is no entry at all, not even the genesis")

    def report(self, verdict: Verdict, place: Place | None) -> Report:
        """The verdict with all that was found before it."""
        return Report(
            verdict=verdict,
            entries=self.count,
            head_seq=self.count - 1 if self.count else None,
            head_leaf=self._leaf.hex(),
            root=self._tree.root().hex(),
            place=place,
            origin=self._origin,
            first_ts=self._first_ts,
            last_ts=self._last_ts,
            agents=len(self._agents),
            boots=len(self._boots),
            types=dict(sorted(self._types.items())),
            unknown_types=tuple(sorted(self._types.keys() - ENTRY_TYPES)),
            open_intents=tuple(self._open)[:MAX_LISTED],
            unmatched_outcomes=tuple(self._unmatched),
            clock_steps_back=tuple(self._steps_back),
        )

    def _number(self, seq: object) -> int:
        if type(seq) is not int:
            raise _FoundError(Verdict.MALFORMED, self.count, "seq", "the number of this entry is no integer")
        if seq < self.count:
            raise _FoundError(Verdict.FORKED, seq, "seq", f"entry {seq} is there twice")
        if seq > self.count:
            missing = f"entry {self.count} is" if seq == self.count + 1 else f"entries {self.count} to {seq - 1} are"
            raise _FoundError(Verdict.GAPPED, self.count, "seq", f"{missing} missing before entry {seq}")
        return seq

    def _hash(self, row: Row, seq: int) -> tuple[bytes, bytes]:
        if not isinstance(row.data, bytes) or not isinstance(row.leaf, bytes):
            raise _FoundError(Verdict.TAMPERED, seq, "data", "the bytes or the hash of this entry are no longer bytes")
        leaf = leaf_hash(row.data)
        if leaf != row.leaf:
            why = f"the bytes hash to {leaf.hex()}, the stored hash is {row.leaf.hex()}"
            raise _FoundError(Verdict.TAMPERED, seq, "leaf", why)
        return row.data, leaf

    def _columns(self, row: Row, entry: JsonObject, seq: int) -> None:
        if not _is_number(entry.get("seq")):
            raise _FoundError(Verdict.MALFORMED, seq, "seq", "the entry doesn't say its own number")
        if entry["seq"] != seq:
            why = f"the entry calls itself {entry['seq']}: it was moved, or its number was changed"
            raise _FoundError(Verdict.TAMPERED, seq, "seq", why)
        if entry.get("prev") != row.prev:
            why = "the entry names another predecessor than the column beside it"
            raise _FoundError(Verdict.TAMPERED, seq, "prev", why)

    def _link(self, prev: str, seq: int) -> None:
        if not HEX_32.fullmatch(prev):
            raise _FoundError(Verdict.MALFORMED, seq, "prev", "is not 64 hexadecimal digits")
        wanted = self._leaf.hex() if seq else GENESIS_PREV
        if prev == wanted:
            return
        if seq and prev == self._prev:
            why = f"entries {seq - 1} and {seq} both name the same predecessor"
            raise _FoundError(Verdict.FORKED, seq, "prev", why)
        why = f"names {prev} as its predecessor, which is {wanted}: this entry or the one before was changed"
        raise _FoundError(Verdict.TAMPERED, seq, "prev", why)

    def _members(self, entry: JsonObject, seq: int) -> None:
        if entry.get("v") != VERSION or not _is_number(entry.get("v")):
            raise _FoundError(Verdict.MALFORMED, seq, "v", f"this verifier knows only version {VERSION}")
        kind, origin = _text(entry, "type", seq), _text(entry, "origin", seq)
        stamp, boot = _text(entry, "ts", seq), _text(entry, "boot_id", seq)
        if (kind == "genesis") != (seq == 0):
            raise _FoundError(Verdict.MALFORMED, seq, "type", "the first entry, and only it, is the genesis")
        if seq == 0:
            self._origin, self._first_ts = origin, stamp
        elif origin != self._origin:
            why = f"belongs to the ledger {origin!r}, not to {self._origin!r}"
            raise _FoundError(Verdict.TAMPERED, seq, "origin", why)
        if not TIMESTAMP.fullmatch(stamp):
            raise _FoundError(Verdict.MALFORMED, seq, "ts", "is no UTC time with microseconds")
        if stamp < self._last_ts and len(self._steps_back) < MAX_LISTED:
            self._steps_back.append(seq)
        self._last_ts = stamp
        self._boots.add(boot)
        self._types[kind] += 1

    def _agent(self, entry: JsonObject, leaf: bytes, seq: int) -> None:
        if "agent" not in entry:
            return
        agent = entry["agent"]
        if not isinstance(agent, dict) or agent.keys() != {"id", "seq", "prev"}:
            raise _FoundError(Verdict.MALFORMED, seq, "agent", "must hold exactly id, seq and prev")
        name, number, prev = agent["id"], agent["seq"], agent["prev"]
        if not isinstance(name, str) or not name or not _is_number(number):
            raise _FoundError(Verdict.MALFORMED, seq, "agent", "id must be a text and seq a number")
        next_number, wanted = self._agents.get(name, (0, GENESIS_PREV))
        if number != next_number:
            verdict = Verdict.GAPPED if isinstance(number, int) and number > next_number else Verdict.FORKED
            why = f"is number {number} of agent {name}, whose next is {next_number}"
            raise _FoundError(verdict, seq, "agent.seq", why)
        if prev != wanted:
            why = f"names {prev} as the agent's last entry, which is {wanted}"
            raise _FoundError(Verdict.FORKED, seq, "agent.prev", why)
        self._agents[name] = (next_number + 1, leaf.hex())

    def _facts(self, entry: JsonObject, seq: int) -> None:
        if entry["type"] == "intent":
            self._open[seq] = None
        elif entry["type"] in ("outcome", "unknown"):
            intent = entry.get("intent_seq")
            if isinstance(intent, int) and intent in self._open:
                del self._open[intent]
            elif len(self._unmatched) < MAX_LISTED:
                self._unmatched.append(seq)

    def _expect(self, seq: int, leaf: str) -> None:
        expected = self._expected
        if expected is not None and expected.seq == seq and expected.leaf not in ("", leaf):
            why = f"has the hash {leaf}, but {expected.leaf} is expected: this is another history"
            raise _FoundError(Verdict.FORKED, seq, "leaf", why)


def _parse(data: bytes, seq: int) -> JsonObject:
    if len(data) >= MAX_BYTES:
        raise _FoundError(
            Verdict.MALFORMED, seq, "data", f"has {len(data)} bytes; entries are shorter than {MAX_BYTES}"
        )
    try:
        return decode(data)
    except NotCanonicalError as error:
        raise _FoundError(Verdict.MALFORMED, seq, "data", str(error)) from error


def _text(entry: JsonObject, name: str, seq: int) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise _FoundError(Verdict.MALFORMED, seq, name, "is missing, or no text")
    return value


def _is_number(value: JsonValue) -> bool:
    return type(value) is int and value >= 0
