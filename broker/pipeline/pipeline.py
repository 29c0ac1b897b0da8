"""The sentence that the broker is: each call is admitted, decided, recorded, run in a container, recorded, answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Self

import structlog

from broker.domain.call import RESTING_STATES, CallRequest, PolicyRequest
from broker.domain.events import CallView
from broker.domain.identity import Caller
from broker.domain.run import EndCause
from broker.errors import UnavailableError
from broker.pipeline.active import ActiveCall
from broker.pipeline.admission import Admission, Admitted
from broker.pipeline.approval_sight import ApprovalSight
from broker.pipeline.approvals import Approvals
from broker.pipeline.blobs import Blobs
from broker.pipeline.calls import Calls, Told
from broker.pipeline.checks import tool_tier
from broker.pipeline.execution import Execution
from broker.pipeline.feed import stalled
from broker.pipeline.parts import Parts
from broker.pipeline.recovery import recover
from broker.pipeline.refusals import Refusals
from broker.pipeline.retention import Retention
from broker.pipeline.safeguards import Safeguards
from broker.pipeline.start import Begun, Starter
from broker.pipeline.tree_keeping import TreeKeeping
from broker.pipeline.turns import Turns
from broker.specs.catalogue import Tool

_log = structlog.get_logger(__name__)
_HOUSEKEEPING_S = 5.0
_CANCEL_WAIT_S = 10.0
_HANDED_S = 0.02
"""How long the first message to a caller waits for the job to be let start. It takes the loop as long as the sandbox takes to
answer; before the job it would make each call later, after it the tool is at work meanwhile.
"""
_STUCK_S = 30.0
"""How long a call that was told to end may take for it at shutdown."""


class Pipeline:
    """Takes calls from callers whom the server has authenticated. Use as ``async with``: entering recovers what an
    earlier run left behind, leaving stops what waits and lets what runs end within ``drain_s`` seconds.
    """

    def __init__(self, parts: Parts, *, drain_s: float) -> None:
        self._parts = parts
        self._drain_s = drain_s
        bounds = parts.bounds
        self.turns = Turns(
            max_running=bounds.max_running,
            max_queued=bounds.max_queued,
            max_per_agent=bounds.max_active_per_agent,
        )
        self.blobs = Blobs(parts)
        self.calls = Calls(parts)
        self.refusals = Refusals(parts)
        self.approval_sight = ApprovalSight(parts)
        self.approvals = Approvals(parts, self.approval_sight, self.blobs)
        self.safeguards = Safeguards(parts, self.calls.active)
        self._trees = TreeKeeping(parts)
        self._retention = Retention(parts.store, parts.ledger, parts.clock)
        starter = Starter(parts, self.blobs)
        self._admission = Admission(parts, self.blobs, self.refusals, self.turns, starter)
        self._execution = Execution(parts, self.turns, starter, self.blobs)
        self._draining = False
        self._admissions: set[asyncio.Task[Admitted]] = set()
        self._watchdogs: set[asyncio.Task[None]] = set()
        self._housekeeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for active in await recover(self._parts):
            if not active.approval and not active.applying:
                self.turns.reserve(active.row.agent, force=True)
            self._drive(active)
        self._housekeeper = asyncio.create_task(self._keep_house())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._draining = True
        await self._drain()
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)
        await self.refusals.flush(everything=True)

    def tools(self, caller: Caller, workspace: str) -> list[Tool]:
        """The tools that a caller may call in a workspace, by name."""
        return [tool for tool in self._parts.catalogue.all() if self._may_call(caller, tool, workspace)]

    def tool(self, caller: Caller, name: str, workspace: str) -> Tool | None:
        """One tool, if the caller may call it there."""
        tool = self._parts.catalogue.get(name)
        return tool if tool is not None and self._may_call(caller, tool, workspace) else None

    def _may_call(self, caller: Caller, tool: Tool, workspace: str) -> bool:
        request = PolicyRequest(caller.subject, workspace, tool.spec.name, "call", tool_tier(tool))
        return self._parts.policy.snapshot.decide(request).allowed

    def image_digest(self, tool: Tool) -> str:
        """Digest of the image that a tool runs in; empty where it isn't built."""
        return self._parts.images.get(tool.spec.image, "")

    async def create(self, caller: Caller, request: CallRequest) -> CallView:
        """Admits a call and lets it go on by itself.

        Raises:
            BrokerError: as ``Admission.admit``.
        """
        admitted = await self._admit(caller, request, attended=False)
        return await self.calls.get(caller, admitted.call_id)

    async def run(
        self,
        caller: Caller,
        request: CallRequest,
        deadline_passed: Callable[[], bool],
        foresee: Callable[[Told], None] = lambda _: None,
    ) -> AsyncGenerator[Told, None]:
        """Admits a call and follows it to its end, as ``Calls.attend``. Whose stream breaks has a moment to watch the call again; then, or
        at once where the deadline has passed, the call is cancelled.

        Raises:
            BrokerError: as ``Admission.admit`` and ``Calls.watch``.
        """
        admitted = await self._admit(caller, request, attended=True)
        active = self.calls.active.get(admitted.call_id)
        try:
            if active is not None and admitted.begun is not None:
                await handed(active, within_s=_HANDED_S)
            if active is not None and admitted.active is active:
                follow = self.calls.attend(active, foresee)
            else:
                follow = self.calls.watch(caller, admitted.call_id, 1)
            async with aclosing(follow) as events:
                async for item in events:
                    yield item
        finally:
            if active is not None and not active.feed.finished:
                self._watch_over(active, at_once=deadline_passed())

    async def cancel(self, caller: Caller, call_id: str) -> CallView:
        """Ends a call and returns it; one that has ended is returned as it is.

        Raises:
            NotFoundError: as ``Calls.visible``.
        """
        row = await self._parts.store.read(lambda tx: self.calls.visible(tx, caller, call_id, "CancelToolCall"))
        active = self.calls.active.get(call_id)
        if active is not None:
            own = caller.identity.id == row.agent
            cause = EndCause.CLIENT if own else EndCause.OPERATOR
            active.end(cause, f"cancelled by {'its caller' if own else caller.identity.id}")
            await self._ended(active)
        elif row.state not in RESTING_STATES and call_id not in self.calls.active:
            row = await self._parts.store.read(lambda tx: self.calls.visible(tx, caller, call_id, "CancelToolCall"))
            if row.state not in RESTING_STATES:
                raise stalled(call_id)
        return await self.calls.get(caller, call_id)

    async def _ended(self, active: ActiveCall) -> None:
        try:
            async with asyncio.timeout(_CANCEL_WAIT_S):
                await active.feed.ended()
        except TimeoutError as error:
            raise UnavailableError(
                "the call has been told to end and has not ended yet",
                reason="CANCEL_PENDING",
                hint="Get the call in a moment.",
                retry_after_s=1.0,
            ) from error

    async def _admit(self, caller: Caller, request: CallRequest, *, attended: bool) -> Admitted:
        if self._draining:
            raise UnavailableError("the broker is shutting down", reason="DRAINING", retry_after_s=1.0)
        # Shielded: a caller that goes away just now must not leave a call on record which nobody drives.
        task = asyncio.create_task(self._admit_and_drive(caller, request))
        self._admissions.add(task)
        task.add_done_callback(self._admissions.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if attended:
                task.add_done_callback(self._nobody_follows)
            raise

    async def _admit_and_drive(self, caller: Caller, request: CallRequest) -> Admitted:
        admitted = await self._admission.admit(caller, request)
        if admitted.active is None:
            return admitted
        if self._draining and admitted.begun is None:
            # It is on record as waiting, and the next start goes on with it.
            if not admitted.active.approval:
                self.turns.give_back(admitted.active.row.agent)
            return admitted
        self._drive(admitted.active, admitted.begun)
        return admitted

    def _nobody_follows(self, task: asyncio.Task[Admitted]) -> None:
        if not task.cancelled() and task.exception() is None and task.result().active is not None:
            active = self.calls.active.get(task.result().call_id)
            if active is not None:
                self._watch_over(active, at_once=False)

    def _drive(self, active: ActiveCall, begun: Begun | None = None) -> None:
        call_id = active.row.id
        self.calls.active[call_id] = active
        active.task = asyncio.create_task(self._execution.drive(active, begun))
        active.task.add_done_callback(lambda _: self.calls.active.pop(call_id, None))

    async def _abandoned(self, active: ActiveCall, *, at_once: bool) -> None:
        if not at_once:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._parts.bounds.detach_grace_s):
                    await active.feed.ended()
            if active.feed.over or active.feed.watchers:
                return
        if active.approval and active.waiting:
            return  # people decide in their own time: who asked may come back, and cancels it in so many words
        why = "its caller's deadline passed" if at_once else "its caller went away"
        active.end(EndCause.CLIENT, why)

    def _watch_over(self, active: ActiveCall, *, at_once: bool) -> None:
        task = asyncio.create_task(self._abandoned(active, at_once=at_once))
        self._watchdogs.add(task)
        task.add_done_callback(self._watchdogs.discard)

    async def _drain(self) -> None:
        # First those that are being admitted: they end up on record as QUEUED, or as driven before the drain began.
        await asyncio.gather(*self._admissions, return_exceptions=True)
        for item in list(self.calls.active.values()):
            if item.waiting and item.task is not None:
                item.task.cancel()
        tasks = [item.task for item in self.calls.active.values() if item.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._drain_s)
            for item in list(self.calls.active.values()):
                if item.task in late:
                    item.end(EndCause.OPERATOR, "the broker was shut down")
            if late:
                _, stuck = await asyncio.wait(late, timeout=_STUCK_S)
                for task in stuck:
                    _log.error("call.stuck", tasks=len(stuck))
                    task.cancel()
        for watchdog in self._watchdogs:
            watchdog.cancel()
        await asyncio.gather(*tasks, *self._watchdogs, return_exceptions=True)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            try:
                await self.refusals.flush()
                # So who asks or votes next doesn't have to read what a day of calls has added.
                await self._parts.store.read(self._parts.desk.agreement.read_on)
                await self.approvals.sweep()
                await self._retention.sweep()
                if self._parts.store.scrub_due:
                    await self._parts.store.scrub()
                await self._trees.sweep()
            except Exception:  # noqa: BLE001 - it must outlive whatever goes wrong once: retention depends on it
                _log.exception("housekeeping.failed")


async def handed(active: ActiveCall, *, within_s: float) -> None:
    """Returns once the call's job has been let start or the call has ended, and after so many seconds in any case."""
    enough = asyncio.get_running_loop().call_later(within_s, active.handed.set)
    try:
        await active.handed.wait()
    finally:
        enough.cancel()
