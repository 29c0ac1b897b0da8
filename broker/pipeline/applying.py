"""The moment in which a planned effect becomes real: decided again, compared, written and on record, in one transaction.

The workspace's state is one value in the database, and what it names is there before. So intent, effect and outcome become
durable together or not at all: nothing can be cut half-way, and a start finds nothing to repair. A tree that is a directory
of the host needs another way: ``folder_applying``.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from broker.approvals.content import read_envelope
from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.envelope import envelope_digest, salt_of
from broker.domain.events import AppliedEffect, CallEvent, EventPayload, Outcome, StateChanged
from broker.domain.meter import Step
from broker.domain.planned import PLANNED, Planned, decode_planned
from broker.domain.ports import CallRow, Transaction
from broker.domain.taken_back import marks
from broker.domain.tier import Tier
from broker.domain.tree import TreeFile
from broker.domain.tree_ports import EffectRow
from broker.errors import ConflictError, DataLossError, FailedPreconditionError, FieldViolation
from broker.identity.directory import Directory
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, move, write_events
from broker.pipeline.approving import call_requirement, same_effect
from broker.pipeline.effect_history import check_still, undoes_of
from broker.pipeline.ending import write_end
from broker.pipeline.envelope_check import envelope_changed
from broker.pipeline.parts import Parts
from broker.pipeline.start import Starter, tool_as_admitted
from broker.pipeline.undoing_outside import check_acting
from broker.pipeline.using import use_approval
from broker.rollback.artifact import Manifest, unpack

_TRIES = 5
"""How often the effect is based anew on a state that moves; each time its own paths are as they were."""


class Applying:
    """Applies what was planned."""

    def __init__(self, parts: Parts, starter: Starter) -> None:
        self._parts = parts
        self._starter = starter

    async def apply(self, active: ActiveCall) -> None:
        """Applies the plan of a call: whole, and on record, when this returns.

        Raises:
            FailedPreconditionError: the files aren't as they were (``BASE_MOVED``, with the paths), what people agreed to
                isn't what would be applied (``ENVELOPE_CHANGED``), or the tool is another now (``TOOL_VERSION_CHANGED``).
                Nothing was changed.
            BrokerError: the call may not be applied now; nothing was changed.
        """
        parts, row = self._parts, active.row
        planned = await self.check(active)
        directory = await parts.directory.current()
        for _ in range(_TRIES):
            present = await parts.store.read(lambda tx: tx.trees.state(row.workspace))
            await self.check_base(active, planned, present)
            try:
                after = await parts.trees.apply(present, planned.effect)
            except ConflictError as error:
                raise moved(error.violations) from error

            def work(
                tx: Transaction, present: str = present, after: str = after
            ) -> tuple[CallRow, list[CallEvent]] | None:
                if tx.trees.state(row.workspace) != present:
                    return None
                return self._write(tx, active, planned, directory, before=present, after=after)

            done = await parts.store.write(work)
            if done is not None:
                active.row, events = done
                active.feed.publish(events)
                active.clock.took(Step.FINISH)
                parts.meter.ended(planned.outcome.cause, active.row.state.value)
                parts.bell.ring(active.approval)
                return
        raise moved(())

    async def check(self, active: ActiveCall) -> Planned:
        """The plan of a call, where it is what was admitted and agreed to, and all that it needs is there.

        Raises:
            BrokerError: as ``apply``.
        """
        row = active.row
        if envelope_digest(active.request.envelope.encode()) != row.envelope_digest:
            raise envelope_changed(active.request.envelope.encode(), b"{}", row.envelope_digest)
        tool_as_admitted(self._parts, row)
        planned = await self._parts.store.read(lambda tx: planned_of(tx, self._parts, row.id))
        if active.approval:
            await self._parts.store.read(lambda tx: self._check_agreed(tx, active, planned))
        await self._check_content(active, planned)
        return planned

    def _check_agreed(self, tx: Transaction, active: ActiveCall, planned: Planned) -> None:
        """Says early, and by its fields, what isn't as it was shown; it is compared again, with the votes, at the use."""
        shown = read_envelope(tx, self._parts.vault, self._parts.desk.find(tx, active.approval))
        call = active.request.envelope.encode()
        same_effect(shown, call, planned.bound(salt_of(active.request.envelope)))

    async def _check_content(self, active: ActiveCall, planned: Planned) -> None:
        """Reads all that the effect brings, and where people took their time, what takes it back: each is what it was."""
        new = {change.after.digest for change in planned.effect.changes if isinstance(change.after, TreeFile)}
        for content in sorted(new):
            async for _ in self._parts.objects.open(content):
                pass
        if planned.artifact and not await self._parts.artifacts.exists(planned.artifact):
            raise FailedPreconditionError(
                "what would take the effect back is no longer kept", reason="ARTIFACT_MISSING", hint="Call it again."
            )
        if planned.artifact and active.approval:
            found = await unpack(self._parts.artifacts.open(planned.artifact), _read_through)
            if found != Manifest(active.row.id, active.row.workspace, planned.base, planned.effect):
                raise DataLossError("what would take the effect back is of another one", reason="ARTIFACT_DAMAGED")

    async def check_base(self, active: ActiveCall, planned: Planned, present: str) -> None:
        """Lets pass where what the tool had been given is still so; it would have done something else with something else.

        Raises:
            FailedPreconditionError: ``BASE_MOVED``.
        """
        chosen = active.tool.spec.workspace
        if present == planned.base or chosen is None or planned.undoes:
            return  # what is taken back is compared path by path as it is applied
        trees = self._parts.trees
        then, now = await trees.select(planned.base, chosen.gets), await trees.select(present, chosen.gets)
        changed = sorted(path for path in {*then, *now} if then.get(path) != now.get(path))
        if changed:
            raise moved(tuple(FieldViolation(path, "was changed since the plan was made") for path in changed[:20]))

    def _write(
        self,
        tx: Transaction,
        active: ActiveCall,
        planned: Planned,
        directory: Directory,
        *,
        before: str,
        after: str,
    ) -> tuple[CallRow, list[CallEvent]]:
        parts, now = self._parts, self._parts.clock()
        row, events = self.write_intent(tx, active, planned, directory, now=now)
        salt = salt_of(active.request.envelope)
        outcome = replace(planned.outcome, effect=applied(planned, salt, before, after))
        row, more = write_applied(tx, parts, row, CallState.SUCCEEDED, outcome, now=now)
        return row, [*events, *more]

    def decide(self, tx: Transaction, active: ActiveCall, planned: Planned, directory: Directory) -> None:
        """Lets pass a call that might be applied now, but for its approval; it is decided again with the intent.

        Raises:
            BrokerError: as ``write_intent``.
        """
        self._starter.decide_again(tx, active, directory)
        check_still(tx, self._parts, planned.undoes)
        self._check_acting(tx, active, planned)

    def write_intent(
        self, tx: Transaction, active: ActiveCall, planned: Planned, directory: Directory, *, now: datetime
    ) -> tuple[CallRow, list[CallEvent]]:
        """Decides again, counts again and writes the intent of an effect, as a part of a transaction.

        Raises:
            BrokerError: it may not be applied.
        """
        parts = self._parts
        decision = self._starter.decide_again(tx, active, directory)
        bound = planned.bound(salt_of(active.request.envelope))
        used = self._use(tx, active, bound)
        check_still(tx, self._parts, planned.undoes)
        self._check_acting(tx, active, planned)
        move(active.row, CallState.APPLYING)
        sealed = parts.vault.open(tx, active.row.id)
        image = parts.images.get(active.tool.spec.image, "")
        hosts = () if planned.outside is None else active.tool.spec.egress_rules
        body: JsonObject = {
            **journal.request_body(active.row, active.request, image, sealed, egress=hosts),
            **journal.decision_body(decision, active.row.agent),
            **used,
            "decision_seq": -1 if active.row.decision_seq is None else active.row.decision_seq,
            "effect": bound,
        }
        seq = parts.ledger.append(tx, "intent", body, agent=active.row.agent)
        events = write_events(tx, sealed, active.row.last_event, now, [StateChanged(CallState.APPLYING)])
        row = replace(active.row, state=CallState.APPLYING, started=now, intent_seq=seq, last_event=events[-1].number)
        tx.calls.replace(row)
        return row, events

    def _use(self, tx: Transaction, active: ActiveCall, bound: JsonObject) -> JsonObject:
        requirement = call_requirement(self._parts, Tier(active.row.tier))
        if requirement is not None and not active.approval:
            raise FailedPreconditionError(
                "people have to agree to such a call now, and did not when it was planned",
                reason="REQUIREMENT_STRICTER",
                hint="Call it again.",
            )
        if not active.approval:
            return {}
        call = active.request.envelope.encode()
        check = partial(same_effect, call=call, bound=bound)
        used = use_approval(tx, self._parts, active, requirement=requirement, check=check)
        return {"approvals": [used.body()]}

    def _check_acting(self, tx: Transaction, active: ActiveCall, planned: Planned) -> None:
        """The tool whose programs take something back is the one that was planned with, and isn't frozen."""
        outside = planned.outside
        if outside is None or not planned.undoes:
            return
        check_acting(tx, self._parts, active.row, outside)


