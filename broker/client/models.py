"""What the client gives back: frozen values with plain Python types, never protobuf messages.

Resource names (``calls/call_...``, ``tools/data.query``, ``blobs/blob_...``) are kept as the broker says them. Times are
aware UTC datetimes, durations are seconds, sizes are bytes. ``None`` stands for what isn't known or hasn't happened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from broker.domain.call import RESTING_STATES, CallState, Source
from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.events import KeptRecording
from broker.domain.run import EgressRecord, EgressRule, EndCause, EvidenceSource, StreamSummary
from broker.domain.tier import Tier


@dataclass(frozen=True, slots=True)
class CallContext:
    """What the caller says about why it calls. Empty fields say nothing.

    A client has one as its default, and each call may bring another: of the two, the call's own field wins where it is
    set.
    """

    workspace: str = ""
    """Workspace in which the call is decided: required in the end, from either of the two."""
    workflow: str = ""
    purpose: str = ""
    """Why, in a person's words."""
    session: str = ""
    """``sessions/...``: proves who started the agent's work."""
    delegation: str = dataclasses.field(default="", repr=False)
    """A delegation signed by the human on whose behalf the agent acts."""
    model: str = ""
    prompt_version: str = ""
    sources: tuple[Source, ...] = ()
    """What the request is based on, such as retrieved documents."""
    feature: str = ""
    team: str = ""
    data_classes: tuple[str, ...] = ()
    """Classes of data that the call touches, added to those that the broker knows of."""
    runbook: str = ""
    """``approvals/...``: a runbook that people agreed on beforehand, for this very call."""

    def with_overrides(self, other: CallContext | None) -> CallContext:
        """This context with those fields of ``other`` that are set."""
        if other is None:
            return self
        fields = (field.name for field in dataclasses.fields(other))
        given = {name: value for name in fields if (value := getattr(other, name))}
        return dataclasses.replace(self, **given)


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """What one run of a tool may use; the run is ended, or its output cut, at the limit."""

    cpu_cores: float
    memory_bytes: int
    processes: int
    wall_s: float
    output_bytes: int
    """Of standard output and of standard error, each."""
    disk_bytes: int
    inodes: int
    """0 where the tool's runtime can't keep a limit of them."""


@dataclass(frozen=True, slots=True)
class ToolFiles:
    """Which files a tool takes, and which result files are fetched."""

    max_input_files: int
    max_input_bytes: int
    outputs: tuple[str, ...]
    """Patterns relative to the working folder."""
    max_output_files: int
    max_output_bytes: int


@dataclass(frozen=True, slots=True)
class ToolWorkspace:
    """Which paths of its workspace's tree a tool gets, and which of them it may change; patterns, with ``**`` for folders."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    """It gets these too; empty for a tool that changes nothing."""
    max_changes: int
    """Paths that one call may change."""
    max_change_bytes: int
    """Of the files that one call adds or changes, together."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called."""

    name: str
    """``tools/data.query``; every method takes it with or without ``tools/``."""
    version: str
    """``sha256:`` and the digest of its specification."""
    description: str
    owner: str
    tier: Tier
    arguments_schema: JsonObject
    """JSON Schema (2020-12) of the arguments."""
    result_schema: JsonObject | None
    """JSON Schema of the structured result; ``None`` where the tool has none."""
    limits: ToolLimits
    files: ToolFiles
    data_classes: tuple[str, ...]
    reversibility: str
    """``NO_EFFECT``, ``EXACT``, ``COMPENSABLE``, ``IRREVERSIBLE``; empty where the specification doesn't say."""
    retention_s: float
    """How long events, output and result files of a call are kept."""
    image_digest: str
    egress: tuple[EgressRule, ...] = ()
    """Hosts that it may reach through the broker; a secret that goes there is named, its value is nowhere."""
    runtime: str = ""
    """Container runtime that it runs under; empty is the engine's own choice."""
    effects: str = ""
    """``NONE``; ``WORKSPACE``: its effect on the workspace's files is planned, shown and then applied; ``OUTSIDE``: the same of
    what it changes elsewhere; empty where the broker doesn't say."""
    workspace: ToolWorkspace | None = None
    """``None`` where it has nothing to do with the workspace's tree."""
    held: str = ""
    """Why it runs at a higher tier than its specification says, and what to do; empty where it doesn't."""

    @property
    def short_name(self) -> str:
        """``data.query``."""
        return self.name.removeprefix("tools/")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file for a call.

    ``path`` is its place relative to the tool's working folder. ``content`` is where it comes from: a path on this
    machine or bytes, which are uploaded, or a ``Blob`` that is there already.
    """

    path: str
    content: Path | bytes | Blob
    executable: bool = False


@dataclass(frozen=True, slots=True)
class CallFile:
    """An input file of a call as the broker knows it."""

    path: str
    blob: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A result file of a call; ``AsyncBroker.download`` fetches it."""

    path: str
    """Relative to the working folder, as the broker checked it; see ``broker.client.blobs.safe_path``."""
    blob: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that the broker keeps for its caller."""

    name: str
    size: int
    digest: str
    created: datetime | None
    expires: datetime | None
    data_classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a call may run, or may not: the rule of the policy and its reason."""

    allowed: bool
    rule: str
    reason: str
    policy_digest: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """Who stands behind a call, by id, by the broker's own registry and by proofs."""

    agent: str
    owner: str
    registrar: str
    starter: str
    on_behalf_of: str
    proven: bool


