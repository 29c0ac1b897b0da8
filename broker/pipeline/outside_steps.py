"""The steps of a tool with outside effects that run beside the call's own: the rehearsal, and the look at what is there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.domain.outside import Step, present_items, sides
from broker.domain.planned import OutsidePlan, Planned
from broker.domain.tree import Effect
from broker.errors import FailedPreconditionError, InternalError
from broker.pipeline.active import ActiveCall
from broker.pipeline.blobs import Blobs
from broker.pipeline.outside_inputs import step_inputs
from broker.pipeline.outside_plan import cant_tell, moved
from broker.pipeline.parts import Parts
from broker.pipeline.plan import Plan, plan_job
from broker.pipeline.rehearsing import opened, refused
from broker.pipeline.start import input_blobs
from broker.pipeline.step_run import StepRan, run_step
from broker.pipeline.undoing_outside import origin_of, version_of
from broker.sandbox.engine import Lease
from broker.sandbox.job_frames import frame_digest


@dataclass(frozen=True, slots=True)
class Look:
    """What is there now, beside what a plan starts from and what it leads to."""

    known: bool
    """Could it be told?"""
    failed: bool = False
    """Did the look itself fail? Else the program said that it can't tell."""
    unlike_before: tuple[str, ...] = ()
    """Items that aren't as they were."""
    unlike_after: tuple[str, ...] = ()
    """Items that aren't as they were to become."""


class Steps:
    """Runs them, one call at a time."""

    def __init__(self, parts: Parts, blobs: Blobs) -> None:
        self._parts = parts
        self._blobs = blobs

    async def tried(self, active: ActiveCall, planned: Planned) -> Planned:
        """A plan with all that is needed to apply it, once its artifact was opened and, where it is exact, tried.

        Raises:
            FailedPreconditionError: it is not good (``REHEARSAL_FAILED``).
            BrokerError: the engine failed.
        """
        outside = active.tool.spec.outside
        if outside is None:
            raise InternalError("a plan of outside effects needs a tool with programs for them")
        await opened(self._parts, planned.artifact, active.row.id, planned.effect)
        undoes = bool(planned.undoes)
        found = OutsidePlan(
            tool=active.request.acts_for or active.tool.spec.name,
            step=Step.UNDO if undoes else Step.APPLY,
            reversibility=active.tool.spec.reversibility,
            on_failure="none" if undoes else outside.on_failure,
            version=version_of(self._parts, active.request.acts_for) if undoes else active.tool.digest,
            frames="",
        )
        planned = replace(planned, outside=found)
        job = await self.plan(active, planned, found.step, base="", own=False)
        found = replace(found, frames=frame_digest(job.job))
        if found.on_failure == "undo":
            back = await self.plan(active, planned, Step.UNDO, base="", own=False, effect=planned.effect.inverse())
            found = replace(found, undo_frames=frame_digest(back.job))
        planned = replace(planned, outside=found)
        if planned.rehearsed:
            ran = await self.run(active, planned, Step.REHEARSE, planned.base)
            if ran.ended.exit_code != 0:
                raise refused(ran.told)
        return replace(planned, outcome=replace(planned.outcome, egress=active.reached))

    async def plan(
        self,
        active: ActiveCall,
        planned: Planned,
        step: Step,
        *,
        base: str,
        own: bool = True,
        effect: Effect | None = None,
    ) -> Plan:
        """What a step runs.

        Args:
            active: the call.
            planned: its plan.
            step: which.
            base: state of the workspace's files that it gets.
            own: whether it gets them at all.
            effect: what is to be made so; ``None`` for the plan's.

        Raises:
            BrokerError: what it needs is no longer there.
        """
        parts, request, outside = self._parts, active.request, planned.outside
        if outside is None:
            raise InternalError("a step needs a plan of outside effects")
        origin = ""
        if planned.undoes or step is Step.UNDO:
            first = planned.undoes[0] if planned.undoes else active.row.id
            origin = await parts.store.read(lambda tx: origin_of(tx, parts, first))
        tree = await step_inputs(
            parts,
            active.tool,
            step,
            planned.effect if effect is None else effect,
            named=outside.tool,
            base=base,
            workspace=active.row.workspace,
            origin=origin,
            undoes=planned.undoes,
            own=own,
        )
        rows = await parts.store.read(lambda tx: input_blobs(tx, request)) if request.files else []
        return plan_job(
            parts,
            self._blobs,
            tool=active.tool,
            arguments_bytes=request.arguments_json.encode(),
            files=request.files,
            rows=rows,
            tree=tree,
        )

    async def run(
        self,
        active: ActiveCall,
        planned: Planned,
        step: Step,
        base: str,
        *,
        effect: Effect | None = None,
        frames: str = "",
    ) -> StepRan:
        """Runs a step in a container of its own; what it does with hosts is added to the call's.

        Args:
            active: the call; whoever ends it ends the step.
            planned: its plan.
            step: which.
            base: state of the workspace's files that it gets.
            effect: what is to be made so; ``None`` for the plan's.
            frames: digest of the frames that people agreed to; empty where nobody had to.

        Raises:
            FailedPreconditionError: what would run has other frames (``ENVELOPE_CHANGED``).
            BrokerError: what it needs is no longer there, or the engine failed.
        """
        plan = await self.plan(active, planned, step, base=base, effect=effect)
        if active.egress is None:
            active.egress = self._parts.egress.session(active.row.id, plan.profile.egress)
        entries = {} if plan.tree is None else plan.tree.entries

        def holds(lease: Lease | None) -> None:
            if active.row.intent_seq is not None:
                return  # what came of the effect is looked at whoever wants the call to end
            active.lease = lease
            if lease is not None and active.ending is not None:
                lease.kill(active.ending.cause, active.ending.detail)

        return await run_step(
            self._parts,
            active.row.id,
            plan.profile,
            plan.job,
            before=entries,
            egress=active.egress,
            frames=frames,
            holds=holds,
        )

    async def look(self, active: ActiveCall, planned: Planned, base: str) -> Look:
        """Looks at what is there now.

        Raises:
            FailedPreconditionError: the look failed (``VERIFY_FAILED``).
            BrokerError: as ``run``.
        """
        outside = planned.outside
        if outside is None:
            raise InternalError("a look needs a plan of outside effects")
        ran = await self.run(active, planned, Step.VERIFY, base)
        before, after = sides(outside.tool, planned.effect)
        items = sorted({*before, *after})
        if cant_tell(active.tool, ran.ended.exit_code):
            return Look(known=False)
        if not ran.good:
            raise FailedPreconditionError(
                f"what is there now can't be told: {ran.told}",
                reason="VERIFY_FAILED",
                hint="Call it again; if it stays so, the tool's owner has to look at its `verify` program.",
            )
        now = present_items(ran.effect)
        return Look(
            known=True, unlike_before=tuple(moved(before, items, now)), unlike_after=tuple(moved(after, items, now))
        )
