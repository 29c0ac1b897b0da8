"""Puts an effect into a directory of the host.

A directory is no row of the database. So all is made ready first; then the intent is durable, each path changes in one step
of its own, and the outcome is durable. Who is killed in between is gone on with by the next start: ``folder_recovery``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog

from broker.domain.call import CallState
from broker.domain.envelope import salt_of
from broker.domain.events import AppliedEffect, CallEvent, EventPayload, Outcome
from broker.domain.meter import Step
from broker.domain.planned import Planned
from broker.domain.ports import CallRow, Transaction
from broker.domain.run import EndCause, EvidenceSource
from broker.domain.tree import Effect
from broker.errors import BrokerError, ConflictError, FieldViolation
from broker.pipeline.active import ActiveCall
from broker.pipeline.applying import Applying, applied, moved, write_applied
from broker.pipeline.ending import finish
from broker.pipeline.folders import BoundFolder
from broker.pipeline.parts import Parts
from broker.pipeline.ran import Ran
from broker.tree_folder.applying import FolderEffect, Stopped
from broker.tree_folder.journal import Journal
from broker.tree_folder.staging import staging_name
from broker.workspace.objects import in_thread

SEALED = "folder-journal"
"""Kind of the commitment that seals a journal: by the keys of the call that it is about."""

_log = structlog.get_logger(__name__)
_NAMED = 20
"""Paths that an outcome or a refusal names one by one."""


class EffectCutError(Exception):
    """An effect is on its way, and this run of the broker can't go on with it: the next start does."""


