"""What an answer looks like: lines of cells under named columns, each line with its evidence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias

from broker.replay.casebook import Casebook

Cell: TypeAlias = str | int | tuple[str, ...]
"""A text, a number, or several texts; times are microseconds since 1970."""


class Kind(StrEnum):
    """What the cells of a column are."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"
    PEOPLE = "people"
    """Ids of people or agents: shown by name where there is one."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what is in it."""

    name: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an answer; ``evidence`` are numbers of entries, sorted."""

    cells: tuple[Cell, ...]
    evidence: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and what has to be said beside it."""

    question: str
    """In a sentence."""
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """What isn't in it, and why."""


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when; microseconds since 1970, the end excluded."""

    since: int = 0
    until: int = 2**62


def people(*ids: str) -> tuple[str, ...]:
    """A cell of people, each once, in the order given."""
    return tuple(dict.fromkeys(item for item in ids if item))


def evidence(*numbers: Iterable[int | None]) -> tuple[int, ...]:
    """Numbers of entries as a line has them."""
    return tuple(sorted({number for part in numbers for number in part if number is not None and number >= 0}))


@dataclass(frozen=True, slots=True)
class Agreed:
    """Who agreed to something: their ids, and the entries of the act and of the votes that were counted."""

    people: tuple[str, ...]
    entries: tuple[int, ...]


NOBODY = Agreed((), ())


def agreed_at(casebook: Casebook, seqs: Sequence[int]) -> Agreed:
    """Who agreed to what these entries say, by the votes that they name; a vote that isn't here is named by its entry."""
    each = agreed_each(casebook, seqs)
    found = [each[seq] for seq in seqs if seq in each]
    return Agreed(
        people(*(name for item in found for name in item.people)), evidence(*(item.entries for item in found))
    )


def agreed_each(casebook: Casebook, seqs: Sequence[int]) -> dict[int, Agreed]:
    """The same by entry, of those that name votes: one query, however many there are."""
    rows = casebook.rows(
        "SELECT c.seq, v.person, c.vote FROM counted AS c LEFT JOIN vote AS v ON v.seq = c.vote"
        " WHERE c.seq IN (SELECT value FROM json_each(?)) ORDER BY c.seq, c.vote",
        json.dumps(list(seqs)),
    )
    found: dict[int, Agreed] = {}
    for seq, votes in groupby(rows, itemgetter(0)):
        told = [(f"entry {vote}, not here" if who is None else casebook.text(who), vote) for _, who, vote in votes]
        found[seq] = Agreed(people(*(name for name, _ in told)), evidence([seq], (vote for _, vote in told)))
    return found


def agreed_to(casebook: Casebook, kind: str, subject: int, version: int) -> Agreed:
    """Who agreed to a version of a workflow (``workflow.approved``) or of a tool (``spec.registered``); the latest counts.

    Args:
        casebook: what was filed.
        kind: type of the entry.
        subject: number of the word that names the workflow or tool.
        version: number of its version's digest.
    """
    row = casebook.one(
        "SELECT max(seq) FROM act WHERE type = ? AND subject = ? AND object = ?",
        casebook.number(kind) or -1,
        subject,
        version,
    )
    if row is None or row[0] is None:
        return NOBODY
    found = agreed_at(casebook, [row[0]])
    return Agreed(found.people, evidence(found.entries, [row[0]]))
