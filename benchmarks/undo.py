"""A change of ten files and its undo, in trees of 1,000 and of 50,000, by the whole broker, beside `cp -a` and `git stash`.

The broker is in this process, with its own listener, database, artifacts and containers; the calls come from a client over
mutual TLS. Each step is timed where the broker takes it: nothing of it is done here a second time. Both trees lie in the
same broker and are changed by turns, so that a machine that gets faster or slower does so for both.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks import docker as peers
from benchmarks import rows
from benchmarks.report import Measure, Report, percentile
from benchmarks.trees import CHANGED, changed_paths, copied, make_tree, stashed, stashing
from benchmarks.undo_steps import Steps, watching
from broker.app import running
from broker.client import AsyncBroker, CallContext
from broker.domain.canonical import canonical
from broker.domain.ids import new_id
from broker.domain.run import Ended, Job, Limits, Profile, Started, TreeRules
from broker.domain.tree import Entry, TreeFile
from broker.errors import FailedPreconditionError
from broker.pipeline.tree_inputs import TreeInputs
from broker.sandbox.docker_engine import DockerEngine
from broker.settings import StatePaths, load_settings
from broker.workspace.objects import Objects
from tests.served import AGENT, OPERATOR, make_state

SIZES = (1_000, 50_000)
"""Files of the two trees."""
TARGET_RATIO = 3.0
"""What a step in the large tree may cost of the same in the small one."""
_ROUNDS = 9
_WARM_UP = 2
_PEER_ROUNDS = 5
_SEND_ROUNDS = 5
_SENT_FILES = 64
_MIB = 2**20
_LOAD_S = 900.0
_TOOL = "bench.change"
_SPEC = f"""\
name: {_TOOL}
description: Writes new bytes into ten files of ten folders, as a benchmark's measure.
owner: platform
tier: 1
image: python
effects: workspace
workspace: {{writes: [{", ".join(changed_paths())}]}}
reversibility: exact
run:
  python: {{argument: code}}
arguments:
  type: object
  properties: {{code: {{type: string}}}}
  required: [code]
  additionalProperties: false
"""
_POLICY = f"""\
p, bench-change, role:agent, *, {_TOOL}, call, 1, allow, made for the benchmark
p, bench-undo, role:agent, *, workspace.undo, call, 1, allow, made for the benchmark
"""
_CODE = """\
for path in {paths!r}:
    with open(path, "w") as file:
        file.write({word!r} + path)
"""


def measure() -> Report:
    """Takes all measures; some minutes, most of them to bring in and copy the large tree."""
    peers.require_docker()
    with tempfile.TemporaryDirectory(prefix="broker-benchmark-") as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(place: Path) -> Report:
    trees = {size: place / f"tree-{size}" for size in SIZES}
    for size, tree in trees.items():
        await asyncio.to_thread(make_tree, tree, size)
    taken = await _governed(place / "state", trees)
    copies, stashes = await asyncio.to_thread(_peers, place, trees)
    sent = await _send(place / "sent")
    (place / "rows").mkdir()
    of_rows = await rows.measured(place / "rows")
    return Report(
        title=f"{CHANGED} files, and {rows.CHANGED} rows, changed and taken back by the whole broker",
        measures=(*judged(taken, copies=copies, stashes=stashes, send_mib_per_s=sent), *of_rows),
    )


def judged(
    taken: Mapping[int, Mapping[str, float]],
    *,
    copies: Mapping[int, float],
    stashes: Mapping[int, float],
    send_mib_per_s: float,
) -> Iterator[Measure]:
    """All measures, each beside its target.

    Args:
        taken: files of a tree -> the median of each step in milliseconds.
        copies: files of a tree -> `cp -a` in milliseconds.
        stashes: files of a tree -> `git stash` in milliseconds.
        send_mib_per_s: MiB that go into a sandbox in a second.
    """
    small, large = SIZES
    for size in SIZES:
        for step, note in _NOTES.items():
            base = taken[small][step]
            bound = TARGET_RATIO * base if size == large and step in {"apply", "undo"} else None
            yield Measure(f"{step}_{size}_{CHANGED}_ms", taken[size][step], "ms", at_most=bound, note=note)
        yield Measure(f"cp_a_{size}_ms", copies[size], "ms", note="`cp -a` of the tree")
        yield Measure(f"git_stash_{size}_{CHANGED}_ms", stashes[size], "ms", note="`git stash` of the same change")
    for step in ("apply", "undo"):
        ratio = taken[large][step] / taken[small][step]
        yield Measure(f"{step}_ratio", ratio, "x", at_most=TARGET_RATIO, note=f"{large:,} files to {small:,}")
    note = f"{_SENT_FILES} MiB of a tree's files, until the tool may start"
    yield Measure("send_mib_per_s", send_mib_per_s, "MiB/s", note=note)


_NOTES = {
    "plan": "from the request to the end of the run on the copy, its container included",
    "capture": "the rollback artifact, encrypted and on record",
    "rehearse": "the artifact opened, put back in a sandbox of its own, and compared",
    "apply": "decided again, compared, written and on record",
    "change": "the whole call, seen by its caller",
    "undo": "the whole call that takes it back, with its own plan, artifact and rehearsal",
    "undo_apply": "of which the writing",
}


async def _governed(state: Path, trees: Mapping[int, Path]) -> dict[int, dict[str, float]]:
    """The median of each step, in milliseconds, by the number of a tree's files."""
    found: dict[int, dict[str, list[float]]] = {size: {step: [] for step in _NOTES} for size in trees}
    async with _broker(state, trees) as clients:
        with watching() as steps:
            for turn in range(_ROUNDS + _WARM_UP):
                for size, client in clients.items():
                    for step, value in (await _round(client, steps, f"{size} {turn} ")).items():
                        if turn >= _WARM_UP:
                            found[size][step].append(value)
    return {size: {step: percentile(values, 50) for step, values in one.items()} for size, one in found.items()}


