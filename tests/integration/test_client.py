"""The client against a real broker: files, the synchronous facade, and connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.client import AsyncBroker, Broker, CallContext, CallState, Finished, InputFile, Stdout
from broker.errors import NotFoundError, UnavailableError
from tests.served import AGENT, Served

pytestmark = pytest.mark.docker

COUNT = "import time\nfor n in range(200):\n    print(n, flush=True)\n    time.sleep(0.005)\n"
COUNTED = "".join(f"{n}\n" for n in range(200)).encode()


@dataclass
class Relay:
    """A TCP relay whose connections can be cut, as a failing network would."""

    port: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Ends all connections without a word."""
        for writer in self.open:
            writer.transport.abort()
        self.open.clear()


@asynccontextmanager
async def relay(address: str) -> AsyncIterator[Relay]:
    """A relay on localhost to an address."""
    host, _, port = address.rpartition(":")
    state = Relay()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        state.open |= {writer, far_writer}
        await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        state.cut()
        server.close()


def through(served: Served, network: Relay) -> AsyncBroker:
    """A client that goes through the relay."""
    return AsyncBroker.connect(
        f"127.0.0.1:{network.port}",
        identity=served.identity("agent", AGENT),
        ca=served.state / "ca" / "ca.pem",
        context=CallContext(workspace="demo"),
    )


async def test_a_watch_loses_and_doubles_nothing_over_a_cut_connection(served: Served) -> None:
    async with relay(served.address) as network, through(served, network) as client:
        call = await client.create_call("python.run", {"code": COUNT})
        output, numbers, cuts = [], [], 0
        async for event in client.watch(call):
            numbers.append(event.number)
            if isinstance(event, Stdout):
                output.append(event.data)
                if cuts < 3:
                    network.cut()
                    cuts += 1
        assert isinstance(event, Finished)
    assert cuts == 3
    assert numbers == list(range(1, len(numbers) + 1))
    assert b"".join(output) == COUNTED
    assert event.call.succeeded


async def test_a_run_goes_on_over_a_cut_connection(served: Served) -> None:
    seen = []
    async with (
        relay(served.address) as network,
        through(served, network) as client,
        client.stream("python.run", {"code": COUNT}) as events,
    ):
        async for event in events:
            if isinstance(event, Stdout) and not any(isinstance(item, Stdout) for item in seen):
                network.cut()
            seen.append(event)
    assert [event.number for event in seen] == list(range(1, len(seen) + 1))
    assert isinstance(seen[-1], Finished)
    assert seen[-1].call.succeeded
    assert b"".join(item.data for item in seen if isinstance(item, Stdout)) == COUNTED


async def test_leaving_a_run_kills_the_tool_at_once(served: Served) -> None:
    endless = "import time\nprint(1, flush=True)\ntime.sleep(3600)"
    async with served.client() as client:
        async with client.stream("python.run", {"code": endless}, request_id="left") as events:
            async for event in events:
                if isinstance(event, Stdout):
                    break
        # The same request id gives the same call.
        assert (
            await client.create_call("python.run", {"code": endless}, request_id="left")
        ).state is CallState.CANCELLED


async def test_a_download_goes_on_over_a_cut_connection(served: Served, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096 * 8
    async with relay(served.address) as network, through(served, network) as client:
        blob = await client.upload(data)
        received, cut = [], False
        async for piece in client.read(blob):
            received.append(piece)
            if not cut:
                network.cut()
                cut = True
        target = await client.download(blob, tmp_path / "copy")
    assert b"".join(received) == data
    assert target.read_bytes() == data


async def test_the_same_request_id_runs_once(served: Served) -> None:
    async with served.client() as client:
        first = await client.run("python.run", {"code": "print(1)"}, request_id="once")
        second = await client.run("python.run", {"code": "print(1)"}, request_id="once")
    assert first.name == second.name
    assert second.stdout == b"1\n"


def test_the_synchronous_client_does_all_of_it(served: Served, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"42")
    code = "import pathlib\nprint(pathlib.Path('in.txt').read_text())\np = pathlib.Path('out/r.txt')\n"
    code += "p.parent.mkdir(exist_ok=True)\np.write_text('done')\n"
    with Broker.connect(
        served.address,
        identity=served.identity("agent", AGENT),
        ca=served.state / "ca" / "ca.pem",
        context=CallContext(workspace="demo", purpose="to test"),
    ) as client:
        assert "python.run" in [tool.short_name for tool in client.list_tools()]
        assert client.get_tool("python.run").arguments_schema["type"] == "object"
        done = client.run("python.run", {"code": code}, files=[InputFile("in.txt", tmp_path / "in.txt")])
        assert (done.stdout_text, done.succeeded) == ("42\n", True)
        assert done.outcome is not None
        [file] = done.outcome.files
        assert client.download(file, tmp_path / "r.txt").read_text() == "done"
        assert client.get_call(done).arguments == {"code": code}
        assert done.name in [call.name for call in client.list_calls()]
        with client.stream("python.run", {"code": "print(1)"}) as events:
            assert isinstance(list(events)[-1], Finished)
        with pytest.raises(NotFoundError):
            client.get_call("calls/call_00000000000000000000000000")


async def test_a_session_proves_who_started_the_work(served: Served) -> None:
    async with served.human() as human, served.client() as client:
        session = await human.start_session(AGENT, ttl_s=600)
        call = await client.run("python.run", {"code": "1"}, context=CallContext(session=session.name))
        assert call.lineage is not None
        assert (call.lineage.proven, call.lineage.starter) == (True, session.starter)
        assert session.name in [item.name async for item in client.list_sessions()]
        assert (await human.end_session(session.name)).ended is not None


async def test_the_wrong_ca_is_a_connection_that_never_was(served: Served) -> None:
    stranger = served.identity("agent", AGENT) / "cert.pem"
    async with AsyncBroker.connect(
        served.address, identity=served.identity("agent", AGENT), ca=stranger, context=CallContext(workspace="demo")
    ) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.status()
    assert caught.value.reason == "TLS_HANDSHAKE_FAILED"
