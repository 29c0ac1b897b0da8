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


class EgressKind(enum.StrEnum):
    """How a tool reaches a listed host."""

    HTTP = "http"
    """Plain HTTP through the proxy; the broker sees method and path."""
    HTTPS = "https"
    """The tool asks ``http://host/...`` through the proxy, and the broker speaks TLS to the host: it sees method and path,
    and can add a secret."""
    CONNECT = "connect"
    """A tunnel through the proxy with the tool's own TLS: the broker sees the host only, and compares it with the SNI."""
    TCP = "tcp"
    """Bytes, from a port on the sandbox's loopback."""
    POSTGRES = "postgres"
    """PostgreSQL's protocol in the clear and without a password, from a port on the sandbox's loopback; the broker speaks
    TLS to the server and logs in. It sees who logs in where, and how many bytes pass."""

    @property
    def is_forward(self) -> bool:
        """Whether the host has a port of its own on the sandbox's loopback; else it is reached through the proxy."""
        return self in {EgressKind.TCP, EgressKind.POSTGRES}


@dataclass(frozen=True, slots=True)
class SecretUse:
    """What the broker adds on the way out: a header, for which the tool's own of that name is dropped, or a password."""

    name: str
    """In the broker's secret store."""
    header: str = ""
    """Lower case; empty where the secret is the password of a login."""
    prefix: str = ""
    """What stands before the secret in the header's value, such as ``Bearer ``."""


@dataclass(frozen=True, slots=True)
class EgressRule:
    """One host that a tool may reach, and how."""

    kind: EgressKind
    host: str
    """A name in lower case without a trailing dot (IDNA A-labels), or an address in its shortest form."""
    port: int
    methods: tuple[str, ...] = ()
    """Of ``http`` and ``https``, upper case; empty allows GET and HEAD only."""
    paths: tuple[str, ...] = ()
    """Of ``http`` and ``https``: prefixes, each beginning with ``/``; empty allows every path."""
    listen: int = 0
    """Of ``tcp`` and ``postgres``: the port on the sandbox's loopback, at least 1024 and not the proxy's."""
    secret: SecretUse | None = None
    """Of ``https``, and of ``postgres``, which needs it."""
    database: str = ""
    """Of ``postgres``, which needs it: printable, 63 bytes at most."""
    user: str = ""
    """Of ``postgres``, which needs it: the role that logs in; of the same form."""
    record_bytes: int = 0
    """Of ``http`` and ``https``: how much of what the host was asked and answered is kept of one call; 0 keeps nothing."""


class EgressVerdict(enum.StrEnum):
    """What became of what a tool wanted from a host."""

    ALLOWED = "ALLOWED"
    NOT_LISTED = "NOT_LISTED"
    """No rule for host, port, kind, method or path."""
    ADDRESS_REFUSED = "ADDRESS_REFUSED"
    """The name leads to an address that no tool may reach."""
    UNRESOLVED = "UNRESOLVED"
    UNREACHABLE = "UNREACHABLE"
    MISMATCH = "MISMATCH"
    """Host header, SNI or request target name another host than was allowed."""
    MALFORMED = "MALFORMED"
    SECRET_UNAVAILABLE = "SECRET_UNAVAILABLE"  # noqa: S105  # a verdict
    SECRET_ECHOED = "SECRET_ECHOED"  # noqa: S105  # a verdict
    """The response held the secret that the request had been given; the connection was cut."""
    LIMIT = "LIMIT"
    """A bound on connections, time or bytes."""


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """All that a call did with one host, port and verdict; bytes as the tool sent and received them."""

    host: str
    """As the rule has it where ``listed``; else as the tool wrote it, cut and made visible."""
    port: int
    kind: EgressKind
    verdict: EgressVerdict
    listed: bool
    """Whether a rule names this host and port."""
    count: int = 1
    """Requests or connections."""
    sent_bytes: int = 0
    received_bytes: int = 0
    detail: str = ""
    """A sentence for a person; of the first of them."""


