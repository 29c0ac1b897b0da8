"""A real service outside of the broker, a tool that changes it, and a state directory in which people agree to that.

The service is a shelf of named texts behind a TCP port. It can be told to fail in the ways in which services do.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from broker.client.models import Call
from broker.domain.call import CallState
from tests.approval_scene import until
from tests.approval_world import Founded, World, make_approval_state
from tests.served import serving

SET, SET_4 = "shelf.set", "shelf.put"
"""The same tool at Tier 1 and at Tier 4."""
_PORT_INSIDE = 15555

PROGRAM = """
import json, os, pathlib, socket, sys

def ask(message):
    with socket.create_connection(("127.0.0.1", 15555), 20) as line, line.makefile("rw") as stream:
        stream.write(json.dumps(message) + "\\n")
        stream.flush()
        answer = stream.readline()
    if not answer:
        sys.exit("the shelf broke off")
    return json.loads(answer)

def folder(name):
    place = pathlib.Path(name)
    return {p.relative_to(place).as_posix(): p.read_text() for p in place.rglob("*") if p.is_file()}

def write(name, items):
    for item, text in items.items():
        place = pathlib.Path(name) / item
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

step = sys.argv[1]
origin = pathlib.Path("origin/arguments.json")
arguments = json.loads((origin if origin.exists() else pathlib.Path(os.environ["BROKER_ARGUMENTS"])).read_text())
before, after = folder("before"), folder("after")
names = sorted({*before, *after})
if step == "plan":
    wanted = arguments["items"]
    present = ask({"op": "get", "names": sorted(wanted)})
    write("before", present)
    write("after", {**present, **{k: v for k, v in wanted.items() if v is not None}})
    for name, text in wanted.items():
        if text is None and name in present:
            os.unlink("after/" + name)
elif step == "verify":
    write("now", ask({"op": "get", "names": names}))
else:
    answer = ask({"op": step, "names": names, "before": before, "after": after})
    if not answer["done"]:
        print("STATE_MOVED: " + answer["why"], file=sys.stderr)
        sys.exit(5)
"""

SPEC = """
name: shelf.set
description: Puts texts on a shelf outside of the broker, and takes them off.
owner: olivia
tier: 1
image: python
effects: outside
reversibility: exact
outside: {plan: shelf.py, rehearse: shelf.py, undo: shelf.py, verify: shelf.py}
run:
  python: {file: shelf.py}
arguments:
  type: object
  properties:
    items: {type: object, additionalProperties: {type: [string, "null"]}}
  required: [items]
  additionalProperties: false
limits: {wall_time: 10s}
"""

POLICY = """
p, t-shelf, role:agent, demo, shelf.set, call, 1, allow, agents change the shelf
p, t-shelf-4, role:agent, demo, shelf.put, call, 4, allow, agents change the shelf for good
p, t-shelf-undo, role:agent, demo, workspace.undo, call, 4, allow, agents take back
"""

BEGINNING = {"apple": "red\n", "pear": "green\n", "deep/plum": "blue\n"}


class Shelf:
    """The service. ``fault`` says how ``apply``, or what else ``of`` names, goes wrong, and ``then`` what does next: ``broken`` (done, and no answer), ``half`` (one item is
    done, then no answer), ``refused`` (not done, and said so), ``hangs`` (done, and an answer only once ``released``).
    """

    def __init__(self) -> None:
        self.items = dict(BEGINNING)
        self.asked: list[str] = []
        self.fault = ""
        self.of = "apply"
        self.then = ("", "")
        self.reached = threading.Event()
        """Set once a fault has been met."""
        self.released = threading.Event()
        self.port = 0
        self._lock = threading.Lock()

    def reset(self) -> None:
        """As at the beginning."""
        self.items, self.asked, self.fault, self.of, self.then = dict(BEGINNING), [], "", "apply", ("", "")
        self.reached.clear()
        self.released.clear()

    def answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """What is answered to a message; ``None`` for nothing at all."""
        with self._lock:
            self.asked.append(message["op"])
            if message["op"] == "get":
                return {name: self.items[name] for name in message["names"] if name in self.items}
            fault = self.fault if message["op"] == self.of else ""
            if fault and self.then[0]:
                (self.fault, self.of), self.then = self.then, ("", "")
            elif fault:
                self.reached.set()
            if fault == "refused":
                return {"done": False, "why": "the shelf says no"}
            names, before, after = message["names"], message["before"], message["after"]
            wrong = [name for name in names if self.items.get(name) != before.get(name)]
            if wrong:
                return {"done": False, "why": ", ".join(wrong)}
            if message["op"] == "rehearse":
                return {"done": True}
            for name in names[: 1 if fault == "half" else None]:
                self.items.pop(name, None)
                if name in after:
                    self.items[name] = after[name]
        if fault == "hangs":
            self.released.wait(60)
        return None if fault in {"broken", "half", "hangs"} else {"done": True}

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answers while the block lasts."""
        shelf = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline()
                found = shelf.answer(json.loads(line)) if line else None
                if found is not None:
                    self.wfile.write(json.dumps(found).encode() + b"\n")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = int(server.server_address[1])
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield
            finally:
                self.released.set()
                server.shutdown()
                thread.join()


def add_tools(state: Path, port: int, *, on_failure: str = "none") -> None:
    """Adds the two tools and the policy for them."""
    specs = state / "tool_specs"
    specs.mkdir(exist_ok=True)
    (specs / "shelf.py").write_text(PROGRAM, "utf-8")
    spec = yaml.safe_load(SPEC)
    spec["egress"] = [{"host": "127.0.0.1", "port": port, "kind": "tcp", "listen": _PORT_INSIDE}]
    spec["outside"]["on_failure"] = on_failure
    (specs / "shelf.set.yaml").write_text(yaml.safe_dump(spec), "utf-8")
    (specs / "shelf.put.yaml").write_text(yaml.safe_dump({**spec, "name": SET_4, "tier": 4, "owner": "cyn"}), "utf-8")
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")


async def make_outside_world(state: Path, port: int, *, on_failure: str = "none") -> Founded:
    """Makes a state directory with the two-person rule in force, and the tools."""
    make_approval_state(state, settings={"egress_networks": ["127.0.0.0/8"]})
    add_tools(state, port, on_failure=on_failure)
    workflow = state / "workflows" / "clean-up.yaml"
    text = workflow.read_text("utf-8").replace("[world.change,", f"[world.change, {SET}, {SET_4}, workspace.undo,")
    workflow.write_text(text, "utf-8")
    with serving(state) as served:
        async with World(served) as world:
            await world.found()
            await world.approve_workflow()
    return Founded(state, world.signers)


async def waiting(world: World, items: dict[str, str | None]) -> Call:
    """A Tier-4 call that waits for people, its effect known."""
    if not world.session:
        await world.start_session()
    async with world.agent() as agent:
        call = await agent.create_call(SET_4, {"items": items})
        await until(agent, call, CallState.PENDING_APPROVAL)
        return call
