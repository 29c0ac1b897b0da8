"""Why a run ended, from all the evidence there is. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from broker.domain.run import EndCause, EvidenceSource, Limits
from broker.sandbox.evidence import Counters
from broker.sandbox.transcript import ExitReport


@dataclass(frozen=True, slots=True)
class Kill:
    """Somebody outside ended the run."""

    cause: EndCause
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The cause, whose word it is, and a sentence."""

    cause: EndCause
    source: EvidenceSource
    detail: str


def decide(
    *,
    limits: Limits,
    kill: Kill | None,
    report: ExitReport | None,
    counters: Counters,
    oom_event: bool,
    over: bool,
    partial: bool = False,
    isolated: bool = True,
) -> Verdict:
    """Weighs the evidence.

    Args:
        limits: what the run was allowed.
        kill: who ended it from outside, if anybody did.
        report: how the tool ended, in the runner's words; ``None`` when it never said.
        counters: the host's counters.
        oom_event: whether the engine reported that the kernel killed for memory.
        over: whether the limit on result files struck.
        partial: whether what the tool changed of its tree can't be told as a whole.
        isolated: whether the tool can't speak in the runner's place. Where it can, a report of success counts for nothing
            against a limit that struck.
    """
    if kill:
        return Verdict(kill.cause, EvidenceSource.BROKER, kill.detail)
    if report is None:
        return _memory(limits, counters)
    struck = _limit(limits, report, counters, oom_event=oom_event)
    if struck and (report.failed or (not isolated and struck.source is EvidenceSource.ENGINE)):
        return struck
    if over:
        return Verdict(EndCause.OUTPUT, EvidenceSource.SANDBOX, "result files or the result exceed their limits")
    if partial:
        text = "what the tool changed of its tree can't be taken as a whole, so none of it is; the warnings say why"
        return Verdict(EndCause.OUTPUT, EvidenceSource.SANDBOX, text)
    return Verdict(EndCause.TOOL, EvidenceSource.SANDBOX, report.detail or _ending(report))


def _limit(limits: Limits, report: ExitReport, counters: Counters, *, oom_event: bool) -> Verdict | None:
    """The limit that a failed tool ran into, if any did strike."""
    if oom_event or counters.oom_kills:
        return _memory(limits, counters)
    if counters.forks_refused:
        return Verdict(
            EndCause.PROCESSES,
            EvidenceSource.ENGINE,
            f"the kernel refused {counters.forks_refused} new process(es) or thread(s) over the limit of "
            f"{limits.processes}; {_ending(report)}",
        )
    return _full(limits, report, counters)


def _memory(limits: Limits, counters: Counters) -> Verdict:
    number = f"{counters.oom_kills} process(es)" if counters.oom_kills else "a process"
    text = f"the kernel killed {number} of the sandbox at its memory limit of {limits.memory_bytes} bytes"
    return Verdict(EndCause.MEMORY, EvidenceSource.ENGINE, text)


def _full(limits: Limits, report: ExitReport, counters: Counters) -> Verdict | None:
    for cause, host_says, sandbox_says, what in (
        (EndCause.DISK, counters.disk_full, report.disk_full, f"disk space ({limits.disk_bytes} bytes)"),
        (EndCause.INODES, counters.inodes_full, report.inodes_full, f"number of files ({limits.inodes})"),
    ):
        full = host_says if host_says is not None else sandbox_says
        if full and (cause is not EndCause.INODES or limits.inodes):  # who counts no files has none left either
            source = EvidenceSource.SANDBOX if host_says is None else EvidenceSource.ENGINE
            return Verdict(cause, source, f"a writable folder is at its limit on {what}; {_ending(report)}")
    return None


def _ending(report: ExitReport) -> str:
    if report.signal is None:
        return f"the tool ended with exit code {report.exit_code}"
    try:
        name = signal.Signals(report.signal).name
    except ValueError:
        name = "unnamed"
    return f"the tool was ended by signal {report.signal} ({name})"
