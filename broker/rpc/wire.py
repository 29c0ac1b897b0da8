"""Messages of the wire <-> values of the domain. Nothing is decided here; wrong fields are named."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from broker.domain.call import CallContext, CallRequest, CallState, InputFile, Source
from broker.domain.canonical import canonical, parse_object
from broker.domain.events import AppliedEffect, CallEvent, CallView, Finished, Outcome, OutputPiece, StateChanged
from broker.domain.identity import Schedule, Session
from broker.domain.ports import VaultRow
from broker.domain.run import EvidenceSource, StreamSummary
from broker.errors import FieldViolation, InvalidArgumentError
from broker.rpc.egress_wire import record_messages, recording_message
from broker.v1 import blob_pb2, call_pb2, sessions_pb2, tool_pb2

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_LABEL_MAX = 256
_PURPOSE_MAX = 4096
_MAX_SOURCES = 64
_MAX_CLASSES = 32
_CLASS = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A UTC moment on the wire; ``None`` stays unset."""
    if moment is None:
        return None
    result = Timestamp()
    result.FromDatetime(moment.astimezone(UTC).replace(tzinfo=None))
    return result


def moment(value: Timestamp, field: str) -> datetime:
    """A timestamp of the wire as a UTC moment.

    Raises:
        InvalidArgumentError: outside the years 1 to 9999.
    """
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise refuse(field, "is no valid timestamp") from error


def duration(seconds: float) -> Duration:
    """Seconds on the wire."""
    result = Duration()
    result.FromTimedelta(timedelta(seconds=seconds))
    return result


def refuse(field: str, why: str, reason: str = "INVALID_ARGUMENT") -> InvalidArgumentError:
    """The error for one wrong field."""
    return InvalidArgumentError(f"{field} {why}", reason=reason, violations=(FieldViolation(field, why),))


def resource_id(name: str, collection: str, field: str = "name") -> str:
    """The id in a resource name such as ``calls/call_01...``.

    Raises:
        InvalidArgumentError: the name is not of this collection.
    """
    prefix = f"{collection}/"
    identifier = name.removeprefix(prefix)
    if not name.startswith(prefix) or not identifier or len(identifier) > _LABEL_MAX or "/" in identifier:
        raise refuse(field, f"must be of the form `{prefix}{{id}}`", "INVALID_RESOURCE_NAME")
    return identifier


def page_size(value: int) -> int:
    """AIP-158: 0 takes 100, more than 1000 is 1000.

    Raises:
        InvalidArgumentError: negative.
    """
    if value < 0:
        raise refuse("page_size", "must not be negative")
    return min(value or 100, 1000)


def call_request(call: call_pb2.ToolCall, request_id: str, max_arguments_bytes: int) -> CallRequest:
    """The request of CreateToolCall and RunToolCall; arguments are parsed strictly, fields are bounded.

    Raises:
        InvalidArgumentError: names the field.
    """
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise refuse("request_id", "must be 1 to 128 visible ASCII characters")
    tool = resource_id(call.tool, "tools", "tool_call.tool")
    arguments = parse_object(call.arguments_json, field="arguments", max_bytes=max_arguments_bytes)
    return CallRequest(
        tool=tool,
        tool_version=_text(call.tool_version, "tool_call.tool_version"),
        arguments=arguments,
        arguments_bytes=canonical(arguments),
        files=tuple(
            InputFile(
                _text(item.path, f"tool_call.files[{index}].path", 1024), _blob(item.blob, index), item.executable
            )
            for index, item in enumerate(call.files)
        ),
        context=_context(call.context),
        request_id=request_id,
    )


def _blob(name: str, index: int) -> str:
    return resource_id(name, "blobs", f"tool_call.files[{index}].blob")


def _context(context: call_pb2.CallContext) -> CallContext:
    where = "tool_call.context"
    if not context.workspace:
        raise refuse(f"{where}.workspace", "is required")
    if len(context.sources) > _MAX_SOURCES:
        raise refuse(f"{where}.sources", f"has {len(context.sources)} items; the limit is {_MAX_SOURCES}")
    return CallContext(
        workspace=_text(context.workspace, f"{where}.workspace"),
        workflow=_text(context.workflow, f"{where}.workflow"),
        purpose=_text(context.purpose, f"{where}.purpose", _PURPOSE_MAX),
        session=resource_id(context.session, "sessions", f"{where}.session") if context.session else "",
        delegation=_text(context.delegation, f"{where}.delegation", 8192),
        model=_text(context.model, f"{where}.model"),
        prompt_version=_text(context.prompt_version, f"{where}.prompt_version"),
        sources=tuple(
            Source(
                _text(item.uri, f"{where}.sources[{n}].uri", 2048), _text(item.digest, f"{where}.sources[{n}].digest")
            )
            for n, item in enumerate(context.sources)
        ),
        feature=_text(context.feature, f"{where}.feature"),
        team=_text(context.team, f"{where}.team"),
        data_classes=classes(context.data_classes, f"{where}.data_classes"),
        runbook=resource_id(context.runbook, "approvals", f"{where}.runbook") if context.runbook else "",
    )


