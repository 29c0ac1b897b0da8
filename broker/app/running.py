"""One stack of lifetimes, from the lock on the state directory to the open gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import structlog

from broker.app.clock import now
from broker.app.folders import bound_folders
from broker.app.log import VerifiedLog, checkpoints_folder, verified_log
from broker.app.notices import notifier
from broker.app.place import announced, only_broker, tls_files, workspaces_folder
from broker.app.policy_gate import PolicyGate
from broker.app.record import Keeper
from broker.app.sandbox import sandboxes
from broker.app.standing import settle
from broker.app.tools import ToolSettling
from broker.approvals.desk import Desk
from broker.approvals.electorate import Electorate
from broker.domain.canonical import JsonObject
from broker.domain.ids import new_id
from broker.errors import BrokerError
from broker.identity.directory import LiveDirectory
from broker.ledger.agreement import LedgerAgreement
from broker.ledger.checkpoint_reading import CheckpointsBySize
from broker.ledger.genesis import read_origin
from broker.ledger.in_force import policy_in_force
from broker.ledger.index import Indexer
from broker.ledger.ledger import Ledger
from broker.metrics.endpoint import MetricsEndpoint
from broker.metrics.prometheus import PrometheusMeter
from broker.pipeline.bell import Bell
from broker.pipeline.blobs import check_storage
from broker.pipeline.parts import Bounds, Parts
from broker.pipeline.pipeline import Pipeline
from broker.pipeline.policy_changes import counted_on_record
from broker.pipeline.standing import SETTINGS_PART, TOOLS_PART
from broker.pipeline.tree_import import Importer
from broker.pipeline.trees import WorkspaceTrees
from broker.policy.electorate import PolicyElectorate
from broker.policy.live import LivePolicy
from broker.rpc.administration import AdministrationService, Boot
from broker.rpc.approvals import ApprovalsService
from broker.rpc.dispatch import Bounds as RequestBounds
from broker.rpc.dispatch import handlers
from broker.rpc.gate import CertificateGate
from broker.rpc.ledger import LedgerService
from broker.rpc.methods import served_methods
from broker.rpc.server import Server, services
from broker.rpc.sessions import SessionsService
from broker.rpc.workspaces_service import WorkspacesService
from broker.settings import Settings, StatePaths
from broker.specs.catalogue import Catalogue
from broker.specs.shipped import shipped_folder
from broker.specs.tiers import load_tiers
from broker.specs.workflows import load_workflows
from broker.store.base import SqlStore
from broker.store.opening import DatabaseTarget, open_store
from broker.vault.artifacts import Artifacts
from broker.vault.keyfile import read_key_file
from broker.vault.vault import SealedVault
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that serves: the real addresses of its listeners, and what it was put together from."""

    address: str
    unsafe_address: str
    boot: Boot
    parts: Parts
    pipeline: Pipeline
    gate: CertificateGate

    @property
    def unfit(self) -> BrokerError | None:
        """Why the ledger must not be gone on with; nothing is taken, recorded or begun any more then."""
        return self.gate.unfit


@dataclass(frozen=True, slots=True)
class _Made:
    parts: Parts
    log: VerifiedLog
    unsafe: Mapping[str, bool]
    """Setting that weakens the two-person rule -> is it in force."""


@asynccontextmanager
async def running(state: Path, settings: Settings) -> AsyncIterator[Running]:
    """Runs a broker over a state directory until the block ends; then it drains.

    Raises:
        FailedPreconditionError: another broker serves this state, the address is taken, a part is missing.
        DataLossError: the ledger doesn't verify.
        UnavailableError: no container engine answers.
    """
    paths = StatePaths(state)
    boot = Boot(version("agent-broker"), new_id("boot"), now())
    async with AsyncExitStack() as stack:
        stack.enter_context(only_broker(paths))
        store = await stack.enter_async_context(open_store(_target(paths, settings)))
        made = await _parts(stack, store, paths, settings, boot)
        parts, log = made.parts, made.log
        pipeline = Pipeline(parts, drain_s=settings.drain_s)
        gate = CertificateGate(parts, pipeline.refusals, unsafe_plaintext_agent=settings.unsafe_plaintext_agent)
        reading = LedgerService(parts, CheckpointsBySize(checkpoints_folder(paths, settings)))
        served = services(
            pipeline,
            SessionsService(parts),
            AdministrationService(parts, pipeline, boot),
            reading,
            ApprovalsService(
                pipeline.approval_sight,
                pipeline.approvals,
                pipeline.safeguards,
                origin=parts.origin,
                max_arguments_bytes=settings.max_arguments_bytes,
            ),
            workspaces=WorkspacesService(
                WorkspaceTrees(parts), Importer(parts, over_tree=made.unsafe["unsafe_import_over_tree"])
            ),
            gate=gate,
            max_arguments_bytes=settings.max_arguments_bytes,
        )
        server = Server(
            handlers(served, gate, RequestBounds(settings.max_request_bytes)),
            max_request_bytes=settings.max_request_bytes,
        )
        address = server.listen(settings.listen, tls_files(paths))
        unsafe = settings.unsafe_plaintext_listen
        unsafe_address = server.listen_unsafe_plaintext(unsafe) if unsafe else ""

        def stop(why: BrokerError) -> None:
            gate.shut(why)
            store.stop(why)

        await stack.enter_async_context(log.checkpointer(parts.ledger, settings, stop))
        if gate.unfit is not None:
            raise gate.unfit
        await stack.enter_async_context(Indexer(parts.store))
        await stack.enter_async_context(server)
        stack.callback(reading.drain)
        await stack.enter_async_context(notifier(parts, settings))
        stack.push_async_callback(parts.folders.close)
        await stack.enter_async_context(pipeline)
        stack.callback(gate.set_open, to=False)
        gate.set_open(to=True)
        stack.enter_context(announced(paths, address, boot))
        yield Running(address, unsafe_address, boot, parts, pipeline, gate)


