"""Tools, calls, events and blobs: messages of the wire <-> values. An unknown word from a broker is an error."""

from __future__ import annotations

from broker.client import models
from broker.client.convert_egress import record, recording, rule
from broker.client.wire import json_object, json_value, moment, protocol_error, resource, seconds, timestamp
from broker.domain.call import CallState, Source
from broker.domain.run import EndCause, EvidenceSource, StreamSummary
from broker.domain.tier import Tier
from broker.v1 import blob_pb2, call_pb2, tool_broker_pb2, tool_pb2


def state(number: call_pb2.ToolCallState.ValueType) -> CallState:
    """A call's state.

    Raises:
        InternalError: one that this client doesn't know.
    """
    try:
        return CallState(call_pb2.ToolCallState.Name(number).removeprefix("TOOL_CALL_STATE_"))
    except ValueError as error:
        raise protocol_error(f"{number} is no state of a call") from error


def state_number(value: CallState) -> call_pb2.ToolCallState.ValueType:
    """A state on the wire."""
    return call_pb2.ToolCallState.Value(f"TOOL_CALL_STATE_{value.value}")


def tier(number: tool_pb2.Tier.ValueType) -> Tier | None:
    """A tier; ``None`` where it is unset.

    Raises:
        InternalError: one that this client doesn't know.
    """
    if number == tool_pb2.TIER_UNSPECIFIED:
        return None
    try:
        return Tier(number - 1)
    except ValueError as error:
        raise protocol_error(f"{number} is no tier") from error


def _cause(number: call_pb2.EndCause.ValueType) -> EndCause | None:
    if number == call_pb2.END_CAUSE_UNSPECIFIED:
        return None
    try:
        return EndCause(call_pb2.EndCause.Name(number).removeprefix("END_CAUSE_"))
    except ValueError as error:
        raise protocol_error(f"{number} is no cause of an end") from error


def _evidence(number: call_pb2.EvidenceSource.ValueType) -> EvidenceSource | None:
    if number == call_pb2.EVIDENCE_SOURCE_UNSPECIFIED:
        return None
    try:
        return EvidenceSource(call_pb2.EvidenceSource.Name(number).removeprefix("EVIDENCE_SOURCE_"))
    except ValueError as error:
        raise protocol_error(f"{number} is no source of evidence") from error


def context_message(context: models.CallContext) -> call_pb2.CallContext:
    """A call's context on the wire."""
    return call_pb2.CallContext(
        workspace=context.workspace,
        workflow=context.workflow,
        purpose=context.purpose,
        session=resource("sessions", context.session) if context.session else "",
        delegation=context.delegation,
        model=context.model,
        prompt_version=context.prompt_version,
        sources=[call_pb2.Source(uri=item.uri, digest=item.digest) for item in context.sources],
        feature=context.feature,
        team=context.team,
        data_classes=context.data_classes,
        runbook=resource("approvals", context.runbook) if context.runbook else "",
    )


def _context(message: call_pb2.CallContext) -> models.CallContext:
    return models.CallContext(
        workspace=message.workspace,
        workflow=message.workflow,
        purpose=message.purpose,
        session=message.session,
        delegation=message.delegation,
        model=message.model,
        prompt_version=message.prompt_version,
        sources=tuple(Source(item.uri, item.digest) for item in message.sources),
        feature=message.feature,
        team=message.team,
        data_classes=tuple(message.data_classes),
        runbook=message.runbook,
    )


def tool(message: tool_pb2.Tool) -> models.Tool:
    """A tool."""
    risk = tier(message.tier)
    if risk is None:
        raise protocol_error(f"{message.name} has no tier")
    limits, files = message.limits, message.files
    return models.Tool(
        name=message.name,
        version=message.version,
        description=message.description,
        owner=message.owner,
        tier=risk,
        arguments_schema=json_object(message.arguments_schema_json, "arguments_schema_json"),
        result_schema=json_object(message.result_schema_json, "result_schema_json")
        if message.result_schema_json
        else None,
        limits=models.ToolLimits(
            cpu_cores=limits.cpu_cores,
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            wall_s=seconds(limits.wall_time),
            output_bytes=limits.output_bytes,
            disk_bytes=limits.disk_bytes,
            inodes=limits.inodes,
        ),
        files=models.ToolFiles(
            max_input_files=files.max_input_files,
            max_input_bytes=files.max_input_bytes,
            outputs=tuple(files.outputs),
            max_output_files=files.max_output_files,
            max_output_bytes=files.max_output_bytes,
        ),
        data_classes=tuple(message.data_classes),
        reversibility=_reversibility(message.reversibility),
        retention_s=seconds(message.retention),
        image_digest=message.image_digest,
        egress=tuple(rule(item) for item in message.egress),
        runtime=message.runtime,
        effects=_effects(message.effects),
        workspace=_workspace(message.workspace) if message.HasField("workspace") else None,
        held=message.held,
    )


def _workspace(message: tool_pb2.ToolWorkspace) -> models.ToolWorkspace:
    return models.ToolWorkspace(
        tuple(message.reads), tuple(message.writes), message.max_changes, message.max_change_bytes
    )


def _effects(number: tool_pb2.ToolEffects.ValueType) -> str:
    if number == tool_pb2.TOOL_EFFECTS_UNSPECIFIED:
        return ""
    try:
        return tool_pb2.ToolEffects.Name(number).removeprefix("TOOL_EFFECTS_")
    except ValueError as error:
        raise protocol_error(f"{number} is no kind of effects") from error


