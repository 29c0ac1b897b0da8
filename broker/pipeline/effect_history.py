"""What is kept of the effects on a workspace: which one is in effect, what has built on it since, and what it stands on."""

from __future__ import annotations

from collections.abc import Sequence

from broker.domain.call import CallState
from broker.domain.envelope import salt_of
from broker.domain.planned import PLANNED, decode_planned
from broker.domain.ports import Transaction
from broker.domain.taken_back import taken_back_by
from broker.domain.tree import Effect
from broker.domain.tree_ports import EffectRow
from broker.errors import DataLossError, FailedPreconditionError, FieldViolation, NotFoundError
from broker.pipeline.kept import read_request
from broker.pipeline.parts import Parts
from broker.rollback.back import Done, dependents, moved_bases

FIELD = "arguments/call"
"""Where a call of ``workspace.undo`` names what it takes back."""
LISTED = 20
"""Most calls or paths that a refusal names."""


class History:
    """The effects on a workspace from one of them on, read in one transaction; older ones are read when they are asked for.

    Implements ``broker.rollback.back.History``.

    Args:
        tx: a transaction.
        parts: the broker's.
        first: the effect with which it begins.

    Raises:
        DataLossError: as ``done_of``, of the first.
    """

    def __init__(self, tx: Transaction, parts: Parts, first: EffectRow) -> None:
        self._tx = tx
        self._parts = parts
        self._rows = {item.call: item for item in (first, *tx.trees.effects(first.workspace, first.seq))}
        self.first = done_of(tx, parts, first)
        # A call whose content is erased doesn't stand in the way of others: what it left is compared path by path all the same.
        later = {call: _kept(tx, parts, row) for call, row in self._rows.items() if call != first.call}
        self.later = tuple(item for item in later.values() if item is not None)
        """Those after the first whose content is kept, oldest first."""
        self._done = {first.call: self.first, **later}

    def row(self, call: str) -> EffectRow:
        """The row of an effect that is part of it."""
        return self._rows[call]

    def undoes(self, call: str) -> Sequence[str]:
        """See ``broker.rollback.back.History``."""
        row = self._rows.get(call)
        return undoes_of(self._tx, call) if row is None else row.undoes

    def effect(self, call: str) -> Done | None:
        """See ``broker.rollback.back.History``."""
        if call not in self._done:
            row = self._tx.trees.effect(call)
            self._done[call] = None if row is None else _kept(self._tx, self._parts, row)
        return self._done[call]

    def check_bases(self, chain: Sequence[Done]) -> None:
        """Lets pass calls that stand on what they stood on when they were made.

        Raises:
            FailedPreconditionError: an earlier change of their paths was taken back, or brought back, since (``UNDO_CONFLICT``).
        """
        turns = [
            Done(row.call, row.seq, Effect(()), row.undoes) for row in self._rows.values() if _turned(self._tx, row)
        ]
        if moved := moved_bases(chain, turns, self):
            raise _moved(chain[0].call, moved)


def check_still(tx: Transaction, parts: Parts, calls: Sequence[str]) -> None:
    """Lets pass what may still be taken back together: while people decided, others have gone on.

    Args:
        tx: the transaction in which it is taken back.
        parts: the broker's.
        calls: what is taken back, oldest first.

    Raises:
        FailedPreconditionError: one is no longer in effect (``ALREADY_UNDONE``), others have built on it (``UNDO_DEPENDENTS``), or
            it stands on something else (``UNDO_CONFLICT``).
        DataLossError: as ``done_of``.
    """
    for call in calls:
        check_in_effect(tx, call)
    rows = [row for row in map(tx.trees.effect, calls) if row is not None]
    if not rows:
        return
    history = History(tx, parts, rows[0])
    left = [item.call for item in dependents(history.first, history.later) if item.call not in calls]
    if left:
        raise built_upon(calls[0], left)
    history.check_bases([done_of(tx, parts, row) for row in rows])


