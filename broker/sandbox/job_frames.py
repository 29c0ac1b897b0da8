"""A job as the bytes by which it is handed to a runner, and the digest of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from broker.domain.run import Job, JobFile
from broker.errors import FailedPreconditionError, InternalError
from broker.sandbox.attached import AttachedStream
from broker.sandbox.docker_config import tool_environment
from broker.sandbox.engine import PROXY_PORT
from broker.sandbox.wire import PIECE, FrameKind, encode

LET_START = encode(FrameKind.END_OF_INPUT)
"""The last frame of every job: before it nothing of the tool runs."""
_PROXY = f"http://127.0.0.1:{PROXY_PORT}"
PROXY_ENVIRONMENT: Mapping[str, str] = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _PROXY),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
}
"""What a tool finds in its environment besides where the runner offers the proxy. A job can't change it."""


def listening(job: Job) -> tuple[int, ...]:
    """The ports on the sandbox's loopback where the runner listens for a job."""
    return (*([PROXY_PORT] if job.proxy else []), *job.forwards)


def job_header(job: Job) -> bytes:
    """The payload of a job's first frame: all that the runner is told, but arguments and files."""
    header: dict[str, object] = {
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
    if job.tree is not None:
        header["tree"] = {
            "patterns": list(job.tree.patterns),
            "max_changes": job.tree.max_changes,
            "max_bytes": job.tree.max_bytes,
        }
    return json.dumps(header).encode("ascii")


@dataclass(frozen=True, slots=True)
class JobFrames:
    """The frames of one job, encoded once: what is compared is what is sent, whatever becomes of the job's own parts.

    Args:
        head: the first frame.
        arguments: the arguments, which go in pieces.
        files: each file with the frame that announces it, in the order in which they go.
        links: the frames of the symbolic links, which go after all files.
    """

    head: bytes
    arguments: bytes
    files: tuple[tuple[JobFile, bytes], ...]
    links: tuple[bytes, ...] = ()

    @property
    def digest(self) -> str:
        """``sha256:`` of every frame that is sent before the tool may start, in their order, but those with the bytes of
        the files: these are held to a digest of their own.
        """
        whole = hashlib.sha256(self.head)
        for frame in self.argument_frames():
            whole.update(frame)
        for _, announcement in self.files:
            whole.update(announcement)
        for link in self.links:
            whole.update(link)
        return f"sha256:{whole.hexdigest()}"

    def argument_frames(self) -> Iterator[bytes]:
        """The frames that carry the arguments."""
        for at in range(0, len(self.arguments), PIECE):
            yield encode(FrameKind.ARGUMENTS, self.arguments[at : at + PIECE])

    def ahead(self) -> bytes:
        """All but ``LET_START`` of a job without files that goes in one write; empty for any other."""
        if self.files or self.links or len(self.head) + len(self.arguments) >= PIECE:
            return b""
        return b"".join((self.head, *self.argument_frames()))

    def check(self, expected: str) -> None:
        """Lets these frames pass where they have the digest that was approved; an empty one asks for nothing.

        Raises:
            FailedPreconditionError: they have another (``ENVELOPE_CHANGED``).
        """
        if expected and (found := self.digest) != expected:
            raise _changed("job_frame", expected, found)


def encode_job(job: Job) -> JobFrames:
    """A job's frames. Its files are opened when they are sent."""
    announced = tuple((item, encode(FrameKind.FILE_BEGIN, _announcement(item))) for item in job.files)
    links = tuple(
        encode(FrameKind.LINK, json.dumps({"path": link.path, "target": link.target}).encode("ascii"))
        for link in job.links
    )
    return JobFrames(encode(FrameKind.JOB, job_header(job)), bytes(job.arguments), announced, links)


def frame_digest(job: Job) -> str:
    """``JobFrames.digest`` of a job."""
    return encode_job(job).digest


async def send_job(frames: JobFrames, stream: AttachedStream) -> None:
    """Writes a job with its files; waits whenever the container doesn't read. The last frame, which lets the tool start,
    goes once every file was what it had to be.

    Raises:
        OSError: the connection broke.
        FailedPreconditionError: a file has a digest, and gave other bytes (``ENVELOPE_CHANGED``).
        InternalError: a file has none, and gave other than its ``size`` bytes.
    """
    joined = _Joined(stream)
    await joined.put(frames.head)
    for frame in frames.argument_frames():
        await joined.put(frame)
    for item, announcement in frames.files:
        await joined.put(announcement)
        await _send_content(item, joined)
        await joined.put(encode(FrameKind.FILE_END))
    for link in frames.links:
        await joined.put(link)
    await joined.put(LET_START)
    await joined.send()


class _Joined:
    """Frames on their way into a container, small ones in one write: each wakes three processes on the way."""

    def __init__(self, stream: AttachedStream) -> None:
        self._stream = stream
        self._frames = bytearray()

    async def put(self, frame: bytes) -> None:
        self._frames += frame
        if len(self._frames) >= PIECE:
            await self.send()

    async def send(self) -> None:
        frames, self._frames = bytes(self._frames), bytearray()
        self._stream.write(frames)
        await self._stream.drain()


async def _send_content(item: JobFile, joined: _Joined) -> None:
    found, size = hashlib.sha256(), 0
    async for data in item.open():
        size += len(data)
        if item.digest:
            found.update(data)
        if size > item.size:
            break
        for at in range(0, len(data), PIECE):
            await joined.put(encode(FrameKind.FILE_DATA, data[at : at + PIECE]))
    if item.digest and f"sha256:{found.hexdigest()}" != item.digest:
        raise _changed(f"files[{item.path}]", item.digest, f"sha256:{found.hexdigest()}")
    if size != item.size:
        raise InternalError(f"an input file of {item.size} bytes gave {size}", reason="INPUT_FILE_BROKEN")


def _announcement(item: JobFile) -> bytes:
    header: dict[str, object] = {"path": item.path, "size": item.size}
    if item.mode is None:
        header["executable"] = item.executable
    else:  # the digest is what the runner compares with after the run
        header |= {"mode": item.mode, "digest": item.digest}
    return json.dumps(header).encode("ascii")


def _changed(field: str, expected: str, found: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"what would go into the sandbox is not what was admitted: {field} is {found} instead of {expected}",
        reason="ENVELOPE_CHANGED",
        hint="Call it again.",
        metadata={"expected": expected, "found": found, "field": field},
    )
