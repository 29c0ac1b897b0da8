"""Puts the sandbox together: engine, warm pool, the way out, and what tools need of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from pathlib import Path

from broker.domain.meter import Meter
from broker.domain.run import Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.egress.gate import Egress
from broker.sandbox.egress.resolving import SystemResolver
from broker.sandbox.egress.upstream import trust_from
from broker.sandbox.pool import Pool
from broker.sandbox.pool_sizing import Sizing
from broker.sandbox.reaper import Reaper, reap_all
from broker.settings import Settings
from broker.specs.catalogue import Catalogue
from broker.specs.operator import check_operator
from broker.vault.secret_store import ConfiguredSecrets, parse_secrets


@dataclass(frozen=True, slots=True)
class Sandboxes:
    """What the pipeline runs tools with."""

    pool: Pool
    egress: Egress
    images: Mapping[str, str]
    """Image name -> digest."""
    catalogue: Catalogue
    """The tools, each fitted to the runtime that it gets."""


@asynccontextmanager
async def sandboxes(instance: str, settings: Settings, catalogue: Catalogue, meter: Meter) -> AsyncIterator[Sandboxes]:
    """Connects to the engine, removes what an earlier run left there, and begins to fill the pool.

    Args:
        instance: the label of this broker's containers; the caller holds the broker's lock.
        settings: the operator's.
        catalogue: the tools.
        meter: takes measurements.

    Raises:
        UnavailableError: no engine answers.
        FailedPreconditionError: a tool or a setting asks for what engine or settings don't have.
    """
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(DockerEngine(instance, address=settings.engine))
        catalogue = await _fitted(engine, settings, catalogue)
        await reap_all(engine)
        await stack.enter_async_context(Reaper(engine))
        images = {image.name: image.id for image in await engine.images() if image.current}
        pool = await stack.enter_async_context(Pool(engine, _sizing(settings), hardening=engine.hardening, meter=meter))
        pool.prewarm(_prewarmed(settings, catalogue, images))
        yield Sandboxes(pool, _egress(settings, meter), images, catalogue)


async def _fitted(engine: DockerEngine, settings: Settings, catalogue: Catalogue) -> Catalogue:
    runtimes: dict[str, bool] = {}
    for name in {tool.runtime for tool in catalogue.all()}:
        try:
            runtimes[name] = (await engine.capabilities(name)).inodes
        except FailedPreconditionError:
            continue  # the check names the tool that wants it
    fitted = catalogue.fitted(runtimes)
    check_operator(fitted, secrets=settings.secret_hosts, runtimes=runtimes, prewarm=settings.pool_prewarm)
    return fitted


def _sizing(settings: Settings) -> Sizing:
    return Sizing(
        floor=settings.pool_floor,
        ceiling=settings.pool_ceiling,
        idle_age_s=settings.pool_idle_s,
        max_age_s=settings.pool_max_age_s,
    )


def _prewarmed(settings: Settings, catalogue: Catalogue, images: Mapping[str, str]) -> list[Profile]:
    tools = [tool for name in settings.pool_prewarm if (tool := catalogue.get(name)) is not None]
    return [tool.profile(images[tool.spec.image]) for tool in tools if tool.spec.image in images]


def _egress(settings: Settings, meter: Meter) -> Egress:
    trust = Path(settings.egress_trust) if settings.egress_trust else None
    secrets = parse_secrets({name: item.model_dump() for name, item in settings.secrets.items()})
    return Egress(
        resolver=SystemResolver(),
        networks=[ip_network(item) for item in settings.egress_networks],
        secrets=ConfiguredSecrets(secrets),
        trust=partial(trust_from, trust),
        meter=meter,
    )
