"""Runs a recorded call again, sealed, and says whether the same came of it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.domain.call import CallState
from broker.domain.canonical import JsonValue, canonical, parse_object
from broker.domain.container_facts import facts_bytes
from broker.domain.envelope import frame_digest_of
from broker.domain.events import Outcome
from broker.domain.run import Profile
from broker.domain.tree import Effect, TreeFile
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from broker.pipeline.outside_plan import read_plan
from broker.pipeline.ran import Ran
from broker.pipeline.verdict import judge
from broker.replay.choosing import choose_gate
from broker.replay.difference import MAX_TEXT, NOT_THE_TOOLS, Contents, Difference, compare
from broker.replay.gates import SealedGate
from broker.replay.obstacles import Obstacle
from broker.replay.rebuilding import Missing, Rebuilt, Sources, rebuild
from broker.replay.recording import Ended, Recording, read_recording
from broker.replay.sealed import SealedRun, run_sealed
from broker.sandbox.engine import Engine
from broker.sandbox.job_frames import frame_digest

_USAGE = frozenset({"CALL_NOT_FOUND"})
"""Refusals that are no verdict on a call: there is none."""
_MOST_FACTS = 1 << 20


class Verdict(enum.StrEnum):
    """What a rerun came to."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    CANNOT = "cannot"
    """It can't be run again; what is missing is named."""
    DOCTORED = "doctored"
    """What is kept isn't what the ledger says; nothing was run."""


@dataclass(frozen=True, slots=True)
class Done:
    """A run of a recorded call's job that has ended."""

    state: CallState
    """To which it would have led."""
    outcome: Outcome
    effect: Effect | None
    """What it changed in its working folder; ``None`` for a job without a tree."""
    complete: bool
    """Whether all of that was told."""
    run: SealedRun = field(repr=False)
    asked: tuple[str, ...] = ()
    """What it wanted of hosts and wasn't given."""

    @property
    def ended(self) -> Ended:
        """The same as it is compared."""
        return Ended(self.outcome, self.state, self.effect, self.run.output)


@dataclass(frozen=True, slots=True)
class Rerun:
    """What a rerun came to, and by what it is known."""

    call: str
    verdict: Verdict
    obstacles: tuple[Obstacle, ...] = ()
    """Why it can't be run again, or what was doctored."""
    differences: tuple[Difference, ...] = ()
    recording: Recording | None = field(default=None, repr=False)
    profile: Profile | None = None
    frames: str = ""
    """Digest of the frames that handed the job over: the envelope's own."""
    container: tuple[str, ...] = ()
    """Members of the container's facts that are otherwise than in the envelope; they decide nothing by themselves."""
    done: Done | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    """What a reader should know, a sentence each."""


async def rerun(sources: Sources, engine: Engine, call: str, origin: str) -> Rerun:
    """Runs a recorded call again.

    Args:
        sources: what is kept, and scratch objects.
        engine: one whose containers carry a label that no broker takes for its own.
        call: the call's id.
        origin: of the ledger.

    Raises:
        NotFoundError: there is no such call.
        UnavailableError: the engine or the store failed; nothing is said about the call.
    """
    recording = await read(sources, call, origin)
    return recording if isinstance(recording, Rerun) else await again(sources, engine, recording)


async def read(sources: Sources, call: str, origin: str) -> Recording | Rerun:
    """What was recorded of a call; or, where that can't be had, what a rerun comes to at once.

    Raises:
        BrokerError: as ``rerun``.
    """
    try:
        return await sources.store.read(lambda tx: read_recording(tx, sources.vault, call, origin))
    except (DataLossError, NotFoundError, FailedPreconditionError) as error:
        if error.reason in _USAGE:
            raise
        return _judged(call, None, error)