def _target(paths: StatePaths, settings: Settings) -> DatabaseTarget:
    return DatabaseTarget(paths.database, settings.database, settings.database_password)


async def _parts(stack: AsyncExitStack, store: SqlStore, paths: StatePaths, settings: Settings, boot: Boot) -> _Made:
    vault = SealedVault(read_key_file(paths.vault_key))
    await store.serve_alone()
    log = await verified_log(store, paths, settings)
    origin = await store.read(read_origin)
    ledger = Ledger(origin, boot.boot_id, now)
    folders = [shipped_folder(), *([paths.tool_specs] if paths.tool_specs.is_dir() else [])]
    catalogue = await asyncio.to_thread(Catalogue.load, folders, runtime_by_tier=settings.runtime_by_tier)
    meter = PrometheusMeter(boot.version)
    keeper = Keeper(store, ledger, vault, now)
    tiers = await asyncio.to_thread(
        load_tiers,
        paths.tool_specs,
        chat_only_allowed=settings.unsafe_chat_only_quorum,
        slack_allowed=settings.unsafe_slack_approves_tier4,
    )

    def electorate() -> Electorate:
        return PolicyElectorate(policy.snapshot)

    agreement = LedgerAgreement()
    await store.read(agreement.read_on)
    desk = Desk(
        ledger,
        vault,
        electorate,
        origin=origin,
        clock=now,
        agreement=agreement,
        storage_quota_bytes=settings.storage_quota_bytes,
    )
    counted = await store.read(lambda tx: counted_on_record(tx, vault, tiers))
    gate = PolicyGate(
        store,
        keeper,
        desk,
        path=paths.policy / "policy.csv",
        tools={tool.spec.name: tool.spec.risk for tool in catalogue.all()},
        counted=counted,
    )
    policy = LivePolicy(
        paths.policy / "policy.csv",
        known_tools=frozenset(catalogue.names),
        known_rpcs=served_methods(),
        may_swap=gate.may_swap,
        on_change=gate.on_change,
        in_force=await store.read(lambda tx: policy_in_force(tx, vault)),
        poll_s=settings.policy_poll_s,
    )
    await stack.enter_async_context(policy)
    tools = await ToolSettling(store, keeper, desk, catalogue).settle()
    stands = await settle(store, keeper, desk, tiers=tiers, settings=settings)
    catalogue = catalogue.at(tools.tiers, settings.runtime_by_tier, {item.tool: item.why for item in tools.held})
    sandbox = await stack.enter_async_context(sandboxes(origin, settings, catalogue, meter))
    catalogue = sandbox.catalogue
    in_force: JsonObject = {TOOLS_PART: tools.digest, SETTINGS_PART: stands.digest}
    await keeper.started(len(catalogue.names), policy.snapshot, settings, boot, in_force)
    if settings.metrics_listen:
        await stack.enter_async_context(MetricsEndpoint(settings.metrics_listen, meter))
    objects = Objects(workspaces_folder(paths, settings))
    trees = Trees(objects)
    bound = bound_folders(
        paths, settings, stands.folders, store=store, ledger=ledger, objects=objects, trees=trees, clock=now
    )
    parts = Parts(
        store=store,
        ledger=ledger,
        vault=vault,
        directory=LiveDirectory(store),
        policy=policy,
        catalogue=catalogue,
        sandboxes=sandbox.pool,
        egress=sandbox.egress,
        meter=meter,
        images=sandbox.images,
        workspace_classes=settings.workspace_data_classes,
        tiers=stands.tiers,
        counted_roles=counted,
        held=(*tools.held, *([] if stands.held is None else [stands.held])),
        workflows=await asyncio.to_thread(load_workflows, paths.workflows),
        desk=desk,
        bell=Bell(),
        objects=objects,
        trees=trees,
        folders=bound,
        artifacts=Artifacts(store, vault, ledger, now, partial(check_storage, quota=settings.storage_quota_bytes)),
        origin=origin,
        bounds=_bounds(settings),
        clock=now,
    )
    return _Made(parts, log, stands.unsafe)


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        max_running=settings.max_running,
        max_queued=settings.max_queued,
        max_active_per_agent=settings.max_active_per_agent,
        storage_quota_bytes=settings.storage_quota_bytes,
        blob_max_bytes=settings.blob_max_bytes,
        blob_ttl_s=settings.blob_ttl_s,
        workspace_max_files=settings.workspace_max_files,
        workspace_max_bytes=settings.workspace_max_bytes,
        refusal_window_s=settings.refusal_window_s,
    )
