"""What a start finds of calls that an earlier run of the broker left behind."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import structlog

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.envelope import salt_of
from broker.domain.events import StoredRequest
from broker.domain.ports import CallQuery, CallRow, Transaction
from broker.domain.run import EndCause
from broker.domain.tier import Tier
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, NotFoundError
from broker.pipeline.active import ActiveCall, move
from broker.pipeline.applying import applied, planned_of, write_applied
from broker.pipeline.ending import close_of_call, finish
from broker.pipeline.feed import Feed
from broker.pipeline.folder_recovery import settle_folders
from broker.pipeline.kept import read_request
from broker.pipeline.parts import Parts
from broker.pipeline.self_undo import write_undone
from broker.pipeline.stopwatch import Stopwatch
from broker.pipeline.taking_back import as_it_runs, takes_back
from broker.pipeline.verdict import lost, never_ran

_log = structlog.get_logger(__name__)
_PAGE = 1000


async def recover(parts: Parts) -> list[ActiveCall]:
    """Ends what was running as UNKNOWN, and returns what was waiting, to be driven again.

    A call that has an intent and no outcome may have run: it is never run again. One without an intent has not.
    """
    later = await settle_folders(parts)
    await _end_self_undos(parts)
    await _end_plans(parts)
    cut = [row for row in await _left(parts, CallState.APPLYING) if row.id not in later]
    waiting = [found for row in cut if (found := await _resumed(parts, row))]
    for row in await _left(parts, CallState.RUNNING):
        _log.warning("call.unknown", call=row.id)
        detail = "the broker stopped during the call; it may have run, and its outcome is not known"
        try:
            await finish(parts, row, CallState.UNKNOWN, lost(detail))
        except (NotFoundError, DataLossError) as error:
            await _settle_without_content(parts, row, CallState.UNKNOWN, error)
    left = [
        row
        for state in (CallState.QUEUED, CallState.PENDING_APPROVAL, CallState.APPROVED)
        for row in await _left(parts, state)
    ]
    for row in sorted(left, key=lambda row: row.id):
        tool = parts.catalogue.get(row.tool)
        try:
            if tool is None:
                detail = f"the broker was restarted, and there is no tool {row.tool} any more"
                also = close_of_call(parts, row.id, "tool gone")
                await finish(parts, row, CallState.DENIED, never_ran(EndCause.POLICY, detail), also=also)
                continue
            request = await parts.store.read(lambda tx, row=row: _request(tx, parts, row))  # type: ignore[misc]  # bound now
        except (NotFoundError, DataLossError) as error:
            await _settle_without_content(parts, row, CallState.CANCELLED, error)
            continue
        if takes_back(row.tool):
            try:
                tool = as_it_runs(parts, tool, Tier(row.tier), request.acts_for)
            except FailedPreconditionError as error:
                also = close_of_call(parts, row.id, error.reason)
                await finish(parts, row, CallState.DENIED, never_ran(EndCause.POLICY, error.message), also=also)
                continue
        active = ActiveCall(row, request, tool, Feed(row.last_event), Stopwatch(parts.meter))
        active.planned = tool.spec.planned and row.state is not CallState.QUEUED
        if row.state is not CallState.QUEUED:
            subject = request.context.runbook or row.id
            approval = await parts.store.read(lambda tx, subject=subject: tx.approvals.by_subject(subject))  # type: ignore[misc]  # bound now
            if approval is None:
                gone = DataLossError("the approval that it waited for is gone", reason="APPROVAL_MISSING")
                await _settle_without_content(parts, row, CallState.CANCELLED, gone)
                continue
            active.approval = approval.id
        waiting.append(active)
    return waiting


async def _resumed(parts: Parts, row: CallRow) -> ActiveCall | None:
    """A call whose effect was being applied by its tool's own program, to be settled; ``None`` where that ended here."""
    try:
        request = await parts.store.read(lambda tx: _request(tx, parts, row))
        tool = parts.catalogue.get(row.tool)
        if tool is not None and request.acts_for:
            tool = as_it_runs(parts, tool, Tier(row.tier), request.acts_for)
        if tool is not None and tool.spec.outside is not None:
            # Whether its programs may look is judged with the plan: only the version that was agreed to does.
            active = ActiveCall(
                row, request, tool, Feed(row.last_event), Stopwatch(parts.meter), waiting=False, planned=True
            )
            approval = await parts.store.read(lambda tx: tx.approvals.by_subject(row.id))
            active.approval = "" if approval is None else approval.id
            return active
        why = "the tool is not here any more"
        if tool is not None and tool.spec.outside is None:
            why = "its journal is gone, or can't be gone on with: what of it is in the directory isn't known"
        await _end_doubtful(parts, row, request, f"the broker stopped while the effect was applied, and {why}")
    except FailedPreconditionError as error:
        await _end_doubtful(parts, row, request, f"the broker stopped while the effect was applied: {error.message}")
    except (NotFoundError, DataLossError) as error:
        await _settle_without_content(parts, row, CallState.UNKNOWN, error)
    return None