def _reversibility(number: tool_pb2.Reversibility.ValueType) -> str:
    if number == tool_pb2.REVERSIBILITY_UNSPECIFIED:
        return ""
    try:
        return tool_pb2.Reversibility.Name(number).removeprefix("REVERSIBILITY_")
    except ValueError as error:
        raise protocol_error(f"{number} is no reversibility") from error


def _summary(message: call_pb2.Outcome, field: str) -> StreamSummary | None:
    if not message.HasField("stdout" if field == "stdout" else "stderr"):
        return None
    value: call_pb2.StreamSummary = getattr(message, field)
    return StreamSummary(value.total_bytes, value.kept_bytes, value.truncated, value.digest)


def _outcome(message: call_pb2.Outcome) -> models.Outcome:
    return models.Outcome(
        exit_code=message.exit_code if message.exited else None,
        signal=message.signal or None,
        cause=_cause(message.cause),
        cause_source=_evidence(message.cause_source),
        detail=message.detail,
        stdout=_summary(message, "stdout"),
        stderr=_summary(message, "stderr"),
        result=json_value(message.result_json, "result_json") if message.result_json else None,
        files=tuple(models.OutputFile(item.path, item.blob, item.size, item.digest) for item in message.files),
        wall_s=seconds(message.wall_time),
        cpu_s=seconds(message.cpu_time) if message.HasField("cpu_time") else None,
        memory_peak_bytes=message.memory_peak_bytes or None,
        oom_kills=message.oom_kills,
        warnings=tuple(message.warnings),
        egress=tuple(record(item) for item in message.egress),
        effect=_effect(message.effect) if message.HasField("effect") else None,
        recording=recording(message.recording) if message.HasField("recording") else None,
    )


def _effect(message: call_pb2.AppliedEffect) -> models.AppliedEffect:
    return models.AppliedEffect(
        before=message.before,
        after=message.after,
        digest=message.digest,
        artifact=message.artifact,
        added=message.added,
        changed=message.changed,
        removed=message.removed,
        undoes=tuple(message.undoes),
    )


def call(message: call_pb2.ToolCall) -> models.Call:
    """A call.

    Raises:
        InternalError: it has no name or holds words that this client doesn't know.
    """
    if not message.name.startswith("calls/"):
        raise protocol_error("a call without a name")
    decision, lineage = message.decision, message.lineage
    return models.Call(
        name=message.name,
        tool=message.tool,
        tool_version=message.tool_version,
        state=state(message.state),
        agent=message.agent,
        tier=tier(message.tier),
        arguments=json_object(message.arguments_json, "arguments_json") if message.arguments_json else None,
        files=tuple(models.CallFile(item.path, item.blob, item.executable) for item in message.files),
        context=_context(message.context),
        decision=models.Decision(decision.allowed, decision.rule, decision.reason, decision.policy_digest)
        if message.HasField("decision")
        else None,
        lineage=models.Lineage(
            agent=lineage.agent,
            owner=lineage.owner,
            registrar=lineage.registrar,
            starter=lineage.starter,
            on_behalf_of=lineage.on_behalf_of,
            proven=lineage.proven,
        )
        if message.HasField("lineage")
        else None,
        outcome=_outcome(message.outcome) if message.HasField("outcome") else None,
        created=moment(message, "create_time"),
        started=moment(message, "start_time"),
        ended=moment(message, "end_time"),
        expires=moment(message, "expire_time"),
        last_event=message.last_event,
        envelope_digest=message.envelope_digest,
        data_classes=tuple(message.data_classes),
        decision_seq=message.decision_seq or None,
        request_id=message.request_id,
        content_erased=message.content_erased,
    )


def event(message: call_pb2.ToolCallEvent) -> models.Event:
    """An event of a call.

    Raises:
        InternalError: it is of a kind that this client doesn't know.
    """
    number, time = message.number, moment(message, "time")
    match message.WhichOneof("payload"):
        case "state_change":
            change = message.state_change
            return models.StateChanged(number, time, state(change.state), change.detail)
        case "stdout":
            return models.Stdout(number, time, message.stdout.offset, message.stdout.data)
        case "stderr":
            return models.Stderr(number, time, message.stderr.offset, message.stderr.data)
        case "result":
            return models.Finished(number, time, call(message.result))
        case _:
            raise protocol_error(f"event {number} is of an unknown kind")


def filter_message(chosen: models.CallFilter) -> tool_broker_pb2.ToolCallFilter:
    """A filter on the wire."""
    return tool_broker_pb2.ToolCallFilter(
        agent=chosen.agent,
        tool=resource("tools", chosen.tool) if chosen.tool else "",
        states=[state_number(item) for item in chosen.states],
        workflow=chosen.workflow,
        workspace=chosen.workspace,
        create_time_from=timestamp(chosen.created_from),
        create_time_before=timestamp(chosen.created_before),
    )


def blob(message: blob_pb2.Blob) -> models.Blob:
    """A blob."""
    return models.Blob(
        name=message.name,
        size=message.size,
        digest=message.digest,
        created=moment(message, "create_time"),
        expires=moment(message, "expire_time"),
        data_classes=tuple(message.data_classes),
    )