def classes(values: object, field: str) -> tuple[str, ...]:
    """Data classes, sorted and each once.

    Raises:
        InvalidArgumentError: too many, or one that is not a plain word.
    """
    found = sorted({str(item) for item in values})  # type: ignore[attr-defined]  # a protobuf repeated field
    if len(found) > _MAX_CLASSES or any(not _CLASS.fullmatch(item) for item in found):
        raise refuse(field, f"must be at most {_MAX_CLASSES} words such as `customer`")
    return tuple(found)


def _text(value: str, field: str, limit: int = _LABEL_MAX) -> str:
    if len(value) > limit:
        raise refuse(field, f"is {len(value)} characters long; the limit is {limit}", "TOO_LARGE")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise refuse(field, "holds a control character", "CONTROL_CHARACTER")
    return value


def view_message(view: CallView, *, full: bool = True) -> call_pb2.ToolCall:
    """A call on the wire; without ``full`` it has no arguments, files, result and hosts."""
    message = call_pb2.ToolCall(
        name=f"calls/{view.id}",
        tool=f"tools/{view.tool}",
        tool_version=view.tool_version,
        state=state_number(view.state),
        agent=view.agent,
        tier=tool_pb2.Tier.ValueType(view.tier + 1),
        create_time=timestamp(view.created),
        start_time=timestamp(view.started),
        end_time=timestamp(view.ended),
        expire_time=timestamp(view.expires),
        last_event=view.last_event,
        envelope_digest=view.envelope_digest,
        decision_seq=view.decision_seq or 0,
        request_id=view.request_id,
        content_erased=view.request is None,
    )
    if view.request is not None:
        _add_request(message, view, full=full)
    if view.outcome is not None:
        message.outcome.CopyFrom(_outcome(view.outcome, full=full))
    return message


def _add_request(message: call_pb2.ToolCall, view: CallView, *, full: bool) -> None:
    request = view.request
    if request is None:
        return
    context, lineage, decision = request.context, request.lineage, request.decision
    message.data_classes.extend(request.data_classes)
    message.context.CopyFrom(
        call_pb2.CallContext(
            workspace=context.workspace,
            workflow=context.workflow,
            purpose=context.purpose,
            session=f"sessions/{context.session}" if context.session else "",
            model=context.model,
            prompt_version=context.prompt_version,
            sources=[call_pb2.Source(uri=item.uri, digest=item.digest) for item in context.sources],
            feature=context.feature,
            team=context.team,
            data_classes=context.data_classes,
            runbook=f"approvals/{context.runbook}" if context.runbook else "",
        ),
    )
    message.lineage.CopyFrom(
        call_pb2.Lineage(
            agent=lineage.agent,
            owner=lineage.owner,
            registrar=lineage.registrar,
            starter=lineage.starter,
            on_behalf_of=lineage.on_behalf_of,
            proven=lineage.proven,
        ),
    )
    message.decision.CopyFrom(
        call_pb2.Decision(
            allowed=decision.allowed,
            rule=decision.rule,
            reason=decision.reason,
            policy_digest=decision.policy_digest,
        ),
    )
    if full:
        message.arguments_json = request.arguments_json
        message.files.extend(
            call_pb2.InputFile(path=item.path, blob=f"blobs/{item.blob}", executable=item.executable)
            for item in request.files
        )


def _effect(effect: AppliedEffect) -> call_pb2.AppliedEffect:
    return call_pb2.AppliedEffect(
        before=effect.before,
        after=effect.after,
        digest=effect.digest,
        artifact=effect.artifact,
        added=effect.added,
        changed=effect.changed,
        removed=effect.removed,
        undoes=[f"calls/{call}" for call in effect.undoes],
    )


