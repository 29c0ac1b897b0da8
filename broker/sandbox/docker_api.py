"""The four requests that every container needs of a Docker engine, on asyncio, over connections that stay open.

The SDK serves everything else. Its threads take ten milliseconds of processor time per container, as long as a whole warm
call: under load that is a tenth of what engine and broker do together. A connection of its own for each request takes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp

from broker.domain.canonical import JsonObject
from broker.errors import FailedPreconditionError, UnavailableError
from broker.sandbox.address import Endpoint

ANSWER_S = 60
"""An engine that leaves a request unanswered for so long is away."""
_MAX_ANSWER = 4 * 2**20
_KEEP_S = 2.0
"""How long a connection is kept that nobody uses. Only one that engine or proxy closes in the very moment in which it is
used again breaks a request, and none may be made twice.
"""
_UNWANTED_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class EngineApi:
    """Makes, starts, inspects and removes containers.

    Args:
        endpoint: where the engine answers.
        api_version: what it was found to speak, such as ``1.41``.
    """

    def __init__(self, endpoint: Endpoint, api_version: str) -> None:
        self._endpoint = endpoint
        self._base = f"http://{_host(endpoint)}/v{api_version}/containers"
        self._session = aiohttp.ClientSession(
            connector=_connector(endpoint),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ANSWER_S),
            skip_auto_headers=_UNWANTED_HEADERS,
        )

    async def __aenter__(self) -> Self:
        """Opens nothing yet: connections are made when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes all connections."""
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def create(self, body: JsonObject) -> str:
        """Makes a container; its id.

        Raises:
            FailedPreconditionError: the engine doesn't have the image (``ENGINE_NOT_FOUND``).
            UnavailableError: it refuses, doesn't answer, or gives no id.
        """
        answer = await self._ask("POST", f"{self._base}/create", json.dumps(body).encode())
        container_id = answer.get("Id")
        if not isinstance(container_id, str) or not container_id:
            raise self._failed("it made a container and gave no id for it")
        return container_id

    async def start(self, container_id: str) -> None:
        """Starts a container.

        Raises:
            FailedPreconditionError: there is none (``ENGINE_NOT_FOUND``).
            UnavailableError: the engine refuses or doesn't answer.
        """
        await self._ask("POST", f"{self._base}/{quote(container_id, safe='')}/start")

    async def inspect(self, container_id: str) -> Mapping[str, object]:
        """All that the engine says of a container.

        Raises:
            FailedPreconditionError: there is none (``ENGINE_NOT_FOUND``).
            UnavailableError: the engine refuses, doesn't answer, or speaks of another container.
        """
        answer = await self._ask("GET", f"{self._base}/{quote(container_id, safe='')}/json")
        if answer.get("Id") != container_id:
            raise self._failed(f"it was asked about the container {container_id} and answered about another")
        return answer

    async def state(self, container_id: str) -> Mapping[str, object]:
        """What the engine says of a container's state.

        Raises:
            FailedPreconditionError: there is none (``ENGINE_NOT_FOUND``).
            UnavailableError: as ``inspect``.
        """
        state = (await self.inspect(container_id)).get("State")
        return state if isinstance(state, Mapping) else {}

    async def remove(self, container_id: str) -> None:
        """Kills and removes a container with its volumes; one that is gone, or on its way, is no error.

        Raises:
            UnavailableError: the engine refuses or doesn't answer.
        """
        gone = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
        await self._ask("DELETE", f"{self._base}/{quote(container_id, safe='')}?force=1&v=1", fine=gone)

    async def _ask(
        self, method: str, target: str, body: bytes | None = None, *, fine: tuple[HTTPStatus, ...] = ()
    ) -> Mapping[str, object]:
        headers = {"Content-Type": "application/json"} if body else None
        if self._session.closed:
            raise self._failed("its connections are closed")
        asked = self._session.request(method, target, data=body, headers=headers, allow_redirects=False)
        try:
            async with asked as response:
                status, answer = response.status, await _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._failed(str(error.__cause__ or error) or f"no answer within {ANSWER_S} s") from error
        if status < HTTPStatus.BAD_REQUEST:
            return _object(answer)
        if status in fine:
            return {}
        text = str(_object(answer).get("message") or f"status {status}").partition("\n")[0][:400]
        if status == HTTPStatus.NOT_FOUND:
            raise FailedPreconditionError(text, reason="ENGINE_NOT_FOUND")
        raise self._failed(text)

    def _failed(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"the container engine at {self._endpoint} failed: {why}",
            reason="ENGINE_FAILED",
            hint="is it running, and may this user reach it? see `broker doctor`",
        )


def _connector(endpoint: Endpoint) -> aiohttp.BaseConnector:
    # No limit: a request that waits for another's connection would wait for as long as the engine takes for that.
    if endpoint.path:
        return aiohttp.UnixConnector(endpoint.path, limit=0, keepalive_timeout=_KEEP_S)
    return aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_S)


def _host(endpoint: Endpoint) -> str:
    """As it stands in a URL; who comes by a socket's path needs a name all the same."""
    if endpoint.path:
        return "engine"
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MAX_ANSWER:
            raise aiohttp.ClientPayloadError("the answer is too long")
    return bytes(body)


def _object(data: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(data) if data else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
