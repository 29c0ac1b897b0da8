"""How a run's end reads as the state of its call. Pure."""

from __future__ import annotations

import json

from broker.domain.call import CallState
from broker.domain.events import Outcome, OutputFile
from broker.domain.run import EgressRecord, EndCause, Ended, EvidenceSource
from broker.errors import InvalidArgumentError
from broker.specs.catalogue import Tool

MAX_EGRESS_RECORDS = 256
"""Most hosts, by port, kind and verdict, that an outcome keeps: it travels in one message together with the call."""


def judge(
    tool: Tool,
    ended: Ended,
    result: bytes | None,
    files: tuple[OutputFile, ...],
    *,
    egress: tuple[EgressRecord, ...] = (),
    warnings: tuple[str, ...] = (),
) -> tuple[CallState, Outcome]:
    """State and outcome of a run that came to an end.

    Args:
        tool: what ran.
        ended: how it ended, by the sandbox's word.
        result: what it wrote as its structured result.
        files: its result files.
        egress: what it did with other hosts; beyond ``MAX_EGRESS_RECORDS`` those that no rule lists are left out first,
            and a warning says how many.
        warnings: what went wrong beside the run, added to the sandbox's own warnings.
    """
    state, detail, result_json = CallState.FAILED, ended.detail, ""
    if ended.cause in (EndCause.CLIENT, EndCause.OPERATOR):
        state = CallState.CANCELLED
    elif ended.cause is EndCause.ENGINE:
        state = CallState.UNKNOWN
    elif ended.cause is EndCause.TOOL and ended.exit_code == 0:
        state, detail, result_json = _read_result(tool, result, detail)
    kept = sorted(egress, key=lambda item: not item.listed)[:MAX_EGRESS_RECORDS]
    if len(kept) < len(egress):
        warnings = (
            *warnings,
            f"{len(egress) - len(kept)} record(s) of what the tool asked other hosts for were left out",
        )
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
        warnings=(*ended.warnings, *warnings),
        egress=tuple(kept),
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
