"""From a recording to the very job that ran: the same program, arguments, files, limits and frames."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from broker.domain.canonical import JsonObject, parse_object
from broker.domain.events import StoredRequest
from broker.domain.ports import Transaction, VaultRow
from broker.domain.run import Job, JobFile, Limits, Profile
from broker.domain.tree import Entry, TreeFile
from broker.errors import FailedPreconditionError, NotFoundError
from broker.pipeline.outside_inputs import plan_entries
from broker.pipeline.taking_back import back_inputs, takes_back
from broker.pipeline.tree_inputs import TreeInputs, select_inputs
from broker.replay.gates import SealedGate
from broker.replay.kept_tool import kept_tool
from broker.replay.obstacles import Obstacle, doctored
from broker.replay.recording import Recording
from broker.replay.scratch import BorrowedObjects
from broker.specs.catalogue import Tool
from broker.vault.artifact_reading import ArtifactReader, Reads
from broker.vault.vault import SealedVault
from broker.workspace.trees import Trees

T = TypeVar("T")
_READ_AHEAD = 4
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a replay reads from, and its scratch objects."""

    store: Reads
    vault: SealedVault
    objects: BorrowedObjects

    @property
    def artifacts(self) -> ArtifactReader:
        """Artifacts, as far as they are kept."""
        return ArtifactReader(self.store, self.vault)

    @property
    def trees(self) -> Trees:
        """States of workspaces as they are kept, copied to the scratch objects as far as they are read."""
        return Trees(self.objects)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a call ran, made again."""

    tool: Tool
    profile: Profile
    job: Job
    tree: TreeInputs | None


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a call can't be run again: all that is missing, by name."""

    obstacles: tuple[Obstacle, ...]


async def rebuild(
    sources: Sources, recording: Recording, gate: SealedGate, *, state: str | None = None
) -> Rebuilt | Missing:
    """The job of a recorded call.

    Args:
        sources: where from.
        recording: the call.
        gate: what it will find on its loopback.
        state: of the tree that it gets files of; ``None`` for the one that it read then.

    Raises:
        DataLossError: something that is kept isn't what was recorded.
    """
    obstacles: list[Obstacle] = []
    request = recording.request
    try:
        tool = await sources.store.read(lambda tx: kept_tool(tx, sources.vault, request.tool, request.tool_version))
    except FailedPreconditionError as error:
        return Missing((Obstacle.of(error), *(await _files(sources, request))[1]))
    if outside := _outside(recording, tool, gate):
        obstacles.append(outside)
    files, lost = await _files(sources, request)
    obstacles += lost
    try:
        tree = await _tree(sources, recording, tool, request.base if state is None else state)
    except (NotFoundError, FailedPreconditionError) as error:
        obstacles.append(Obstacle.of(error))
        tree = None
    else:
        obstacles += await _missing_files(sources, recording, tree)
    if obstacles:
        return Missing(tuple(obstacles))
    data = request.arguments_json.encode()
    arguments = parse_object(data, field="arguments", max_bytes=len(data))
    job = tool.spec.job(arguments, data, files, tool.files, None if tree is None else tree.step)
    return Rebuilt(
        tool=tool,
        profile=profile_of(recording, tool),
        job=job if tree is None else tree.added_to(job, sources.objects),
        tree=tree,
    )


def profile_of(recording: Recording, tool: Tool) -> Profile:
    """The container's profile as the envelope has it: image, runtime and limits are those of then, not of today.

    Raises:
        FailedPreconditionError: the envelope has them in another form (``ENVELOPE_UNREADABLE``).
        DataLossError: it names another image than the ledger (``COMMITMENT_BROKEN``).
    """
    envelope, limits = recording.envelope, recording.envelope.get("limits")
    image, runtime = envelope.get("image_digest"), envelope.get("runtime")
    if not isinstance(image, str) or not isinstance(runtime, str) or not isinstance(limits, dict):
        raise _unreadable()
    for entry in recording.entries:
        named = entry.part("tool").get("image_digest")
        if entry.type in {"decision", "plan.intent"} and named != image:
            raise doctored("COMMITMENT_BROKEN", f"entry {entry.seq} names the image {named}, and the envelope {image}")
    return Profile(image=image, limits=_limits(limits), runtime=runtime, egress=tool.spec.egress_rules)


def _limits(found: JsonObject) -> Limits:
    numbers: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unreadable()
        numbers[name] = value
    if set(numbers) != set(Limits.__dataclass_fields__):
        raise _unreadable()
    whole = {name: int(value) for name, value in numbers.items() if name not in {"cpu_cores", "wall_s"}}
    return Limits(cpu_cores=float(numbers["cpu_cores"]), wall_s=float(numbers["wall_s"]), **whole)


