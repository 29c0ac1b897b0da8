"""What the sandbox is asked to do, and what it tells: jobs, events and evidence."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


class EndCause(enum.StrEnum):
    """Who or what ended a run; the words are those of the wire, without their prefix."""

    TOOL = "TOOL"
    TIME = "TIME"
    MEMORY = "MEMORY"
    PROCESSES = "PROCESSES"
    DISK = "DISK"
    INODES = "INODES"
    OUTPUT = "OUTPUT"
    CLIENT = "CLIENT"
    OPERATOR = "OPERATOR"
    ENGINE = "ENGINE"
    POLICY = "POLICY"


class EvidenceSource(enum.StrEnum):
    """Whose word a fact is."""

    ENGINE = "ENGINE"
    BROKER = "BROKER"
    SANDBOX = "SANDBOX"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. Sizes in bytes, times in seconds."""

    cpu_cores: float = 1.0
    memory_bytes: int = 256 * 2**20
    processes: int = 64
    wall_s: float = 30.0
    output_bytes: int = 1 * 2**20
    """Of standard output and of standard error, each."""
    disk_bytes: int = 64 * 2**20
    inodes: int = 4096
    open_files: int = 256


@dataclass(frozen=True, slots=True)
class Profile:
    """All that decides what container a call gets."""

    image: str
    """Digest of the image as the engine knows it, ``sha256:...``: never a tag."""
    limits: Limits


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file to put into the working folder before the tool starts. ``open`` yields its ``size`` bytes in pieces."""

    path: str
    size: int
    executable: bool
    open: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class OutputRules:
    """Which result files are fetched: patterns relative to the working folder, and how much of it."""

    patterns: tuple[str, ...] = ()
    max_files: int = 16
    max_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Job:
    """One run.

    With ``kind`` ``argv`` the runner executes ``argv`` as written. With ``kind`` ``python`` it forks and runs ``code``
    in the child, with ``argv`` as ``sys.argv``. The arguments lie in the file that ``BROKER_ARGUMENTS`` names; where
    ``wants_result`` the tool writes JSON to the file that ``BROKER_RESULT`` names.
    """

    kind: str
    argv: tuple[str, ...]
    code: str
    env: Mapping[str, str]
    arguments: bytes
    files: tuple[JobFile, ...] = ()
    outputs: OutputRules = field(default_factory=OutputRules)
    wants_result: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The tool is about to start; all its files are in place."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of ``stdout`` or ``stderr`` as the tool wrote it."""

    stream: str
    data: bytes


@dataclass(frozen=True, slots=True)
class FileStart:
    """A result file begins; ``FileData`` with its bytes and one ``FileEnd`` follow. The path has been checked."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileData:
    """Bytes of the result file that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The result file that began last is complete."""


@dataclass(frozen=True, slots=True)
class Result:
    """The bytes that the tool wrote as its structured result; hostile until checked against the schema."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """One output stream as a whole; ``digest`` is over all that was written, the part that was cut included."""

    total_bytes: int
    kept_bytes: int
    truncated: bool
    digest: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event: how the run ended, and by whose evidence. Unknown counters are ``None``."""

    exit_code: int | None
    signal: int | None
    cause: EndCause
    cause_source: EvidenceSource
    detail: str
    stdout: StreamSummary
    stderr: StreamSummary
    wall_s: float
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    oom_kills: int | None = None
    warnings: tuple[str, ...] = ()


RunEvent: TypeAlias = Started | Output | FileStart | FileData | FileEnd | Result | Ended
