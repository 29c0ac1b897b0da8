"""The events of a call and how it ended, as values and as the bytes that are kept of them."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from pydantic import TypeAdapter

from broker.domain.call import CallContext, CallState, Decision, InputFile, Lineage, Source
from broker.domain.run import EgressRecord, EndCause, EvidenceSource, StreamSummary
from broker.domain.tier import Tier
from broker.errors import DataLossError


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A result file that came out: its path, the blob with its content, bytes and ``sha256:`` digest."""

    path: str
    blob: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class AppliedEffect:
    """What a call changed; all of its workspace's files was written in one step."""

    before: str
    """State of the tree, ``sha256:...``; empty where nothing was changed there, but elsewhere."""
    after: str
    digest: str
    """Of the effect, with the call's salt."""
    artifact: str
    """Address of the artifact that takes it back; empty where nothing was changed."""
    added: int = 0
    changed: int = 0
    removed: int = 0
    undoes: tuple[str, ...] = ()
    """The calls that it took back."""


@dataclass(frozen=True, slots=True)
class KeptRecording:
    """What is kept of what a call asked hosts and was answered."""

    artifact: str
    """Its address."""
    exchanges: int
    """Requests that are in it."""
    missed: int
    """Further requests, for which there was no room."""
    size: int
    """Bytes of the recording."""
    whole: bool
    """Is all that the tool was answered in it?"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, and by whose evidence; what could not be read is ``None``."""

    cause: EndCause
    cause_source: EvidenceSource
    detail: str
    exit_code: int | None = None
    signal: int | None = None
    stdout: StreamSummary | None = None
    stderr: StreamSummary | None = None
    result_json: str = ""
    files: tuple[OutputFile, ...] = ()
    wall_s: float = 0.0
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    oom_kills: int | None = None
    warnings: tuple[str, ...] = ()
    egress: tuple[EgressRecord, ...] = ()
    """What it did with each host that it wanted to reach."""
    effect: AppliedEffect | None = None
    """What it changed in its workspace; ``None`` where it didn't."""
    recording: KeptRecording | None = None
    """What hosts answered; ``None`` where nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The call is in another state now; ``detail`` says why, for a person."""

    state: CallState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """A piece of ``stdout`` or ``stderr`` and its position there."""

    stream: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: state and outcome."""

    state: CallState
    outcome: Outcome


EventPayload: TypeAlias = StateChanged | OutputPiece | Finished


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One event; numbers start at 1 and have no gap."""

    number: int
    time: datetime
    payload: EventPayload


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What is kept, encrypted, of a call's request: enough to show it, to run it later and to replay it.

    Read in brief it has no arguments, files, sources, delegation and envelope: those can be long, and lie apart.
    """

    tool: str
    tool_version: str
    arguments_json: str
    files: tuple[InputFile, ...]
    file_digests: dict[str, str]
    """Path -> ``sha256:`` digest of the input file."""
    context: CallContext
    request_id: str
    fingerprint: str
    """Of the certificate that the request came with."""
    agent_name: str
    lineage: Lineage
    decision: Decision
    data_classes: tuple[str, ...]
    expires: datetime
    envelope: str
    """RFC 8785 text of the envelope."""
    asked_version: str | None = None
    """The version of the tool that the caller asked for, empty for any; ``None`` where it wasn't kept."""
    workflow_digest: str = ""
    """The version of its workflow under which it was admitted; empty where it names none."""
    base: str = ""
    """State of its workspace's tree from which it gets files; empty for a tool that gets none."""
    undoes: tuple[str, ...] = ()
    """The calls that it takes back, oldest first; empty for no undo."""
    acts_for: str = ""
    """For an undo of what a tool changed outside, that tool: its programs run. Empty for any other call."""


@dataclass(frozen=True, slots=True)
class CallView:
    """A call as those see it who may. ``request`` is ``None`` once its content is erased."""

    id: str
    request: StoredRequest | None
    state: CallState
    agent: str
    tool: str
    tool_version: str
    tier: Tier
    created: datetime
    started: datetime | None
    ended: datetime | None
    expires: datetime | None
    last_event: int
    envelope_digest: str
    decision_seq: int | None
    request_id: str
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class _RequestTexts:
    arguments_json: str
    files: tuple[InputFile, ...]
    file_digests: dict[str, str]
    delegation: str
    sources: tuple[Source, ...]
    envelope: str


@dataclass(frozen=True, slots=True)
class _OutcomeTexts:
    result_json: str
    files: tuple[OutputFile, ...]
    egress: tuple[EgressRecord, ...] = ()