async def _round(client: AsyncBroker, steps: Steps, word: str) -> dict[str, float]:
    """One change and its undo, in milliseconds; the tree is as before then."""
    code = _CODE.format(paths=changed_paths(), word=word)
    began = steps.begin()
    made = await client.run(_TOOL, {"code": code})
    change = (time.perf_counter() - began) * 1e3
    effect = None if made.outcome is None else made.outcome.effect
    if effect is None or effect.changed != CHANGED:
        raise FailedPreconditionError(f"the call ended as {made.state}", reason="UNEXPECTED_OUTPUT")
    taken = dict(steps.taken)
    began = steps.begin()
    undone = await client.run("workspace.undo", {"call": made.name.removeprefix("calls/")})
    undo = (time.perf_counter() - began) * 1e3
    back = None if undone.outcome is None else undone.outcome.effect
    if back is None or back.after != effect.before:
        raise FailedPreconditionError(f"the undo ended as {undone.state}", reason="UNEXPECTED_OUTPUT")
    return {**taken, "change": change, "undo": undo, "undo_apply": steps.taken["apply"]}


@asynccontextmanager
async def _broker(state: Path, trees: Mapping[int, Path]) -> AsyncIterator[dict[int, AsyncBroker]]:
    """A broker with a workspace for each tree; for each, a client of the agent there."""
    make_state(state, settings={"pool_ceiling": 0})
    (state / "tool_specs").mkdir()
    (state / "tool_specs" / f"{_TOOL}.yaml").write_text(_SPEC, "utf-8")
    with (state / "policy" / "policy.csv").open("a", encoding="utf-8") as policy:
        policy.write(_POLICY)
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(running(state, load_settings(state)))

        async def connect(kind: str, name: str, workspace: str) -> AsyncBroker:
            client = AsyncBroker.connect(
                served.address,
                identity=state / "identities" / kind / name,
                ca=StatePaths(state).root / "ca" / "ca.pem",
                context=CallContext(workspace=workspace),
            )
            return await stack.enter_async_context(client)

        clients = {}
        for size, tree in trees.items():
            workspace = f"files-{size}"
            human = await connect("human", OPERATOR, workspace)
            await human.workspaces.import_folder(workspace, tree, timeout_s=_LOAD_S)
            clients[size] = await connect("agent", AGENT, workspace)
        yield clients


def _peers(place: Path, trees: Mapping[int, Path]) -> tuple[dict[int, float], dict[int, float]]:
    """What `cp -a` and `git stash` take, in milliseconds, by the number of a tree's files."""
    copies, stashes = {}, {}
    for size, tree in trees.items():
        copies[size] = percentile([copied(tree, place / "copy") for _ in range(_PEER_ROUNDS)], 50)
        with stashing(tree):
            stashes[size] = percentile([stashed(tree, f"{turn} ") for turn in range(_PEER_ROUNDS)], 50)
    return copies, stashes


async def _send(place: Path) -> float:
    """MiB of a tree that go into a sandbox in a second, read from the store and held to their digests."""
    objects, entries = Objects(place), dict[str, Entry]()
    chance = random.Random(1)  # noqa: S311 - the same bytes each time
    async with objects.batch() as batch:
        for number in range(_SENT_FILES):
            digest, size = await batch.put_bytes(chance.randbytes(_MIB))
            entries[f"{number:02}.bin"] = TreeFile(digest, size)
    inputs = TreeInputs("", entries, TreeRules())
    job = Job(kind="python", argv=("<code>",), code="pass", env={}, arguments=canonical({}))
    async with DockerEngine(new_id("bench")) as engine:
        limits = Limits(memory_bytes=512 * _MIB, disk_bytes=2 * _SENT_FILES * _MIB)
        profile = Profile(image=(await engine.image("python")).id, limits=limits)
        rates = [await _sent(engine, profile, inputs.added_to(job, objects)) for _ in range(_SEND_ROUNDS)]
    return percentile(rates, 50)


async def _sent(engine: DockerEngine, profile: Profile, job: Job) -> float:
    lease = await engine.create(profile)
    try:
        taken, ended, began = 0.0, None, time.perf_counter()
        async for event in lease.run(job):
            lease.taken(event)
            if isinstance(event, Started):
                taken = time.perf_counter() - began
            elif isinstance(event, Ended):
                ended = event
    finally:
        await lease.destroy()
    if not taken or ended is None or ended.exit_code != 0:
        raise FailedPreconditionError("the tool didn't run with its files", reason="UNEXPECTED_OUTPUT")
    return _SENT_FILES / taken