async def again(sources: Sources, engine: Engine, recording: Recording, *, state: str | None = None) -> Rerun:
    """Runs a call again of which all that was recorded has been read.

    Args:
        sources: as for ``rerun``.
        engine: as for ``rerun``.
        recording: the call.
        state: of the tree on which it works; ``None`` for the one of then. With another, its frames can't be those of then.

    Raises:
        UnavailableError: as ``rerun``.
    """
    call = recording.row.id
    try:
        gate = await choose_gate(sources, recording)
        found = await rebuild(sources, recording, gate, state=state)
        missing = await _missing_image(engine, recording, found)
        if isinstance(found, Missing) or missing:
            lost = found.obstacles if isinstance(found, Missing) else ()
            return Rerun(call, Verdict.CANNOT, (*lost, *missing), recording=recording)
        frames = same_frames(recording, found) if state in {None, recording.request.base} else ""
        done = await run_again(sources, engine, found, gate, frames=frames)
        differences = await differ(sources, recording, done)
    except (DataLossError, NotFoundError, FailedPreconditionError, InvalidArgumentError) as error:
        return _judged(call, recording, error)
    return Rerun(
        call,
        Verdict.DIFFERS if differences else Verdict.REPRODUCED,
        differences=differences,
        recording=recording,
        profile=found.profile,
        frames=frames,
        container=_container(engine, recording, found.profile),
        done=done,
        notes=tuple(_notes(recording, done, gate)),
    )


def _judged(call: str, recording: Recording | None, error: BrokerError) -> Rerun:
    # An object of a tree that is there and has other bytes has been found before; a damaged one isn't there any more.
    lost = isinstance(error, DataLossError) and error.reason != "TREE_DAMAGED"
    verdict = Verdict.DOCTORED if lost or error.reason == "ENVELOPE_CHANGED" else Verdict.CANNOT
    return Rerun(call, verdict, (Obstacle.of(error),), recording=recording)


async def run_again(sources: Sources, engine: Engine, found: Rebuilt, gate: SealedGate, *, frames: str = "") -> Done:
    """Runs a job that was made again.

    Args:
        sources: has the scratch objects.
        engine: as for ``rerun``.
        found: the job.
        gate: what it finds on its loopback.
        frames: digest that its frames must have; empty where its files aren't those of then.

    Raises:
        BrokerError: as ``run_sealed``.
    """
    before = None if found.tree is None else found.tree.entries
    run = await run_sealed(
        engine, found.profile, found.job, gate=gate, scratch=sources.objects, before=before, frames=frames
    )
    state, outcome = judge(found.tool, run.ended, run.result, run.files)
    effect, complete = run.effect, run.ended.tree_complete
    if found.tree is not None and effect is not None and found.tool.spec.planned:
        ran = Ran(state, outcome, effect, complete=complete)
        if found.tree.step is not None:
            ran = read_plan(found.tool, found.tree, ran)
        state, outcome, effect = ran.state, ran.outcome, ran.effect
    return Done(state, outcome, effect, complete, run, gate.asked())


async def differ(sources: Sources, recording: Recording, done: Done) -> tuple[Difference, ...]:
    """In what a rerun differs from what was recorded."""
    if recording.ended is None:
        return (Difference("end", "nobody knows how it ended", done.outcome.detail),)
    if recording.ended.effect is not None and not done.complete:
        return (Difference("effect", "told", "not all of it could be told, as the warnings say"),)
    contents = await _contents(sources, recording, done)
    return compare(recording.ended, done.ended, contents)


def same_frames(recording: Recording, found: Rebuilt) -> str:
    """The digest of the frames by which the job was handed over then, which are those that would go now.

    Raises:
        FailedPreconditionError: they aren't (``JOB_DIFFERS``): this release makes another job of the same call.
    """
    wanted, now = frame_digest_of(recording.request.envelope), frame_digest(found.job)
    if wanted != now:
        raise FailedPreconditionError(
            f"all that is kept of {recording.row.id} is as it was recorded, but this release makes another job of it: its"
            f" frames are {now}, and the envelope has {wanted}",
            reason="JOB_DIFFERS",
            hint="Use the release that ran it; the ledger's heartbeat entries name it.",
        )
    return wanted


