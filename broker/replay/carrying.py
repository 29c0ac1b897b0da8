"""Calls that were let through and would not be under another table of tiers: they carry too little, or can't be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from broker.domain.tier import WORKFLOW_REQUIRED_FROM, Tier
from broker.replay.asking.answer import Span
from broker.replay.casebook import Casebook
from broker.specs.tiers import Tiers

UNSEEN = ("purpose", "sources")
"""What a tier may demand that no entry shows: a purpose is committed to even where it is empty."""

_CARRIED = """
SELECT d.question, p.tier, p.workflow != 0, c.session != 0, p.model != 0, p.prompt != 0, p.on_behalf != 0, w.text,
    count(*), sum(d.times), min(d.seq), max(d.seq)
FROM decision d JOIN call c ON c.id = d.call JOIN path p ON p.id = c.path JOIN word w ON w.id = c.reversibility
WHERE d.allowed = 1 AND d.ts >= ? AND d.ts < ? GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""
_FIELDS = ("workflow", "session", "model", "prompt_version", "delegation")


@dataclass(frozen=True, slots=True)
class Lacking:
    """Calls of one question that would be refused, as far as the ledger shows what they carried."""

    question: int
    tier: int
    why: str
    entries: int
    requests: int
    first: int
    last: int


def lacking(casebook: Casebook, span: Span, before: Tiers, after: Tiers) -> Iterator[Lacking]:
    """Each of them, for one reason; nothing where the two tables demand the same."""
    changed = [tier for tier in Tier if _demands(before, tier) != _demands(after, tier)]
    if not changed:
        return
    for row in casebook.rows(_CARRIED, span.since, span.until):
        question, tier, *carried, reversibility, entries, requests, first, last = row
        if tier not in changed:
            continue
        there = {name for name, has in zip(_FIELDS, carried, strict=True) if has}
        missing = [name for name in _demands(after, Tier(tier))[0] if name in _FIELDS and name not in there]
        if missing:
            yield Lacking(question, tier, f"carries no {', '.join(missing)}", entries, requests, first, last)
        elif reversibility == "irreversible" and not after.row(Tier(tier)).irreversible:
            yield Lacking(question, tier, "nothing takes back what it does", entries, requests, first, last)


def unseen(before: Tiers, after: Tiers) -> tuple[str, ...]:
    """What the table newly demands and no entry shows."""
    return tuple(
        f"tier {int(tier)} newly demands {name}, which no entry shows"
        for tier in Tier
        for name in UNSEEN
        if name in _demands(after, tier)[0] and name not in _demands(before, tier)[0]
    )


def _demands(tiers: Tiers, tier: Tier) -> tuple[tuple[str, ...], bool]:
    row = tiers.row(tier)
    floor = ("workflow",) if tier >= WORKFLOW_REQUIRED_FROM else ()
    return tuple(dict.fromkeys((*floor, *row.must_carry))), row.irreversible
