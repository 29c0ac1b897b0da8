"""The texts of an incident's bundle: names, and what it would tell and can't any more, because it was erased.

Names are on the word of who signs the bundle. The ledger commits to each name by a key that commits to all texts about that
identity, later ones too, such as why it was revoked: giving that key away would let these be tested against guesses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.errors import FailedPreconditionError
from broker.ledger.bundle_approvals import Disclose
from broker.ledger.bundle_evidence import Evidence, Exported
from broker.replay.casebook import Casebook
from broker.replay.evidence import Plan
from broker.replay.members import listed, part, text


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a bundle is to tell beside its entries; ``approvals`` gives what is kept of one."""

    exported: Exported
    names: bool = False
    approvals: Disclose | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """What there is to tell: names (``None`` where they aren't wanted), and what of it was erased."""

    names: JsonObject | None
    gone: frozenset[str]


def read_texts(tx: Transaction, wanted: Wanted, plan: Plan) -> Texts:
    """What is kept now of what a bundle is to tell; an erased name has given way to its id."""
    names, gone = dict[str, JsonObject](), set[str]()
    for item in tx.identities.all() if wanted.names else ():
        if item.id in plan.people and item.name == item.id:
            gone.add(name_of(item.id))
        elif item.id in plan.people:
            names[item.id] = {"kind": str(item.kind), "name": item.name}
    if wanted.approvals is not None:
        gone |= {which for which in plan.approvals if wanted.approvals(tx, which) is None}
    return Texts({**names} if wanted.names else None, frozenset(gone))


def make_evidence(casebook: Casebook, wanted: Wanted, plan: Plan, texts: Texts, size: int) -> Evidence:
    """What is in a bundle beside the selected entries.

    Args:
        casebook: of the whole ledger.
        wanted: what is asked for.
        plan: which entries.
        texts: what is kept.
        size: entries of the checkpoint by which it is proved.

    Raises:
        FailedPreconditionError: as ``find_erased``.
    """
    redacted = find_erased(casebook, texts.gone, size)
    story = dict(plan.story)
    if more := set(redacted.values()) - plan.selected:
        story["erased"] = tuple(sorted(more))
    return Evidence(wanted.exported, plan.span, plan.stretch, story, texts.names, redacted)


def name_of(identity: str) -> str:
    """By what the name of an identity is called among what was erased."""
    return f"name:{identity}"


def find_erased(casebook: Casebook, wanted: Iterable[str], size: int) -> dict[str, int]:
    """The entry by which each of these was erased; what no entry names isn't in it.

    Args:
        casebook: of a whole ledger.
        wanted: ids of objects, and names by ``name_of``.
        size: entries of the checkpoint that proves the bundle.

    Raises:
        FailedPreconditionError: ``ERASURE_NOT_PROVED``: it was erased after the checkpoint.
    """
    left, found = set(wanted), dict[str, int]()
    if not left:
        return found
    kind = casebook.number("erased")
    rows = [] if kind is None else casebook.rows("SELECT seq FROM act WHERE type = ? ORDER BY seq", kind)
    for entry in casebook.entries(row[0] for row in rows):
        gone = {item for item in listed(entry.body, "ids") if isinstance(item, str)}
        if entry.body.get("name") is True:
            gone.add(name_of(text(part(entry.body, "subject"), "id")))
        for which in left & gone:
            if entry.seq >= size:
                raise FailedPreconditionError(
                    f"{which} was erased by entry {entry.seq}, which no checkpoint proves yet",
                    reason="ERASURE_NOT_PROVED",
                    hint="Wait for the broker's next checkpoint, then make the bundle again.",
                )
            found[which] = entry.seq
        left -= gone
    return found