def planned_of(tx: Transaction, parts: Parts, call: str) -> Planned:
    """The plan of a call.

    Raises:
        DataLossError: it is missing or can't be read (``PLAN_UNREADABLE``).
    """
    found = dict(parts.vault.open(tx, call).read(tx, PLANNED, 1)).get(PLANNED)
    if found is None:
        raise DataLossError(f"the plan of {call} is missing", reason="PLAN_UNREADABLE")
    return decode_planned(found)


def write_applied(
    tx: Transaction,
    parts: Parts,
    row: CallRow,
    state: CallState,
    outcome: Outcome,
    *,
    now: datetime,
    tail: Sequence[EventPayload] = (),
) -> tuple[CallRow, list[CallEvent]]:
    """The end of a call that had an effect, or may have had it, with that effect, as a part of a transaction."""
    row, events = write_end(tx, parts, row, state, outcome, now=now, tail=tail)
    effect = outcome.effect
    if effect is None:
        return row, events
    where = -1 if row.outcome_seq is None else row.outcome_seq
    if effect.after:
        tx.trees.move(row.workspace, effect.before, effect.after, where, now)
    tx.trees.insert(
        EffectRow(
            call=row.id,
            workspace=row.workspace,
            base=effect.before,
            after=effect.after,
            digest=effect.digest,
            artifact=effect.artifact,
            undoes=effect.undoes,
            undone_by="",
            seq=where,
            at=now,
        )
    )
    for call in effect.undoes if state is CallState.SUCCEEDED else ():
        mark_undone(tx, call, row.id)  # of one that isn't known, nobody knows it
    return row, events


