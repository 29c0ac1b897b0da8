"""What a verifier demands of one entry by itself: hash, form, columns, members. The reference for ``segment``.

Each check raises ``FoundError`` with the verdict and the place.
"""

from __future__ import annotations

from broker.domain.canonical import JsonObject, JsonValue
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.entry import GENESIS_PREV, HEX_32, MAX_BYTES, TIMESTAMP, VERSION
from broker.ledger.source import Row
from broker.ledger.verdict import Place, Verdict
from broker.tlog.merkle import leaf_hash


class FoundError(Exception):
    """Ends the verification with a verdict."""

    def __init__(self, verdict: Verdict, seq: int | None, field: str, why: str) -> None:
        super().__init__(why)
        self.verdict = verdict
        self.place = Place(seq, field, why)


def check_number(seq: object, wanted: int) -> int:
    """The row's number, if it is the next one.

    Raises:
        FoundError: it is no number, was there before, or others are missing before it.
    """
    if type(seq) is not int:
        raise FoundError(Verdict.MALFORMED, wanted, "seq", "the number of this entry is no integer")
    if seq < 0:
        raise FoundError(Verdict.MALFORMED, seq, "seq", "no entry has a number below 0")
    if seq < wanted:
        raise FoundError(Verdict.FORKED, seq, "seq", f"entry {seq} is there twice")
    if seq > wanted:
        missing = f"entry {wanted} is" if seq == wanted + 1 else f"entries {wanted} to {seq - 1} are"
        raise FoundError(Verdict.GAPPED, wanted, "seq", f"{missing} missing before entry {seq}")
    return seq


def check_hash(row: Row, seq: int) -> tuple[bytes, bytes]:
    """The entry's bytes and their leaf hash, if it is the stored one.

    Raises:
        FoundError: it isn't.
    """
    if not isinstance(row.data, bytes) or not isinstance(row.leaf, bytes):
        raise FoundError(Verdict.TAMPERED, seq, "data", "the bytes or the hash of this entry are no longer bytes")
    leaf = leaf_hash(row.data)
    if leaf != row.leaf:
        why = f"the bytes hash to {leaf.hex()}, the stored hash is {row.leaf.hex()}"
        raise FoundError(Verdict.TAMPERED, seq, "leaf", why)
    return row.data, leaf


def parse(data: bytes, seq: int) -> JsonObject:
    """The entry, if its bytes are the canonical form of one.

    Raises:
        FoundError: they aren't, or are too many.
    """
    if len(data) >= MAX_BYTES:
        raise FoundError(Verdict.MALFORMED, seq, "data", f"has {len(data)} bytes; entries are shorter than {MAX_BYTES}")
    try:
        return decode(data)
    except NotCanonicalError as error:
        raise FoundError(Verdict.MALFORMED, seq, "data", str(error)) from error


def check_columns(row: Row, entry: JsonObject, seq: int) -> None:
    """Compares the columns beside the bytes with what the bytes say.

    Raises:
        FoundError: they don't agree.
    """
    if not is_number(entry.get("seq")):
        raise FoundError(Verdict.MALFORMED, seq, "seq", "the entry doesn't say its own number")
    if entry["seq"] != seq:
        why = f"the entry calls itself {entry['seq']}: it was moved, or its number was changed"
        raise FoundError(Verdict.TAMPERED, seq, "seq", why)
    if entry.get("prev") != row.prev:
        why = "the entry names another predecessor than the column beside it"
        raise FoundError(Verdict.TAMPERED, seq, "prev", why)


def check_link(prev: str, seq: int, wanted: str, prev_before: str) -> None:
    """Checks which entry this one says that it follows.

    Args:
        prev: what it says.
        seq: its number.
        wanted: hex leaf hash of the entry before; empty where that isn't known.
        prev_before: what the entry before says that it follows.

    Raises:
        FoundError: it isn't the one before it.
    """
    if not HEX_32.fullmatch(prev):
        raise FoundError(Verdict.MALFORMED, seq, "prev", "is not 64 hexadecimal digits")
    wanted = wanted if seq else GENESIS_PREV
    if prev == wanted or not wanted:
        return
    if seq and prev == prev_before:
        why = f"entries {seq - 1} and {seq} both name the same predecessor"
        raise FoundError(Verdict.FORKED, seq, "prev", why)
    why = f"names {prev} as its predecessor, which is {wanted}: this entry or the one before was changed"
    raise FoundError(Verdict.TAMPERED, seq, "prev", why)


def check_members(entry: JsonObject, seq: int, origin: str) -> tuple[str, str, str, str]:
    """Type, origin, time and boot id of an entry, if they are in order.

    Args:
        entry: the entry.
        seq: its number.
        origin: the ledger's; empty where it isn't known yet.

    Raises:
        FoundError: a member is missing, or is what it may not be.
    """
    if entry.get("v") != VERSION or not is_number(entry.get("v")):
        raise FoundError(Verdict.MALFORMED, seq, "v", f"this verifier knows only version {VERSION}")
    kind, own = text(entry, "type", seq), text(entry, "origin", seq)
    stamp, boot = text(entry, "ts", seq), text(entry, "boot_id", seq)
    if (kind == "genesis") != (seq == 0):
        raise FoundError(Verdict.MALFORMED, seq, "type", "the first entry, and only it, is the genesis")
    if origin and own != origin:
        raise FoundError(Verdict.TAMPERED, seq, "origin", f"belongs to the ledger {own!r}, not to {origin!r}")
    if not (stamp.isascii() and TIMESTAMP.fullmatch(stamp)):
        raise FoundError(Verdict.MALFORMED, seq, "ts", "is no UTC time with microseconds")
    return kind, own, stamp, boot


def read_agent(entry: JsonObject, seq: int) -> tuple[str, int, object] | None:
    """Whose own chain the entry goes on: id, number there, and what it names as the one before; ``None`` for nobody's.

    Raises:
        FoundError: the member is there and is no such thing.
    """
    if "agent" not in entry:
        return None
    agent = entry["agent"]
    if not isinstance(agent, dict) or agent.keys() != {"id", "seq", "prev"}:
        raise FoundError(Verdict.MALFORMED, seq, "agent", "must hold exactly id, seq and prev")
    name, number = agent["id"], agent["seq"]
    if not isinstance(name, str) or not name or not isinstance(number, int) or not is_number(number):
        raise FoundError(Verdict.MALFORMED, seq, "agent", "id must be a text and seq a number")
    return name, number, agent["prev"]


def read_heads(entry: JsonObject, seq: int) -> tuple[int, str]:
    """What an entry ``heads`` commits: how many agents, and the root (hexadecimal) of the map of their last entries.

    Raises:
        FoundError: the member is missing or no such thing.
    """
    heads = entry.get("heads")
    if isinstance(heads, dict) and heads.keys() == {"agents", "root"}:
        agents, root = heads["agents"], heads["root"]
        if isinstance(agents, int) and is_number(agents) and isinstance(root, str) and HEX_32.fullmatch(root):
            return agents, root
    raise FoundError(Verdict.MALFORMED, seq, "heads", "must hold exactly agents, a number, and root, 64 digits")


def text(entry: JsonObject, name: str, seq: int) -> str:
    """A member that must be a text.

    Raises:
        FoundError: it is missing, empty or something else.
    """
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise FoundError(Verdict.MALFORMED, seq, name, "is missing, or no text")
    return value


def is_number(value: JsonValue) -> bool:
    """Is it an integer from 0 on, and no truth value?"""
    return type(value) is int and value >= 0
