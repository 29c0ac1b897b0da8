"""A whole broker with the two-person rule in force, and everybody that an attack needs; made once, copied for each test."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.client import AsyncBroker
from broker.client.approval_models import Approval
from broker.client.models import Call, Stdout
from broker.domain.call import CallState
from broker.sandbox.address import engine_address
from broker.signing import Ed25519Signer
from tests.approval_world import APPROVERS, OPERATOR, SPEC, SPONSOR, WORKFLOW_SPEC, World, make_approval_state
from tests.served import command, issue, serving

BOT, ROVER, BYSTANDER = "carrier", "rover", "gus"
TURN = "world.turn"
CHANGED = {"code": "print('changed')"}
WITHIN_S = 60

_POLICY = """
p, s-turn, role:agent, demo, world.turn, call, 4, allow, agents turn the world
g, human:dan, role:approver, *
g, agent:carrier, role:slack-bot, *
"""


@dataclass(frozen=True)
class Scene:
    """A state directory, and what isn't in it: people's keys, and the names of the sessions."""

    state: Path
    signers: Mapping[str, Ed25519Signer]
    sessions: Mapping[str, str]

    def copy(self, place: Path) -> Scene:
        """The same for one test; its clients must remember nothing of other copies."""
        shutil.copytree(self.state, place, symlinks=True)
        return Scene(place, self.signers, self.sessions)

    @asynccontextmanager
    async def open(self, **env: str) -> AsyncIterator[World]:
        """Serves it, with everybody's clients open."""
        with serving(self.state, **env) as served:
            async with World(served, dict(self.signers)) as world:
                world.session = self.sessions["scout"]
                yield world

    def delegated(self, agent: str, by: str) -> str:
        """A human's own word that an agent may act on their behalf."""
        told = command(self.state, "delegations", "sign", "--agent", agent, "--workspace", "demo", "--as", by, "--json")
        return str(json.loads(told.stdout)["token"])


def make_scene(state: Path) -> Scene:
    """Makes it: scout and the bot are the operator's agents, rover is ada's; world.turn is cyn's tool."""
    make_approval_state(state)
    issue(state, {"dan": "", BYSTANDER: "", ROVER: "ada", BOT: OPERATOR})
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + _POLICY, "utf-8")
    turn = SPEC.replace("world.change", TURN).replace("owner: olivia", "owner: cyn")
    (state / "tool_specs" / "world.turn.yaml").write_text(turn, "utf-8")
    workflow = WORKFLOW_SPEC.replace("[world.change,", f"[world.change, {TURN},")
    (state / "workflows" / "clean-up.yaml").write_text(workflow, "utf-8")
    signers = {name: Ed25519Signer.generate() for name in (*APPROVERS, "dan", SPONSOR, OPERATOR)}
    sessions: dict[str, str] = {}

    async def found() -> None:
        with serving(state) as served:
            async with World(served, signers) as world:
                await world.found()
                await world.admit_bot(BOT, Ed25519Signer.generate(), team="T0TEAM", user="U0ADA")
                await world.approve_workflow()
                for agent, by in (("scout", OPERATOR), (ROVER, "ada")):
                    sessions[agent] = (await world.people[by].start_session(agent, "demo")).name

    asyncio.run(found())
    return Scene(state, signers, sessions)


async def end_of(client: AsyncBroker, call: Call) -> tuple[Call, bytes]:
    """A call's end, and what its tool printed."""
    output = b""
    async with asyncio.timeout(WITHIN_S):
        async for event in client.watch(call):
            if isinstance(event, Stdout):
                output += event.data
    return await client.get_call(call), output


async def until(client: AsyncBroker, call: Call, state: CallState) -> None:
    """Returns once a call is in a state; fails where it ends in another."""
    async with asyncio.timeout(WITHIN_S):
        async for _ in client.watch(call):
            if (await client.get_call(call)).state is state:
                return
    raise AssertionError(f"{call.name} ended before it was {state}")


async def agreed(world: World, approval: Approval, *people: str) -> Approval:
    """These people say yes."""
    for name in people:
        approval = await world.vote(name, approval)
    return approval


@dataclass
class EngineBetween:
    """Stands between a broker and its engine: passes everything on, but for what a test changes or holds up."""

    path: Path
    change: Callable[[dict[str, Any]], None] = lambda _: None
    """Changes the body of each request that makes a container."""
    held: threading.Event = field(default_factory=threading.Event)
    """While it isn't set, nobody is told what a container is."""
    asked: threading.Event = field(default_factory=threading.Event)
    """Set as soon as somebody asks what a container is."""
    said: Callable[[bytes], None] = lambda _: None
    """Is told of each piece of bytes before it goes into a container."""
    tasks: set[asyncio.Task[Any] | None] = field(default_factory=set)

    @property
    def address(self) -> str:
        """Where the broker finds it."""
        return f"unix://{self.path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the broker's."""
        engine = None
        self.tasks.add(asyncio.current_task())  # nobody else holds it
        try:
            head = _last(await reader.readuntil(b"\r\n\r\n"))
            if head.startswith(b"POST") and b"/containers/create" in head.split(b"\r\n", 1)[0]:
                head = await self._changed(head, reader)
            if head.startswith(b"GET") and b"/json HTTP" in head and b"/containers/" in head:
                self.asked.set()
                await asyncio.to_thread(self.held.wait)
            there, engine = await asyncio.open_unix_connection(engine_address("").removeprefix("unix://"))
            engine.write(head)
            attached = b"/attach?" in head.split(b"\r\n", 1)[0]
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass(reader, engine, self.said if attached else None))
                both.create_task(_pass(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.tasks.discard(asyncio.current_task())
            for stream in (writer, engine):
                if stream is not None:
                    stream.close()

    async def _changed(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        lines = head.split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
        body = json.loads(await reader.readexactly(length))
        self.change(body)
        data = json.dumps(body).encode()
        kept = [line for line in lines if line and not line.lower().startswith(b"content-length")]
        return b"\r\n".join([*kept, b"Content-Length: %d" % len(data), b"", b""]) + data


def _last(head: bytes) -> bytes:
    """A request's head that asks the engine to hang up after its answer: so the next request is seen here too."""
    lines = head.split(b"\r\n")[:-2]
    if any(line.lower().startswith(b"upgrade:") for line in lines):
        return head
    kept = [line for line in lines if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""])


async def _pass(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, tell: Callable[[bytes], None] | None = None
) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            if tell is not None:
                tell(data)
            target.write(data)
            await target.drain()
        target.write_eof()


@contextmanager
def engine_between(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Iterator[EngineBetween]:
    """Runs it in a thread of its own."""
    between = EngineBetween(folder / "engine.sock", change)
    between.held.set()
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def run(stop: asyncio.Event) -> None:
        server = await asyncio.start_unix_server(between.serve, between.path)
        ready.set()
        await stop.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run(stop)))
    thread.start()
    assert ready.wait(WITHIN_S)
    try:
        yield between
    finally:
        between.held.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join(WITHIN_S)
        loop.close()
