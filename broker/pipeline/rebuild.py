"""What the table of calls must hold, from the ledger's entries and the content sealed beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.domain.approval import ApprovalKind
from broker.domain.call import RESTING_STATES, CallRequest, CallState
from broker.domain.canonical import JsonObject, digest, parse_object
from broker.domain.events import CallEvent, Finished, OutputPiece, StateChanged, StoredRequest, decode_event
from broker.domain.ports import SealedObject, StoredEntry, Transaction, Vault
from broker.domain.projection import Cell, Expected, UnexpectedEntryError, Unheld, listed, member, number, words
from broker.domain.taken_back import marks
from broker.errors import BrokerError, DataLossError
from broker.pipeline.checks import request_digest
from broker.pipeline.kept import read_request

_QUEUED = 1
"""Number of the event that says so: the first of every call."""
_ACTING = frozenset({CallState.RUNNING, CallState.APPLYING})
_WAITING = frozenset({CallState.QUEUED, CallState.PENDING_APPROVAL, CallState.APPROVED})
"""States before a call begins; its sealed events alone say in which of them it is."""
_BEFORE = _WAITING | {CallState.PLANNING}
"""States before its tool runs for good, or its effect is applied."""
_WAITING_VALUES = frozenset(state.value for state in _WAITING)


@dataclass(slots=True)
class _Call:
    """What the entries say of a call."""

    row: dict[str, Cell | datetime | Unheld]
    decided: str
    began: str = ""
    erased: bool = False


class CallRows:
    """Hears every entry of the ledger in order, and knows then what the table must hold.

    Args:
        tx: a transaction.
        vault: opens what the entries commit to.
    """

    def __init__(self, tx: Transaction, vault: Vault) -> None:
        self._tx = tx
        self._vault = vault
        self._calls: dict[str, _Call] = {}
        self._undoes: dict[str, tuple[str, ...]] = {}

    def entry(self, row: StoredEntry, entry: JsonObject) -> None:
        """Takes the next entry.

        Raises:
            UnexpectedEntryError: it isn't one that this version writes.
        """
        match entry.get("type"):
            case "decision" if "call_id" in entry:
                self._decided(row.seq, entry)
            case "approval.requested" if words(entry, "approval", "kind") == ApprovalKind.CALL.value:
                self._known(entry).row["state"] = CallState.PENDING_APPROVAL.value
            case "plan.intent":
                self._known(entry).row["state"] = CallState.PLANNING.value
            case "intent":
                call = self._known(entry)
                state = CallState.APPLYING if "effect" in entry else CallState.RUNNING
                call.row |= {"intent_seq": row.seq, "state": state.value}
                call.began = words(entry, "ts")
            case "outcome" | "unknown":
                self._has_ended(row.seq, entry)
            case "undo.intent" | "undo.outcome":
                self._known(entry).row["state"] = words(entry, "undo", "state")
            case "erased":
                for which in listed(entry, "ids"):
                    if which in self._calls:
                        self._calls[which].erased = True

    def _has_ended(self, seq: int, entry: JsonObject) -> None:
        state = words(entry, "outcome", "state")
        self._known(entry).row |= {"outcome_seq": seq, "state": state, "ended": _ended(entry)}
        if "effect" in entry and entry.get("type") == "outcome":
            self._took_back(words(entry, "call_id"), listed(entry, "effect", "undoes"))

    def _took_back(self, call: str, undoes: Sequence[str]) -> None:
        self._undoes[call] = tuple(undoes)
        for which in undoes:
            for other, by in marks(which, call, lambda one: self._undoes.get(one, ())):
                self._stand(other, CallState.UNDONE if by else CallState.SUCCEEDED)

    def _stand(self, which: str, state: CallState) -> None:
        if which in self._calls:
            self._calls[which].row["state"] = state.value

    def rows(self) -> Iterator[Expected]:
        """Rows of ``call``, by their keys; the content of each call is opened as it comes."""
        return ({**self._calls[key].row, **self._content(key)} for key in sorted(self._calls))

    def _decided(self, seq: int, entry: JsonObject) -> None:
        which = words(entry, "call_id")
        row: dict[str, Cell | datetime | Unheld] = {
            "id": which,
            "agent": words(entry, "agent", "id"),
            "owner": words(entry, "lineage", "owner"),
            "tool": words(entry, "tool", "name"),
            "tool_version": words(entry, "tool", "version"),
            "workspace": words(entry, "workspace"),
            "workflow": words(entry, "workflow", "id"),
            "state": CallState.QUEUED.value,
            "tier": number(entry, "tier"),
            "ended": None,
            "decision_seq": seq,
            "intent_seq": None,
            "outcome_seq": None,
            "envelope_digest": words(entry, "envelope_digest"),
        }
        self._calls[which] = _Call(row, words(entry, "ts"))

    def _known(self, entry: JsonObject) -> _Call:
        call = self._calls.get(words(entry, "call_id"))
        if call is None:
            raise UnexpectedEntryError(f"entry {entry.get('seq')} is about a call that no decision admitted")
        return call

    def _content(self, which: str) -> Expected:
        """The columns that only the sealed content holds."""
        call = self._calls[which]
        try:
            sealed = self._vault.open(self._tx, which)
            request = read_request(self._tx, sealed)
            if digest(request.envelope.encode()) != call.row["envelope_digest"]:
                raise DataLossError("the sealed request is another one", reason="REQUEST_DIFFERS")
            before = list(self._before(sealed))
            return {
                "request_id": request.request_id,
                "request_digest": _digest(request),
                "expires": request.expires,
                "created": before[0][1] if before else Unheld(call.decided, "its event is missing"),
                "state": _state(call, before),
                "started": _started(call, before),
                "last_event": self._last_event(sealed, call),
            }
        except BrokerError as error:
            why = f"the call's content can't be read: {error.reason}"
            return {
                "request_id": Unheld("", why),
                # Whatever erases the content erases this too.
                "request_digest": "" if call.erased else Unheld("", why),
                "expires": Unheld(None, why),
                "created": Unheld(call.decided, why),
                "state": _unheld_state(call, why),
                "started": Unheld(call.began, why) if call.began else None,
                "last_event": Unheld(0, why),
            }

    def _before(self, sealed: SealedObject) -> Iterator[tuple[CallState, datetime]]:
        """The events of a call that say how it stands: until it runs, is applied, or has ended."""
        which, planned = _QUEUED, False
        while True:
            event = self._event(sealed, which)
            if event is not None and planned and isinstance(event.payload, OutputPiece):
                which += 1  # of its run on a copy
                continue
            if event is None or not isinstance(event.payload, StateChanged):
                return
            state = event.payload.state
            if (which == _QUEUED) is not (state is CallState.QUEUED):
                return
            yield state, event.time
            planned = planned or state is CallState.PLANNING
            if state not in _BEFORE:
                return
            which += 1

    def _last_event(self, sealed: SealedObject, call: _Call) -> int | Unheld:
        last = max(self._tx.projections.last_chunk(sealed.id) or 0, 0)
        if call.row["state"] in {state.value for state in RESTING_STATES}:
            event = self._event(sealed, last) if last else None
            if event is None or not isinstance(event.payload, Finished):
                return Unheld(last, "its last event is missing")
        return last

    def _event(self, sealed: SealedObject, which: int) -> CallEvent | None:
        for found, data in sealed.read(self._tx, which, 1):
            if found == which:
                return decode_event(data)
        return None


def _state(call: _Call, before: Sequence[tuple[CallState, datetime]]) -> Cell | datetime | Unheld:
    if call.row["state"] not in _WAITING_VALUES:
        return call.row["state"]
    if not before:
        return _unheld_state(call, "its event is missing")
    return before[-1][0].value


def _unheld_state(call: _Call, why: str) -> Cell | datetime | Unheld:
    said = call.row["state"]
    return (
        Unheld(said, why, _WAITING_VALUES.__contains__) if isinstance(said, str) and said in _WAITING_VALUES else said
    )


def _started(call: _Call, before: Sequence[tuple[CallState, datetime]]) -> datetime | Unheld | None:
    if not call.began:
        return None
    found = next((moment for state, moment in before if state in _ACTING), None)
    return found or Unheld(call.began, "its event is missing")


def _ended(entry: JsonObject) -> datetime | Unheld:
    outcome = member(entry, "outcome")
    if isinstance(outcome, dict) and "ended" in outcome:
        return datetime.fromisoformat(words(entry, "outcome", "ended"))
    return Unheld(words(entry, "ts"), "the entry is from before this time was recorded")


def _digest(request: StoredRequest) -> str | Unheld:
    if request.asked_version is None:
        of_any, of_this = _digest_of(request, ""), _digest_of(request, request.tool_version)
        return Unheld(of_any, "the version that was asked for was not kept", {of_any, of_this, ""}.__contains__)
    return _digest_of(request, request.asked_version)


def _digest_of(request: StoredRequest, version: str) -> str:
    arguments = request.arguments_json.encode()
    return request_digest(
        CallRequest(
            tool=request.tool,
            tool_version=version,
            arguments=parse_object(arguments, field="arguments", max_bytes=len(arguments)),
            arguments_bytes=arguments,
            files=request.files,
            context=request.context,
            request_id=request.request_id,
        )
    )
