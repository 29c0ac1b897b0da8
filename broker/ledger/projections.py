"""What lies beside the entries and says how far they went: projections that are written with them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from broker.tlog.merkle import HASH_BYTES

TILES = (
    "SELECT level, idx, length(hashes) FROM ledger_tile"
    " WHERE (level, idx) IN (SELECT level, max(idx) FROM ledger_tile GROUP BY level)"
)
"""The last tile of each level: level, index, bytes."""

_HEIGHT = 8
_HIGHEST = 8


@dataclass(frozen=True, slots=True)
class Projection:
    """A column with numbers of entries, and what such an entry is."""

    table: str
    column: str
    what: str


PROJECTIONS = (
    Projection("ledger_agent", "entry_seq", "the last of an agent"),
    Projection("ledger_index", "seq", "one to be found"),
    Projection("call", "decision_seq", "the decision of a call"),
    Projection("call", "intent_seq", "the intent of a call"),
    Projection("call", "outcome_seq", "the outcome of a call"),
    Projection("voter_key", "enrolled_seq", "the enrolment of a key"),
    Projection("acceptance", "seq", "an acceptance of the founding"),
    Projection("founding", "seq", "the end of the founding"),
    Projection("approval", "requested_seq", "the request for an approval"),
    Projection("approval", "closed_seq", "the end of an approval"),
    Projection("vote", "seq", "a vote"),
    Projection("freeze", "seq", "a freeze"),
    Projection("chat_account", "seq", "a chat account"),
    Projection("approved_workflow", "seq", "the approval of a workflow"),
    Projection("workspace_tree", "seq", "the last change of a workspace's files"),
    Projection("effect", "seq", "the effect of a call"),
)


def named_beyond(largest: object, count: int, item: Projection) -> str:
    """Does the largest number of a projection name an entry that the first ``count`` don't have? Says so, or is empty."""
    if isinstance(largest, int) and largest >= count:
        return f"{item.table} names entry {largest} as {item.what}: the end of the ledger was cut off"
    return ""


def tiles_beyond(rows: Iterable[tuple[object, ...]], count: int) -> str:
    """Do the rows of ``TILES`` hold hashes of more than ``count`` entries? Says so, or is empty."""
    for level, index, length in rows:
        if not isinstance(level, int) or not isinstance(index, int) or not isinstance(length, int):
            continue  # comparing projections with the entries is the work of `broker ledger rebuild`
        if 0 <= level < _HIGHEST and index >= 0:
            leaves = (index << _HEIGHT * (level + 1)) + (length // HASH_BYTES << _HEIGHT * level)
            if leaves > count:
                return f"ledger_tile holds the hashes of {leaves} entries: the end of the ledger was cut off"
    return ""