async def _end_doubtful(parts: Parts, row: CallRow, request: StoredRequest, detail: str) -> None:
    """Ends a call of which nobody can look at what came of it; what was changed outside can be taken back all the same."""

    def work(tx: Transaction) -> None:
        planned = planned_of(tx, parts, row.id)
        effect = None if planned.outside is None else applied(planned, salt_of(request.envelope))
        outcome = replace(lost(detail), effect=effect)
        write_applied(tx, parts, row, CallState.UNKNOWN, outcome, now=parts.clock())

    await parts.store.write(work)
    parts.meter.ended(EndCause.ENGINE, CallState.UNKNOWN.value)


async def _end_self_undos(parts: Parts) -> None:
    detail = "the broker stopped while the call was taken back by itself; it is not done again"
    for row in await _left(parts, CallState.UNDOING):
        _log.warning("call.not_taken_back", call=row.id)
        ended = partial(write_undone, parts=parts, row=row, state=CallState.UNKNOWN, detail=detail)
        await parts.store.write(ended)


async def _end_plans(parts: Parts) -> None:
    for row in await _left(parts, CallState.PLANNING):
        detail = "the broker stopped while the call was planned: nothing was changed"
        try:
            await finish(parts, row, CallState.CANCELLED, never_ran(EndCause.ENGINE, detail))
        except (NotFoundError, DataLossError) as error:
            await _settle_without_content(parts, row, CallState.CANCELLED, error)


async def _settle_without_content(parts: Parts, row: CallRow, state: CallState, why: BrokerError) -> None:
    """Ends a call whose request can't be read any more; a broker must start all the same, and the ledger says so."""
    _log.error("call.content_missing", call=row.id, reason=why.reason)
    now = parts.clock()
    body: JsonObject = {
        "call_id": row.id,
        "workspace": row.workspace,
        "tool": {"name": row.tool, "version": row.tool_version},
        "tier": row.tier,
        "intent_seq": -1 if row.intent_seq is None else row.intent_seq,
        "outcome": {
            "state": state.value,
            "cause": EndCause.ENGINE.value,
            "content": why.reason,
            "ended": now.isoformat(),
        },
    }

    def work(tx: Transaction) -> None:
        move(row, state)
        close_of_call(parts, row.id, why.reason)(tx)
        entry_type = "unknown" if state is CallState.UNKNOWN else "outcome"
        seq = parts.ledger.append(tx, entry_type, body, agent=row.agent)
        tx.calls.replace(replace(row, state=state, ended=now, outcome_seq=seq))

    await parts.store.write(work)
    parts.meter.ended(EndCause.ENGINE, state.value)


async def _left(parts: Parts, state: CallState) -> list[CallRow]:
    found: list[CallRow] = []
    before = ""
    while True:
        query = CallQuery(states=frozenset({state}), before=before, limit=_PAGE)
        page = await parts.store.read(lambda tx, query=query: list(tx.calls.list(query)))  # type: ignore[misc]  # bound now
        found += page
        if len(page) < _PAGE:
            return found
        before = page[-1].id


def _request(tx: Transaction, parts: Parts, row: CallRow) -> StoredRequest:
    return read_request(tx, parts.vault.open(tx, row.id))
