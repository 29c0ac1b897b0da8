"""Checks a job before anything is made for it, and writes it to a runner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from broker.domain.run import Job, JobFile, Limits, OutputRules
from broker.errors import FieldViolation, InternalError, InvalidArgumentError
from broker.sandbox.attached import AttachedStream
from broker.sandbox.docker_config import tool_environment
from broker.sandbox.engine import PROXY_PORT
from broker.sandbox.paths import MAX_PATTERNS, check_path
from broker.sandbox.wire import PIECE, FrameKind, encode

KINDS = ("argv", "python")
MAX_FORWARDS = 16
_PORTS = range(1024, 65536)
_PROXY = f"http://127.0.0.1:{PROXY_PORT}"
PROXY_ENVIRONMENT: Mapping[str, str] = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _PROXY),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
}
"""What a tool finds in its environment besides where the runner offers the proxy. A job can't change it."""
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
        raise _refusal("kind", f"must be one of {', '.join(KINDS)}", "JOB_INVALID")
    if job.kind == "argv" and not job.argv:
        raise _refusal("argv", "must name a program", "JOB_INVALID")
    if any("\0" in text for text in (*job.argv, *job.env, *job.env.values())):
        raise _refusal("argv", "a NUL byte can't be handed to a program", "JOB_INVALID")
    if any(not name or "=" in name for name in job.env):
        raise _refusal("env", "a variable's name is not empty and has no '='", "JOB_INVALID")
    _check_forwards(job)
    if len(job.arguments) > MAX_ARGUMENTS_BYTES:
        raise _refusal("arguments", f"at most {MAX_ARGUMENTS_BYTES} bytes", "ARGUMENTS_TOO_LARGE")
    if len(_header(job)) > MAX_JOB_BYTES:
        raise _refusal("code", f"the job's header has at most {MAX_JOB_BYTES} bytes", "JOB_INVALID")
    _check_files(job.files, limits)
    _check_patterns(job.outputs)


def _check_files(files: tuple[JobFile, ...], limits: Limits) -> None:
    folders = {parent for item in files for parent in PurePosixPath(item.path).parents}  # the working folder is one
    if limits.inodes and len(files) + len(folders) > limits.inodes:
        what = f"{len(files)} files in {len(folders)} folders; the sandbox holds {limits.inodes} of both together"
        raise _refusal("files", what, "FILES_TOO_MANY")
    total = sum(-(-item.size // _PAGE) * _PAGE for item in files)
    if total > limits.disk_bytes:
        raise _refusal("files", f"{total} bytes; the sandbox holds {limits.disk_bytes}", "FILES_TOO_LARGE")
    seen: set[str] = set()
    for number, item in enumerate(files):
        field = f"files[{number}].path"
        check_path(item.path, field)
        if item.path in seen:
            raise _refusal(field, f"{item.path!r} is given twice", "PATH_INVALID")
        seen.add(item.path)


def _check_forwards(job: Job) -> None:
    ports = job.forwards
    if len(ports) > MAX_FORWARDS or len(set(ports)) != len(ports):
        raise _refusal("forwards", f"at most {MAX_FORWARDS} ports, each once", "JOB_INVALID")
    if any(port not in _PORTS or (job.proxy and port == PROXY_PORT) for port in ports):
        what = f"a port is at least {_PORTS.start}, at most {_PORTS.stop - 1}, and not the proxy's"
        raise _refusal("forwards", what, "JOB_INVALID")


def listening(job: Job) -> tuple[int, ...]:
    """The ports on the sandbox's loopback where the runner listens for a job."""
    return (*([PROXY_PORT] if job.proxy else []), *job.forwards)


def _check_patterns(rules: OutputRules) -> None:
    if len(rules.patterns) > MAX_PATTERNS:
        raise _refusal("outputs.patterns", f"at most {MAX_PATTERNS}", "JOB_INVALID")
    for number, pattern in enumerate(rules.patterns):
        check_path(pattern, f"outputs.patterns[{number}]")


def _refusal(field: str, why: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field}: {why}", reason=reason, violations=(FieldViolation(field, why),))


def _header(job: Job) -> bytes:
    header = {
        "kind": job.kind,
        "argv": list(job.argv),
        "code": job.code,
        "env": {
            **tool_environment(job.env, wants_result=job.wants_result),
            **(PROXY_ENVIRONMENT if job.proxy else {}),
        },
        "listen": listening(job),
        "outputs": {
            "patterns": list(job.outputs.patterns),
            "max_files": job.outputs.max_files,
            "max_bytes": job.outputs.max_bytes,
        },
        "wants_result": job.wants_result,
    }
    return json.dumps(header).encode("ascii")


async def send_job(job: Job, stream: AttachedStream) -> None:
    """Writes a job with its files; waits whenever the container doesn't read.

    Raises:
        OSError: the connection broke.
        InternalError: a file gave other than its ``size`` bytes.
    """
    joined = _Joined(stream)
    await joined.put(FrameKind.JOB, _header(job))
    for at in range(0, len(job.arguments), PIECE):
        await joined.put(FrameKind.ARGUMENTS, job.arguments[at : at + PIECE])
    for item in job.files:
        begin = {"path": item.path, "size": item.size, "executable": item.executable}
        await joined.put(FrameKind.FILE_BEGIN, json.dumps(begin).encode("ascii"))
        sent = 0
        async for data in item.open():
            sent += len(data)
            if sent > item.size:
                break
            for at in range(0, len(data), PIECE):
                await joined.put(FrameKind.FILE_DATA, data[at : at + PIECE])
        if sent != item.size:
            raise InternalError(f"an input file of {item.size} bytes gave {sent}", reason="INPUT_FILE_BROKEN")
        await joined.put(FrameKind.FILE_END)
    await joined.put(FrameKind.END_OF_INPUT)
    await joined.send()


class _Joined:
    """Frames on their way into a container, small ones in one write: each wakes three processes on the way."""

    def __init__(self, stream: AttachedStream) -> None:
        self._stream = stream
        self._frames = bytearray()

    async def put(self, kind: FrameKind, payload: bytes = b"") -> None:
        self._frames += encode(kind, payload)
        if len(self._frames) >= PIECE:
            await self.send()

    async def send(self) -> None:
        frames, self._frames = bytes(self._frames), bytearray()
        self._stream.write(frames)
        await self._stream.drain()
