"""What tests of the sandbox share: an engine that must end with nothing left, jobs in a line, a run as one value."""

from __future__ import annotations

import hashlib
import json
import signal
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from broker.domain.run import (
    Ended,
    EvidenceSource,
    FileData,
    FileEnd,
    FileStart,
    Job,
    JobFile,
    Limits,
    Output,
    OutputRules,
    Profile,
    Result,
    RunEvent,
    Started,
    TreeFileStart,
    TreeLinkMade,
    TreeMode,
    TreeRemoved,
    TreeRules,
)
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.engine import Capabilities, EgressGate, Engine, Lease

LIMITS = Limits(wall_s=30.0)
UNCONFIRMED = "the engine had not confirmed the removal of the container yet"


def new_instance() -> str:
    """A label value that no other test uses."""
    return f"test-{uuid.uuid4().hex[:16]}"


@asynccontextmanager
async def docker_engine(instance: str = "") -> AsyncIterator[DockerEngine]:
    """The local Docker engine; when it is closed, nothing of it may be left."""
    name = instance or new_instance()
    async with DockerEngine(name) as engine:
        yield engine
    async with DockerEngine(name) as again:
        assert await again.list_owned() == []


class RuntimeEngine:
    """An engine whose containers, as far as tests name no runtime themselves, run under one of its runtimes."""

    def __init__(self, engine: DockerEngine, runtime: str) -> None:
        self._engine = engine
        self.runtime = runtime

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the engine has
        return getattr(self._engine, name)


@dataclass
class Finished:
    """All that a run told."""

    ended: Ended
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    changes: dict[str, tuple[bytes, int] | str | int | None] = field(default_factory=dict)
    """What was told of the tree, by path: bytes and mode, a link's target, a mode alone, or ``None`` for removed."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings but the one that every run has under a runtime whose tools can reach the runner."""
        return tuple(text for text in self.ended.warnings if "the sandbox's word" not in text)

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode()


@asynccontextmanager
async def leased(engine: Engine, profile: Profile) -> AsyncIterator[Lease]:
    """A container of one's own, destroyed at the end."""
    lease = await engine.create(profile)
    try:
        yield lease
    finally:
        await lease.destroy()


async def finish(lease: Lease, job: Job, egress: EgressGate | None = None) -> Finished:
    """Runs a job, takes every event of it, and checks their order."""
    done = await gather(lease, lease.run(job, egress))
    assert len(done.stdout) == done.ended.stdout.kept_bytes
    assert len(done.stderr) == done.ended.stderr.kept_bytes
    return done


async def gather(lease: Lease, events: AsyncIterator[RunEvent]) -> Finished:
    """Takes the events of a run that has begun."""
    kinds: list[type] = []
    streams = {"stdout": bytearray(), "stderr": bytearray()}
    files: dict[str, bytearray] = {}
    trees: dict[str, bytearray] = {}
    made: dict[str, int] = {}
    changes: dict[str, tuple[bytes, int] | str | int | None] = {}
    content, result, ended = bytearray(), None, None
    async for event in events:
        kinds.append(type(event))
        if isinstance(event, Output):
            streams[event.stream] += event.data
        elif isinstance(event, FileStart):
            content = files[event.path] = bytearray()
        elif isinstance(event, FileData):
            content += event.data
        elif isinstance(event, TreeFileStart):
            content, made[event.path] = trees.setdefault(event.path, bytearray()), event.mode
        elif isinstance(event, TreeLinkMade | TreeMode | TreeRemoved):
            changes[event.path] = _change(event)
        elif isinstance(event, Result):
            result = event.data
        elif isinstance(event, Ended):
            ended = event
        lease.taken(event)
    assert ended is not None
    assert kinds.index(Ended) == len(kinds) - 1
    # Who kills a run may strike in the middle of a file.
    cut = {0, 1} if ended.cause_source is EvidenceSource.BROKER else {0}
    assert kinds.count(FileStart) + kinds.count(TreeFileStart) - kinds.count(FileEnd) in cut
    assert Started not in kinds or kinds[0] is Started
    stdout, stderr = bytes(streams["stdout"]), bytes(streams["stderr"])
    changes |= {path: (bytes(data), made[path]) for path, data in trees.items()}
    return Finished(ended, stdout, stderr, result, {path: bytes(data) for path, data in files.items()}, changes)


def _change(event: TreeLinkMade | TreeMode | TreeRemoved) -> str | int | None:
    match event:
        case TreeLinkMade(_, target):
            return target
        case TreeMode(_, mode):
            return mode
        case TreeRemoved():
            return None


def python(code: str, **more: object) -> Job:
    """A job that runs Python code in a fork of the runner."""
    return _job({"kind": "python", "argv": ("tool",), "code": code, **more})


def argv(*words: str, **more: object) -> Job:
    """A job that executes a program."""
    return _job({"kind": "argv", "argv": words, "code": "", **more})


def _job(values: Mapping[str, object]) -> Job:
    return Job(**{"env": {}, "arguments": b"{}", **values})  # type: ignore[arg-type]  # named by the callers above


def given(path: str, content: bytes, *, executable: bool = False, piece: int = 65536) -> JobFile:
    """A file to hand in, given in pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), piece):
            yield content[at : at + piece]

    return JobFile(path, len(content), executable, pieces)


def in_tree(path: str, content: bytes, mode: int = 0o644) -> JobFile:
    """A file of the tree that a job works on."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return replace(given(path, content), digest=digest, mode=mode)


def written(*patterns: str, max_changes: int = 100, max_bytes: int = 2**20) -> TreeRules:
    """What a tool may change of its tree."""
    return TreeRules(patterns, max_changes, max_bytes)


def wanted(*patterns: str, max_files: int = 16, max_bytes: int = 2**20) -> OutputRules:
    """Result files to fetch."""
    return OutputRules(patterns, max_files, max_bytes)


def says_killed(ended: Ended) -> bool:
    """Whether a run that the broker ended says so: by SIGKILL, or that a busy engine hadn't confirmed it in time."""
    if ended.signal is None:
        return ended.exit_code is None and ended.warnings[-1:] == (UNCONFIRMED,)
    return ended.signal == signal.SIGKILL and UNCONFIRMED not in ended.warnings


async def keeps(engine: Engine) -> Capabilities:
    """What the runtime of the engine's fixture does."""
    return await engine.capabilities(getattr(engine, "runtime", ""))


async def profile(engine: Engine, limits: Limits = LIMITS) -> Profile:
    """The image ``python`` under some limits, under the runtime that the engine's fixture names.

    A limit on files is left out where the runtime is declared not to keep one; what a test asks of such a runtime by
    itself is in ``test_capabilities``.
    """
    if not (await keeps(engine)).inodes:
        limits = replace(limits, inodes=0)
    return Profile((await engine.image("python")).id, limits, getattr(engine, "runtime", ""))


async def run(engine: Engine, job: Job, limits: Limits = LIMITS) -> Finished:
    """Runs a job in a container of its own."""
    async with leased(engine, await profile(engine, limits)) as lease:
        return await finish(lease, job)


async def facts(engine: Engine, code: str, limits: Limits = LIMITS) -> dict[str, object]:
    """Runs code that leaves what it found in ``found``, a dictionary of JSON values."""
    done = await run(engine, python(f"import json, os\nfound = {{}}\n{code}\nprint(json.dumps(found))"), limits)
    assert done.ended.exit_code == 0, done.stderr.decode()
    value: dict[str, object] = json.loads(done.stdout)
    return value
