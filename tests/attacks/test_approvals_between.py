"""Between approval and run somebody changes what runs, with the stored approval untouched: the call stops, and says what differs."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.cli.local import open_local
from broker.client.models import Call, InputFile
from broker.domain.approval import ApprovalState
from broker.domain.call import CallState
from broker.domain.canonical import digest
from broker.domain.events import REQUEST, REQUEST_TEXTS, decode_request, encode_request
from broker.domain.ports import Transaction
from tests.approval_scene import CHANGED, TURN, EngineBetween, Scene, agreed, end_of, engine_between, until
from tests.approval_world import TOOL, World, tiers_with
from tests.attacks.test_envelope_behind_the_back import MADE, sdk
from tests.served import command_json, ledger

pytestmark = pytest.mark.docker

DIFFERS = re.compile(
    r"ENVELOPE_CHANGED: .*envelope (sha256:[0-9a-f]{64}) instead of (sha256:[0-9a-f]{64}): (\S+) differs"
)


def other_image(body: dict[str, Any]) -> None:
    """Another image that runs just as well: the same one with a label more."""
    with sdk() as client:
        made = client.create_container(body["Image"])["Id"]
        try:
            body["Image"] = client.commit(made, "broker-test-other", "x", changes="LABEL broker.other=1")["Id"]
        finally:
            client.remove_container(made)


CONTAINERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "image": (other_image, "container.image"),
    "argv": (MADE["further_arguments"][0], "container.argv"),
    "environment": (MADE["another_variable"][0], "container.environment.digest"),
    "user": (MADE["root"][0], "container.user"),
    "capabilities": (MADE["a_capability"][0], "container.capabilities.added"),
    "mounts": (MADE["a_bind_mount"][0], "container.mounts[/host]"),
    "network": (MADE["the_hosts_network"][0], "container.network.mode"),
    "memory": (MADE["more_memory"][0], "container.memory_bytes"),
    "processes": (MADE["more_processes"][0], "container.processes"),
    "system calls": (MADE["no_system_call_filter"][0], "container.security.seccomp"),
    "root": (MADE["a_writable_root"][0], "container.read_only_root"),
}


async def approved(world: World, agent: Any, tool: str = TOOL) -> Call:  # noqa: ANN401 - a client
    """A call to which two people agree."""
    call: Call = await agent.create_call(tool, CHANGED)
    await agreed(world, await world.pending(call.name), "ada", "bob")
    return call


async def test_a_container_that_was_made_otherwise_never_gets_the_job(scene: Scene, tmp_path: Path) -> None:
    settings = scene.state / "settings.yaml"
    merged = {**yaml.safe_load(settings.read_text("utf-8")), "pool_floor": 0, "pool_ceiling": 0}
    settings.write_text(yaml.safe_dump(merged), "utf-8")
    found: dict[str, str] = {}
    with engine_between(tmp_path) as between:
        async with scene.open(DOCKER_HOST=between.address) as world, world.agent() as agent:
            for what, (change, _) in CONTAINERS.items():
                between.change = _changes(change)
                ended, output = await end_of(agent, await approved(world, agent))
                assert (ended.state, output) == (CallState.DENIED, b""), what
                assert ended.outcome is not None
                match = DIFFERS.search(ended.outcome.detail)
                assert match is not None, (what, ended.outcome.detail)
                assert match[1] != match[2]
                found[what] = match[3]
            between.change = lambda _: None
            ended, output = await end_of(agent, await approved(world, agent))
            assert (ended.state, output) == (CallState.SUCCEEDED, b"changed\n"), "it is no fault of what stands between"
    assert found == {what: field for what, (_, field) in CONTAINERS.items()}
    assert len([item for item in ledger(scene.state) if item["type"] == "intent"]) == 1
    with sdk() as client:
        client.remove_image("broker-test-other:x", force=True)


def _changes(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    def changed(body: dict[str, Any]) -> None:
        change(body)

    return changed


def reseal(scene: Scene, call: str, **changes: Any) -> None:  # noqa: ANN401 - any member of a request
    """The operator opens what is sealed, changes it and seals it again."""
    which = call.removeprefix("calls/")
    with open_local(scene.state) as local:

        def read(tx: Transaction) -> dict[int, bytes]:
            return dict(local.vault.open(tx, which).read(tx, min(REQUEST, REQUEST_TEXTS), 64))

        kept = local.read(read)
        stored = replace(decode_request(kept[REQUEST], kept[REQUEST_TEXTS]), **changes)
        brief, texts = encode_request(stored)
        sql(scene, "DELETE FROM vault_chunk WHERE object_id = ? AND idx IN (?, ?)", which, REQUEST, REQUEST_TEXTS)
        local.write(lambda tx: local.vault.open(tx, which).put(tx, {REQUEST: brief, REQUEST_TEXTS: texts}))


def sql(scene: Scene, statement: str, *values: object) -> None:
    """The operator works on the database."""
    with closing(sqlite3.connect(scene.state / "broker.db", isolation_level=None, timeout=30)) as connection:
        assert connection.execute(statement, values).rowcount > 0


async def test_what_is_sealed_and_stored_is_changed_while_the_broker_is_stopped(scene: Scene) -> None:
    other = {"code": "print('other')"}
    async with scene.open() as world, world.agent() as agent:
        calls = {}
        for name in ("arguments", "session", "queued", "set to approved", "untouched"):
            calls[name] = await agent.create_call(TOOL, CHANGED)
            await world.vote("ada", await world.pending(calls[name].name))
        waiting = {name: await world.pending(call.name) for name, call in calls.items()}
    reseal(scene, calls["arguments"].name, arguments_json=json.dumps(other, separators=(",", ":")))
    reseal(scene, calls["session"].name, expires=waiting["session"].created.replace(year=2999))
    for name, state in (("queued", "QUEUED"), ("set to approved", "APPROVED")):
        sql(scene, "UPDATE call SET state = ? WHERE id = ?", state, calls[name].name.removeprefix("calls/"))
    sql(scene, "UPDATE approval SET state = 'APPROVED' WHERE id = ?", waiting["set to approved"].name.partition("/")[2])
    async with scene.open() as world, world.agent() as agent:
        queued, _ = await end_of(agent, calls["queued"])
        assert queued.state is CallState.DENIED
        assert queued.outcome is not None
        assert "REQUIREMENT_STRICTER" in queued.outcome.detail
        assert (await agent.get_call(calls["set to approved"])).state is not CallState.RUNNING
        for name in ("arguments", "session", "set to approved", "untouched"):
            await world.vote("bob", waiting[name])
        for name, field in (("arguments", "arguments"), ("session", "expires")):
            ended, output = await end_of(agent, calls[name])
            assert (ended.state, output) == (CallState.DENIED, b""), name
            assert ended.outcome is not None
            match = DIFFERS.search(ended.outcome.detail)
            assert match is not None, ended.outcome.detail
            assert match[1] != match[2]
            assert match[3].startswith(field)
        for name in ("set to approved", "untouched"):
            ended, output = await end_of(agent, calls[name])
            assert (ended.state, output) == (CallState.SUCCEEDED, b"changed\n"), "two people's signatures were there"
    assert len([item for item in ledger(scene.state) if item["type"] == "intent"]) == 2
    assert command_json(scene.state, "ledger", "verify")["verdict"] == "ok"


async def test_an_input_file_is_changed_in_the_vault(scene: Scene) -> None:
    code = {"code": "print(open('in.txt').read())"}
    async with scene.open() as world, world.agent() as agent:
        calls, blobs = {}, {}
        for name in ("content", "content and digest", "untouched"):
            blobs[name] = await agent.upload(f"good {len(name):4}".encode())
            calls[name] = await agent.create_call("python.run", code, files=[InputFile("in.txt", blobs[name])])
            await world.vote("ada", await world.pending(calls[name].name))
        waiting = {name: await world.pending(call.name) for name, call in calls.items()}
    for name in ("content", "content and digest"):
        which = blobs[name].name.removeprefix("blobs/")
        sql(scene, "DELETE FROM vault_chunk WHERE object_id = ?", which)
        with open_local(scene.state) as local:
            local.write(lambda tx, which=which: local.vault.open(tx, which).put(tx, {0: b"evil    "}))  # type: ignore[misc]  # bound now
        if "digest" in name:
            sql(scene, "UPDATE vault_object SET digest = ? WHERE id = ?", digest(b"evil    "), which)
    async with scene.open() as world, world.agent() as agent:
        for approval in waiting.values():
            await world.vote("bob", approval)
        for name, call in calls.items():
            ended, output = await end_of(agent, call)
            assert b"evil" not in output
            assert (ended.state is CallState.SUCCEEDED) == (name == "untouched"), name
            assert ended.outcome is not None
            if name != "untouched":
                assert re.search(r"files\[[^]]*\]", ended.outcome.detail), ended.outcome.detail
                assert len(set(re.findall(r"sha256:[0-9a-f]{64}", ended.outcome.detail))) == 2


async def test_the_specification_on_disk_is_changed(scene: Scene) -> None:
    async with scene.open() as world, world.agent() as agent:
        turn, change = await agent.create_call(TURN, CHANGED), await agent.create_call(TOOL, CHANGED)
        approvals = [await world.pending(call.name) for call in (turn, change)]
        for approval in approvals:
            await world.vote("ada", approval)
    spec = scene.state / "tool_specs" / "world.turn.yaml"
    spec.write_text(spec.read_text("utf-8").replace("Changes the world", "Changes it all"), "utf-8")
    async with scene.open() as world, world.agent() as agent:
        for approval in approvals:
            await world.vote("bob", approval)
        ended, output = await end_of(agent, turn)
        assert (ended.state, output) == (CallState.DENIED, b"")
        assert ended.outcome is not None
        assert "TOOL_VERSION_CHANGED" in ended.outcome.detail
        assert (await end_of(agent, change))[0].state is CallState.SUCCEEDED


async def test_workflow_and_table_of_tiers_are_changed(scene: Scene) -> None:
    async with scene.open() as world, world.agent() as agent:
        call = await agent.create_call(TOOL, CHANGED)
        approval = await world.pending(call.name)
        await world.vote("ada", approval)
    workflow = scene.state / "workflows" / "clean-up.yaml"
    before = workflow.read_text("utf-8")
    workflow.write_text(before.replace("models: [model-1]", "models: [model-1, model-2]"), "utf-8")
    async with scene.open() as world, world.agent() as agent:
        await world.vote("bob", approval)
        ended, output = await end_of(agent, call)
        assert (ended.state, output) == (CallState.DENIED, b"")
        assert ended.outcome is not None
        assert "WORKFLOW_NOT_APPROVED" in ended.outcome.detail
    workflow.write_text(before, "utf-8")
    async with scene.open() as world, world.agent() as agent:
        call = await agent.create_call(TOOL, CHANGED)
        approval = await world.pending(call.name)
        await world.vote("ada", approval)
    (scene.state / "tool_specs" / "tiers.yaml").write_text(tiers_with(people=3), "utf-8")
    async with scene.open() as world, world.agent() as agent:
        await world.vote("bob", approval)
        ended, output = await end_of(agent, call)
        assert (ended.state, output) == (CallState.DENIED, b"")
        assert ended.outcome is not None
        assert "REQUIREMENT_STRICTER" in ended.outcome.detail


async def test_the_policy_is_changed(scene: Scene) -> None:
    policy = scene.state / "policy" / "policy.csv"
    async with scene.open() as world, world.agent() as agent:
        call = await agent.create_call(TOOL, CHANGED)
        approval = await world.pending(call.name)
        await world.vote("ada", approval)
        # An edit that has nothing to do with it stops nothing, though the policy's digest is another.
        plain = policy.read_text("utf-8")
        policy.write_text(
            plain + "p, s-other, role:agent, elsewhere, world.change, call, 4, deny, not there\n", "utf-8"
        )
        await world.operator.reload_policy()
        await world.vote("bob", approval)
        assert (await end_of(agent, call))[0].state is CallState.SUCCEEDED
        call = await agent.create_call(TOOL, CHANGED)
        approval = await world.pending(call.name)
        await world.vote("ada", approval)
        policy.write_text(plain + "p, s-stop, role:agent, demo, world.change, call, 4, deny, no more\n", "utf-8")
        await world.operator.reload_policy()
        await world.vote("bob", approval)
        ended, output = await end_of(agent, call)
    assert (ended.state, output) == (CallState.DENIED, b"")
    assert ended.outcome is not None
    assert "s-stop" in ended.outcome.detail or "POLICY_DENIED" in ended.outcome.detail


# the broker is killed half-way


async def test_it_is_killed_after_the_second_vote_while_the_container_is_claimed(scene: Scene, tmp_path: Path) -> None:
    with engine_between(tmp_path) as between:
        async with scene.open(DOCKER_HOST=between.address) as world, world.agent() as agent:
            call = await agent.create_call(TOOL, CHANGED)
            approval = await world.pending(call.name)
            await world.vote("ada", approval)
            _hold(between)
            await world.vote("bob", approval)
            assert between.asked.wait(60), "the call's container is looked at before anything begins"
            world.served.kill()
    assert not [item for item in ledger(scene.state) if item["type"] == "intent"]
    async with scene.open() as world, world.agent() as agent:
        ended, output = await end_of(agent, call)
        assert (ended.state, output) == (CallState.SUCCEEDED, b"changed\n")
        assert (await world.operator.get_approval(approval.name)).state is ApprovalState.USED
    assert len([item for item in ledger(scene.state) if item["type"] == "intent"]) == 1


def _hold(between: EngineBetween) -> None:
    between.asked.clear()
    between.held.clear()


async def test_it_is_killed_between_use_and_outcome(scene: Scene) -> None:
    async with scene.open() as world, world.agent() as agent:
        call = await agent.create_call(TOOL, {"code": "import time\nprint('began', flush=True)\ntime.sleep(600)"})
        approval = await world.pending(call.name)
        await agreed(world, approval, "ada", "bob")
        await until(agent, call, CallState.RUNNING)
        world.served.kill()
    async with scene.open() as world, world.agent() as agent:
        ended, _ = await end_of(agent, call)
        assert ended.state is CallState.UNKNOWN
        assert (await world.operator.get_approval(approval.name)).state is ApprovalState.USED
    types = [item["type"] for item in ledger(scene.state) if item.get("call_id") == call.name.removeprefix("calls/")]
    assert types.count("intent") == 1
    assert types[-1] == "unknown"
