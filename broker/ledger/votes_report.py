"""What a check of the votes in a ledger finds, and how a place in it is named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is wrong: entry number (``None`` for the file as a whole), member or column, and why."""

    seq: int | None
    field: str
    why: str


@dataclass(frozen=True, slots=True)
class Attested:
    """A vote that a bot attests: not signed by the person. ``seq`` is its entry."""

    seq: int
    key: str
    person: str


@dataclass(frozen=True, slots=True)
class Alone:
    """A change of a kind that may need two people, and that one made: the broker's word says that this one didn't."""

    seq: int
    type: str


@dataclass(frozen=True, slots=True)
class VotesReport:
    """All votes of a ledger, and what rests on them.

    ``acts`` are entries that needed people's agreement, ``signatures`` those that were verified. ``findings`` are what is
    wrong, in the order of the entries, at most as many as are listed; ``found`` is how many there are. ``attested_count``
    likewise counts all that ``attested`` lists, and ``alone_count`` all of ``alone``.
    """

    acts: int = 0
    signatures: int = 0
    votes: int = 0
    attested: tuple[Attested, ...] = ()
    attested_count: int = 0
    alone: tuple[Alone, ...] = ()
    alone_count: int = 0
    findings: tuple[Place, ...] = ()
    found: int = 0
