"""Checks a job before anything is made for it."""

from __future__ import annotations

from pathlib import PurePosixPath

from broker.domain.paths import MAX_PATTERNS, check_path
from broker.domain.run import Job, JobFile, JobLink, Limits
from broker.sandbox.engine import PROXY_PORT
from broker.sandbox.job_frames import job_header
from broker.sandbox.tree_jobs import check_tree, refusal

KINDS = ("argv", "python")
MAX_FORWARDS = 16
_PORTS = range(1024, 65536)
_PAGE = 4096
"""Bytes by which a file on a tmpfs grows at a time."""
MAX_JOB_BYTES = 4 * 2**20
MAX_ARGUMENTS_BYTES = 16 * 2**20


def check_job(job: Job, limits: Limits) -> None:
    """Lets a job pass that can fit a sandbox with these limits.

    Raises:
        InvalidArgumentError: names the field that is wrong.
    """
    if job.kind not in KINDS:
        raise refusal("kind", f"must be one of {', '.join(KINDS)}", "JOB_INVALID")
    if job.kind == "argv" and not job.argv:
        raise refusal("argv", "must name a program", "JOB_INVALID")
    if any("\0" in text for text in (*job.argv, *job.env, *job.env.values())):
        raise refusal("argv", "a NUL byte can't be handed to a program", "JOB_INVALID")
    if any(not name or "=" in name for name in job.env):
        raise refusal("env", "a variable's name is not empty and has no '='", "JOB_INVALID")
    _check_forwards(job)
    if len(job.arguments) > MAX_ARGUMENTS_BYTES:
        raise refusal("arguments", f"at most {MAX_ARGUMENTS_BYTES} bytes", "ARGUMENTS_TOO_LARGE")
    if len(job_header(job)) > MAX_JOB_BYTES:
        raise refusal("code", f"the job's header has at most {MAX_JOB_BYTES} bytes", "JOB_INVALID")
    _check_files(job.files, job.links, limits)
    _check_patterns("outputs.patterns", job.outputs.patterns)
    _check_patterns("tree.patterns", job.tree.patterns if job.tree else ())
    check_tree(job)


def _check_files(files: tuple[JobFile, ...], links: tuple[JobLink, ...], limits: Limits) -> None:
    paths = [*(item.path for item in files), *(item.path for item in links)]
    # The working folder is one of the folders.
    folders = {parent for path in paths for parent in PurePosixPath(path).parents}
    count = len(paths)
    if limits.inodes and count + len(folders) > limits.inodes:
        what = f"{count} files in {len(folders)} folders; the sandbox holds {limits.inodes} of both together"
        raise refusal("files", what, "FILES_TOO_MANY")
    total = sum(-(-item.size // _PAGE) * _PAGE for item in files) + len(links) * _PAGE
    if total > limits.disk_bytes:
        raise refusal("files", f"{total} bytes; the sandbox holds {limits.disk_bytes}", "FILES_TOO_LARGE")
    seen: set[str] = set()
    for number, item in enumerate(files):
        field = f"files[{number}].path"
        check_path(item.path, field)
        if item.path in seen:
            raise refusal(field, f"{item.path!r} is given twice", "PATH_INVALID")
        seen.add(item.path)


def _check_forwards(job: Job) -> None:
    ports = job.forwards
    if len(ports) > MAX_FORWARDS or len(set(ports)) != len(ports):
        raise refusal("forwards", f"at most {MAX_FORWARDS} ports, each once", "JOB_INVALID")
    if any(port not in _PORTS or (job.proxy and port == PROXY_PORT) for port in ports):
        what = f"a port is at least {_PORTS.start}, at most {_PORTS.stop - 1}, and not the proxy's"
        raise refusal("forwards", what, "JOB_INVALID")


def _check_patterns(field: str, patterns: tuple[str, ...]) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise refusal(field, f"at most {MAX_PATTERNS}", "JOB_INVALID")
    for number, pattern in enumerate(patterns):
        check_path(pattern, f"{field}[{number}]")
