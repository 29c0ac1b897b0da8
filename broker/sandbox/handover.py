"""One job on its way into a container: what is sent of it, when, and who takes what its runner says."""

from __future__ import annotations

from broker.domain.run import Job, Limits
from broker.sandbox.job_frames import LET_START, encode_job
from broker.sandbox.jobs import check_job
from broker.sandbox.transcript import Transcript
from broker.sandbox.tree_changes import TreeChanges


class Handover:
    """Of one job.

    Raises:
        InvalidArgumentError: the job doesn't fit the sandbox.
    """

    def __init__(self, job: Job, limits: Limits) -> None:
        check_job(job, limits)
        self.job = job
        self.frames = encode_job(job)
        self.ahead = self.frames.ahead()
        """What may be sent before the job may start: all but the last frame of a small one, nothing of any other."""
        self.transcript = Transcript(
            job.outputs,
            output_limit=limits.output_bytes,
            wants_result=job.wants_result,
            tree=TreeChanges.of(job),
        )

    def rest(self, *, handed: bool) -> bytes:
        """What lets the job start in one write, where ``ahead`` has been sent or hasn't; empty where it takes several."""
        if not self.ahead:
            return b""
        return LET_START if handed else self.ahead + LET_START
