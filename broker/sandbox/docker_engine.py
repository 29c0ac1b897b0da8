"""The Docker engine: management through its SDK in threads, streams on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import docker
import docker.errors
import requests.exceptions
import structlog
import tenacity

from broker.domain.canonical import JsonObject
from broker.domain.container_facts import ContainerFacts
from broker.domain.run import Limits, Profile
from broker.errors import FailedPreconditionError, InternalError, UnavailableError
from broker.sandbox import images as image_rules
from broker.sandbox.address import Endpoint, engine_address
from broker.sandbox.capabilities import check_profile, runtime_capabilities
from broker.sandbox.docker_api import ANSWER_S, EngineApi
from broker.sandbox.docker_config import container_config
from broker.sandbox.docker_events import EventFollower
from broker.sandbox.docker_facts import expected_facts, read_facts
from broker.sandbox.docker_lease import DockerLease
from broker.sandbox.docker_stream import attach, ping
from broker.sandbox.engine import LABEL_INSTANCE, Capabilities, OwnedContainer
from broker.sandbox.fingerprint import hardening_digest
from broker.sandbox.images import SandboxImage

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 16
_REMOVE_ATTEMPTS = 4
_REMEMBERED = 1024
_AT_ONCE_PER_PROCESSOR = 2
"""Containers that are made at the same time, for each of the engine's processors: more of them only get in each other's
way, so that all are there later."""
_TURN_S = 2.0
"""How long the others may let one wait."""
_CLOSE_S = 20.0
"""At the end, how long removals may take in all; an engine that hangs must not keep the broker from ending."""

log = structlog.get_logger(__name__)


class DockerEngine:
    """Sandboxes on one Docker engine.

    Args:
        instance: label value that all containers of this broker carry: its ledger's origin id.
        address: ``unix:///path`` or ``tcp://host:port``; empty asks ``DOCKER_HOST`` and the usual sockets.
    """

    def __init__(self, instance: str, *, address: str = "") -> None:
        self._instance = instance
        self._address = engine_address(address)
        self._endpoint = Endpoint.parse(self._address)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="engine")
        self._client: docker.APIClient | None = None
        self._api_requests: EngineApi | None = None
        self._follower: EventFollower | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._live: set[str] = set()
        self._making: set[asyncio.Future[str]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE_PER_PROCESSOR)
        self._leases: dict[str, DockerLease] = {}
        self._info: Mapping[str, object] = {}
        self._image_configs: dict[str, Mapping[str, object]] = {}
        """Image id -> what the image says of its containers; an id is a digest, so it never changes."""
        self._expected: dict[Profile, ContainerFacts] = {}

    async def __aenter__(self) -> Self:
        """Connects, settles the API version, asks what the engine can do, and subscribes to events.

        Raises:
            UnavailableError: no engine answers there.
        """
        try:
            await ping(self._endpoint)
            self._client = client = await self._call(self._connect)
            self._api_requests = EngineApi(self._endpoint, client.api_version)
            self._info = await self._call(client.info)
            self._turns = asyncio.Semaphore(_AT_ONCE_PER_PROCESSOR * _processors(self._info))
            self._follower = EventFollower(self._endpoint, client.api_version, self._instance)
            await self._follower.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits until every container has been removed, within a limit, then disconnects."""
        await self._close()

    async def create(self, profile: Profile) -> DockerLease:
        """See ``broker.sandbox.engine.Engine.create``."""
        capabilities = await self.capabilities(profile.runtime)
        check_profile(capabilities, profile)
        async with self._turn():
            return await self._start(profile, capabilities)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Waits until few enough others make containers, but not for long: a runtime that hangs holds up nobody else."""
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN_S):
                taken = await self._turns.acquire()
        try:
            yield
        finally:
            if taken:
                self._turns.release()

    async def _start(self, profile: Profile, capabilities: Capabilities) -> DockerLease:
        container_id = await self._make(profile, self._body(profile, capabilities))
        stream = None
        try:
            watch = self._events.watch(container_id)
            # Attach before the start, or output is lost.
            stream = await attach(self._endpoint, self._api.api_version, container_id)
            await self._requests.start(container_id)
        except BaseException:
            if stream:
                stream.cut()
            self.background(self._give_up(container_id))
            raise
        lease = DockerLease(
            self,
            container_id=container_id,
            profile=profile,
            stream=stream,
            watch=watch,
            isolated=capabilities.isolated_runner,
        )
        self._leases[container_id] = lease
        return lease

    @property
    def hardening(self) -> str:
        """Digest of what every container here is made with, whatever its profile."""
        return hardening_digest(container_config("", Profile("", Limits()), self._api.api_version))

    async def capabilities(self, runtime: str) -> Capabilities:
        """See ``broker.sandbox.engine.Engine.capabilities``."""
        return runtime_capabilities(runtime, self._info)

    def expected_facts(self, profile: Profile) -> ContainerFacts:
        """See ``broker.sandbox.engine.Engine.expected_facts``."""
        facts = self._expected.get(profile)
        if facts is None:
            image = self._image_configs.get(profile.image)
            if image is None:
                raise _image_missing(profile.image)
            body = self._body(profile, runtime_capabilities(profile.runtime, self._info))
            facts = expected_facts(body, image, self._info)
            if len(self._expected) >= _REMEMBERED:
                self._expected.clear()
            self._expected[profile] = facts
        return facts

    async def observe(self, container_id: str) -> ContainerFacts:
        """See ``broker.sandbox.engine_hands.EngineHands.observe``."""
        return read_facts(await self._requests.inspect(container_id))

    async def image(self, name: str) -> SandboxImage:
        """See ``broker.sandbox.engine.Engine.image``."""
        return image_rules.choose(await self.images(), name)

    async def images(self) -> Sequence[SandboxImage]:
        """See ``broker.sandbox.engine.Engine.images``."""
        filters = {"label": [image_rules.LABEL_IMAGE]}
        found = image_rules.from_listing(await self._call(self._api.images, filters=filters))
        await asyncio.gather(*(self._learn(image.id) for image in found if image.id not in self._image_configs))
        return [image for image in found if image.id in self._image_configs]

    async def list_owned(self) -> Sequence[OwnedContainer]:
        """See ``broker.sandbox.engine.Engine.list_owned``."""
        filters = {"label": [f"{LABEL_INSTANCE}={self._instance}"]}
        listing = await self._call(self._api.containers, all=True, filters=filters)
        if self._making:
            # The list may show what we have just made and not been told of yet: let it become live first.
            await asyncio.wait(set(self._making))
        return [OwnedContainer(id=item["Id"], state=item["State"]) for item in listing]

    def live(self) -> frozenset[str]:
        """See ``broker.sandbox.engine.Engine.live``."""
        return frozenset(self._live)

    async def remove(self, container_id: str) -> None:
        """See ``broker.sandbox.engine.Engine.remove``."""
        retry = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(_REMOVE_ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=0.2, max=2),
            retry=tenacity.retry_if_exception_type(UnavailableError),
            reraise=True,
        )
        async for attempt in retry:
            with attempt:
                await self._requests.remove(container_id)

    async def state(self, container_id: str) -> tuple[int, bool]:
        """See ``broker.sandbox.engine_hands.EngineHands.state``."""
        state = await self._requests.state(container_id)
        pid = state.get("Pid")
        return pid if isinstance(pid, int) else 0, bool(state.get("OOMKilled"))

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See ``broker.sandbox.engine_hands.EngineHands.background``."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._settle)
        return task

    @property
    def _requests(self) -> EngineApi:
        if self._api_requests is None:
            raise InternalError("the engine is used outside its `async with`")
        return self._api_requests

    @property
    def _api(self) -> docker.APIClient:
        if self._client is None:
            raise InternalError("the engine is used outside its `async with`")
        return self._client

    def gone(self, container_id: str) -> None:
        """See ``broker.sandbox.engine_hands.EngineHands.gone``."""
        self._events.forget(container_id)
        self._leases.pop(container_id, None)
        self._live.discard(container_id)

    def _body(self, profile: Profile, capabilities: Capabilities) -> JsonObject:
        return container_config(self._instance, profile, self._api.api_version, capabilities)

    async def _learn(self, image: str) -> None:
        """Asks what an image says of its containers; one that has been removed in the meantime is left out."""
        with suppress(FailedPreconditionError):
            config = (await self._call(self._api.inspect_image, image)).get("Config")
            self._image_configs[image] = config if isinstance(config, Mapping) else {}

    async def _make(self, profile: Profile, body: JsonObject) -> str:
        creation = asyncio.ensure_future(self._make_now(body))
        self._making.add(creation)
        creation.add_done_callback(self._making.discard)
        try:
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            self.background(self._remove_when_made(creation))
            raise
        except FailedPreconditionError as error:
            raise _image_missing(profile.image) from error

    @property
    def _events(self) -> EventFollower:
        if self._follower is None:
            raise InternalError("the engine is used outside its `async with`")
        return self._follower

    async def _remove_when_made(self, creation: asyncio.Future[str]) -> None:
        """The caller went away while the engine was making a container: take it when it comes, and remove it."""
        try:
            container_id = await creation
        except (UnavailableError, FailedPreconditionError):
            return
        await self._give_up(container_id)

    async def _give_up(self, container_id: str) -> None:
        """Removes a container that never became a lease."""
        try:
            await self.remove(container_id)
        finally:
            self.gone(container_id)

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            # The reaper finds what is left by its label.
            log.error("sandbox.removal_failed", error=str(error))

    async def _close(self) -> None:
        for lease in list(self._leases.values()):
            lease.hurry()
        async with AsyncExitStack() as stack:
            stack.callback(self._threads.shutdown, wait=False)
            if self._client:
                stack.callback(self._client.close)
            if self._api_requests:
                stack.push_async_callback(self._api_requests.close)
            if self._follower:
                stack.push_async_callback(self._follower.stop)
            limit = asyncio.get_running_loop().time() + _CLOSE_S
            while self._background and (left_s := limit - asyncio.get_running_loop().time()) > 0:
                await asyncio.wait(self._background, timeout=left_s)
            if cut_off := tuple(self._background):
                # The next start finds what is left by its label.
                log.error("sandbox.close_cut_off", containers=len(self._live), after_s=_CLOSE_S)
                for task in cut_off:
                    task.cancel()
                await asyncio.gather(*cut_off, return_exceptions=True)

    def _connect(self) -> docker.APIClient:
        return docker.APIClient(base_url=self._address, version="auto", timeout=ANSWER_S, max_pool_size=_THREADS)

    async def _make_now(self, body: JsonObject) -> str:
        container_id = await self._requests.create(body)
        self._live.add(container_id)
        return container_id

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the SDK in a thread, and turns its errors into ours."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))
        except docker.errors.NotFound as error:
            raise FailedPreconditionError(_short(error), reason="ENGINE_NOT_FOUND") from error
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise UnavailableError(
                f"the container engine at {self._address} failed: {_short(error)}",
                reason="ENGINE_FAILED",
                hint="is it running, and may this user reach it? see `broker doctor`",
            ) from error


def _processors(info: Mapping[str, object]) -> int:
    """How many the engine says it has; one where it doesn't say."""
    number = info.get("NCPU")
    return number if isinstance(number, int) and number > 0 else 1


def _image_missing(image: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the engine doesn't have the image {image}", reason="IMAGE_MISSING", hint="run: make images"
    )


def _short(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    return str(explanation or error).strip().partition("\n")[0][:400]
