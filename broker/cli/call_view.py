"""A call as commands print it: the model behind ``--json``, and tables and lines for a person."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import JsonValue
from rich.table import Table
from rich.text import Text

from broker.cli.egress_view import (
    EgressOutput,
    RecordingOutput,
    egress_output,
    egress_sentence,
    recording_output,
    recording_sentence,
)
from broker.cli.output import ErrorOutput, OutputModel, console, error_output, errors, printable
from broker.client.models import AppliedEffect, Call, CompletedCall, Outcome, StateChanged
from broker.domain.call import CallState
from broker.domain.run import EndCause, EvidenceSource, StreamSummary
from broker.errors import BrokerError

_COLOURS = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "DENIED": "red",
    "UNKNOWN": "red",
    "PENDING_APPROVAL": "yellow",
}
"""Style of a cell that is such a state."""


class SourceOutput(OutputModel):
    """What the request was based on."""

    uri: str
    digest: str


class ContextOutput(OutputModel):
    """What the caller said about the call: claims."""

    workspace: str
    workflow: str
    purpose: str
    session: str
    model: str
    prompt_version: str
    sources: list[SourceOutput]
    feature: str
    team: str
    data_classes: list[str]


class DecisionOutput(OutputModel):
    """Why it may run, or may not."""

    allowed: bool
    rule: str
    reason: str
    policy_digest: str


class LineageOutput(OutputModel):
    """Who stands behind it, by id."""

    agent: str
    owner: str
    registrar: str
    starter: str
    on_behalf_of: str
    proven: bool


class FileOutput(OutputModel):
    """A file that went in."""

    path: str
    blob: str
    executable: bool


class ResultFileOutput(OutputModel):
    """A result file that came out."""

    path: str
    blob: str
    size: int
    digest: str


class StreamOutput(OutputModel):
    """One output stream as a whole; ``digest`` covers the part that was cut too."""

    total_bytes: int
    kept_bytes: int
    truncated: bool
    digest: str


class EffectOutput(OutputModel):
    """What a call changed in its workspace; ``artifact`` takes it back."""

    before: str
    after: str
    digest: str
    artifact: str
    added: int
    changed: int
    removed: int
    undoes: list[str]


class OutcomeOutput(OutputModel):
    """How it ended, and by whose evidence; what isn't known is null."""

    exit_code: int | None
    signal: int | None
    cause: EndCause | None
    cause_source: EvidenceSource | None
    detail: str
    stdout: StreamOutput | None
    stderr: StreamOutput | None
    result: JsonValue
    files: list[ResultFileOutput]
    wall_s: float
    cpu_s: float | None
    memory_peak_bytes: int | None
    oom_kills: int
    warnings: list[str]
    egress: list[EgressOutput]
    """Empty in lists of calls."""
    effect: EffectOutput | None
    """Null where it changed nothing."""
    recording: RecordingOutput | None
    """What is kept of hosts' answers; null where nothing is."""


class CallOutput(OutputModel):
    """A call as it stands. ``arguments`` and ``result`` are null in lists and once the content is erased."""

    name: str
    tool: str
    tool_version: str
    state: CallState
    agent: str
    tier: int | None
    arguments: dict[str, JsonValue] | None
    files: list[FileOutput]
    context: ContextOutput
    decision: DecisionOutput | None
    lineage: LineageOutput | None
    outcome: OutcomeOutput | None
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    expires: datetime | None
    last_event: int
    envelope_digest: str
    data_classes: list[str]
    decision_seq: int | None
    request_id: str
    content_erased: bool


class CapturedOutput(OutputModel):
    """What a stream held: as text where it is UTF-8, else in base64."""

    encoding: Literal["utf-8", "base64"]
    data: str


class StateOutput(OutputModel):
    """A state that the call went through."""

    number: int
    time: datetime | None
    state: CallState
    detail: str


class SavedOutput(OutputModel):
    """A result file and where it was written."""

    path: str
    file: str


class RunOutput(OutputModel):
    """A call that was run or watched. ``stdout`` and ``stderr`` are null where the command didn't wait for them."""

    call: CallOutput
    stdout: CapturedOutput | None
    stderr: CapturedOutput | None
    states: list[StateOutput]
    saved: list[SavedOutput]
    save_error: ErrorOutput | None = None
    """Why not all result files could be written."""


def call_output(call: Call) -> CallOutput:
    """The model of a call."""
    context, tier = call.context, call.tier
    return CallOutput(
        name=call.name,
        tool=call.tool,
        tool_version=call.tool_version,
        state=call.state,
        agent=call.agent,
        tier=None if tier is None else int(tier),
        arguments=call.arguments,
        files=[FileOutput(path=item.path, blob=item.blob, executable=item.executable) for item in call.files],
        context=ContextOutput(
            workspace=context.workspace,
            workflow=context.workflow,
            purpose=context.purpose,
            session=context.session,
            model=context.model,
            prompt_version=context.prompt_version,
            sources=[SourceOutput(uri=item.uri, digest=item.digest) for item in context.sources],
            feature=context.feature,
            team=context.team,
            data_classes=list(context.data_classes),
        ),
        decision=None
        if call.decision is None
        else DecisionOutput(
            allowed=call.decision.allowed,
            rule=call.decision.rule,
            reason=call.decision.reason,
            policy_digest=call.decision.policy_digest,
        ),
        lineage=None
        if call.lineage is None
        else LineageOutput(
            agent=call.lineage.agent,
            owner=call.lineage.owner,
            registrar=call.lineage.registrar,
            starter=call.lineage.starter,
            on_behalf_of=call.lineage.on_behalf_of,
            proven=call.lineage.proven,
        ),
        outcome=None if call.outcome is None else _outcome_output(call.outcome),
        created=call.created,
        started=call.started,
        ended=call.ended,
        expires=call.expires,
        last_event=call.last_event,
        envelope_digest=call.envelope_digest,
        data_classes=list(call.data_classes),
        decision_seq=call.decision_seq,
        request_id=call.request_id,
        content_erased=call.content_erased,
    )


