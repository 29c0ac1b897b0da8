"""Between approval and apply somebody changes what would be applied, or who may: the apply stops, says why, and changes nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from broker.cli.local import open_local
from broker.client.models import Call
from broker.domain.approval import ApprovalState
from broker.domain.call import CallState
from broker.domain.planned import PLANNED, Planned, decode_planned, encode_planned
from broker.domain.ports import Transaction
from tests.approval_scene import end_of
from tests.approval_world import Founded, World, tiers_with
from tests.served import command, command_json, ledger
from tests.tree_world import CHANGE_4, content, object_file, seed, sql, state_of, waiting, which

pytestmark = pytest.mark.docker

DIFFERS = re.compile(
    r"ENVELOPE_CHANGED: .*envelope (sha256:[0-9a-f]{64}) instead of (sha256:[0-9a-f]{64}): (\S+) differs"
)


def adds(name: str) -> str:
    """A program that adds one file, whose bytes nobody else has."""
    return f"open({name!r}, 'w').write({name!r} * 100)"


def plan_of(founded: Founded, call: Call) -> Planned:
    with open_local(founded.state) as local:
        found = local.read(lambda tx: dict(local.vault.open(tx, which(call)).read(tx, PLANNED, 1)))
    return decode_planned(found[PLANNED])


def put_plan(founded: Founded, call: Call, planned: Planned) -> None:
    """Who holds the vault's key seals another plan in the place of the kept one."""
    sql(founded.state, "DELETE FROM vault_chunk WHERE object_id = ? AND idx = ?", which(call), PLANNED)
    with open_local(founded.state) as local:

        def work(tx: Transaction) -> None:
            local.vault.open(tx, which(call)).put(tx, {PLANNED: encode_planned(planned)})

        local.write(work)


def intents(founded: Founded) -> int:
    return len([item for item in ledger(founded.state) if item["type"] == "intent"])


async def ended(world: World, call: Call) -> tuple[CallState, str]:
    async with world.agent() as agent:
        found, _ = await end_of(agent, call)
    assert found.outcome is not None
    return found.state, found.outcome.detail


async def half_agreed(world: World, names: tuple[str, ...]) -> tuple[dict[str, Call], dict[str, Any]]:
    """Calls that one of two has agreed to."""
    calls = {name: await waiting(world, adds(name)) for name in names}
    approvals = {name: await world.pending(call.name) for name, call in calls.items()}
    for approval in approvals.values():
        await world.vote("ada", approval)
    return calls, approvals


async def test_the_kept_plan_and_what_it_brings_are_changed(tree_world: Founded) -> None:
    names = ("plan", "base", "object", "gone", "untouched")
    with tree_world.serving() as serving:
        async with serving as world:
            calls, approvals = await half_agreed(world, names)
    before, stands = content(tree_world.state), state_of(tree_world.state)
    other = plan_of(tree_world, calls["untouched"])
    put_plan(tree_world, calls["plan"], replace(plan_of(tree_world, calls["plan"]), effect=other.effect))
    put_plan(tree_world, calls["base"], replace(plan_of(tree_world, calls["base"]), base="sha256:" + "0" * 64))
    object_file(tree_world.state, b"object" * 100).write_bytes(b"evil!!" * 100)
    object_file(tree_world.state, b"gone" * 100).unlink()
    with tree_world.serving() as serving:
        async with serving as world:
            found = {}
            for name in names[:-1]:
                await world.vote("bob", approvals[name])
                found[name] = await ended(world, calls[name])
                assert state_of(tree_world.state) == stands, name
            await world.vote("bob", approvals["untouched"])
            last = await ended(world, calls["untouched"])
            assert last[0] is CallState.SUCCEEDED, last
    for name, field in (("plan", "digest"), ("base", "base")):
        assert found[name][0] in {CallState.DENIED, CallState.CANCELLED}, found[name]
        match = DIFFERS.search(found[name][1])
        assert match is not None, found[name]
        assert match[1] != match[2]
        assert match[3].startswith(field)
    for name, why in (("object", "its bytes have the digest"), ("gone", "it is missing")):
        assert found[name][0] is CallState.CANCELLED, found[name]
        assert "TREE_DAMAGED" in found[name][1]
        assert why in found[name][1]
    assert content(tree_world.state).keys() - before.keys() == {"untouched"}
    assert intents(tree_world) == 1
    assert command_json(tree_world.state, "ledger", "verify")["verdict"] == "ok"


async def test_what_would_take_it_back_is_erased_damaged_or_swapped(tree_world: Founded) -> None:
    names = ("erased", "damaged", "swapped", "untouched")
    with tree_world.serving() as serving:
        async with serving as world:
            calls, approvals = await half_agreed(world, names)
    stands = state_of(tree_world.state)
    plans = {name: plan_of(tree_world, call) for name, call in calls.items()}
    chunk = "SELECT id FROM vault_object WHERE digest = ? AND id LIKE 'art_%'"
    sql(tree_world.state, "DELETE FROM vault_object WHERE id = ?", plans["erased"].artifact)
    sql(
        tree_world.state,
        f"UPDATE vault_chunk SET sealed = zeroblob(length(sealed)) WHERE object_id = ({chunk})",  # noqa: S608 - no input
        plans["damaged"].artifact,
    )
    put_plan(tree_world, calls["swapped"], replace(plans["swapped"], artifact=plans["untouched"].artifact))
    with tree_world.serving() as serving:
        async with serving as world:
            for name, reason in (
                ("erased", "ARTIFACT_MISSING"),
                ("damaged", "VAULT_|ARTIFACT_DAMAGED|CONTENT_DAMAGED"),
                ("swapped", "ARTIFACT_DAMAGED|ENVELOPE_CHANGED"),
            ):
                await world.vote("bob", approvals[name])
                state, detail = await ended(world, calls[name])
                assert state in {CallState.DENIED, CallState.CANCELLED}, (name, detail)
                assert re.search(reason, detail), (name, detail)
                assert state_of(tree_world.state) == stands, name
            await world.vote("bob", approvals["untouched"])
            last = await ended(world, calls["untouched"])
            assert last[0] is CallState.SUCCEEDED, last
    assert intents(tree_world) == 1


