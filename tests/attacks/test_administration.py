"""An operator who is alone, and root on the machine, tries to get round the two people who would have to agree."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from broker.domain.approval import ApprovalState
from broker.errors import BrokerError, FailedPreconditionError, NotFoundError, PermissionDeniedError
from broker.signing import Ed25519Signer
from tests.approval_world import OPERATOR, Founded, World, needed, refused, tiers_with
from tests.served import command, command_json, ledger

pytestmark = pytest.mark.docker

_PUPPET = "\ng, human:eve, role:approver, *\n"
_WITHIN_S = 60


def _edit(state: Path, more: str) -> None:
    policy = state / "policy" / "policy.csv"
    draft = policy.with_suffix(".new")
    draft.write_text(policy.read_text("utf-8") + more, "utf-8")
    draft.replace(policy)


async def _reload(world: World) -> BrokerError:
    with pytest.raises(FailedPreconditionError) as refusal:
        await world.operator.reload_policy()
    return refusal.value


async def _refused_by_the_watcher(world: World, seen: set[str]) -> str:
    """Digest of the next policy that the broker has found by itself, and has not put into force."""
    async with asyncio.timeout(_WITHIN_S):
        while True:
            held = {item.digest for item in (await world.operator.status()).held if item.action == "policy.change"}
            if new := held - seen:
                return new.pop()


async def test_operator_edits_the_policy_to_make_a_sock_puppet_an_approver(founded: Founded) -> None:
    with founded.serving() as world:
        async with world:
            before = (await world.operator.status()).policy_digest
            seen: set[str] = set()
            for more in (_PUPPET, "\ng, human:mallory, role:approver, *\n"):
                _edit(founded.state, more)
                seen.add(await _refused_by_the_watcher(world, seen))
                assert (await world.operator.status()).policy_digest == before
            error = await _reload(world)
            assert error.reason == "APPROVAL_REQUIRED"
            assert "broker policy apply" in error.hint
            assert "role:approver" in error.message
            assert (await world.operator.status()).policy_digest == before
            asked = await world.operator.request_administration(
                "account.map", {"service": "slack", "team": "T01", "user": "U01", "person": "bob"}
            )
            with pytest.raises(NotFoundError):  # whoever has no vote on it doesn't even see it
                await world.vote("eve", asked)


async def test_operator_edits_the_policy_while_the_broker_is_down(founded: Founded) -> None:
    with founded.serving() as world:
        async with world:
            before = (await world.operator.status()).policy_digest
    _edit(founded.state, _PUPPET)
    for _ in range(2):
        with founded.serving() as world:
            async with world:
                assert (await world.operator.status()).policy_digest == before
                assert (await _reload(world)).reason == "APPROVAL_REQUIRED"


async def test_the_policy_file_is_another_one_after_two_people_agreed(founded: Founded) -> None:
    file = founded.state.parent / "agreed.csv"
    file.write_text((founded.state / "policy" / "policy.csv").read_text("utf-8") + _PUPPET, "utf-8")
    with founded.serving() as world:
        async with world:
            before = (await world.operator.status()).policy_digest
            words = ("policy", "apply", str(file), "--as", OPERATOR, "--json")
            asked = json.loads(command(founded.state, *words, check=False).stdout)
            for name in ("ada", "bob"):
                agreed = await world.vote(name, await world.operator.get_approval(asked["approval"]))
            assert agreed.state is ApprovalState.APPROVED
            _edit(founded.state, _PUPPET + "g, human:mallory, role:approver, *\n")
            assert (await _reload(world)).reason == "APPROVAL_REQUIRED"
            assert (await world.operator.status()).policy_digest == before
            assert (await world.operator.get_approval(agreed.name)).state is ApprovalState.APPROVED


async def test_operator_issues_a_second_certificate_for_an_approver(founded: Founded) -> None:
    refused(founded.state, "identity", "issue", "human", "ada", "--out", str(founded.state.parent / "stolen"))
    assert not (founded.state.parent / "stolen" / "cert.pem").exists()
    certificates = {
        item["name"]: len(item["certificates"]) for item in command_json(founded.state, "identity", "list")["items"]
    }
    assert certificates["ada"] == 1


async def test_operator_registers_a_person_of_his_own(founded: Founded) -> None:
    refused(founded.state, "identity", "issue", "human", "mallory")
    names = {item["name"] for item in command_json(founded.state, "identity", "list")["items"]}
    assert "mallory" not in names


async def test_operator_takes_the_founding_out_of_the_database(founded: Founded) -> None:
    with closing(sqlite3.connect(founded.state / "broker.db")) as database:
        database.execute("DELETE FROM founding")
        database.commit()
    for words in (
        ("identity", "issue", "human", "mallory"),
        ("identity", "issue", "human", "ada"),
        ("identity", "owner", "scout", "--owner", "ada"),
    ):
        result = command(founded.state, *words, "--json", check=False)
        assert result.returncode == 6, result.stdout + result.stderr
        assert json.loads(result.stdout)["reason"] == "FOUNDING_CHANGED"


async def test_operator_enrols_a_second_key_for_an_approver_alone(founded: Founded) -> None:
    puppet = Ed25519Signer.generate()
    with founded.serving() as world:
        async with world:
            asked = await world.operator.request_administration(
                "key.enroll", {"person": "ada", "vkey": str(puppet.vkey("ada")), "kind": "approver"}
            )
            assert asked.state is ApprovalState.PENDING
            # Neither who asked nor whom it concerns has a vote, and a key that isn't enrolled signs nothing.
            for name in (OPERATOR, "ada"):
                with pytest.raises(PermissionDeniedError) as own:
                    await world.vote(name, asked)
                assert own.value.reason == "VOTER_IN_LINEAGE"
            world.signers["ada"] = puppet
            with pytest.raises(BrokerError):
                await world.vote("ada", asked)
            await world.vote("bob", asked)
            with pytest.raises(BrokerError):
                await world.vote("bob", asked)  # twice is once
            assert (await world.operator.get_approval(asked.name)).state is ApprovalState.PENDING
            assert puppet.id not in {key.id for key in await world.operator.list_voter_keys()}


async def test_an_approval_for_one_name_or_key_is_used_for_another(founded: Founded) -> None:
    one = ("identity", "issue", "agent", "rover", "--owner", "ada")
    other = ("identity", "issue", "agent", "raider", "--owner", "ada")
    action, parameters = needed(refused(founded.state, *one))
    refused(founded.state, *other)
    pending = founded.state / "identities" / "agent"
    with founded.serving() as world:
        async with world:
            asked = await world.agree(action, parameters, people=0)
            for name in ("bob", "cyn"):
                await world.vote(name, asked)
            refused(founded.state, *other)
            # The agreed key under another name, and another key under the agreed name.
            (pending / ".raider.pending" / "key.pem").write_bytes((pending / ".rover.pending" / "key.pem").read_bytes())
            refused(founded.state, *other)
            agreed_key = (pending / ".rover.pending" / "key.pem").read_bytes()
            (pending / ".rover.pending" / "key.pem").unlink()
            refused(founded.state, *one)
            refused(founded.state, "identity", "issue", "agent", "rover", "--owner", OPERATOR)
            # Somebody who voted on it doesn't use it.
            (pending / ".rover.pending" / "key.pem").write_bytes(agreed_key)
            refused(founded.state, *one, "--as", "bob")
            command_json(founded.state, *one)
            refused(founded.state, *one)


async def test_a_vote_counts_no_more_once_its_key_is_revoked(founded: Founded) -> None:
    one = ("identity", "issue", "agent", "rover", "--owner", "ada")
    action, parameters = needed(refused(founded.state, *one))
    with founded.serving() as world:
        async with world:
            asked = await world.agree(action, parameters, people=0)
            for name in ("bob", "cyn"):
                await world.vote(name, asked)
            await world.people["ada"].revoke_voter_key(world.signers["cyn"].id, "stolen")
            result = command(founded.state, *one, "--json", check=False)
            assert json.loads(result.stdout)["reason"] == "APPROVAL_NOT_MET"


async def test_operator_lowers_the_tier_of_a_tool(founded: Founded) -> None:
    spec = founded.state / "tool_specs" / "world.change.yaml"
    spec.write_text(spec.read_text("utf-8").replace("tier: 4", "tier: 1"), "utf-8")
    with founded.serving() as world:
        async with world:
            held = (await world.operator.status()).held
            assert [item.action for item in held] == ["tool.approve"]
            (why,) = held[0].weaker
            assert why.startswith("world.change would be of tier 1 instead of 4: given a lower tier")
            async with world.agent() as agent:
                assert (await agent.get_tool("world.change")).tier == 4
                with pytest.raises(BrokerError) as refusal:
                    await agent.create_call("world.change", {"code": "print(1)"})
                assert refusal.value.reason == "WORKFLOW_NOT_APPROVED", "Tier 4 asks for what Tier 1 doesn't"


async def test_operator_removes_a_tool_and_brings_it_back_at_a_lower_tier(founded: Founded) -> None:
    specs = founded.state / "tool_specs"
    text = (specs / "world.change.yaml").read_text("utf-8").replace("world.change", "world.touch")
    again = specs / "world.touch.yaml"
    for content, held in ((text, False), ("", False), (text.replace("tier: 4", "tier: 1"), True)):
        if content:
            again.write_text(content, "utf-8")
        else:
            again.unlink()
        with founded.serving() as world:
            async with world:
                assert bool((await world.operator.status()).held) is held
    assert not [item for item in ledger(founded.state) if item["type"] == "settings.changed" and item.get("approvals")]


async def test_operator_takes_votes_by_slack_for_tier_4(founded: Founded) -> None:
    (founded.state / "tool_specs" / "tiers.yaml").write_text(tiers_with(channels=["cli", "slack"]), "utf-8")
    with founded.serving(BROKER_UNSAFE_SLACK_APPROVES_TIER4="1") as world:
        async with world:
            held = (await world.operator.status()).held
            assert [item.action for item in held] == ["settings.change"]
            assert "the setting unsafe_slack_approves_tier4 would be on" in held[0].weaker
            await world.approve_workflow()
            await world.start_session()
            async with world.agent() as agent:
                call = await agent.create_call("world.change", {"code": "print(1)"})
                approval = await world.pending(call.name)
            assert approval.requirement.channels == ("cli",)
