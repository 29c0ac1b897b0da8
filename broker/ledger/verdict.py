"""What a verifier says: one verdict, its place, and facts that are no fault by themselves."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from broker.ledger.votes_report import Place, VotesReport

__all__ = ["Expectation", "Place", "Report", "Verdict", "VotesReport"]


class Verdict(enum.StrEnum):
    """The first thing that is wrong with a ledger, or ``ok``."""

    OK = "ok"
    """Every entry is as it was written, none is missing before the last, and the head is the expected one if any."""
    TAMPERED = "tampered"
    """An entry's bytes, hash or link were changed after it was written."""
    FORKED = "forked"
    """Two histories: a number or a predecessor is used twice, or the expected head isn't in this one."""
    GAPPED = "gapped"
    """Entries are missing before others that are there."""
    TRUNCATED = "truncated"
    """The newest entries are missing: the expected head isn't reached, or the file lacks its write-ahead log."""
    ROLLED_BACK = "rolled back"
    """An old state, whole in itself: a signed checkpoint shows that there were more entries."""
    RECOVERED = "recovered"
    """Nothing is wrong but what the ledger says itself: entries were lost, and it was taken into service without them."""
    WRONG_KEY = "wrong key"
    """A checkpoint isn't signed by a key that counts, or the ledger doesn't know the key that it should be signed by."""
    VOTES_INVALID = "votes invalid"
    """The ledger is as it was written, but something in it happened without the votes that it takes."""
    MALFORMED = "malformed"
    """An entry's hash is right, but its bytes are no entry, or the file is no ledger."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the reader knows of the ledger from elsewhere: its head must be this entry, or come after it.

    ``leaf`` is 64 hexadecimal digits, or empty where only the number is known.
    """

    seq: int
    leaf: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on a ledger. Counts and facts are about the entries that were found good.

    ``head_leaf`` and ``root`` are hexadecimal. ``open_intents`` are entries of type ``intent`` without an outcome:
    calls that run now, or whose broker died. ``unmatched_outcomes`` are outcomes that name no open intent.
    ``clock_steps_back`` are entries whose time is before that of the entry before.
    Where ``first`` isn't 0, entries before it were not looked at: ``root`` is empty, chains and intents that began there
    are taken as they come, and ``head_seq`` is ``first - 1`` where nothing came.
    """

    verdict: Verdict
    entries: int
    head_seq: int | None
    head_leaf: str
    root: str
    place: Place | None = None
    origin: str = ""
    first_ts: str = ""
    last_ts: str = ""
    agents: int = 0
    boots: int = 0
    types: dict[str, int] = field(default_factory=dict)
    unknown_types: tuple[str, ...] = ()
    open_intents: tuple[int, ...] = ()
    unmatched_outcomes: tuple[int, ...] = ()
    clock_steps_back: tuple[int, ...] = ()
    first: int = 0
    """Number of the first entry that was checked; what is before it is trusted."""
    heads: int = 0
    """Commitments to all agents' last entries (``heads``) that were checked."""
    keys: tuple[str, ...] = ()
    """The keys that sign checkpoints, oldest first, as the ledger names them."""
    checkpoints: int = 0
    """Signed checkpoints that count and that this ledger has."""
    checkpoint_size: int = 0
    """Entries of the largest of them: these can't have been changed without the signer."""
    recovered: tuple[tuple[int, int], ...] = ()
    """First and last number of the entries that are lost, for each recovery."""
    votes: VotesReport | None = None
    """What was found of the votes; ``None`` where they weren't checked."""
