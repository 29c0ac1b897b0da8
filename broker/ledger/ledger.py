"""Appends entries to the chain, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from broker.domain.canonical import JsonObject
from broker.domain.ports import Head, StoredEntry, Transaction
from broker.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from broker.ledger.encoding import encode
from broker.ledger.entry import ENTRY_TYPES, GENESIS_PREV, MAX_BYTES, OWN_KEYS, VERSION, timestamp
from broker.ledger.tree import grow
from broker.tlog.merkle import leaf_hash


class Ledger:
    """Implements ``broker.domain.ports.Recorder``.

    It holds no state of its own: the head is read inside the transaction that the entry is written in, so processes
    that write by turns never fork the chain.

    Args:
        origin: which ledger this is; the same in each of its entries, see ``broker.ledger.genesis``.
        boot_id: which start of the broker writes.
        clock: the time now, with a zone.
    """

    def __init__(self, origin: str, boot_id: str, clock: Callable[[], datetime]) -> None:
        self._origin = origin
        self._boot_id = boot_id
        self._clock = clock

    def append(self, tx: Transaction, entry_type: str, body: JsonObject, *, agent: str = "") -> int:
        """Appends an entry in the transaction and returns its ``seq``; durable when the transaction is.

        Args:
            tx: a writing transaction.
            entry_type: one of ``broker.ledger.entry.ENTRY_TYPES``.
            body: further members; numbers beyond 2^53-1 and times are strings, texts of people are commitments.
            agent: id of the agent whose own chain the entry goes on; empty for none.

        Raises:
            InvalidArgumentError: ``ENTRY_TOO_LARGE``: the entry has 64 KiB or more.
            FailedPreconditionError: ``LEDGER_EMPTY``, ``LEDGER_NOT_EMPTY``: the first entry, and only it, is the genesis.
            InternalError: the type is unknown, the body holds a member of the ledger's own or no JSON, or the
                database refused the entry.
        """
        if entry_type not in ENTRY_TYPES:
            raise InternalError(f"{entry_type!r} is no type of ledger entry", reason="UNKNOWN_ENTRY_TYPE")
        if not OWN_KEYS.isdisjoint(body):
            taken = min(OWN_KEYS & body.keys())
            raise InternalError(f"an entry's body can't hold {taken!r}", reason="LEDGER_BODY_INVALID")
        table = tx.ledger
        head = table.head()
        _check_genesis(head, entry_type)
        seq, prev = (0, GENESIS_PREV) if head is None else (head.seq + 1, head.leaf.hex())
        entry: JsonObject = {
            **body,
            "v": VERSION,
            "origin": self._origin,
            "seq": seq,
            "prev": prev,
            "type": entry_type,
            "ts": timestamp(self._clock()),
            "boot_id": self._boot_id,
        }
        agent_seq = 0
        if agent:
            last = table.agent_head(agent)
            agent_seq, agent_prev = (0, GENESIS_PREV) if last is None else (last.seq + 1, last.leaf.hex())
            entry["agent"] = {"id": agent, "seq": agent_seq, "prev": agent_prev}
        data = _bytes(entry, entry_type)
        leaf = leaf_hash(data)
        table.insert(StoredEntry(seq, prev, leaf, data))
        if agent:
            table.set_agent_head(agent, Head(agent_seq, leaf), seq)
        grow(table, seq + 1)
        return seq


def _check_genesis(head: Head | None, entry_type: str) -> None:
    if head is None and entry_type != "genesis":
        raise FailedPreconditionError(
            "the ledger is empty: its first entry must be the genesis",
            reason="LEDGER_EMPTY",
            hint="Run `broker init` for a new state directory; if entries should be here, restore the database.",
        )
    if head is not None and entry_type == "genesis":
        raise FailedPreconditionError("the ledger has a genesis already", reason="LEDGER_NOT_EMPTY")


def _bytes(entry: JsonObject, entry_type: str) -> bytes:
    try:
        data = encode(entry, floats=False)
    except (ValueError, RecursionError) as error:
        # The value itself is left out of the text: it may be what must not be seen.
        message = f"the body of a ledger entry of type {entry_type!r} has no RFC 8785 form: {type(error).__name__}"
        raise InternalError(message, reason="LEDGER_BODY_INVALID") from error
    if len(data) >= MAX_BYTES:
        raise InvalidArgumentError(
            f"a ledger entry of type {entry_type!r} would have {len(data)} bytes; it must have fewer than {MAX_BYTES}",
            reason="ENTRY_TOO_LARGE",
            hint="Shorten what the request lists, such as its sources and files.",
        )
    return data