async def _missing_image(engine: Engine, recording: Recording, found: Rebuilt | Missing) -> tuple[Obstacle, ...]:
    image = str(recording.envelope.get("image_digest", ""))
    if any(item.id == image for item in await engine.images()):
        return ()
    name = "" if isinstance(found, Missing) else f" (then called {found.tool.spec.image!r})"
    return (
        Obstacle(
            "IMAGE_MISSING",
            f"the engine doesn't have the image {image}{name} in a form that this release can speak to",
            "Load it from where it is kept, with `docker load`. `make images` builds today's, which has this digest only"
            " where nothing that it is made of has changed.",
        ),
    )


def _container(engine: Engine, recording: Recording, profile: Profile) -> tuple[str, ...]:
    """What of a container of this profile is otherwise than the envelope has it."""
    facts = parse_object(facts_bytes(engine.expected_facts(profile)), field="container", max_bytes=_MOST_FACTS)
    then: JsonValue = recording.envelope.get("container")
    before = then if isinstance(then, dict) else {}
    return tuple(
        name
        for name in sorted({*facts, *before})
        if name not in facts or name not in before or canonical(facts[name]) != canonical(before[name])
    )


def _notes(recording: Recording, done: Done, gate: SealedGate) -> Iterable[str]:
    before = None if recording.ended is None else recording.ended.outcome
    if before is not None and before.cause in NOT_THE_TOOLS:
        yield (
            f"The recorded run was ended from outside ({before.cause.value}), and the rerun wasn't: cause and state are not"
            " compared."
        )
    if recording.ended is not None and recording.ended.effect is None and done.effect is not None:
        yield "What the recorded run changed on its copy is not kept: the rerun's changes are compared with nothing."
    yield from gate.told()
    if done.asked:
        kept = "these were not among the answers that were kept" if gate.answers else "no answers were kept"
        yield f"The tool wanted {len(done.asked)} thing(s) of hosts; a rerun reaches none, and {kept}."
    for name in ("stdout", "stderr"):
        summary = None if before is None else getattr(before, name)
        if summary is not None and summary.truncated:
            yield f"Of the recorded {name} only {summary.kept_bytes} bytes were kept; all of it was compared by its digest."


async def _contents(sources: Sources, recording: Recording, done: Done) -> Contents:
    """Contents of files that differ, as far as they are kept and short."""
    ended = recording.ended
    if ended is None:
        return Contents()
    new = {item.path: item for item in done.outcome.files}
    old = [item for item in ended.outcome.files if (there := new.get(item.path)) and there.digest != item.digest]
    recorded = {item.digest: await _blob(sources, item.blob, item.size) for item in old}
    rerun_digests = {new[item.path].digest: new[item.path].size for item in old}
    if ended.effect is not None and done.effect is not None and ended.effect != done.effect:
        recorded |= await _objects(sources, _after(ended.effect))
        rerun_digests |= _after(done.effect)
    found = await _objects(sources, rerun_digests)
    return Contents({key: data for key, data in recorded.items() if data is not None}, found)


def _after(effect: Effect) -> dict[str, int]:
    return {item.after.digest: item.after.size for item in effect.changes if isinstance(item.after, TreeFile)}


async def _objects(sources: Sources, wanted: Mapping[str, int]) -> dict[str, bytes]:
    short = [digest for digest, size in wanted.items() if size <= MAX_TEXT]
    return {
        digest: await sources.objects.read(digest, MAX_TEXT) for digest in short if await sources.objects.has(digest)
    }


async def _blob(sources: Sources, blob: str, size: int) -> bytes | None:
    if size > MAX_TEXT:
        return None
    try:
        pieces: Sequence[bytes] = await sources.store.read(
            lambda tx: [data for _, data in sources.vault.open(tx, blob).read(tx, 0, 2)]
        )
    except BrokerError:
        return None  # erased or over: the digests are compared all the same
    return b"".join(pieces)
