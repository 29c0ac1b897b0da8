"""The moment in which an effect outside of the broker becomes real: looked at again, agreed to again, on record, run, and settled.

What lies outside can't be part of a transaction of ours. So the intent is durable before, the outcome after, and what comes
between is looked at: an end that isn't known stays UNKNOWN, with what takes it back at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject, canonical, parse_object
from broker.domain.container_facts import ContainerFacts, facts_bytes
from broker.domain.envelope import salt_of
from broker.domain.events import AppliedEffect, CallEvent, EventPayload, Outcome
from broker.domain.planned import Planned
from broker.domain.ports import CallRow, Transaction
from broker.domain.run import EndCause
from broker.errors import (
    BrokerError,
    ConflictError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
)
from broker.pipeline.active import ActiveCall
from broker.pipeline.applying import Applying, applied, planned_of, write_applied
from broker.pipeline.blobs import Blobs
from broker.pipeline.claims import Claims
from broker.pipeline.envelope_check import envelope_changed
from broker.pipeline.folder_applying import FolderApplying
from broker.pipeline.hold import Hold
from broker.pipeline.outside_plan import listed
from broker.pipeline.outside_steps import Look, Steps
from broker.pipeline.parts import Parts
from broker.pipeline.ran import Ran
from broker.pipeline.self_undo import SelfUndo
from broker.pipeline.start import Begun
from broker.pipeline.undoing_outside import check_acting
from broker.pipeline.verdict import lost
from broker.sandbox.job_frames import frame_digest

_log = structlog.get_logger(__name__)
_TRIES = 5
SAY_UNCHANGED = frozenset({3, 5})
"""Exit codes of ``apply`` and ``undo`` that say that nothing was changed: refused, or not as it was."""


class Outside:
    """Applies what was planned by a tool with outside effects."""

    def __init__(self, parts: Parts, blobs: Blobs, applying: Applying, claims: Claims) -> None:
        self._parts = parts
        self._applying = applying
        self._in_place = FolderApplying(parts, applying)
        self._steps = Steps(parts, blobs)
        self._self_undo = SelfUndo(parts, self._steps)
        self._claims = claims

    async def begin(self, active: ActiveCall) -> Begun:
        """Takes a planned call to where its program may be run: what is there is as it was, the container is the one that
        was agreed to, and the intent is durable.

        Raises:
            FailedPreconditionError: something isn't as it was (``BASE_MOVED``, with the items), or what would run isn't what
                was planned (``ENVELOPE_CHANGED``).
            BrokerError: the call may not be applied now. Nothing was changed.
        """
        parts = self._parts
        planned = await self._applying.check(active)
        outside = planned.outside
        if outside is None:
            raise InternalError("only what is planned so is applied so")
        if active.applies is None:
            active.applies = parts.egress.session(active.row.id, active.tool.spec.egress_rules)
        active.egress = active.applies
        directory = await parts.directory.current()
        # Who may not apply it doesn't get to look either; it is decided once more with the intent.
        await parts.store.read(lambda tx: self._applying.decide(tx, active, planned, directory))
        base = await parts.folders.state(active.row.workspace) if planned.base else ""
        _unmoved(await self._steps.look(active, planned, base))
        bare = await self._steps.plan(active, planned, outside.step, base="", own=False)
        if frame_digest(bare.job) != outside.frames:
            raise envelope_changed(_named(outside.frames), _named(frame_digest(bare.job)), outside.frames)
        plan = bare if not base else await self._steps.plan(active, planned, outside.step, base=base)
        directory = await parts.directory.current()
        begun = Begun(plan, Hold(parts.sandboxes, active.row.id, plan.profile))
        self._claims.take(planned.undoes)
        try:
            _same_container(active, await (await begun.hold.lease()).observe())

            def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
                _check_wanted(active)
                return self._applying.write_intent(tx, active, planned, directory, now=parts.clock())

            active.row, events = await parts.store.write(work)
        except BaseException:
            self._claims.give_back(planned.undoes)
            await begun.hold.release()
            raise
        active.feed.publish(events)
        return begun

    def over(self, active: ActiveCall) -> None:
        """A call that had begun has ended, one way or another: what it was taking back may be taken back by others."""
        self._claims.give_back(active.request.undoes)

    async def settle(self, active: ActiveCall, begun: Begun, ran: Ran) -> None:
        """Takes a call on from the end of its program: it is done, it changed nothing, or its end isn't known."""
        if ran.state is CallState.SUCCEEDED and (ran.complete or begun.plan.tree is None or not begun.plan.tree.base):
            await self._done(active, begun, ran)
            return
        await self._look_after(active, ran.outcome, ran.tail, by_itself=changed_nothing(ran.outcome))

    async def never_started(self, active: ActiveCall, outcome: Outcome) -> None:
        """Ends a call whose program was not handed over."""
        outcome = replace(outcome, detail=f"{outcome.detail}: nothing was changed", egress=active.reached)
        await self._end(active, CallState.FAILED, outcome, ())

    async def resume(self, active: ActiveCall) -> None:
        """Settles a call that an earlier run of the broker left while its program ran: nobody knows how that ended."""
        parts, row = self._parts, active.row
        outcome = lost("the broker stopped while the effect was applied")
        planned = await parts.store.read(lambda tx: planned_of(tx, parts, row.id))
        try:
            bound = row.workspace in parts.folders.bound
            if planned.base and bound:
                raise FailedPreconditionError(
                    "how far its files came in the directory isn't known", reason="JOURNAL_GONE"
                )
            if planned.outside is not None:
                outside = planned.outside
                await parts.store.read(lambda tx: check_acting(tx, parts, row, outside))
        except BrokerError as error:
            detail = (
                f"the end of the effect is not known ({outcome.detail}), and it can't be looked at: {error.message}"
            )
            effect = self._doubtful(active, planned)
            await self._end(active, CallState.UNKNOWN, replace(outcome, detail=detail, effect=effect), ())
            return
        await self._look_after(active, outcome, (), by_itself=False)

    @staticmethod
    def _doubtful(active: ActiveCall, planned: Planned) -> AppliedEffect:
        """What is on record of an effect that may be there or not; it takes nothing back as far as anybody knows."""
        return applied(planned, salt_of(active.request.envelope))

    async def _done(self, active: ActiveCall, begun: Begun, ran: Ran) -> None:
        parts, row = self._parts, active.row
        tree = begun.plan.tree
        planned = await parts.store.read(lambda tx: planned_of(tx, parts, row.id))
        salt = salt_of(active.request.envelope)
        if tree is None or not tree.base:
            outcome = replace(ran.outcome, effect=applied(planned, salt), egress=active.reached)
            await self._end(active, CallState.SUCCEEDED, outcome, ran.tail)
            return
        async with parts.folders.held(row.workspace) as folder:
            if folder is not None:
                await self._in_place.put(folder, active, planned, ran, replace(ran.outcome, egress=active.reached))
                return
        for _ in range(_TRIES):
            present = await parts.store.read(lambda tx: tx.trees.state(row.workspace))
            try:
                after = await parts.trees.apply(present, ran.effect)
            except ConflictError as error:
                detail = f"BASE_MOVED: {error.message}; nothing was changed"
                await self._end(active, CallState.FAILED, replace(ran.outcome, detail=detail), ran.tail)
                return
            outcome = replace(ran.outcome, effect=applied(planned, salt, present, after), egress=active.reached)
            if await self._end(active, CallState.SUCCEEDED, outcome, ran.tail, present=present):
                return
        detail = "BASE_MOVED: others keep changing the workspace's files; nothing was changed"
        await self._end(active, CallState.FAILED, replace(ran.outcome, detail=detail), ran.tail)

    async def _look_after(
        self, active: ActiveCall, outcome: Outcome, tail: Sequence[EventPayload], *, by_itself: bool
    ) -> None:
        """Looks at what came of a program that didn't end well, and ends its call with what can be said for sure."""
        parts, row = self._parts, active.row
        planned = await parts.store.read(lambda tx: planned_of(tx, parts, row.id))
        if planned.base:
            # What its programs change is a copy of the workspace's files, and nothing of it was taken.
            detail = f"{outcome.detail}; nothing was changed"
            await self._end(active, CallState.FAILED, replace(outcome, detail=detail), tail)
            return
        look = await self._looked(active, planned)
        outcome = replace(outcome, egress=active.reached)
        if by_itself and not look.failed and not look.unlike_before:
            seen = "all is as it was before" if look.known else "what is there can't be told"
            detail = f"{outcome.detail}; by its own word nothing was changed, and {seen}"
            await self._end(active, CallState.FAILED, replace(outcome, detail=detail), tail)
            return
        effect = self._doubtful(active, planned)
        detail = f"the end of the effect is not known ({outcome.detail}): {_seen(look)}"
        _log.error("call.unknown", call=row.id, error=outcome.detail)
        as_planned = look.known and not look.unlike_after
        by_agreement = planned.outside is not None and planned.outside.on_failure == "undo" and as_planned
        with self._claims.of([row.id] if by_agreement else []):
            await self._end(active, CallState.UNKNOWN, replace(outcome, detail=detail, effect=effect), tail)
            if by_agreement:
                await self._self_undo.take_back(active, planned)

    async def _looked(self, active: ActiveCall, planned: Planned) -> Look:
        try:
            return await self._steps.look(active, planned, "")
        except BrokerError as error:
            _log.warning("outside.not_seen", call=active.row.id, reason=error.reason, error=error.message)
            return Look(known=False, failed=True)

    async def _end(
        self,
        active: ActiveCall,
        state: CallState,
        outcome: Outcome,
        tail: Sequence[EventPayload],
        *,
        present: str = "",
    ) -> bool:
        """Writes the end; false, and nothing, where the workspace's files are no longer in the state ``present``."""
        parts, row = self._parts, active.row

        def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]] | None:
            if present and tx.trees.state(row.workspace) != present:
                return None
            return write_applied(tx, parts, row, state, outcome, now=parts.clock(), tail=tail)

        done = await parts.store.write(work)
        if done is None:
            return False
        active.row, events = done
        active.feed.publish(events)
        parts.meter.ended(outcome.cause, state.value)
        parts.bell.ring(active.approval)
        return True


