"""The requests to a container engine, to an engine that answers as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.errors import FailedPreconditionError, UnavailableError
from broker.sandbox.address import Endpoint
from broker.sandbox.docker_api import EngineApi

MADE = b'{"Id": "c1"}'


class Engine:
    """Answers every request alike.

    Args:
        body: what it answers.
        status: with which status.
        requests: after so many it hangs up.
    """

    def __init__(self, body: bytes, *, status: str = "201 Created", requests: int = 100) -> None:
        self.answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)
        self.requests = requests
        self.heads: list[bytes] = []
        self.connections = 0
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        for _ in range(self.requests):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            self.heads.append(head)
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            writer.write(self.answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        self.hung_up.set()


@asynccontextmanager
async def asked(engine: Engine, folder: Path) -> AsyncIterator[EngineApi]:
    """Who asks that engine, by a socket."""
    path = str(folder / "engine.sock")
    async with await asyncio.start_unix_server(engine.serve, path), EngineApi(Endpoint(path=path), "1.41") as api:
        yield api


@pytest.mark.parametrize("body", [b"{}", b'{"Id": ""}', b'{"Id": 7}', b"nonsense"])
async def test_an_engine_that_names_no_container_has_failed(tmp_path: Path, body: bytes) -> None:
    async with asked(Engine(body), tmp_path) as api:
        with pytest.raises(UnavailableError) as caught:
            await api.create({})
    assert caught.value.reason == "ENGINE_FAILED"


async def test_requests_go_over_one_connection_and_say_no_more_than_they_must(tmp_path: Path) -> None:
    engine = Engine(MADE)
    async with asked(engine, tmp_path) as api:
        assert await api.create({"Image": "i"}) == "c1"
        await api.start("c1")
        await api.remove("c1")
    assert engine.connections == 1
    assert [head.split(b" HTTP")[0] for head in engine.heads] == [
        b"POST /v1.41/containers/create",
        b"POST /v1.41/containers/c1/start",
        b"DELETE /v1.41/containers/c1?force=1&v=1",
    ]
    assert not any(b"agent" in head.lower() or b"cookie" in head.lower() for head in engine.heads)


async def test_an_engine_that_hung_up_meanwhile_is_asked_over_a_new_connection(tmp_path: Path) -> None:
    engine = Engine(MADE, requests=1)
    async with asked(engine, tmp_path) as api:
        for _ in range(3):
            engine.hung_up.clear()
            assert await api.create({}) == "c1"
            await engine.hung_up.wait()
            for _ in range(2):  # the loop looks at its sockets once in each turn
                await asyncio.sleep(0)
    assert engine.connections == 3


async def test_an_answer_without_end_is_read_only_so_far(tmp_path: Path) -> None:
    async with asked(Engine(b" " * (4 * 2**20 + 1)), tmp_path) as api:
        with pytest.raises(UnavailableError, match="too long"):
            await api.create({})


async def test_an_engine_that_sends_elsewhere_isnt_followed(tmp_path: Path) -> None:
    engine = Engine(MADE, status="307 Temporary Redirect\r\nLocation: http://elsewhere/")
    async with asked(engine, tmp_path) as api:
        await api.start("c1")
    assert len(engine.heads) == 1


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        ("404 Not Found", FailedPreconditionError, "no such thing"),
        ("500 Internal Server Error", UnavailableError, "no such thing"),
    ],
)
async def test_a_refusal_says_what_the_engine_said(
    tmp_path: Path, status: str, kind: type[Exception], said: str
) -> None:
    async with asked(Engine(b'{"message": "no such thing\\nmore"}', status=status), tmp_path) as api:
        with pytest.raises(kind, match=said):
            await api.start("c1")


async def test_where_nobody_answers_the_engine_has_failed(tmp_path: Path) -> None:
    async with EngineApi(Endpoint(path=str(tmp_path / "none.sock")), "1.41") as api:
        with pytest.raises(UnavailableError) as caught:
            await api.remove("c1")
    assert caught.value.reason == "ENGINE_FAILED"
    assert "none.sock" in str(caught.value)
