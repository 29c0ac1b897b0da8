"""What was recorded of one call, each part held to the commitments that the ledger's entries make about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject, canonical, digest, parse_object
from broker.domain.envelope import FORMAT, salt_of
from broker.domain.events import Outcome, OutputPiece, StateChanged, StoredRequest, decode_event
from broker.domain.planned import PLANNED, Planned, decode_planned
from broker.domain.ports import CallRow, SealedObject, Transaction, Vault
from broker.domain.run import StreamSummary
from broker.domain.tree import Effect
from broker.errors import FailedPreconditionError, NotFoundError
from broker.pipeline.kept import read_outcome, read_request
from broker.replay.call_entries import CallEntry, entries_of, of_types
from broker.replay.obstacles import doctored

_MOST_ENVELOPE = 64 << 20
_ASKED = ("decision", "plan.intent", "intent")
"""Types of the entries that say what was asked for."""
STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Ended:
    """How the run of a call ended that can be compared with another run of the same job."""

    outcome: Outcome
    state: CallState | None
    """State of the call that the run led to; ``None`` where more than this run decided it."""
    effect: Effect | None
    """What it changed on its copy, or was to change elsewhere; ``None`` where nothing of the kind was kept."""
    output: Mapping[str, bytes] = field(repr=False)
    """What was kept of ``stdout`` and ``stderr``."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A call as it was recorded; all of it meets what the ledger says."""

    row: CallRow
    entries: tuple[CallEntry, ...]
    request: StoredRequest
    envelope: JsonObject
    planned: Planned | None
    """What its run on a copy came to, where it came to something."""
    ended: Ended | None
    """``None`` where nobody knows how the run ended, or where it goes on."""
    checked: tuple[str, ...]
    """What was compared with the ledger's commitments, in words for a person."""

    @property
    def applied(self) -> Effect | None:
        """What it really changed; ``None`` where that is nothing, or isn't known."""
        done = self.row.state in {CallState.SUCCEEDED, CallState.UNDONE, CallState.UNDOING}
        return self.planned.effect if self.planned is not None and done else None


def read_recording(tx: Transaction, vault: Vault, call: str, origin: str) -> Recording:
    """Reads all that is kept of a call.

    Args:
        tx: a transaction.
        vault: opens what is kept.
        call: the call's id.
        origin: of the ledger.

    Raises:
        NotFoundError: there is no such call (``CALL_NOT_FOUND``), or its content was erased (``CONTENT_ERASED``).
        FailedPreconditionError: it hasn't ended (``CALL_NOT_ENDED``), nothing of it ever ran (``CALL_NEVER_RAN``), or its envelope
            is of another release (``ENVELOPE_UNREADABLE``).
        DataLossError: what is kept isn't what the ledger says; names the part.
    """
    row = tx.calls.get(call)
    if row is None:
        raise NotFoundError(f"there is no call {call[:80]!a}", reason="CALL_NOT_FOUND", hint="See: broker calls list")
    entries = entries_of(tx, call, origin)
    asked = of_types(entries, *_ASKED)
    if not asked:
        raise doctored("ENTRY_MISSING", f"the ledger has no entry about what {call} asked for")
    try:
        sealed = vault.open(tx, call)
    except NotFoundError as error:
        raise NotFoundError(
            f"the content of {call} was erased: its arguments, files and output are gone for good",
            reason="CONTENT_ERASED",
            hint="The ledger still says what was decided: broker ledger show --call " + call,
        ) from error
    request = read_request(tx, sealed)
    _check_request(call, asked, request, sealed)
    if not of_types(entries, "plan.intent", "intent"):
        why = "it waits for its turn" if row.ended is None else "it was ended before its tool could start"
        raise FailedPreconditionError(
            f"nothing of {call} ever ran: {why}", reason="CALL_NEVER_RAN", hint="There is nothing to run again."
        )
    planned = _planned(tx, sealed)
    if planned is not None:
        _check_planned(call, entries, request, planned, sealed)
    elif found := of_types(entries, "plan.outcome"):
        # Without it the effect wouldn't be compared, and nobody would know.
        raise doctored(
            "PLAN_MISSING", f"entry {found[-1].seq} of the ledger is about a plan of {call}, and none is kept"
        )
    outcome = read_outcome(tx, sealed, row)
    if outcome is not None:
        _check_outcome(call, entries, outcome, sealed)
    if planned is None and outcome is None and row.ended is None:
        raise FailedPreconditionError(
            f"{call} is {row.state} and has not ended", reason="CALL_NOT_ENDED", hint="Wait for its end."
        )
    output = _output(tx, sealed, row, planned=planned)
    return Recording(
        row=row,
        entries=entries,
        request=request,
        envelope=_envelope(call, request),
        planned=planned,
        ended=_ended(row, planned, outcome, output, of_types(entries, "intent")),
        checked=_words(planned, outcome),
    )


def _words(planned: Planned | None, outcome: Outcome | None) -> tuple[str, ...]:
    found = ["the entries themselves", "arguments", "input files", "specification's version", "image", "envelope"]
    if planned is not None:
        found.append("effect")
    if outcome is not None:
        found += ["output", "result"]
    return tuple(found)


def _check_request(call: str, asked: Sequence[CallEntry], request: StoredRequest, sealed: SealedObject) -> None:
    envelope = request.envelope.encode()
    expected = {
        "args_commit": sealed.commit("arguments", request.arguments_json.encode()),
        "files_commit": sealed.commit("files", canonical(request.file_digests)),
        "envelope_digest": digest(envelope),
    }
    for entry in asked:
        for name, value in expected.items():
            if entry.body.get(name) != value:
                raise _differs(call, name, entry)
        tool = entry.part("tool")
        if (tool.get("name"), tool.get("version")) != (request.tool, request.tool_version):
            raise _differs(call, "tool", entry)


