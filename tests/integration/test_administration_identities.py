"""Once the two-person rule is in force, the registry changes only as two people agreed, once and exactly."""

from __future__ import annotations

from typing import Any

import pytest

from broker.domain.approval import ApprovalState
from broker.errors import InvalidArgumentError
from tests.approval_world import OPERATOR, Founded, needed, refused
from tests.served import command, command_json, ledger

pytestmark = pytest.mark.docker

_NEW = ("identity", "issue", "agent", "rover", "--owner", "ada")


def _issued(founded: Founded) -> list[dict[str, Any]]:
    return [item for item in ledger(founded.state) if item["type"] == "identity.issued" and "approvals" in item]


async def test_a_new_agent_is_registered_once_two_people_agree_to_its_very_key(founded: Founded) -> None:
    error = refused(founded.state, *_NEW)
    action, parameters = needed(error)
    assert (action, parameters["name"], parameters["owner"]) == ("identity.issue", "rover", "ada")
    assert needed(refused(founded.state, *_NEW))[1] == parameters, "the key is kept from one run to the next"
    with founded.serving() as world:
        async with world:
            one = await world.agree(action, parameters, people=0)
            # ada will own it: she stands in the lineage, and has no vote on it.
            await world.vote("bob", one)
            refused(founded.state, *_NEW)
            agreed = await world.vote("cyn", one)
            assert agreed.state is ApprovalState.APPROVED
            issued = command_json(founded.state, *_NEW)
            assert (issued["name"], issued["owner"]) == ("rover", "ada")
            assert (await world.operator.get_approval(one.name)).state is ApprovalState.USED
            async with world.agent("rover") as client:
                assert [tool async for tool in client.list_tools()]
    entries = _issued(founded)
    assert [entry["change"] for entry in entries] == ["registered", "certificate"]
    assert {entry["approvals"][0]["id"] for entry in entries} == {one.name.removeprefix("approvals/")}
    assert not list((founded.state / "identities" / "agent").glob(".*")), "nothing waits any more"
    again = needed(refused(founded.state, *_NEW))[1]
    assert again["key_digest"] != parameters["key_digest"], "another certificate is another question"
    assert command_json(founded.state, "ledger", "verify")["verdict"] == "ok"


async def test_a_renewal_takes_two_people_and_neither_is_the_holder(founded: Founded) -> None:
    renewal = ("identity", "issue", "human", "ada", "--as", "ada")
    action, parameters = needed(refused(founded.state, *renewal))
    with founded.serving() as world:
        async with world:
            await world.agree(action, parameters, by="ada")
            assert command_json(founded.state, *renewal)["name"] == "ada"


async def test_an_owner_changes_as_soon_as_two_people_agree(founded: Founded) -> None:
    action, parameters = needed(refused(founded.state, "identity", "owner", "scout", "--owner", "ada"))
    with founded.serving() as world:
        async with world:
            one = await world.agree(action, parameters, people=0)
            await world.vote("bob", one)
            done = await world.vote("cyn", one)
            assert done.state is ApprovalState.USED
    agents = {item["name"]: item for item in command_json(founded.state, "identity", "list")["items"]}
    assert agents["scout"]["owner"] == "ada"


async def test_the_command_that_a_refusal_names_asks_for_it(founded: Founded) -> None:
    error = refused(founded.state, *_NEW)
    with founded.serving() as world:
        words = ["approvals", "request", "identity.issue", "--parameters", error["metadata"]["parameters"], "--json"]
        asked = command(founded.state, *words, "--as", OPERATOR, "--reason", "a new one", check=False)
        assert asked.returncode == 4, asked.stdout + asked.stderr
        async with world:
            shown = await world.operator.get_approval((await world.pending()).name)
            assert "identity.issue" in shown.rendering
            assert "a new one" in shown.rendering


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "robot"}, "parameters.kind"),
        ({"name": "No Name"}, "parameters.name"),
        ({"owner": "nobody"}, "parameters.owner"),
        ({"key_digest": ""}, "parameters.key_digest"),
        ({"kind": "human"}, "parameters.owner"),
        ({"name": "scout"}, "parameters.owner"),
    ],
)
async def test_what_can_never_be_used_is_not_asked_for(founded: Founded, changes: dict[str, str], field: str) -> None:
    parameters = {"kind": "agent", "name": "rover", "owner": "ada", "key_digest": "sha256:" + "0" * 64, **changes}
    with founded.serving() as world:
        async with world:
            with pytest.raises(InvalidArgumentError) as wrong:
                await world.operator.request_administration("identity.issue", parameters)
    assert wrong.value.violations[0].field == field


async def test_an_approver_revokes_an_identity_at_once_and_somebody_without_a_key_does_not(founded: Founded) -> None:
    revoking = ("identity", "revoke", "human", "cyn", "--reason", "left", "--as")
    state = founded.state
    key = next(
        item
        for item in ledger(state)
        if item["type"] == "key.enrolled" and item["key"]["id"] == founded.signers["eve"].id
    )
    with founded.serving() as world:
        async with world:
            await world.people["eve"].revoke_voter_key(key["key"]["id"], "lost")
    refusal = command(state, *revoking, "eve", check=False)
    assert refusal.returncode == 3, refusal.stdout + refusal.stderr
    assert "NOT_AN_APPROVER" in refusal.stderr
    assert command_json(state, *revoking, "bob")["revoked"]
