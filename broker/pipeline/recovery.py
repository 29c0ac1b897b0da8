"""What a start finds of calls that an earlier run of the broker left behind."""

from __future__ import annotations

import structlog

from broker.domain.call import CallState
from broker.domain.events import StoredRequest, decode_request
from broker.domain.ports import CallQuery, CallRow, Transaction
from broker.domain.run import EndCause
from broker.errors import DataLossError
from broker.pipeline.active import ActiveCall
from broker.pipeline.execution import finish
from broker.pipeline.feed import Feed
from broker.pipeline.parts import Parts
from broker.pipeline.verdict import lost, never_ran

_log = structlog.get_logger(__name__)
_PAGE = 1000


async def recover(parts: Parts) -> list[ActiveCall]:
    """Ends what was running as UNKNOWN, and returns what was waiting, to be driven again.

    A call that has an intent and no outcome may have run: it is never run again. One without an intent has not.
    """
    waiting: list[ActiveCall] = []
    for row in await _left(parts, CallState.RUNNING):
        _log.warning("call.unknown", call=row.id)
        detail = "the broker stopped during the call; it may have run, and its outcome is not known"
        await finish(parts, row, CallState.UNKNOWN, lost(detail))
    for row in reversed(await _left(parts, CallState.QUEUED)):
        tool = parts.catalogue.get(row.tool)
        if tool is None:
            detail = f"the broker was restarted, and there is no tool {row.tool} any more"
            await finish(parts, row, CallState.DENIED, never_ran(EndCause.POLICY, detail))
            continue
        request = await parts.store.read(lambda tx, row=row: _request(tx, parts, row))  # type: ignore[misc]  # bound now
        waiting.append(ActiveCall(row=row, request=request, tool=tool, feed=Feed(row.last_event)))
    return waiting


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
    sealed = parts.vault.open(tx, row.id)
    for index, data in sealed.read(tx, 0, 1):
        if index == 0:
            return decode_request(data)
    raise DataLossError(f"the request of calls/{row.id} is missing", reason="REQUEST_MISSING")
