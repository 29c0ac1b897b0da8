"""A state directory with recorded calls of every kind, and the services that they reached, which count who comes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from broker.client.models import Call, InputFile, Stdout
from broker.domain.call import CallState
from tests import egress_support
from tests.approval_scene import agreed, end_of, until
from tests.approval_world import TOOL, World, make_approval_state
from tests.egress_support import Host, make_certificates, ok
from tests.outside_world import SET, Shelf
from tests.outside_world import add_tools as add_shelf
from tests.served import command, serving
from tests.tree_world import CHANGE, CHANGE_4, FILES, seed
from tests.tree_world import add_tools as add_files

T = TypeVar("T")

FETCH, ROWS = "own.fetch", "shop.rows"
TOKEN = "tok-5d1b7c0e9a8f4e21"  # noqa: S105  # of these tests
POLICY = """
p, t-fetch, role:agent, demo, own.fetch, call, 2, allow, agents fetch
p, t-rows, role:agent, demo, shop.rows, call, 1, allow, agents change rows
"""

PLAIN = """
import os, sys
print("hello")
print("beside", file=sys.stderr)
os.mkdir("out")
open("out/a.txt", "w").write(open("in.txt").read().upper())
sys.exit(3)
"""
CHANCE = "import os\nprint('same')\nprint(os.urandom(8).hex())\nopen('out.bin', 'wb').write(os.urandom(4))\n"
LONG = "print('x' * 3_000_000)"
WRITE = """
import os
os.unlink("src/old/a.txt")
open("README.md", "a").write("more\\n")
print("written")
"""
AGAIN = """
import os
open("README.md", "a").write("again\\n")
os.symlink("README.md", "inside")
"""


@dataclass(frozen=True)
class Recorded:
    """What the attacks are made on: nobody serves it, and the services are there."""

    state: Path
    shelf: Shelf
    requests: list[bytes]
    calls: dict[str, str]
    """What it is -> its id."""
    session: str
    """Of all of them but ``slow``."""

    def copy(self, place: Path) -> Recorded:
        """The same state for one test."""
        shutil.copytree(self.state, place, symlinks=True)
        return Recorded(place, self.shelf, self.requests, self.calls, self.session)


def answer(state: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of a command with ``--json``."""
    result = command(state, *arguments, "--json", check=False)
    assert result.stdout.count("\n") == 1, f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.returncode, json.loads(result.stdout)


def rerun(state: Path, call: str) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of ``broker replay rerun``."""
    return answer(state, "replay", "rerun", call)


def everything(state: Path) -> dict[str, str]:
    """Path -> digest of every file that a replay mustn't touch, with the time of its last change."""
    ours = {"replays", "serve.lock", "serve.json"}
    found = {}
    for path in sorted(state.rglob("*")):
        name = path.relative_to(state).as_posix()
        if path.is_file() and not path.is_symlink() and name.partition("/")[0] not in ours:
            found[name] = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
    return found


class Beside:
    """An event loop in a thread of its own: hosts that answer while tests run commands."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something there, and waits for it."""
        done: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result()

    def close(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def web(place: Path, requests: list[bytes]) -> Iterator[tuple[int, Path]]:
    """A host that speaks TLS and keeps what it was asked; gives its port, and the CA that vouches for it."""
    made = make_certificates(place)

    def handler(host: Host) -> egress_support.Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.append(await host.read_request(reader))
            writer.write(ok(b"fine"))
            await writer.drain()
            writer.close()

        return handle

    beside = Beside()
    serving_host = egress_support.serving(handler, made.context())
    try:
        host = beside.run(serving_host.__aenter__())
        try:
            yield host.port, made.ca
        finally:
            beside.run(serving_host.__aexit__(None, None, None))
    finally:
        beside.close()


def add_more(state: Path, repository: Path, port: int) -> None:
    """Adds a tool that reaches a host with a secret, and one that changes rows of a file of the workspace."""
    shipped = repository / "tool_specs"
    rows = yaml.safe_load((shipped / "sqlite.execute.yaml").read_text("utf-8"))
    rows |= {"name": ROWS, "tier": 1, "owner": "olivia"}
    (state / "tool_specs" / f"{ROWS}.yaml").write_text(yaml.safe_dump(rows), "utf-8")
    (state / "tool_specs" / "sqlite_execute.py").write_bytes((shipped / "sqlite_execute.py").read_bytes())
    spec = yaml.safe_load((shipped / "python.run.yaml").read_text("utf-8"))
    secret = {"name": "api-token", "header": "authorization", "prefix": "Bearer "}
    spec["egress"] = [{"host": "127.0.0.1", "port": port, "kind": "https", "secret": secret}]
    (state / "tool_specs" / f"{FETCH}.yaml").write_text(yaml.safe_dump({**spec, "name": FETCH}), "utf-8")
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")


def shop(place: Path) -> bytes:
    """A SQLite file with customers."""
    path = place / "shop.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT);")
        db.executescript("INSERT INTO customer VALUES (1, 'Ada'), (2, 'Grace');")
    return path.read_bytes()


