"""Makes the recorded histories of ``tests/histories`` anew: real brokers with the real engine work, and their bundles are kept.

    python -m tests.record_histories FOLDER

``FOLDER`` is a new one; what is good enough is copied into ``tests/histories`` by hand. ``earlier.zip`` and ``first.zip`` come from
earlier versions of the broker and can't be made anew.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from broker.domain.canonical import JsonObject
from broker.domain.ids import new_id
from broker.domain.ports import Transaction
from broker.errors import PermissionDeniedError
from broker.ledger.entry import OWN_KEYS
from broker.ledger.genesis import read_origin
from broker.ledger.ledger import Ledger
from broker.settings import StatePaths
from broker.store.database import Database
from tests.bundle_world import members, pack
from tests.incident_world import now, publish
from tests.served import Served, command, command_json, make_state, serving

EXAMPLES = Path(__file__).parent.parent / "examples"
NO_PYTHON = "p, day-no-python, role:agent, demo, python.run, call, 0, deny, no programs any more\n"


def main(folder: Path) -> None:
    """Makes all of them."""
    folder.mkdir()
    with TemporaryDirectory(prefix="broker-history-") as work:
        state = Path(work) / "state"
        make_state(state)
        session = _day(state)
        command(state, "ledger", "export", str(folder / "day.zip"))
        more = ("--names", "--as", "olivia", "--case", "an ordinary day")
        command(state, "replay", "bundle", str(folder / "day-session.zip"), "--session", session, *more)
        asyncio.run(_wrong(state))
        command(state, "ledger", "export", str(folder / "wrong.zip"))
    pack(folder / "doctored.zip", _doctored(members(folder / "day.zip")))
    _clean_up(folder / "clean-up.zip")


def _day(state: Path) -> str:
    """An agent works in a session; in the middle the policy is tightened, and the same call is refused."""
    with serving(state) as served:
        session = asyncio.run(_session(served))
        asyncio.run(_work(served, session))
        policy = state / "policy" / "policy.csv"
        policy.write_text(policy.read_text("utf-8") + NO_PYTHON, "utf-8")
        command(state, "policy", "reload", "--identity", "human/olivia", "--address", served.address)
        asyncio.run(_work(served, session))
        command(state, "sessions", "end", session, "--identity", "human/olivia", "--address", served.address)
    return session


async def _session(served: Served) -> str:
    arguments = ("sessions", "start", "--agent", "scout", "--workspace", "demo", "--identity", "human/olivia")
    answer = await asyncio.to_thread(command_json, served.state, *arguments, "--address", served.address)
    return str(answer["name"])


async def _work(served: Served, session: str) -> None:
    """Three calls; what is refused is refused."""
    async with served.client(session=session, purpose="to count", model="a-model", feature="counting") as client:
        for code in ("print(6 * 7)", "raise SystemExit(3)"):
            with suppress(PermissionDeniedError):
                await client.run("python.run", {"code": code})
        with suppress(PermissionDeniedError):
            await client.run("shell.run", {"script": "id"})


async def _wrong(state: Path) -> None:
    """Wrong on purpose: a broker that went astray allows by a policy that denies, and writes it down in a chain that verifies."""
    async with Database.open(StatePaths(state).database) as store:
        ledger = Ledger(await store.read(read_origin), new_id("boot"), now)
        rows = await store.read(lambda tx: tx.ledger.entries(0, 1000))
        listed: list[dict[str, Any]] = [json.loads(row.data) for row in rows]
        tightened = [one for one in listed if one["type"] == "policy.changed"][-1]["policy_digest"]
        decided = next(one for one in listed if one["type"] == "decision" and "call_id" in one)
        of_call = [one for one in listed if one.get("call_id") == decided["call_id"]]
        call, before = new_id("call"), dict[str, int]()
        for one in of_call:
            body: JsonObject = {name: value for name, value in one.items() if name not in OWN_KEYS}
            body["call_id"] = call
            if "policy" in one:
                body["policy"] = {**one["policy"], "digest": tightened}
            if "intent_seq" in one:
                body["intent_seq"] = before["intent"]
            kind, agent = one["type"], one["agent"]["id"]
            before[kind] = await store.write(partial(_append, ledger, kind, body, agent))
    await publish(state)


def _append(ledger: Ledger, kind: str, body: JsonObject, agent: str, tx: Transaction) -> int:
    return ledger.append(tx, kind, body, agent=agent)


def _doctored(files: dict[str, bytes]) -> dict[str, bytes]:
    """One outcome is told otherwise."""
    entries = files["entries.jsonl"]
    assert b'"exit_code":3' in entries
    return {**files, "entries.jsonl": entries.replace(b'"exit_code":3', b'"exit_code":0')}


def _clean_up(path: Path) -> None:
    """The demonstration: two people agree to a clean-up that removes the wrong files and rows, and it is taken back."""
    sys.path.insert(0, str(EXAMPLES))
    demo = importlib.import_module("demo")
    with TemporaryDirectory(prefix="broker-history-") as work, demo.price_service() as prices:
        stage = demo.Demo(Path(work) / "state", {"BROKER_EGRESS_NETWORKS": '["127.0.0.0/8"]'})
        people = demo.TwoPeople(stage, prices)
        clean_up = demo.CleanUp(stage, people, demo.AIRPORTS)
        clean_rows = demo.CleanRows(stage, people, clean_up, demo.AIRPORTS)
        stage.prepare()
        people.prepare()
        clean_up.prepare()
        clean_rows.prepare(clean_up.folder)
        with stage.serving() as address:
            session = stage.session()
            asyncio.run(stage.agent(address, session))
            people.decide(address)
            clean_up.go()
            clean_rows.go()
        stage.broker("ledger", "export", str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
