"""A state directory with a row of every kind in every projection: the real broker's parts over an engine in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from broker.app.record import Keeper
from broker.app.standing import settle
from broker.app.tools import ToolSettling
from broker.approvals.desk import Desk
from broker.domain.call import CallContext, CallRequest, CallState
from broker.domain.canonical import JsonObject, canonical
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ports import Transaction
from broker.domain.run import (
    EndCause,
    Ended,
    EvidenceSource,
    Exited,
    Job,
    Output,
    Profile,
    RunEvent,
    Started,
    StreamSummary,
)
from broker.errors import PermissionDeniedError
from broker.identity import keys
from broker.identity.directory import LiveDirectory
from broker.ledger.agreement import LedgerAgreement
from broker.ledger.genesis import read_origin
from broker.ledger.index import catch_up
from broker.ledger.ledger import Ledger
from broker.metrics.prometheus import PrometheusMeter
from broker.pipeline.bell import Bell
from broker.pipeline.erasure import Erasure, Order
from broker.pipeline.folders import Folders
from broker.pipeline.holdings import find_subject
from broker.pipeline.parts import Bounds, Parts
from broker.pipeline.pipeline import Pipeline
from broker.pipeline.tree_import import ENTRY_TYPE
from broker.policy.electorate import PolicyElectorate
from broker.policy.live import LivePolicy
from broker.rpc.administration import Boot
from broker.rpc.methods import served_methods
from broker.sandbox.egress.gate import Egress, EgressSession
from broker.sandbox.egress.resolving import SystemResolver
from broker.sandbox.egress.upstream import trust_from
from broker.sandbox.pool import Pool
from broker.settings import StatePaths, load_settings
from broker.specs.catalogue import Catalogue
from broker.specs.shipped import shipped_folder
from broker.specs.tiers import load_tiers
from broker.specs.workflows import load_workflows
from broker.store.database import Database
from broker.vault.artifacts import Artifacts
from broker.vault.keyfile import read_key_file
from broker.vault.secret_store import ConfiguredSecrets
from broker.vault.vault import SealedVault
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees
from tests.identity_world import HOUR, World, make_world
from tests.memory_engine import MemoryEngine, MemoryLease
from tests.pool_world import SIZING
from tests.rebuild_people import Clock, People, add_people, write_files

ENTRIES = 600
"""More than two complete tiles."""
WITHIN_S = 60


@dataclass(frozen=True)
class Rebuildable:
    """What is in the state."""

    state: Path
    succeeded: str
    failed: str
    queued: str
    running: str
    erased: str
    gone: str
    """Id of a human who was erased."""
    decided: Mapping[str, str]
    """Word -> id of a call that people were asked about."""


class TalkingLease(MemoryLease):
    """A container whose tool prints its arguments; it fails, or goes on until it is killed, where they say so."""

    def __init__(self, engine: MemoryEngine, container_id: str, profile: Profile) -> None:
        super().__init__(engine, container_id, profile)
        self._killed = asyncio.Event()

    async def run(
        self, job: Job, egress: EgressSession | None = None, *, frame_digest: str = ""
    ) -> AsyncIterator[RunEvent]:
        """See ``Lease``."""
        del egress, frame_digest
        yield Started()
        said = job.arguments
        yield Output("stdout", said)
        if b"forever" in said:
            await self._killed.wait()
        yield Exited()
        summary = StreamSummary(
            len(said), len(said), truncated=False, digest=f"sha256:{hashlib.sha256(said).hexdigest()}"
        )
        none = StreamSummary(0, 0, truncated=False, digest=f"sha256:{hashlib.sha256(b'').hexdigest()}")
        code = int(b"fail" in said)
        yield Ended(code, None, EndCause.TOOL, EvidenceSource.ENGINE, "", summary, none, 0.1)

    def taken(self, event: RunEvent) -> None:
        """See ``Lease``."""

    def kill(self, cause: EndCause, detail: str) -> None:
        """See ``Lease``."""
        del cause, detail
        self._killed.set()


class TalkingEngine(MemoryEngine):
    """Makes such containers."""

    async def create(self, profile: Profile) -> MemoryLease:
        """See ``Engine``."""
        plain = await super().create(profile)
        lease = TalkingLease(self, plain.container_id, profile)
        self.there[lease.container_id] = lease
        return lease


def make_rebuildable(folder: Path) -> Rebuildable:
    """Makes the state: a broker was killed in it while one call ran and one waited."""
    maker = make_world(folder)
    world = next(maker)
    _people(world)
    session = add_people(world)
    callers = dict(world.callers)
    maker.close()
    write_files(StatePaths(folder / "state"))
    return asyncio.run(_calls(folder, callers, session))


def _people(world: World) -> None:
    ended = world.start()
    world.end(ended, "bob")
    world.start(ttl=HOUR)
    plan = world.schedule(weekdays=frozenset({1, 7}), until_minute=600)
    assert plan.registrar == world.bob
    whole = world.schedule()
    world.start(by="reporter", schedule=whole.id)
    registry = world.local.registry
    second = world.authority.issue_client(
        IdentityKind.AGENT, "reporter", keys.new_key().public_key(), world.now, timedelta(days=3)
    )
    agent = world.callers["reporter"].identity.id
    issued = world.local.write(
        lambda tx: registry.issue(tx, identity=agent, certificate=second, by=world.bob, now=world.now)
    )
    world.local.write(
        lambda tx: registry.revoke_certificate(
            tx, identity=agent, fingerprint=issued.fingerprint, by=world.ada, reason="lost", now=world.now
        )
    )
    spy = world.callers["spy"].identity.id
    world.local.write(lambda tx: registry.change_owner(tx, agent=spy, owner=world.ada, by=world.ada, now=world.now))
    world.revoke("spy", IdentityKind.AGENT)


def _request(code: str, **more: str) -> CallRequest:
    arguments = {"code": code}
    return CallRequest(
        tool="python.run",
        tool_version=more.pop("tool_version", ""),
        arguments=arguments,
        arguments_bytes=canonical(arguments),
        files=(),
        context=CallContext(workspace="demo", purpose="to see"),
        request_id=more.pop("request_id", ""),
    )


async def _calls(folder: Path, callers: dict[str, Caller], session: str) -> Rebuildable:
    paths = StatePaths(folder / "state")
    copy = folder / "copy.db"
    caller, clock = callers["reporter"], Clock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Database.open(paths.database))
        parts = await _parts(stack, paths, store, clock)
        pipeline = await stack.enter_async_context(Pipeline(parts, drain_s=0.0))
        version = parts.catalogue.get("python.run")
        assert version is not None
        succeeded = await _ended(pipeline, caller, _request("print(1)", request_id="req-1"))
        failed = await _ended(pipeline, caller, _request("fail", request_id="req-2", tool_version=version.digest))
        erased = await _ended(pipeline, caller, _request("erase me", request_id="req-3"))
        with suppress(PermissionDeniedError):
            await pipeline.create(caller, dataclasses.replace(_request("x"), tool="shell.run"))
        erasure = Erasure(store, parts.vault, parts.ledger, parts.clock)
        found = await store.read(lambda tx: find_subject(tx, erased))
        await erasure.run(Order(found, by=caller.identity.owner, reason="asked for"))
        people = People(pipeline, parts, clock, callers, session)
        await people.found()
        decided = await people.decide()
        running = (await pipeline.create(caller, _request("forever"))).id
        await _state(pipeline, caller, running, CallState.RUNNING)
        queued = (await pipeline.create(caller, _request("later"))).id
        decided |= await people.leave_open()
        await _import(parts)
        await _fill(store, parts.ledger)
        with closing(sqlite3.connect(paths.database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    for old in paths.root.glob("broker.db*"):
        old.unlink()
    copy.rename(paths.database)
    paths.database.chmod(0o600)
    return Rebuildable(paths.root, succeeded, failed, queued, running, erased, callers["eve"].identity.id, decided)


async def _import(parts: Parts) -> None:
    """Two workspaces get their trees."""
    for workspace in ("demo", "shop"):
        made = await parts.trees.empty()

        def work(tx: Transaction, workspace: str = workspace, made: str = made) -> None:
            now = parts.clock()
            said: JsonObject = {"by": "hum_1", "base": "", "after": made, "files": 0, "bytes": 0, "at": now.isoformat()}
            seq = parts.ledger.append(tx, ENTRY_TYPE, {"workspace": workspace, **said})
            tx.trees.move(workspace, "", made, seq, now)

        await parts.store.write(work)


async def _fill(store: Database, ledger: object) -> None:
    assert isinstance(ledger, Ledger)

    def work(tx: Transaction) -> None:
        head = tx.ledger.head()
        assert head is not None
        for _ in range(ENTRIES - head.seq - 1):
            ledger.append(tx, "undo.drill", {})  # of nobody's concern

    await store.write(work)
    while await store.write(catch_up):
        pass


async def _ended(pipeline: Pipeline, caller: Caller, request: CallRequest) -> str:
    call = ""
    async with asyncio.timeout(WITHIN_S):
        async for told in pipeline.run(caller, request, lambda: False):
            view = told[-1][1]
            call = call if view is None else view.id
    return call


async def _state(pipeline: Pipeline, caller: Caller, call: str, state: CallState) -> None:
    async with asyncio.timeout(WITHIN_S):
        async for _ in pipeline.calls.watch(caller, call, 1):
            if (await pipeline.calls.get(caller, call)).last_event > 2:
                break
    assert (await pipeline.calls.get(caller, call)).state is state


async def _parts(stack: AsyncExitStack, paths: StatePaths, store: Database, clock: Clock) -> Parts:
    settings = load_settings(paths.root)
    vault = SealedVault(read_key_file(paths.vault_key))
    origin = await store.read(read_origin)
    ledger = Ledger(origin, "boot_1", now)
    catalogue = Catalogue.load([shipped_folder(), paths.tool_specs], runtime_by_tier=settings.runtime_by_tier)
    meter = PrometheusMeter("1")
    keeper = Keeper(store, ledger, vault, now)
    policy = LivePolicy(
        paths.policy / "policy.csv",
        known_tools=frozenset(catalogue.names),
        known_rpcs=served_methods(),
        poll_s=settings.policy_poll_s,
    )
    await stack.enter_async_context(policy)
    tiers = load_tiers(paths.tool_specs)
    desk = Desk(
        ledger,
        vault,
        lambda: PolicyElectorate(policy.snapshot),
        origin=origin,
        clock=clock,
        agreement=LedgerAgreement(),
    )
    tools = await ToolSettling(store, keeper, desk, catalogue).settle()
    stands = await settle(store, keeper, desk, tiers=tiers, settings=settings)
    in_force: JsonObject = {"tools": tools.digest, "settings": stands.digest}
    await keeper.started(len(catalogue.names), policy.snapshot, settings, Boot("1", "boot_1", now()), in_force)
    objects = Objects(paths.root / "workspaces")
    trees = Trees(objects)
    return Parts(
        store=store,
        ledger=ledger,
        vault=vault,
        directory=LiveDirectory(store),
        policy=policy,
        catalogue=catalogue,
        sandboxes=await stack.enter_async_context(Pool(TalkingEngine(), SIZING, meter=meter)),
        egress=Egress(
            resolver=SystemResolver(),
            networks=[],
            secrets=ConfiguredSecrets({}),
            trust=lambda: trust_from(None),
            meter=meter,
        ),
        meter=meter,
        images={tool.spec.image: f"sha256:{'1' * 64}" for tool in catalogue.all()},
        workspace_classes={},
        tiers=tiers,
        counted_roles=frozenset(),
        held=(),
        workflows=load_workflows(paths.workflows),
        desk=desk,
        bell=Bell(),
        objects=objects,
        trees=trees,
        folders=Folders(
            store=store, ledger=ledger, trees=trees, clock=clock, hosts=(), journals=paths.workspace_folders
        ),
        artifacts=Artifacts(store, vault, ledger, clock, lambda *_: None),
        origin=origin,
        bounds=Bounds(
            max_running=1,
            max_queued=10,
            max_active_per_agent=10,
            storage_quota_bytes=2**30,
            blob_max_bytes=2**20,
            blob_ttl_s=3600,
            refusal_window_s=60,
        ),
        clock=clock,
    )


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
