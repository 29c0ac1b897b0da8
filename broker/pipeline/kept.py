"""What is kept of a call, read out of its encrypted object: all of it, or only what a list shows.

Arguments, files and results may be megabytes. They lie in chunks of their own, so that a page of calls costs no more than
its rows show.
"""

from __future__ import annotations

from broker.domain.call import RESTING_STATES
from broker.domain.events import (
    OUTCOME_TEXTS,
    REQUEST,
    REQUEST_TEXTS,
    Finished,
    Outcome,
    StoredRequest,
    decode_event,
    decode_outcome_texts,
    decode_request,
)
from broker.domain.ports import CallRow, SealedObject, Transaction
from broker.errors import DataLossError


def read_request(tx: Transaction, sealed: SealedObject, *, brief: bool = False) -> StoredRequest:
    """The request of a call.

    Raises:
        DataLossError: it is missing or can't be read.
    """
    head = _chunk(tx, sealed, REQUEST)
    texts = None if brief else _chunk(tx, sealed, REQUEST_TEXTS)
    if head is None or (texts is None and not brief):
        raise DataLossError(f"the request of calls/{sealed.id} is missing", reason="REQUEST_MISSING")
    return decode_request(head, texts)


def read_outcome(tx: Transaction, sealed: SealedObject, row: CallRow, *, brief: bool = False) -> Outcome | None:
    """How a call ended; ``None`` while it goes on, or where its end was written without its content.

    Raises:
        DataLossError: a part of it is missing or can't be read.
    """
    if row.state not in RESTING_STATES:
        return None
    data = _chunk(tx, sealed, row.last_event)
    payload = None if data is None else decode_event(data).payload
    if not isinstance(payload, Finished):
        return None
    if brief:
        return payload.outcome
    texts = _chunk(tx, sealed, OUTCOME_TEXTS)
    if texts is None:
        raise DataLossError(f"the result of calls/{row.id} is missing", reason="OUTCOME_MISSING")
    return decode_outcome_texts(payload.outcome, texts)


def _chunk(tx: Transaction, sealed: SealedObject, index: int) -> bytes | None:
    for found, data in sealed.read(tx, index, 1):
        if found == index:
            return data
    return None
