"""The requests to a container engine, to an engine that answers as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.errors import FailedPreconditionError, UnavailableError
from broker.sandbox.address import Endpoint
from broker.sandbox.docker_api import EngineApi

MADE = b'{"Id": "c1"}'


def answer(body: bytes, status: str = "201 Created") -> bytes:
    """The bytes of a response."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


class Engine:
    """Answers every request alike.

    Args:
        body: what it answers.
        status: with which status.
        requests: after so many it hangs up.
    """

    def __init__(self, body: bytes, *, status: str = "201 Created", requests: int = 100) -> None:
        self.answer = answer(body, status)
        self.requests = requests
        self.heads: list[bytes] = []
        self.connections = 0
        self.was_asked = asyncio.Event()
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        served = 0
        while served < self.requests:
            served += 1
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            self.heads.append(head)
            self.was_asked.set()
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            writer.write(self.answer)
            with suppress(ConnectionError):
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
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
    assert engine.heads[1].split(b"\r\n")[1:] == [b"Host: engine", b"Content-Length: 0", b"", b""]


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
    engine = Engine(b" " * (8 * 2**20))
    async with asked(engine, tmp_path) as api:
        with pytest.raises(UnavailableError, match="too long"):
            await api.create({})
        engine.answer = answer(MADE)
        assert await api.create({}) == "c1"
    assert engine.connections == 2  # what was left of the long one is read by nobody


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


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "kept connection"])
async def test_what_the_engine_may_have_done_is_never_asked_for_again(tmp_path: Path, *, warm: bool) -> None:
    engine = Engine(MADE)
    async with asked(engine, tmp_path) as api:
        if warm:
            await api.create({})
        engine.heads.clear()
        engine.answer = b""
        engine.requests = 1 + warm  # it hangs up instead of answering
        with pytest.raises(UnavailableError) as caught:
            await api.create({})
    assert len(engine.heads) == 1
    assert caught.value.reason == "ENGINE_FAILED"


async def test_a_request_that_was_given_up_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    engine = Engine(MADE)
    engine.answer = b""
    async with asked(engine, tmp_path) as api:
        given_up = asyncio.create_task(api.create({}))
        await engine.was_asked.wait()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        engine.answer = answer(b'{"Id": "c2"}')
        assert await api.create({}) == "c2"
    assert engine.connections == 2


async def test_after_its_end_it_refuses(tmp_path: Path) -> None:
    async with asked(Engine(MADE), tmp_path) as api:
        pass
    with pytest.raises(UnavailableError, match="closed"):
        await api.create({})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_engine_is_reached_by_its_port(host: str) -> None:
    engine = Engine(MADE)
    async with await asyncio.start_server(engine.serve, host) as server:
        port = server.sockets[0].getsockname()[1]
        async with EngineApi(Endpoint(host=host, port=port), "1.41") as api:
            assert await api.create({}) == "c1"


async def test_where_nobody_answers_the_engine_has_failed(tmp_path: Path) -> None:
    async with EngineApi(Endpoint(path=str(tmp_path / "none.sock")), "1.41") as api:
        with pytest.raises(UnavailableError) as caught:
            await api.remove("c1")
    assert caught.value.reason == "ENGINE_FAILED"
    assert "none.sock" in str(caught.value)