def _outcome_output(outcome: Outcome) -> OutcomeOutput:
    return OutcomeOutput(
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        cause=outcome.cause,
        cause_source=outcome.cause_source,
        detail=outcome.detail,
        stdout=_stream_output(outcome.stdout),
        stderr=_stream_output(outcome.stderr),
        result=outcome.result,
        files=[
            ResultFileOutput(path=item.path, blob=item.blob, size=item.size, digest=item.digest)
            for item in outcome.files
        ],
        wall_s=outcome.wall_s,
        cpu_s=outcome.cpu_s,
        memory_peak_bytes=outcome.memory_peak_bytes,
        oom_kills=outcome.oom_kills,
        warnings=list(outcome.warnings),
        egress=[egress_output(item) for item in outcome.egress],
        effect=None if outcome.effect is None else _effect_output(outcome.effect),
        recording=None if outcome.recording is None else recording_output(outcome.recording),
    )


def _effect_output(effect: AppliedEffect) -> EffectOutput:
    return EffectOutput(
        before=effect.before,
        after=effect.after,
        digest=effect.digest,
        artifact=effect.artifact,
        added=effect.added,
        changed=effect.changed,
        removed=effect.removed,
        undoes=list(effect.undoes),
    )


def _stream_output(summary: StreamSummary | None) -> StreamOutput | None:
    if summary is None:
        return None
    return StreamOutput(
        total_bytes=summary.total_bytes,
        kept_bytes=summary.kept_bytes,
        truncated=summary.truncated,
        digest=summary.digest,
    )


def captured(data: bytes) -> CapturedOutput:
    """A stream's bytes for JSON."""
    try:
        return CapturedOutput(encoding="utf-8", data=data.decode("utf-8"))
    except UnicodeDecodeError:
        return CapturedOutput(encoding="base64", data=base64.b64encode(data).decode("ascii"))


def run_output(
    call: Call, states: Sequence[StateChanged], saved: Sequence[SavedOutput], save_error: BrokerError | None = None
) -> RunOutput:
    """The model of a call that was run or watched."""
    return RunOutput(
        call=call_output(call),
        stdout=captured(call.stdout) if isinstance(call, CompletedCall) else None,
        stderr=captured(call.stderr) if isinstance(call, CompletedCall) else None,
        states=[
            StateOutput(number=item.number, time=item.time, state=item.state, detail=item.detail) for item in states
        ],
        saved=list(saved),
        save_error=None if save_error is None else error_output(save_error),
    )


def say(text: str) -> None:
    """A line of ours beside a tool's output: on standard error, and marked as ours."""
    errors.print(f"broker: {printable(text)}", markup=False, soft_wrap=True, style="dim")


def summarise(call: Call) -> None:
    """How a call ended, in a few lines on standard error: what was cut, and which hosts it reached."""
    say(_sentence(call))
    outcome = call.outcome
    if outcome is None:
        return
    if outcome.detail and outcome.cause is not EndCause.TOOL:
        say(outcome.detail)
    for name, summary in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
        if summary is not None and summary.truncated:
            say(f"{name} was cut at its limit: {summary.kept_bytes} of {summary.total_bytes} bytes were kept")
    if outcome.effect is not None:
        effect = outcome.effect
        what = f"{effect.added} added, {effect.changed} changed, {effect.removed} removed"
        where = "files of its workspace" if effect.after else "items outside"
        done = "may have changed" if call.state is CallState.UNKNOWN else "changed"
        say(f"{done} {where}: {what}; to take it back: broker undo {call.name.removeprefix('calls/')}")
    for record in outcome.egress:
        say(egress_sentence(record))
    if outcome.recording is not None:
        say(f"kept of what hosts answered: {recording_sentence(outcome.recording)}")
    for warning in outcome.warnings:
        say(f"warning: {warning}")


def _sentence(call: Call) -> str:
    outcome = call.outcome
    if outcome is None:
        return f"{call.name} is {call.state}"
    parts = [f"{call.name} {call.state}"]
    if outcome.exit_code is not None:
        parts.append(f"exit code {outcome.exit_code}")
    if outcome.signal is not None:
        parts.append(f"signal {outcome.signal}")
    if outcome.cause not in {None, EndCause.TOOL}:
        parts.append(f"ended by {outcome.cause} (by the word of {outcome.cause_source or 'nobody'})")
    parts.append(f"{outcome.wall_s:.3f} s")
    return ", ".join(parts)


def short_time(moment: datetime | None) -> str:
    """A time for a table, UTC to the second."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}Z"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal; in a pipe one line for each row, tabs between, no heading."""
    if not console.is_terminal:
        for row in rows:
            # Not through rich, which makes spaces of tabs.
            sys.stdout.write("\t".join(" ".join(printable(cell).split()) for cell in row) + "\n")
        return
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell), style=_COLOURS.get(cell, "")) for cell in row))
    console.print(table)


def print_fields(fields: dict[str, str]) -> None:
    """Names and values, one to a line; empty ones are left out."""
    shown = {name: value for name, value in fields.items() if value}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        console.print(f"{name:<{width}}  ", style="bold", end="")
        console.print(printable(value), markup=False, soft_wrap=True)
