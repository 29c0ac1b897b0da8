"""The founding as people look at it: what it covers, with the texts behind its digests and the names behind its ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.approvals.founding import Founding
from broker.domain.ports import Transaction, Vault
from broker.ledger.in_force import sealed_text


@dataclass(frozen=True, slots=True)
class FoundingView:
    """A founding, and what a person needs to look at it."""

    found: Founding
    names: Mapping[str, str]
    """Id -> ``human:NAME`` or ``agent:NAME``."""
    content: bytes
    """All that it covers, in its canonical form; empty where it wasn't asked for."""
    texts: Mapping[str, str]
    """``policy``, ``settings`` and ``tools`` -> the text of that digest, with the content."""


def view_founding(tx: Transaction, vault: Vault, found: Founding, *, content: bool) -> FoundingView:
    """Adds names, and the content with its texts where it is asked for.

    Raises:
        DataLossError: a text that the ledger names is gone, or another one (``RECORD_DIFFERS``).
    """
    covered = found.standing.content
    who = {key.holder for key in found.keys} | found.standing.voided
    if not content:
        return FoundingView(found, names_of(tx, who), b"", {})
    who |= {person for item in covered.identities for person in (item.id, item.owner, item.registrar) if person}
    who |= {item.person for item in covered.approvers}
    named = (("policy", covered.policy), ("settings", covered.settings), ("tools", covered.tools))
    texts = {kind: sealed_text(tx, vault, kind, which) for kind, which in named if which}
    return FoundingView(found, names_of(tx, who), covered.encode(), texts)


def names_of(tx: Transaction, who: Iterable[str]) -> dict[str, str]:
    """Id -> kind and name, or the id itself where nobody has it any more."""
    found = {}
    for which in sorted(who):
        identity = tx.identities.get(which)
        found[which] = which if identity is None else f"{identity.kind}:{identity.name}"
    return found