async def test_the_workspace_is_set_to_another_state(tree_world: Founded) -> None:
    with tree_world.serving() as serving:
        async with serving as world:
            calls, approvals = await half_agreed(world, ("a", "b"))
    stands = state_of(tree_world.state)
    other = seed(tree_world.state, "elsewhere", {"README.md": b"other\n"})
    sql(tree_world.state, "UPDATE workspace_tree SET state = ? WHERE workspace = 'demo'", other)
    with tree_world.serving() as serving:
        async with serving as world:
            await world.vote("bob", approvals["a"])
            state, detail = await ended(world, calls["a"])
            assert state is CallState.DENIED
            assert "BASE_MOVED" in detail
            assert "'README.md'" in detail
            assert state_of(tree_world.state).state == other
    rebuilt = command(tree_world.state, "ledger", "rebuild", "--json", check=False)
    assert rebuilt.returncode == 1, rebuilt.stderr
    assert "workspace_tree" in rebuilt.stdout
    sql(tree_world.state, "UPDATE workspace_tree SET state = ? WHERE workspace = 'demo'", stands.state)
    with tree_world.serving() as serving:
        async with serving as world:
            await world.vote("bob", approvals["b"])
            assert (await ended(world, calls["b"]))[0] is CallState.SUCCEEDED


async def test_tool_workflow_and_table_of_tiers_are_changed_on_disk(tree_world: Founded) -> None:
    state = tree_world.state
    spec, workflow = state / "tool_specs" / f"{CHANGE_4}.yaml", state / "workflows" / "clean-up.yaml"
    tiers = state / "tool_specs" / "tiers.yaml"
    plain = {path: path.read_text("utf-8") for path in (spec, workflow)}
    edits = {
        "tool": (spec, plain[spec].replace('writes: ["**"]', 'writes: ["never"]'), "TOOL_VERSION_CHANGED"),
        "workflow": (workflow, plain[workflow].replace("[model-1]", "[model-1, model-2]"), "WORKFLOW_NOT_APPROVED"),
        "tiers": (tiers, tiers_with(people=3), "REQUIREMENT_STRICTER"),
    }
    stands = state_of(state)
    with tree_world.serving() as serving:
        async with serving as world:
            calls, approvals = await half_agreed(world, ("tool", "workflow", "untouched"))
    for name, (path, text, reason) in edits.items():
        if name == "tiers":  # weaker ones than were in force are taken back by nobody alone
            with tree_world.serving() as serving:
                async with serving as world:
                    await world.vote("bob", approvals["untouched"])
                    last = await ended(world, calls["untouched"])
                    assert last[0] is CallState.SUCCEEDED, last
                    more, asked = await half_agreed(world, ("tiers",))
            calls, approvals = calls | more, approvals | asked
            stands = state_of(state)
        path.write_text(text, "utf-8")
        with tree_world.serving() as serving:
            async with serving as world:
                await world.vote("bob", approvals[name])
                found, detail = await ended(world, calls[name])
        assert found is CallState.DENIED, (name, detail)
        assert reason in detail
        assert state_of(state) == stands
        path.write_text(plain.get(path, text), "utf-8")
    assert intents(tree_world) == 1


async def test_policy_and_people_change(tree_world: Founded) -> None:
    state = tree_world.state
    policy, stands = state / "policy" / "policy.csv", state_of(tree_world.state)
    with tree_world.serving() as serving:
        async with serving as world, world.agent() as agent:
            calls, approvals = await half_agreed(world, ("cancelled", "policy", "key"))
            await agent.cancel_call(calls["cancelled"])
            assert (await end_of(agent, calls["cancelled"]))[0].state is CallState.CANCELLED
            denies = f"p, s-stop, role:agent, demo, {CHANGE_4}, call, 4, deny, no more\n"
            policy.write_text(policy.read_text("utf-8") + denies, "utf-8")
            await world.operator.reload_policy()
            await world.vote("bob", approvals["policy"])
            found, detail = await ended(world, calls["policy"])
            assert found is CallState.DENIED
            assert "s-stop" in detail or "POLICY_DENIED" in detail
            # Ada's key is revoked: her vote counts no more, and bob's alone is not enough.
            await world.people["bob"].revoke_voter_key(world.signers["ada"].id, "stolen")
            assert (await world.vote("bob", approvals["key"])).state is ApprovalState.PENDING
            await agent.cancel_call(calls["key"])
            ended_key, _ = await end_of(agent, calls["key"])
            assert ended_key.state is CallState.CANCELLED
    assert state_of(state) == stands
    assert intents(tree_world) == 0
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"