async def _read_through(pieces: AsyncIterator[bytes]) -> tuple[str, int]:
    found, size = hashlib.sha256(), 0
    async for piece in pieces:
        found.update(piece)
        size += len(piece)
    return f"sha256:{found.hexdigest()}", size


def mark_undone(tx: Transaction, call: str, by: str) -> None:
    """Puts on record that a call was taken back; what that call had taken back itself is in effect again, and so on."""
    for other, taken in marks(call, by, lambda one: undoes_of(tx, one)):
        tx.trees.mark(other, undone_by=taken)
        if taken:
            _stand(tx, other, CallState.UNDOING)
            _stand(tx, other, CallState.UNDONE)
        else:
            _stand(tx, other, CallState.SUCCEEDED)


def _stand(tx: Transaction, call: str, state: CallState) -> None:
    row = tx.calls.get(call)
    if row is not None:
        move(row, state)
        tx.calls.replace(replace(row, state=state))


def applied(planned: Planned, salt: str, before: str = "", after: str = "") -> AppliedEffect:
    """What an outcome says of an effect.

    Args:
        planned: the plan.
        salt: the call's own.
        before: state of the workspace's files before it; empty where none of them was changed.
        after: their state after it.
    """
    kinds = [change.kind for change in planned.effect.changes]
    return AppliedEffect(
        before=before,
        after=after,
        digest=planned.effect.digest(salt),
        artifact=planned.artifact,
        added=kinds.count("added"),
        removed=kinds.count("removed"),
        changed=len(kinds) - kinds.count("added") - kinds.count("removed"),
        undoes=planned.undoes,
    )


def moved(violations: tuple[FieldViolation, ...]) -> FailedPreconditionError:
    """The error about files that aren't as they were when the effect was planned, with the first paths."""
    named = ", ".join(repr(item.field) for item in violations[:3])
    return FailedPreconditionError(
        f"the workspace's files are not as they were when the effect was planned: {named or 'others keep changing them'}",
        reason="BASE_MOVED",
        violations=violations,
        hint="Nothing was changed. Call it again: it is planned anew from what is there now.",
    )