@contextmanager
def recorded(place: Path, repository: Path) -> Iterator[Recorded]:
    """Makes it."""
    shelf, requests = Shelf(), list[bytes]()
    place.mkdir(exist_ok=True)
    with shelf.serving(), web(place, requests) as (port, ca):
        state = place / "state"
        secrets = {"api-token": {"source": "env:OWN_TOKEN", "hosts": [f"127.0.0.1:{port}"]}}
        settings = {"egress_networks": ["127.0.0.0/8"], "egress_trust": str(ca), "secrets": secrets}
        make_approval_state(state, settings=settings)
        add_files(state)
        add_shelf(state, shelf.port)
        add_more(state, repository, port)
        tools = f"[world.change, {CHANGE}, {CHANGE_4}, {SET}, {FETCH}, workspace.undo,"
        workflow = state / "workflows" / "clean-up.yaml"
        workflow.write_text(workflow.read_text("utf-8").replace("[world.change,", tools), "utf-8")
        seed(state, files={**FILES, "data/shop.db": shop(place)})
        calls, session = asyncio.run(_calls(state, port))
        yield Recorded(state, shelf, requests, calls, session)


async def _calls(state: Path, port: int) -> tuple[dict[str, str], str]:
    calls: dict[str, Call] = {}
    fetch = f"""
import urllib.request
request = urllib.request.Request("http://127.0.0.1:{port}/v1/hello", headers={{"Authorization": "Bearer mine"}})
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""
    with serving(state, OWN_TOKEN=TOKEN) as served:
        async with World(served) as world:
            await world.ready()
            # A workflow raises what runs in it to its own tier.
            async with world.agent(workflow="") as agent:
                file = await agent.upload(b"some text\n")
                calls["plain"] = await agent.run("python.run", {"code": PLAIN}, files=[InputFile("in.txt", file)])
                calls["chance"] = await agent.run("python.run", {"code": CHANCE})
                calls["long"] = await agent.run("python.run", {"code": LONG})
                calls["fetch"] = await agent.run(FETCH, {"code": fetch})
                calls["write"] = await agent.run(CHANGE, {"code": WRITE})
                calls["undo"] = await agent.run("workspace.undo", {"call": calls["write"].name.removeprefix("calls/")})
                calls["again"] = await agent.run(CHANGE, {"code": AGAIN})
                statement = "DELETE FROM customer WHERE id = ?"
                arguments = {"database": "data/shop.db", "sql": statement, "parameters": [1]}
                calls["rows"] = await agent.run(ROWS, arguments)
                calls["outside"] = await agent.run(SET, {"items": {"apple": "golden\n"}})
            async with world.agent(workflow="", session="") as agent:
                slow = await agent.create_call("python.run", {"code": "print(1, flush=True)\nwhile True: pass"})
                async for event in agent.watch(slow):
                    if isinstance(event, Stdout):
                        break
                calls["slow"] = await agent.cancel_call(slow)
            async with world.agent() as agent:
                call = await agent.create_call(CHANGE_4, {"code": "import os; os.unlink('data/blob.bin')"})
                await until(agent, call, CallState.PENDING_APPROVAL)
                await agreed(world, await world.pending(call.name), "ada", "bob")
                calls["tier4"], _ = await end_of(agent, call)
                never = await agent.create_call(TOOL, {"code": "print('never')"})
                calls["never"] = await agent.cancel_call(never)
                calls["waits"] = await agent.create_call(CHANGE_4, {"code": "import os; os.unlink('empty')"})
                await until(agent, calls["waits"], CallState.PENDING_APPROVAL)
        session = world.session
    states = {name: call.state for name, call in calls.items()}
    failed = {name for name, state in states.items() if state is not CallState.SUCCEEDED}
    assert failed == {"plain", "slow", "never", "waits"}, {name: calls[name].outcome for name in failed}
    return {name: call.name.removeprefix("calls/") for name, call in calls.items()}, session.removeprefix("sessions/")