@dataclass(frozen=True, slots=True)
class AppliedEffect:
    """What a call changed in its workspace; all of it was written in one step."""

    before: str
    """State of the workspace's files, ``sha256:...``."""
    after: str
    digest: str
    artifact: str
    """Address of what takes it back."""
    added: int
    changed: int
    removed: int
    undoes: tuple[str, ...]
    """Names of the calls that it took back, oldest first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and by whose evidence. What could not be read is ``None``."""

    exit_code: int | None
    """``None`` where the tool didn't end by itself."""
    signal: int | None
    cause: EndCause | None
    """Who or what ended it."""
    cause_source: EvidenceSource | None
    detail: str
    """One sentence for a person."""
    stdout: StreamSummary | None
    """Totals of the stream; ``truncated`` says whether ``kept_bytes`` is less than the tool wrote."""
    stderr: StreamSummary | None
    result: JsonValue
    """The structured result; ``None`` where the tool has none or failed."""
    files: tuple[OutputFile, ...]
    wall_s: float
    cpu_s: float | None
    memory_peak_bytes: int | None
    oom_kills: int
    warnings: tuple[str, ...]
    egress: tuple[EgressRecord, ...] = ()
    """What the tool did with each host that it wanted to reach. Where a record isn't ``listed``, its host is the tool's
    own words. Empty in lists."""
    effect: AppliedEffect | None = None
    """What it changed in its workspace; ``None`` where it changed nothing."""
    recording: KeptRecording | None = None
    """What is kept of hosts' answers; ``None`` where nothing is."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to run one tool, as it stood when the broker was asked."""

    name: str
    tool: str
    tool_version: str
    state: CallState
    agent: str
    tier: Tier | None
    arguments: JsonObject | None
    """``None`` in lists, and once the content is erased."""
    files: tuple[CallFile, ...]
    context: CallContext
    decision: Decision | None
    lineage: Lineage | None
    outcome: Outcome | None
    """``None`` until the call has ended."""
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    expires: datetime | None
    """Until when its events and output are kept."""
    last_event: int
    envelope_digest: str
    data_classes: tuple[str, ...]
    decision_seq: int | None
    """Number of the ledger entry that holds the decision."""
    request_id: str
    content_erased: bool

    @property
    def finished(self) -> bool:
        """Is nothing of it going on any more?"""
        return self.state in RESTING_STATES

    @property
    def succeeded(self) -> bool:
        """Did the tool end with exit code 0 and a valid result?"""
        return self.state is CallState.SUCCEEDED


@dataclass(frozen=True, slots=True)
class CompletedCall(Call):
    """A call that has ended, with the output that was kept; ``outcome.stdout`` says whether it was cut."""

    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def stdout_text(self) -> str:
        """Standard output as text; bytes that aren't UTF-8 become U+FFFD."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """Standard error as text; bytes that aren't UTF-8 become U+FFFD."""
        return self.stderr.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The call is in another state now."""

    number: int
    time: datetime | None
    state: CallState
    detail: str


@dataclass(frozen=True, slots=True)
class Stdout:
    """A piece of standard output, as the tool wrote it, at ``offset`` of the stream."""

    number: int
    time: datetime | None
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Stderr:
    """A piece of standard error, as the tool wrote it, at ``offset`` of the stream."""

    number: int
    time: datetime | None
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: the call in its last state."""

    number: int
    time: datetime | None
    call: Call


Event: TypeAlias = StateChanged | Stdout | Stderr | Finished


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls to list; what is set must fit, all of it."""

    agent: str = ""
    """By id or by name."""
    tool: str = ""
    states: tuple[CallState, ...] = ()
    """Any of these."""
    workflow: str = ""
    workspace: str = ""
    created_from: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A stretch of an agent's work that a human answers for."""

    name: str
    agent: str
    workspace: str
    starter: str
    schedule: str
    created: datetime | None
    expires: datetime | None
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """When an agent may start sessions by itself, in UTC."""

    name: str
    agent: str
    workspace: str
    weekdays: tuple[int, ...]
    """1 is Monday, 7 is Sunday; empty is each day."""
    from_minute: int
    until_minute: int
    """Minutes after midnight; 1440 is the day's end."""
    session_ttl_s: float
    expires: datetime | None
    registrar: str


@dataclass(frozen=True, slots=True)
class HeldChange:
    """A change that is not in force because two people have not agreed to it."""

    action: str
    """``policy.change``, ``tool.approve`` or ``settings.change``."""
    digest: str
    """Of what would be in force; of a tool its version."""
    weaker: tuple[str, ...]
    """In which respects it asks for less than what is in force, a sentence each."""
    tool: str = ""
    """Name of the tool that it is about; empty for another change."""


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """What a broker runs with."""

    version: str
    origin: str
    boot_id: str
    started: datetime | None
    policy_digest: str
    tools: int
    running: int
    queued: int
    ledger_seq: int
    held: tuple[HeldChange, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyReload:
    """The policy in force after a reload."""

    policy_digest: str
    changed: bool


@dataclass(frozen=True, slots=True)
class IdentityInfo:
    """An agent or a human that the broker knows; ``kind`` is ``agent`` or ``human``."""

    name: str
    kind: str
    display_name: str
    owner: str
    registrar: str
    fingerprints: tuple[str, ...]
    created: datetime | None
    revoked: datetime | None


Arguments: TypeAlias = Mapping[str, object]
"""Arguments of a tool: anything that ``json.dumps`` writes as an object."""