def _envelope(call: str, request: StoredRequest) -> JsonObject:
    data = request.envelope.encode()
    found = parse_object(data, field="envelope", max_bytes=_MOST_ENVELOPE)
    if found.get("format") != FORMAT:
        raise FailedPreconditionError(
            f"the envelope of {call} has the form {str(found.get('format'))[:40]!a}, and this release knows {FORMAT}",
            reason="ENVELOPE_UNREADABLE",
            hint="Use the release that ran it; the ledger's heartbeat entries name it.",
        )
    return found


def _planned(tx: Transaction, sealed: SealedObject) -> Planned | None:
    data = dict(sealed.read(tx, PLANNED, 1)).get(PLANNED)
    return None if data is None else decode_planned(data)


def _check_planned(
    call: str, entries: Sequence[CallEntry], request: StoredRequest, planned: Planned, sealed: SealedObject
) -> None:
    found = of_types(entries, "plan.outcome")
    if not found:
        raise doctored("ENTRY_MISSING", f"a plan of {call} is kept, and the ledger has no entry about it")
    for entry in found:
        if entry.body.get("effect") != planned.bound(salt_of(request.envelope)):
            raise _differs(call, "effect", entry)
        _check_streams(call, entry, planned.outcome, sealed)


def _check_outcome(call: str, entries: Sequence[CallEntry], outcome: Outcome, sealed: SealedObject) -> None:
    found = of_types(entries, "outcome")
    if not found:
        raise doctored("ENTRY_MISSING", f"an outcome of {call} is kept, and the ledger has no entry about it")
    entry = found[-1]
    told, output = entry.part("outcome"), entry.part("output")
    if told.get("detail_commit") != sealed.commit("detail", outcome.detail.encode()):
        raise _differs(call, "outcome.detail_commit", entry)
    if (told.get("exit_code"), told.get("signal"), told.get("cause")) != (
        outcome.exit_code,
        outcome.signal,
        outcome.cause.value,
    ):
        raise _differs(call, "outcome", entry)
    if output.get("result_commit") != sealed.commit("result", outcome.result_json.encode()):
        raise _differs(call, "output.result_commit", entry)
    files: JsonObject = {item.path: [item.blob, item.digest] for item in outcome.files}
    if output.get("files_commit") != sealed.commit("files", canonical(files)):
        raise _differs(call, "output.files_commit", entry)
    _check_streams(call, entry, outcome, sealed)


def _check_streams(call: str, entry: CallEntry, outcome: Outcome, sealed: SealedObject) -> None:
    output = entry.part("output")
    for name, summary in zip(STREAMS, (outcome.stdout, outcome.stderr), strict=True):
        told = output.get(name)
        if summary is None and told is None:
            continue
        commit = told.get("commit") if isinstance(told, dict) else None
        if summary is None or commit != sealed.commit("output", summary.digest.encode()):
            raise _differs(call, f"output.{name}", entry)


def _output(tx: Transaction, sealed: SealedObject, row: CallRow, *, planned: Planned | None) -> dict[str, bytes]:
    """What was kept of the output of the run that can be run again: of a plan, all before its effect was applied."""
    found = {name: bytearray() for name in STREAMS}
    for _, data in sealed.read(tx, 1, row.last_event):
        payload = decode_event(data).payload
        match payload:
            case OutputPiece(stream, offset, piece) if stream in found:
                if offset != len(found[stream]):
                    raise doctored("OUTPUT_DOCTORED", f"the kept {stream} of {row.id} has a gap at byte {offset}")
                found[stream] += piece
            case StateChanged(CallState.APPLYING) if planned is not None:
                break
            case _:
                pass
    return {name: bytes(data) for name, data in found.items()}


def _ended(
    row: CallRow,
    planned: Planned | None,
    outcome: Outcome | None,
    output: Mapping[str, bytes],
    intents: Sequence[CallEntry],
) -> Ended | None:
    if planned is not None:
        _check_output(row.id, planned.outcome, output)
        return Ended(planned.outcome, None, planned.effect, output)
    if outcome is None or row.state is CallState.UNKNOWN:
        return None
    _check_output(row.id, outcome, output)
    if intents:
        return Ended(outcome, row.state, None, output)
    # A run on a copy that came to no plan. Only where it went well is it known what it changed: nothing.
    return Ended(outcome, None, Effect(()) if row.state is CallState.SUCCEEDED else None, output)


def _check_output(call: str, outcome: Outcome, output: Mapping[str, bytes]) -> None:
    for name, summary in zip(STREAMS, (outcome.stdout, outcome.stderr), strict=True):
        if summary is not None:
            _check_stream(call, name, summary, output[name])


def _check_stream(call: str, name: str, summary: StreamSummary, kept: bytes) -> None:
    if len(kept) != summary.kept_bytes:
        raise doctored("OUTPUT_DOCTORED", f"{len(kept)} bytes of {name} of {call} are kept, not {summary.kept_bytes}")
    if not summary.truncated and f"sha256:{hashlib.sha256(kept).hexdigest()}" != summary.digest:
        raise doctored("OUTPUT_DOCTORED", f"the kept {name} of {call} has another digest than was recorded")


def _differs(call: str, field_name: str, entry: CallEntry) -> Exception:
    return doctored(
        "COMMITMENT_BROKEN",
        f"what is kept of {call} isn't what the ledger says: entry {entry.seq} ({entry.type}), member {field_name}",
    )