def _check_wanted(active: ActiveCall) -> None:
    if active.ending is not None:
        raise FailedPreconditionError("the call is to end, and nothing of it begins", reason="CANCELLED")


def changed_nothing(outcome: Outcome) -> bool:
    """Does the program itself say that it changed nothing? Whether that is so is looked at."""
    return outcome.cause is EndCause.TOOL and outcome.exit_code in SAY_UNCHANGED


def _unmoved(look: Look) -> None:
    if look.known and look.unlike_before:
        raise FailedPreconditionError(
            f"what the plan starts from is no longer so: {listed(look.unlike_before)}",
            reason="BASE_MOVED",
            violations=tuple(
                FieldViolation(item, "was changed since the plan was made") for item in look.unlike_before[:20]
            ),
            hint="Nothing was changed. Call it again: it is planned anew from what is there now.",
        )


def _seen(look: Look) -> str:
    if not look.known:
        return "what is there now can't be told"
    if not look.unlike_after:
        return "all is as it was planned to be"
    if not look.unlike_before:
        return "all is as it was before, as far as can be seen now"
    return f"it is neither as before nor as planned: {listed(look.unlike_after)}"


def _same_container(active: ActiveCall, observed: ContainerFacts) -> None:
    """The container in which it is applied is as the one that was agreed to."""
    data = active.request.envelope.encode()
    agreed = parse_object(data, field="envelope", max_bytes=len(data)).get("container")
    found = parse_object(facts_bytes(observed), field="container", max_bytes=2**20)
    if agreed != found:
        then: JsonObject = {"container": agreed}
        raise envelope_changed(canonical(then), canonical({"container": found}), active.row.envelope_digest)


def _named(digest: str) -> bytes:
    return canonical({"effect": {"outside": {"frames": digest}}})
