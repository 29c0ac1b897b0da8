"""All that a Docker engine keeps under a broker's label: containers, and volumes and networks, of which there are none.

Nothing of ours makes a volume or a network. They are looked for all the same: what nobody looks for piles up.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import docker
import docker.errors
import requests.exceptions

from broker.errors import UnavailableError
from broker.sandbox.address import Endpoint, engine_address
from broker.sandbox.docker_stream import ping
from broker.sandbox.engine import LABEL_INSTANCE

_ANSWER_S = 60
_CONFLICT = 409
_SHOWN = 400


class Kind(enum.StrEnum):
    """What an engine keeps."""

    CONTAINER = "container"
    VOLUME = "volume"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that carries a broker's label."""

    kind: Kind
    id: str
    """The engine's id of it; of a volume, its name."""
    state: str
    """The engine's word for a container: ``created``, ``running``, ``exited``, ...; empty for the others."""
    created: datetime | None
    """``None`` where the engine doesn't say."""


async def find_leftovers(instance: str, *, address: str = "", remove: bool = False) -> Sequence[Leftover]:
    """Lists what carries a broker's label, oldest container first, and removes it where wanted.

    Args:
        instance: the label's value.
        address: as ``DockerEngine``.
        remove: only for who knows that no broker uses any of it.

    Returns:
        All that there was.

    Raises:
        UnavailableError: no engine answers, or it refuses a removal.
    """
    chosen = engine_address(address)
    await ping(Endpoint.parse(chosen))
    return await asyncio.to_thread(_find, chosen, instance, remove=remove)


def _find(address: str, instance: str, *, remove: bool) -> Sequence[Leftover]:
    with _client(address) as client:
        found = [*_containers(client, instance), *_volumes(client, instance), *_networks(client, instance)]
        removers: Mapping[Kind, Callable[[str], object]] = {
            Kind.CONTAINER: lambda item: client.remove_container(item, force=True, v=True),
            Kind.VOLUME: lambda item: client.remove_volume(item, force=True),
            Kind.NETWORK: client.remove_network,
        }
        for item in found if remove else ():
            _remove(removers[item.kind], item.id)
    return found


def _containers(client: docker.APIClient, instance: str) -> list[Leftover]:
    listing = client.containers(all=True, filters=_filters(instance))
    found = [
        Leftover(Kind.CONTAINER, item["Id"], item["State"], datetime.fromtimestamp(item["Created"], UTC))
        for item in listing
    ]
    return sorted(found, key=lambda item: (item.created, item.id))


def _volumes(client: docker.APIClient, instance: str) -> list[Leftover]:
    listing = client.volumes(filters=_filters(instance))["Volumes"] or []
    return [Leftover(Kind.VOLUME, item["Name"], "", _moment(item)) for item in listing]


def _networks(client: docker.APIClient, instance: str) -> list[Leftover]:
    listing = client.networks(filters=_filters(instance))
    return [Leftover(Kind.NETWORK, item["Id"], "", _moment(item, "Created")) for item in listing]


def _filters(instance: str) -> dict[str, list[str]]:
    return {"label": [f"{LABEL_INSTANCE}={instance}"]}


def _moment(item: Mapping[str, Any], field: str = "CreatedAt") -> datetime | None:
    try:
        return datetime.fromisoformat(item[field]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None


def _remove(remove: Callable[[str], object], item: str) -> None:
    try:
        remove(item)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code != _CONFLICT or "already in progress" not in str(error.explanation):
            raise


@contextmanager
def _client(address: str) -> Iterator[docker.APIClient]:
    """Connects for as long as the block lasts, and turns the SDK's errors into ours."""
    try:
        client = docker.APIClient(base_url=address, version="auto", timeout=_ANSWER_S)
        try:
            yield client
        finally:
            client.close()
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        explanation = str(getattr(error, "explanation", None) or error).strip().partition("\n")[0]
        raise UnavailableError(
            f"the container engine at {address} failed: {explanation[:_SHOWN]}",
            reason="ENGINE_FAILED",
            hint="is it running, and may this user reach it? see `broker doctor`",
        ) from error
