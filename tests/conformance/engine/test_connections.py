"""What a tool opens on its sandbox's loopback, and how it ends: bytes both ways, half-closes, breaks, bounds."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable

import pytest

from broker.domain.run import EndCause, Limits, Output
from broker.errors import InternalError, InvalidArgumentError
from broker.sandbox.engine import PROXY_PORT, Duplex, Engine
from tests.sandbox_support import Finished, argv, finish, leased, profile, python

pytestmark = pytest.mark.docker

PORT = 6000
WITHIN_S = 30
LIMITS = Limits(wall_s=60)


class Gate:
    """Serves each connection with one function."""

    def __init__(self, serve: Callable[[Duplex], Awaitable[None]]) -> None:
        self._serve = serve
        self.ports: list[int] = []

    async def serve(self, listener: int, stream: Duplex) -> None:
        self.ports.append(listener)
        await self._serve(stream)


async def echo(stream: Duplex) -> None:
    while data := await stream.read():
        await stream.write(data)
    await stream.end()


def connecting(code: str) -> str:
    connect = f"def connect(port={PORT}): return socket.create_connection(('127.0.0.1', port))"
    return f"import os, socket, json\n{connect}\n{code}"


async def run(engine: Engine, code: str, gate: Gate, *, proxy: bool = False, kind: str = "python") -> Finished:
    job = python(connecting(code), forwards=(PORT,), proxy=proxy)
    if kind == "argv":
        job = argv("python3", "-c", connecting(code), forwards=(PORT,), proxy=proxy)
    async with asyncio.timeout(WITHIN_S), leased(engine, await profile(engine, LIMITS)) as lease:
        done = await finish(lease, job, gate)
    assert done.stderr == b"", done.stderr.decode()
    return done


async def run_until(engine: Engine, code: str, gate: Gate, seen: asyncio.Event) -> None:
    """Lets a tool that would go on for ever say something, waits for what the gate sees, and kills it."""
    async with asyncio.timeout(WITHIN_S), leased(engine, await profile(engine, LIMITS)) as lease:
        async for event in lease.run(python(connecting(code), forwards=(PORT,)), gate):
            if isinstance(event, Output):
                await seen.wait()
                lease.kill(EndCause.CLIENT, "seen")


@pytest.mark.parametrize("kind", ["python", "argv"])
async def test_many_bytes_come_back_as_they_went(engine: Engine, kind: str) -> None:
    code = (
        "import hashlib, threading\nblob = os.urandom(5_000_001)\nend = connect()\n"
        "def send():\n    end.sendall(blob)\n    end.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=send).start()\nfound = b''.join(iter(lambda: end.recv(65536), b''))\n"
        "print(found == blob)"
    )
    assert (await run(engine, code, Gate(echo), kind=kind)).text == "True\n"


async def test_the_gate_is_told_which_port_was_reached(engine: Engine) -> None:
    gate = Gate(echo)
    code = f"for port in ({PROXY_PORT}, {PORT}, {PROXY_PORT}):\n    with connect(port) as end:\n        end.shutdown(1); end.recv(1)"
    await run(engine, code, gate, proxy=True)
    assert gate.ports == [PROXY_PORT, PORT, PROXY_PORT]


async def test_either_side_may_close_first_and_go_on_reading(engine: Engine) -> None:
    heard = bytearray()
    all_heard = asyncio.Event()

    async def closes_first(stream: Duplex) -> None:
        await stream.write(b"mine")
        await stream.end()
        while data := await stream.read():
            heard.extend(data)
        all_heard.set()

    code = (
        "import time\nend = connect()\nassert b''.join(iter(lambda: end.recv(9), b'')) == b'mine'\n"
        "end.sendall(b'after')\nend.shutdown(1)\nprint('sent', flush=True)\ntime.sleep(600)"
    )
    await run_until(engine, code, Gate(closes_first), all_heard)
    assert heard == b"after"


async def test_a_gate_that_gives_up_breaks_the_connection(engine: Engine) -> None:
    async def fails(stream: Duplex) -> None:
        await stream.read()
        raise ConnectionError

    async def leaves(stream: Duplex) -> None:
        await stream.read()

    code = "end = connect()\nend.sendall(b'x')\ntry: print(end.recv(9))\nexcept ConnectionResetError: print('reset')"
    for gate in (Gate(fails), Gate(leaves)):
        assert (await run(engine, code, gate)).text == "reset\n"


async def test_a_gate_that_ends_hands_over_its_last_bytes(engine: Engine) -> None:
    blob = os.urandom(1_000_000)

    async def gives(stream: Duplex) -> None:
        await stream.write(blob)
        await stream.end()

    code = (
        "import hashlib\nend = connect()\nend.sendall(b'never read')\n"
        "print(hashlib.sha256(b''.join(iter(lambda: end.recv(4096), b''))).hexdigest())"
    )
    assert (await run(engine, code, Gate(gives))).text.strip() == hashlib.sha256(blob).hexdigest()


async def test_a_tool_that_breaks_its_connection_is_noticed(engine: Engine) -> None:
    broke = asyncio.Event()

    async def watches(stream: Duplex) -> None:
        try:
            while await stream.read():
                pass
        except ConnectionResetError:
            broke.set()
            raise

    code = (
        "import struct, time\nend = connect()\nend.sendall(b'x')\n"
        "end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\nend.close()\n"
        "print('broken', flush=True)\ntime.sleep(600)"
    )
    await run_until(engine, code, Gate(watches), broke)


async def test_connections_over_the_bound_are_closed_and_the_others_go_on(engine: Engine) -> None:
    code = (
        "def ask(end):\n    try:\n        end.sendall(b'x')\n        return end.recv(1) == b'x'\n    except OSError:\n        return False\n"
        "ends = [connect() for _ in range(100)]\n"
        "good = [ask(end) for end in ends]\n"
        "for end in ends: end.close()\n"
        "while not ask(connect()): pass\n"
        "print(good.count(True), good[:64] == [True] * 64)"
    )
    assert (await run(engine, code, Gate(echo))).text == "64 True\n"


async def test_hundreds_of_connections_one_after_the_other(engine: Engine) -> None:
    code = (
        "for number in range(500):\n    with connect() as end:\n        end.sendall(b'%d' % number)\n        end.shutdown(1)\n"
        "        assert b''.join(iter(lambda: end.recv(99), b'')) == b'%d' % number\nprint('all')"
    )
    gate = Gate(echo)
    assert (await run(engine, code, gate)).text == "all\n"
    assert len(gate.ports) == 500


async def test_a_tool_cannot_take_the_listeners_ports(engine: Engine) -> None:
    code = (
        "found = []\nfor option in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT):\n"
        f"    for address in ('127.0.0.1', '0.0.0.0'):\n        for port in ({PROXY_PORT}, {PORT}):\n"
        "            end = socket.socket()\n            if option: end.setsockopt(socket.SOL_SOCKET, option, 1)\n"
        "            try:\n                end.bind((address, port)); end.listen(); found.append((option, address, port))\n"
        "            except OSError: pass\nprint(found)"
    )
    assert (await run(engine, code, Gate(echo), proxy=True)).text == "[]\n"


async def test_the_environment_names_the_proxy_and_a_job_cannot_change_it(engine: Engine) -> None:
    code = "import os, json\nprint(json.dumps({key: value for key, value in os.environ.items() if 'proxy' in key.lower()}))"
    job = python(code, proxy=True, env={"http_proxy": "http://elsewhere", "no_proxy": "*"})
    async with leased(engine, await profile(engine, LIMITS)) as lease:
        done = await finish(lease, job, Gate(echo))
    address = f"http://127.0.0.1:{PROXY_PORT}"
    assert json.loads(done.stdout) == {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
    }


async def test_without_egress_nothing_listens(engine: Engine) -> None:
    code = f"import socket\nfor port in ({PROXY_PORT}, {PORT}):\n    print(socket.socket().connect_ex(('127.0.0.1', port)) != 0)"
    async with leased(engine, await profile(engine, LIMITS)) as lease:
        done = await finish(lease, python(code), Gate(echo))
    assert done.text == "True\nTrue\n"


async def test_ports_that_cannot_be_are_refused(engine: Engine) -> None:
    async with leased(engine, await profile(engine, LIMITS)) as lease:
        for ports in ((80,), (65536,), (PROXY_PORT,), (PORT, PORT), tuple(range(7000, 7100))):
            with pytest.raises(InvalidArgumentError):
                await finish(lease, python("", forwards=ports, proxy=True), Gate(echo))
        with pytest.raises(InternalError):
            await finish(lease, python("", forwards=(PORT,)))
        assert (await finish(lease, python("print(1)"))).text == "1\n"


async def test_the_end_of_the_tool_cuts_every_connection(engine: Engine) -> None:
    begun, ended = 0, 0

    async def holds(stream: Duplex) -> None:
        nonlocal begun, ended
        begun += 1
        try:
            await stream.write((await stream.read()) * 2)
            await asyncio.Event().wait()
        finally:
            ended += 1

    code = "ends = [connect() for _ in range(9)]\nfor end in ends: end.sendall(b'x')\nfor end in ends: end.recv(2)\nos._exit(3)"
    done = await run(engine, code, Gate(holds))
    assert (done.ended.exit_code, begun, ended) == (3, 9, 9)