def undoes_of(tx: Transaction, call: str) -> tuple[str, ...]:
    """The calls that a call took back."""
    row = tx.trees.effect(call)
    return () if row is None else row.undoes


def check_in_effect(tx: Transaction, call: str) -> None:
    """Lets pass a call that has changed something and is in effect.

    Raises:
        FailedPreconditionError: it isn't, or isn't any more (``ALREADY_UNDONE``, with the call that took it back).
    """

    def undone_by(which: str) -> str:
        row = tx.trees.effect(which)
        return which if row is None else row.undone_by

    by = taken_back_by(call, lambda one: undoes_of(tx, one), undone_by)
    if by == call:
        raise FailedPreconditionError(
            f"{call} was taken back by itself, as its end was not known",
            reason="ALREADY_UNDONE",
            hint="Nothing is left to take back.",
            metadata={"undone_by": by},
        )
    if by:
        raise FailedPreconditionError(
            f"{call} has been taken back by {by}",
            reason="ALREADY_UNDONE",
            hint=f"To bring its changes back, undo that one: broker undo {by}",
            metadata={"undone_by": by},
        )


def done_of(tx: Transaction, parts: Parts, row: EffectRow) -> Done:
    """An effect as it was applied, read out of what is kept with its call.

    Raises:
        DataLossError: that is gone (``EFFECT_ERASED``), or isn't what was applied (``EFFECT_CHANGED``).
    """
    sealed = parts.vault.open(tx, row.call)
    found = dict(sealed.read(tx, PLANNED, 1)).get(PLANNED)
    if found is None:
        raise DataLossError(
            f"what {row.call} changed is no longer kept",
            reason="EFFECT_ERASED",
            hint="Its retention is over, or it was erased: what came after it can be undone, and this can't.",
        )
    effect = decode_planned(found).effect
    if effect.digest(salt_of(read_request(tx, sealed).envelope)) != row.digest:
        raise DataLossError(f"what is kept of {row.call} is not what was applied", reason="EFFECT_CHANGED")
    return Done(row.call, row.seq, effect, row.undoes, row.undone_by)


def _kept(tx: Transaction, parts: Parts, row: EffectRow) -> Done | None:
    """An effect as it was applied; ``None`` where what is kept of it has been erased."""
    try:
        return done_of(tx, parts, row)
    except NotFoundError:
        return None
    except DataLossError as error:
        if error.reason != "EFFECT_ERASED":
            raise
        return None


def built_upon(call: str, ids: Sequence[str]) -> FailedPreconditionError:
    """The refusal to take a call back without those that built on it."""
    return FailedPreconditionError(
        f"{len(ids)} later call(s) changed what {call} had changed: {', '.join(ids[:LISTED])}",
        reason="UNDO_DEPENDENTS",
        hint=f"Take them back together, all or nothing: broker undo {call} --cascade",
        metadata={"calls": ",".join(ids[:LISTED]), "count": str(len(ids))},
    )


def _turned(tx: Transaction, row: EffectRow) -> bool:
    """Whether a call took others back; one whose end isn't known has done so for none of them."""
    if not row.undoes:
        return False
    call = tx.calls.get(row.call)
    return call is None or call.state is not CallState.UNKNOWN


def _moved(call: str, below: Sequence[Done]) -> FailedPreconditionError:
    last, ids = below[-1], [item.call for item in below]
    if last.undone_by:
        now, next_one = f"was in effect, which {last.undone_by} has taken back since", last.undone_by
    else:
        now, next_one = "was taken back, which is in effect again", last.call
    return FailedPreconditionError(
        f"{call} was made while {last.call} {now}: what it found isn't what has to be there without it",
        reason="UNDO_CONFLICT",
        violations=(FieldViolation(FIELD, f"stands on {last.call}, which isn't as it was then"),),
        hint=f"Undo {next_one} first: broker undo {next_one}",
        metadata={"calls": ",".join(ids[:LISTED]), "count": str(len(ids))},
    )
