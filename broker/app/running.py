"""One stack of lifetimes, from the lock on the state directory to the open gate."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from broker.app.record import Keeper
from broker.app.sandbox import sandboxes
from broker.domain.ids import new_id
from broker.errors import FailedPreconditionError
from broker.identity.directory import LiveDirectory
from broker.ledger.genesis import read_origin
from broker.ledger.ledger import Ledger
from broker.ledger.startup import verify_store
from broker.metrics.endpoint import MetricsEndpoint
from broker.metrics.prometheus import PrometheusMeter
from broker.pipeline.parts import Bounds, Parts
from broker.pipeline.pipeline import Pipeline
from broker.policy.live import LivePolicy
from broker.rpc.administration import AdministrationService, Boot
from broker.rpc.gate import CertificateGate
from broker.rpc.methods import served_methods
from broker.rpc.server import Server, TlsFiles, services
from broker.rpc.sessions import SessionsService
from broker.settings import Settings, StatePaths
from broker.specs.catalogue import Catalogue
from broker.specs.shipped import shipped_folder
from broker.store.database import Database
from broker.vault.keyfile import read_key_file
from broker.vault.vault import SealedVault

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that serves: the real addresses of its listeners, and what it was put together from."""

    address: str
    unsafe_address: str
    boot: Boot
    parts: Parts
    pipeline: Pipeline


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
        stack.enter_context(_only_broker(paths))
        parts = await _parts(stack, paths, settings, boot)
        pipeline = Pipeline(parts, drain_s=settings.drain_s)
        gate = CertificateGate(parts, pipeline.refusals, unsafe_plaintext_agent=settings.unsafe_plaintext_agent)
        served = services(
            pipeline,
            SessionsService(parts),
            AdministrationService(parts, pipeline, boot),
            gate,
            max_arguments_bytes=settings.max_arguments_bytes,
        )
        server = Server(served, gate, max_request_bytes=settings.max_request_bytes)
        address = server.listen(settings.listen, _tls(paths))
        unsafe = settings.unsafe_plaintext_listen
        unsafe_address = server.listen_unsafe_plaintext(unsafe) if unsafe else ""
        await stack.enter_async_context(server)
        await stack.enter_async_context(pipeline)
        stack.callback(gate.set_open, to=False)
        gate.set_open(to=True)
        stack.enter_context(_announced(paths, address, boot))
        yield Running(address, unsafe_address, boot, parts, pipeline)


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


async def _parts(stack: AsyncExitStack, paths: StatePaths, settings: Settings, boot: Boot) -> Parts:
    vault = SealedVault(read_key_file(paths.vault_key))
    store = await stack.enter_async_context(Database.open(paths.database))
    await verify_store(store)
    origin = await store.read(read_origin)
    ledger = Ledger(origin, boot.boot_id, now)
    folders = [shipped_folder(), *([paths.tool_specs] if paths.tool_specs.is_dir() else [])]
    catalogue = await asyncio.to_thread(Catalogue.load, folders, runtime_by_tier=settings.runtime_by_tier)
    meter = PrometheusMeter(boot.version)
    sandbox = await stack.enter_async_context(sandboxes(origin, settings, catalogue, meter))
    catalogue = sandbox.catalogue
    if settings.metrics_listen:
        await stack.enter_async_context(MetricsEndpoint(settings.metrics_listen, meter))
    keeper = Keeper(store, ledger, vault, now)
    policy = LivePolicy(
        paths.policy / "policy.csv",
        known_tools=frozenset(catalogue.names),
        known_rpcs=served_methods(),
        on_change=keeper.policy_changed,
        poll_s=settings.policy_poll_s,
    )
    await stack.enter_async_context(policy)
    await keeper.started(catalogue, policy.snapshot, settings, boot)
    return Parts(
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
        origin=origin,
        bounds=_bounds(settings),
        clock=now,
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        max_running=settings.max_running,
        max_queued=settings.max_queued,
        max_active_per_agent=settings.max_active_per_agent,
        storage_quota_bytes=settings.storage_quota_bytes,
        blob_max_bytes=settings.blob_max_bytes,
        blob_ttl_s=settings.blob_ttl_s,
        refusal_window_s=settings.refusal_window_s,
    )


def _tls(paths: StatePaths) -> TlsFiles:
    try:
        return TlsFiles(
            server_key=paths.server_key.read_bytes(),
            server_chain=paths.server_certificate.read_bytes(),
            client_ca=paths.ca_certificate.read_bytes(),
        )
    except OSError as error:
        raise FailedPreconditionError(
            f"the listener's certificates can't be read: {error.strerror} ({error.filename})",
            reason="CERTIFICATES_MISSING",
            hint="`broker init` makes them; there is no listener without them.",
        ) from error


@contextmanager
def _only_broker(paths: StatePaths) -> Iterator[None]:
    """Holds the state directory's lock, so that one broker serves it."""
    if not paths.database.is_file():
        raise FailedPreconditionError(
            f"{paths.root} is not a state directory", reason="STATE_MISSING", hint="Make one with: broker init"
        )
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPreconditionError(
                f"another broker serves {paths.root}",
                reason="ALREADY_SERVING",
                hint="Stop it first, or give this one a state directory of its own.",
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _announced(paths: StatePaths, address: str, boot: Boot) -> Iterator[None]:
    """Says in the state directory where the broker listens, so that commands find it."""
    info = {"address": address, "pid": os.getpid(), "boot_id": boot.boot_id, "started": boot.started.isoformat()}
    draft = paths.socket_info.with_suffix(".new")
    draft.write_text(json.dumps(info) + "\n", "utf-8")
    draft.chmod(0o600)
    draft.replace(paths.socket_info)
    try:
        yield
    finally:
        paths.socket_info.unlink(missing_ok=True)