@dataclass(frozen=True, slots=True)
class Profile:
    """All that decides what container a call gets."""

    image: str
    """Digest of the image as the engine knows it, ``sha256:...``: never a tag."""
    limits: Limits
    runtime: str = ""
    """OCI runtime by the engine's name for it, such as ``runsc``; empty is the engine's own choice."""
    egress: tuple[EgressRule, ...] = ()


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file to put into the working folder before the tool starts. ``open`` yields its ``size`` bytes in pieces."""

    path: str
    size: int
    executable: bool
    open: Callable[[], AsyncIterator[bytes]]
    digest: str = ""
    """``sha256:...`` that its bytes must have, or the tool doesn't start; empty where nobody has said so."""
    mode: int | None = None
    """Its nine permission bits, where it is part of the job's tree; ``None`` where it is an ordinary input file, whose
    bits follow from ``executable``."""


@dataclass(frozen=True, slots=True)
class JobLink:
    """A symbolic link of the job's tree, put into the working folder after all files; nobody but the tool follows it."""

    path: str
    target: str
    """Any text without NUL, at most 4095 bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class TreeRules:
    """What a tool may change of the tree that went in with it, and how much.

    The tree of a job is its files with a mode and its links. After the run the runner tells what differs at the paths
    that ``patterns`` name, and nothing where that is more than the limits or can't be told as a whole.
    """

    patterns: tuple[str, ...] = ()
    """Of the paths that may be written, relative to the working folder; elsewhere a change is ignored, with a warning."""
    max_changes: int = 1000
    """Paths that may be added, changed or removed, together."""
    max_bytes: int = 64 * 2**20
    """Of the files that are added or changed, together."""


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
    proxy: bool = False
    """Whether the runner offers the HTTP proxy on the sandbox's loopback (``http_proxy`` and the like name it)."""
    forwards: tuple[int, ...] = ()
    """Ports on the sandbox's loopback that the broker forwards."""
    links: tuple[JobLink, ...] = ()
    """Of a job with a tree only."""
    tree: TreeRules | None = None
    """Whether the tool works on a tree; then what it changed there is told, as ``Tree...`` events."""


@dataclass(frozen=True, slots=True)
class Started:
    """The tool is about to start; all its files are in place."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of ``stdout`` or ``stderr`` as the tool wrote it."""

    stream: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Exited:
    """The tool's main process has ended, and with it all others; what is left in its pipes, and its files, follow."""


@dataclass(frozen=True, slots=True)
class FileStart:
    """A result file begins; ``FileData`` with its bytes and one ``FileEnd`` follow. The path has been checked."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileData:
    """Bytes of the result file, or the file of the tree, that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file that began last is complete."""


@dataclass(frozen=True, slots=True)
class TreeFileStart:
    """A file of the tree that was added, or has other bytes, begins: ``FileData`` with its bytes and one ``FileEnd``
    follow. Of all ``Tree...`` events: the path may be written, comes once, and lies below no other path of the new tree.
    """

    path: str
    size: int
    mode: int
    """Its nine permission bits."""


@dataclass(frozen=True, slots=True)
class TreeLinkMade:
    """A symbolic link was added to the tree, or points elsewhere now."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class TreeRemoved:
    """What went in at this path is there no more."""

    path: str


@dataclass(frozen=True, slots=True)
class TreeMode:
    """The file that went in at this path has other permission bits and the same bytes."""

    path: str
    mode: int


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
    tree_complete: bool = False
    """Whether the job had a tree, and all that the tool changed there has been told. Unless it is so, what was told of
    the tree is a part at best, and good for nothing."""


RunEvent: TypeAlias = (
    Started
    | Output
    | Exited
    | FileStart
    | FileData
    | FileEnd
    | TreeFileStart
    | TreeLinkMade
    | TreeRemoved
    | TreeMode
    | Result
    | Ended
)
