"""How a run's end reads as the state of its call. Pure."""

from __future__ import annotations

import json

from broker.domain.call import CallState
from broker.domain.events import Outcome, OutputFile
from broker.domain.run import EndCause, Ended, EvidenceSource
from broker.errors import InvalidArgumentError
from broker.specs.catalogue import Tool


def judge(tool: Tool, ended: Ended, result: bytes | None, files: tuple[OutputFile, ...]) -> tuple[CallState, Outcome]:
    """State and outcome of a run that came to an end."""
    state, detail, result_json = CallState.FAILED, ended.detail, ""
    if ended.cause in (EndCause.CLIENT, EndCause.OPERATOR):
        state = CallState.CANCELLED
    elif ended.cause is EndCause.ENGINE:
        state = CallState.UNKNOWN
    elif ended.cause is EndCause.TOOL and ended.exit_code == 0:
        state, detail, result_json = _read_result(tool, result, detail)
    outcome = Outcome(
        cause=ended.cause,
        cause_source=ended.cause_source,
        detail=detail,
        exit_code=ended.exit_code,
        signal=ended.signal,
        stdout=ended.stdout,
        stderr=ended.stderr,
        result_json=result_json,
        files=files,
        wall_s=ended.wall_s,
        cpu_s=ended.cpu_s,
        memory_peak_bytes=ended.memory_peak_bytes,
        oom_kills=ended.oom_kills,
        warnings=ended.warnings,
    )
    return state, outcome


def _read_result(tool: Tool, result: bytes | None, detail: str) -> tuple[CallState, str, str]:
    if tool.spec.result is None:
        return CallState.SUCCEEDED, detail, ""
    if result is None:
        return (
            CallState.FAILED,
            "the tool ended with exit code 0 and wrote no result, which its specification wants",
            "",
        )
    try:
        value = tool.validate_result(result)
    except InvalidArgumentError as error:
        return CallState.FAILED, f"the tool's result doesn't fit its schema: {error.message}", ""
    return CallState.SUCCEEDED, detail, json.dumps(value, ensure_ascii=False)


def never_ran(cause: EndCause, detail: str) -> Outcome:
    """The outcome of a call that ended before its tool had started."""
    return Outcome(cause=cause, cause_source=EvidenceSource.BROKER, detail=detail)


def lost(detail: str) -> Outcome:
    """The outcome of a call that may have run: only a person can find out what it did."""
    return Outcome(cause=EndCause.ENGINE, cause_source=EvidenceSource.BROKER, detail=detail)