def _outcome(outcome: Outcome, *, full: bool) -> call_pb2.Outcome:
    message = call_pb2.Outcome(
        exit_code=outcome.exit_code or 0,
        exited=outcome.exit_code is not None,
        signal=outcome.signal or 0,
        cause=call_pb2.EndCause.Value(f"END_CAUSE_{outcome.cause.value}"),
        cause_source=_source(outcome.cause_source),
        detail=outcome.detail,
        stdout=_summary(outcome.stdout),
        stderr=_summary(outcome.stderr),
        result_json=outcome.result_json if full else "",
        wall_time=duration(outcome.wall_s),
        cpu_time=None if outcome.cpu_s is None else duration(outcome.cpu_s),
        memory_peak_bytes=outcome.memory_peak_bytes or 0,
        oom_kills=outcome.oom_kills or 0,
        warnings=outcome.warnings,
        egress=record_messages(outcome.egress) if full else (),
        effect=None if outcome.effect is None else _effect(outcome.effect),
        recording=None if outcome.recording is None else recording_message(outcome.recording),
    )
    message.files.extend(
        call_pb2.OutputFile(path=item.path, blob=f"blobs/{item.blob}", size=item.size, digest=item.digest)
        for item in outcome.files
    )
    return message


def _source(source: EvidenceSource) -> call_pb2.EvidenceSource.ValueType:
    return call_pb2.EvidenceSource.Value(f"EVIDENCE_SOURCE_{source.value}")


def _summary(summary: StreamSummary | None) -> call_pb2.StreamSummary | None:
    if summary is None:
        return None
    return call_pb2.StreamSummary(
        total_bytes=summary.total_bytes,
        kept_bytes=summary.kept_bytes,
        truncated=summary.truncated,
        digest=summary.digest,
    )


def state_number(state: CallState) -> call_pb2.ToolCallState.ValueType:
    """A state on the wire."""
    return call_pb2.ToolCallState.Value(f"TOOL_CALL_STATE_{state.value}")


def state_of(number: call_pb2.ToolCallState.ValueType) -> CallState:
    """A state of the wire.

    Raises:
        InvalidArgumentError: an unknown or unspecified one.
    """
    try:
        return CallState(call_pb2.ToolCallState.Name(number).removeprefix("TOOL_CALL_STATE_"))
    except ValueError as error:
        raise refuse("filter.states", f"holds {number}, which is no state") from error


def event_message(event: CallEvent, view: CallView | None) -> call_pb2.ToolCallEvent:
    """An event on the wire; ``view`` is the call in its last state, for the last event."""
    message = call_pb2.ToolCallEvent(number=event.number, time=timestamp(event.time))
    match event.payload:
        case StateChanged(state, detail):
            message.state_change.CopyFrom(call_pb2.StateChange(state=state_number(state), detail=detail))
        case OutputPiece(stream, offset, data):
            chunk = call_pb2.OutputChunk(offset=offset, data=data)
            (message.stdout if stream == "stdout" else message.stderr).CopyFrom(chunk)
        case Finished() if view is not None:
            message.result.CopyFrom(view_message(view))
        case _:
            raise refuse("event", "has no result to show")
    return message


def blob_message(row: VaultRow) -> blob_pb2.Blob:
    """A blob on the wire."""
    return blob_pb2.Blob(
        name=f"blobs/{row.id}",
        size=row.size,
        digest=row.digest,
        create_time=timestamp(row.created),
        expire_time=timestamp(row.expires),
        data_classes=row.data_classes,
    )


def session_message(session: Session, agent_name: str) -> sessions_pb2.Session:
    """A session on the wire."""
    return sessions_pb2.Session(
        name=f"sessions/{session.id}",
        agent=agent_name,
        workspace=session.workspace,
        starter=session.starter,
        schedule=f"schedules/{session.schedule}" if session.schedule else "",
        create_time=timestamp(session.created),
        expire_time=timestamp(session.expires),
        end_time=timestamp(session.ended),
    )


def schedule_message(schedule: Schedule, agent_name: str) -> sessions_pb2.Schedule:
    """A schedule on the wire."""
    return sessions_pb2.Schedule(
        name=f"schedules/{schedule.id}",
        agent=agent_name,
        workspace=schedule.workspace,
        weekdays=sorted(schedule.weekdays),
        from_minute=schedule.from_minute,
        until_minute=schedule.until_minute,
        session_ttl=duration(schedule.session_ttl_s),
        expire_time=timestamp(schedule.expires),
        registrar=schedule.registrar,
    )
