"""Drills: live rollback artifacts, chosen by chance, are put back in sandboxes; the ledger keeps how many were good."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller
from broker.domain.ids import new_id
from broker.domain.outside import of_outside
from broker.domain.ports import Transaction
from broker.domain.tree_ports import EffectRow
from broker.errors import BrokerError, FieldViolation, InvalidArgumentError
from broker.pipeline.effect_history import done_of
from broker.pipeline.parts import Parts
from broker.pipeline.rehearsing import opened, rehearse

MOST = 1000
"""Artifacts of one drill, at the most."""
_NAMED = 50
"""Failures that the ledger's entry names."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One artifact of a drill; ``reason`` and ``why`` are empty where it was good."""

    call: str
    artifact: str
    reason: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Drill:
    """What a drill came to."""

    live: int
    """Artifacts that there were to choose from."""
    tried: tuple[Tried, ...]
    seq: int
    """Number of the ledger's entry."""

    @property
    def failed(self) -> tuple[Tried, ...]:
        """Those that weren't good."""
        return tuple(item for item in self.tried if item.reason)


async def drill(parts: Parts, caller: Caller, workspace: str, sample: int) -> Drill:
    """Tries up to ``sample`` artifacts of a workspace, one after the other.

    Raises:
        InvalidArgumentError: ``sample`` is not between 1 and ``MOST``.
        BrokerError: the ledger can't be written.
    """
    if not 1 <= sample <= MOST:
        why = f"must be between 1 and {MOST}"
        raise InvalidArgumentError(f"sample {why}", violations=(FieldViolation("sample", why),))
    live = await parts.store.read(lambda tx: _live(tx, workspace))
    chosen = secrets.SystemRandom().sample(live, min(sample, len(live)))
    tried = tuple([await _try(parts, row) for row in sorted(chosen, key=lambda row: row.seq)])
    failed = [item for item in tried if item.reason]
    body: JsonObject = {
        "workspace": workspace,
        "by": caller.identity.id,
        "live": len(live),
        "tried": len(tried),
        "passed": len(tried) - len(failed),
        "failed": [{"call": item.call, "artifact": item.artifact, "reason": item.reason} for item in failed[:_NAMED]],
    }
    seq = await parts.store.write(lambda tx: parts.ledger.append(tx, "undo.drill", body))
    return Drill(len(live), tried, seq)


def _live(tx: Transaction, workspace: str) -> list[EffectRow]:
    """Effects that stand, and whose artifact is still to be kept."""
    return [row for row in tx.trees.effects(workspace, -1) if row.artifact and not row.undone_by and _kept(tx, row)]


def _kept(tx: Transaction, row: EffectRow) -> bool:
    # One that is gone before its time is a failure, and no reason to leave it out: its call is still kept.
    return tx.vault.get(row.call) is not None


async def _try(parts: Parts, row: EffectRow) -> Tried:
    try:
        done = await parts.store.read(lambda tx: done_of(tx, parts, row))
        if of_outside(done.effect):
            # Put back it can be where it belongs alone, and a drill changes nothing there: it is opened and compared.
            await opened(parts, row.artifact, row.call, done.effect)
        else:
            await rehearse(parts, new_id("drl"), row.artifact, row.call, done.effect)
    except BrokerError as error:
        return Tried(row.call, row.artifact, error.reason, error.message)
    return Tried(row.call, row.artifact)