class _Tag(enum.StrEnum):
    STATE = "state"
    OUTPUT = "output"
    FINISHED = "finished"


_STATE = TypeAdapter(StateChanged)
_FINISHED = TypeAdapter(Finished)
_REQUEST = TypeAdapter(StoredRequest)
_REQUEST_TEXTS = TypeAdapter(_RequestTexts)
_OUTCOME_TEXTS = TypeAdapter(_OutcomeTexts)

REQUEST = 0
"""Chunk of a call's object that holds its request in brief; chunk n from 1 on holds event number n."""
REQUEST_TEXTS = -1
"""Chunk with what may be long in the request: a list of calls is made without it."""
OUTCOME_TEXTS = -2
"""Chunk with what may be long in the outcome."""


def encode_event(event: CallEvent) -> bytes:
    """One line of JSON, then the raw bytes of an output piece; of an outcome what ``encode_outcome_texts`` leaves."""
    head: dict[str, object] = {"number": event.number, "time": event.time.isoformat()}
    match event.payload:
        case OutputPiece(stream, offset, data):
            head |= {"tag": _Tag.OUTPUT, "stream": stream, "offset": offset}
            return json.dumps(head).encode() + b"\n" + data
        case StateChanged():
            head["tag"] = _Tag.STATE
            return json.dumps(head).encode() + b"\n" + _STATE.dump_json(event.payload)
        case Finished():
            head["tag"] = _Tag.FINISHED
            brief = replace(event.payload, outcome=replace(event.payload.outcome, result_json="", files=(), egress=()))
            return json.dumps(head).encode() + b"\n" + _FINISHED.dump_json(brief)


def decode_event(data: bytes) -> CallEvent:
    """Reads what ``encode_event`` wrote.

    Raises:
        DataLossError: the bytes are no event.
    """
    line, _, rest = data.partition(b"\n")
    payload: EventPayload
    try:
        head = json.loads(line)
        if head["tag"] == _Tag.OUTPUT:
            payload = OutputPiece(head["stream"], head["offset"], rest)
        elif head["tag"] == _Tag.STATE:
            payload = _STATE.validate_json(rest)
        else:
            payload = _FINISHED.validate_json(rest)
        return CallEvent(head["number"], datetime.fromisoformat(head["time"]), payload)
    except (ValueError, KeyError, TypeError) as error:
        raise DataLossError("a kept event can't be read", reason="EVENT_UNREADABLE") from error


def encode_outcome_texts(outcome: Outcome) -> bytes:
    """What may be long in an outcome: the result, the list of its files, and the hosts."""
    return _OUTCOME_TEXTS.dump_json(_OutcomeTexts(outcome.result_json, outcome.files, outcome.egress))


def decode_outcome_texts(outcome: Outcome, texts: bytes) -> Outcome:
    """The whole of an outcome that was read in brief.

    Raises:
        DataLossError: the bytes are no such texts.
    """
    try:
        found = _OUTCOME_TEXTS.validate_json(texts)
    except ValueError as error:
        raise DataLossError("a kept outcome can't be read", reason="OUTCOME_UNREADABLE") from error
    return replace(outcome, result_json=found.result_json, files=found.files, egress=found.egress)


def encode_request(request: StoredRequest) -> tuple[bytes, bytes]:
    """The bytes under which a request is kept: in brief, and what may be long."""
    context = request.context
    brief = replace(
        request,
        arguments_json="",
        files=(),
        file_digests={},
        context=replace(context, delegation="", sources=()),
        envelope="",
    )
    texts = _RequestTexts(
        request.arguments_json,
        request.files,
        request.file_digests,
        context.delegation,
        context.sources,
        request.envelope,
    )
    return _REQUEST.dump_json(brief), _REQUEST_TEXTS.dump_json(texts)


def decode_request(brief: bytes, texts: bytes | None = None) -> StoredRequest:
    """Reads what ``encode_request`` wrote; without ``texts`` in brief.

    Raises:
        DataLossError: the bytes are no request.
    """
    try:
        request = _REQUEST.validate_json(brief)
        if texts is None:
            return request
        found = _REQUEST_TEXTS.validate_json(texts)
    except ValueError as error:
        raise DataLossError("a kept request can't be read", reason="REQUEST_UNREADABLE") from error
    return replace(
        request,
        arguments_json=found.arguments_json,
        files=found.files,
        file_digests=found.file_digests,
        context=replace(request.context, delegation=found.delegation, sources=found.sources),
        envelope=found.envelope,
    )