def _unreadable() -> FailedPreconditionError:
    return FailedPreconditionError(
        "the envelope's image, runtime or limits have a form that this release doesn't know",
        reason="ENVELOPE_UNREADABLE",
        hint="Use the release that ran it; the ledger's heartbeat entries name it.",
    )


def _outside(recording: Recording, tool: Tool, gate: SealedGate) -> Obstacle | None:
    """Why a tool that changes something outside can't be run again; ``None`` where its dry run can, or it is another tool."""
    request, spec = recording.request, tool.spec
    if request.acts_for:
        return Obstacle(
            "OUTSIDE_EFFECT",
            f"it took back what {request.acts_for} had changed outside: only that tool's programs can look there",
            "The call that it took back can be run again, as far as it planned.",
        )
    if spec.effects != "outside":
        return None
    if spec.outside is None:
        return Obstacle(
            "OUTSIDE_EFFECT",
            f"{spec.name} changes something outside and has no dry run: to run it is to do it again",
        )
    if spec.egress and not gate.answers:
        return Obstacle(
            "ANSWERS_NOT_KEPT",
            f"the dry run of {spec.name} asks its hosts, and their answers to {recording.row.id} were not kept",
            "A rerun reaches no host. Answers are kept where the specification says so, from then on.",
        )
    return None


async def _files(sources: Sources, request: StoredRequest) -> tuple[tuple[JobFile, ...], list[Obstacle]]:
    """The input files as they are kept; each is held to its recorded digest as it goes in."""

    def work(tx: Transaction) -> list[VaultRow | None]:
        return [tx.vault.get(item.blob) for item in request.files]

    rows = await sources.store.read(work) if request.files else []
    found: list[JobFile] = []
    lost: list[Obstacle] = []
    for item, row in zip(request.files, rows, strict=True):
        if row is None or not row.complete:
            lost.append(
                Obstacle("BLOB_NOT_FOUND", f"the input file {item.path!a} (blobs/{item.blob}) is no longer kept")
            )
            continue
        wanted = request.file_digests[item.path]
        if row.digest != wanted:
            raise doctored("BLOB_DOCTORED", f"the input file {item.path!a} is {row.digest}, and {wanted} was recorded")
        opener = _opener(sources, row.id)
        found.append(JobFile(item.path, row.size, executable=item.executable, open=opener, digest=wanted))
    return tuple(found), lost


def _opener(sources: Sources, blob: str) -> Callable[[], AsyncIterator[bytes]]:
    async def pieces() -> AsyncIterator[bytes]:
        for first in itertools.count(0, _READ_AHEAD):

            def work(tx: Transaction, first: int = first) -> list[bytes]:
                return [data for _, data in sources.vault.open(tx, blob).read(tx, first, _READ_AHEAD)]

            found = await sources.store.read(work)
            for data in found:
                yield data
            if len(found) < _READ_AHEAD:
                return

    return pieces


async def _tree(sources: Sources, recording: Recording, tool: Tool, state: str) -> TreeInputs | None:
    """What the call was given of its workspace, out of a state of its tree.

    Raises:
        NotFoundError: that state is no longer kept (``STATE_NOT_KEPT``).
        FailedPreconditionError: it was to take something back, and what that was is no longer known (``EFFECT_NOT_KEPT``).
    """
    row, request = recording.row, recording.request
    if takes_back(tool.spec.name):
        if recording.planned is None:
            raise FailedPreconditionError(
                f"what {row.id} was to take back is not kept: it came to no plan", reason="EFFECT_NOT_KEPT"
            )
        return await back_inputs(sources.objects, recording.planned.effect, state, request.undoes)
    if tool.spec.workspace is None:
        return None if tool.spec.outside is None else plan_entries(tool, state, {})
    if state and not await sources.objects.has(state):
        raise NotFoundError(
            f"the state {state} of workspace {row.workspace}, from which it got its files, is no longer kept",
            reason="STATE_NOT_KEPT",
            hint="States go when nothing kept names them; a backup from the time of the call may have it.",
        )
    inputs = await select_inputs(sources.trees, tool, state, row.workspace)
    if tool.spec.outside is None or inputs is None:
        return inputs
    return plan_entries(tool, state, inputs.entries)


async def _missing_files(sources: Sources, recording: Recording, tree: TreeInputs | None) -> list[Obstacle]:
    entries: Mapping[str, Entry] = {} if tree is None else tree.entries
    gone = [
        path
        for path, entry in sorted(entries.items())
        if isinstance(entry, TreeFile) and not await sources.objects.has(entry.digest)
    ]
    if not gone:
        return []
    shown = ", ".join(repr(path) for path in gone[:_SHOWN]) + (", ..." if len(gone) > _SHOWN else "")
    return [
        Obstacle(
            "STATE_NOT_KEPT",
            f"the bytes of {len(gone)} file(s) of workspace {recording.row.workspace} are no longer kept: {shown}",
            "A backup from the time of the call may have them.",
        )
    ]
