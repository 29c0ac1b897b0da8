"""The four requests that every container needs of a Docker engine, on asyncio.

The SDK serves everything else. Its threads take ten milliseconds of processor time per container, as long as a whole warm
call: under load that is a tenth of what engine and broker do together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

import h11

from broker.domain.canonical import JsonObject
from broker.errors import FailedPreconditionError, UnavailableError
from broker.sandbox.address import Endpoint

ANSWER_S = 60
"""An engine that leaves a request unanswered for so long is away."""
_MAX_ANSWER = 4 * 2**20
_READ = 64 * 1024


class EngineApi:
    """Makes, starts, inspects and removes containers.

    Args:
        endpoint: where the engine answers.
        api_version: what it was found to speak, such as ``1.41``.
    """

    def __init__(self, endpoint: Endpoint, api_version: str) -> None:
        self._endpoint = endpoint
        self._base = f"/v{api_version}/containers"

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
        self, method: str, target: str, body: bytes = b"", *, fine: tuple[HTTPStatus, ...] = ()
    ) -> Mapping[str, object]:
        try:
            async with asyncio.timeout(ANSWER_S):
                status, answer = await self._exchange(method, target, body)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            raise self._failed(str(error) or f"no answer within {ANSWER_S} s") from error
        if status < HTTPStatus.BAD_REQUEST:
            return _object(answer)
        if status in fine:
            return {}
        text = str(_object(answer).get("message") or f"status {status}").partition("\n")[0][:400]
        if status == HTTPStatus.NOT_FOUND:
            raise FailedPreconditionError(text, reason="ENGINE_NOT_FOUND")
        raise self._failed(text)

    async def _exchange(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if self._endpoint.path:
            reader, writer = await asyncio.open_unix_connection(self._endpoint.path)
        else:
            reader, writer = await asyncio.open_connection(self._endpoint.host, self._endpoint.port)
        try:
            talk = h11.Connection(h11.CLIENT)
            headers = [("Host", "engine"), ("Connection", "close"), ("Content-Length", str(len(body)))]
            if body:
                headers.append(("Content-Type", "application/json"))
            events = (h11.Request(method=method, target=target, headers=headers), h11.Data(body), h11.EndOfMessage())
            writer.write(b"".join(talk.send(event) or b"" for event in events))  # in one: each write wakes the engine
            return await _answer(talk, reader)
        finally:
            writer.transport.abort()

    def _failed(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"the container engine at {self._endpoint} failed: {why}",
            reason="ENGINE_FAILED",
            hint="is it running, and may this user reach it? see `broker doctor`",
        )


async def _answer(talk: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while True:
        event = talk.next_event()
        if event is h11.NEED_DATA:
            talk.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_ANSWER:
                raise h11.RemoteProtocolError("the answer is too long")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the engine hung up")


def _object(data: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(data) if data else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