class FolderApplying:
    """Applies what was planned, wherever the workspace's tree lies.

    Args:
        parts: the broker's.
        applying: does it where the broker keeps the tree.
    """

    def __init__(self, parts: Parts, applying: Applying) -> None:
        self._parts = parts
        self._applying = applying

    async def apply(self, active: ActiveCall) -> None:
        """Applies the plan of a call: whole, and on record, when this returns; or UNKNOWN, where somebody else got in its way
        half-way.

        Raises:
            BrokerError: as ``Applying.apply`` and ``BoundFolder.present``; nothing was changed.
            EffectCutError: it is on its way, and can't be gone on with now.
        """
        async with self._parts.folders.held(active.row.workspace) as folder:
            if folder is None:
                await self._applying.apply(active)
            else:
                await self._apply_in(folder, active)

    async def _apply_in(self, folder: BoundFolder, active: ActiveCall) -> None:
        parts, row = self._parts, active.row
        planned = await self._applying.check(active)
        directory = await parts.directory.current()
        present = await folder.present()
        await self._applying.check_base(active, planned, present)
        after = await _made_of(parts, present, planned.effect)
        effect = applied(planned, salt_of(active.request.envelope), present, after)

        def intent(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
            if tx.trees.state(row.workspace) != present:
                raise moved(())
            return self._applying.write_intent(tx, active, planned, directory, now=parts.clock())

        async with lying_ready(parts, folder, row.id, planned.effect) as placing:
            try:
                active.row, events = await parts.store.write(intent)
            except BrokerError:
                if not parts.store.failed:  # else nobody knows whether the intent is there
                    await in_thread(placing.finish, begun=False)
                raise
            active.feed.publish(events)
            await self._carry_out(folder, placing, active, replace(planned.outcome, effect=effect))

    async def put(self, folder: BoundFolder, active: ActiveCall, planned: Planned, ran: Ran, outcome: Outcome) -> None:
        """Ends a call whose intent is on record, and whose tool has changed files on its copy by a program of its own.

        Args:
            folder: the directory, held.
            active: the call.
            planned: its plan.
            ran: how the program ended, and what it changed.
            outcome: the call's, but for the effect.

        Raises:
            EffectCutError: as ``apply``.
        """
        parts, row = self._parts, active.row
        async with AsyncExitStack() as stack:
            try:
                present = await folder.present()
                after = await _made_of(parts, present, ran.effect)
                placing = await stack.enter_async_context(lying_ready(parts, folder, row.id, ran.effect))
            except BrokerError as error:
                detail = f"{error.reason}: {error.message}; nothing was changed"
                active.row, events = await finish(
                    parts, row, CallState.FAILED, replace(outcome, detail=detail), ran.tail
                )
                active.feed.publish(events)
                return
            salt = salt_of(active.request.envelope)
            whole = replace(outcome, effect=applied(planned, salt, present, after))
            await self._carry_out(folder, placing, active, whole, tail=ran.tail, doubtful=applied(planned, salt))

    async def _carry_out(
        self,
        folder: BoundFolder,
        placing: FolderEffect,
        active: ActiveCall,
        outcome: Outcome,
        *,
        tail: Sequence[EventPayload] = (),
        doubtful: AppliedEffect | None = None,
    ) -> None:
        parts = self._parts
        try:
            active.row, events = await carry_out(
                parts, folder, placing, active.row, outcome, tail=tail, doubtful=doubtful
            )
        except BrokerError as error:
            raise EffectCutError(error.message) from error
        active.feed.publish(events)
        active.clock.took(Step.FINISH)
        parts.bell.ring(active.approval)


@asynccontextmanager
async def lying_ready(parts: Parts, folder: BoundFolder, call: str, effect: Effect) -> AsyncIterator[FolderEffect]:
    """An effect of which all lies ready in a directory that is held. Nothing is changed yet.

    Raises:
        FailedPreconditionError: ``BASE_MOVED``, with the paths, or as ``FolderEffect.prepare``.
        BrokerError: as that.
    """
    sealed = await parts.store.read(lambda tx: parts.vault.open(tx, call))
    journal = Journal(call, str(folder.host.folder), staging_name(), effect)
    with folder.host.opened() as root, FolderEffect(root, folder.journal, journal) as placing:
        found = await in_thread(placing.prepare, parts.objects.files.pieces, partial(sealed.commit, SEALED))
        if found:
            raise moved(tuple(FieldViolation(path, found[path]) for path in sorted(found)[:_NAMED]))
        yield placing


async def carry_out(
    parts: Parts,
    folder: BoundFolder,
    placing: FolderEffect,
    row: CallRow,
    outcome: Outcome,
    *,
    tail: Sequence[EventPayload] = (),
    doubtful: AppliedEffect | None = None,
) -> tuple[CallRow, list[CallEvent]]:
    """From the intent to the end of a call: its effect is there whole, or its end is UNKNOWN, with the paths.

    Args:
        parts: the broker's.
        folder: the directory, held.
        placing: the effect; all of it lies ready.
        row: the call; its intent is durable.
        outcome: how it ends where all goes well, with the effect.
        tail: events that come before the last one.
        doubtful: what the outcome says of the effect where it is UNKNOWN.

    Raises:
        BrokerError: the end can't be written; the journal stays.
    """
    stop = await in_thread(placing.carry_out)
    state = CallState.SUCCEEDED if stop is None else CallState.UNKNOWN
    end = outcome if stop is None else _stopped(outcome, stop, doubtful)
    if stop is not None:
        _log.error("call.unknown", call=row.id, path=stop.path, error=stop.why)

    def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
        return write_applied(tx, parts, row, state, end, now=parts.clock(), tail=tail)

    written = await parts.store.write(work)
    parts.meter.ended(end.cause, state.value)
    await _clear(folder, placing)
    if stop is None and outcome.effect is not None:
        await folder.host.applied(outcome.effect.after, placing.effect)
    else:
        await _look_again(folder)
    return written


async def _clear(folder: BoundFolder, placing: FolderEffect) -> None:
    try:
        left = await in_thread(placing.finish, begun=True)
    except OSError as error:
        _log.exception("folder.not_cleared", workspace=folder.workspace, error=error.strerror)
        return
    if left:
        _log.error("folder.left", workspace=folder.workspace, paths=left)


async def _look_again(folder: BoundFolder) -> None:
    """What is there after an effect that stopped goes on record at once."""
    try:
        await folder.present()
    except BrokerError as error:
        _log.warning("folder.unread", workspace=folder.workspace, reason=error.reason, error=error.message)


async def _made_of(parts: Parts, present: str, effect: Effect) -> str:
    """The state that an effect makes of one.

    Raises:
        FailedPreconditionError: ``BASE_MOVED``.
    """
    try:
        return await parts.trees.apply(present, effect)
    except ConflictError as error:
        raise moved(error.violations) from error


def _stopped(outcome: Outcome, stop: Stopped, doubtful: AppliedEffect | None) -> Outcome:
    told = (("done", stop.done), ("not done", stop.left), ("neither", stop.others))
    detail = (
        f"BASE_MOVED: the effect stopped half-way at {stop.path!a}: {stop.why}. Nothing of somebody else's was overwritten."
        f" {'; '.join(f'{name}: {_listed(paths)}' for name, paths in told)}"
    )
    return replace(outcome, cause=EndCause.ENGINE, cause_source=EvidenceSource.BROKER, detail=detail, effect=doubtful)


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return (", ".join(f"{path!a}" for path in paths[:_NAMED]) or "none") + more
