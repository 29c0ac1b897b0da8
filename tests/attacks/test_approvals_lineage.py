"""Through the whole broker: whoever stands behind a call has no vote on it, and nobody sees what doesn't concern them."""

from __future__ import annotations

import pytest

from broker.client import AsyncBroker
from broker.client.approval_models import Approval
from broker.domain.approval import VoteDecision
from broker.errors import BrokerError, NotFoundError, PermissionDeniedError
from tests.approval_scene import BOT, BYSTANDER, CHANGED, ROVER, TURN, Scene
from tests.approval_world import OPERATOR, SPONSOR, TOOL, World

pytestmark = pytest.mark.docker


async def asked(world: World, agent: AsyncBroker, tool: str = TOOL) -> Approval:
    """What a call of an agent waits for."""
    async with agent:
        call = await agent.create_call(tool, CHANGED)
    (found,) = [item async for item in world.operator.list_approvals() if item.subject == call.name]
    return found


async def refused(world: World, approval: Approval, *people: str) -> None:
    """These people's votes are refused, as of people in the lineage."""
    for name in people:
        with pytest.raises(PermissionDeniedError) as caught:
            await world.vote(name, approval)
        assert caught.value.reason == "VOTER_IN_LINEAGE", name


async def test_owner_registrar_starter_delegator_and_the_tools_owner_have_no_vote(scene: Scene) -> None:
    by_bob, rovers = scene.delegated("scout", "bob"), scene.delegated(ROVER, "bob")
    async with scene.open() as world:
        own = await asked(world, world.agent(ROVER, session=scene.sessions[ROVER]))
        await refused(world, own, "ada", OPERATOR)
        delegated = await asked(world, world.agent(delegation=by_bob))
        await refused(world, delegated, "bob", OPERATOR)
        tool = await asked(world, world.agent(), TURN)
        await refused(world, tool, "cyn", OPERATOR)
        with pytest.raises(PermissionDeniedError) as nobody:
            await asked(world, world.agent(ROVER, session=scene.sessions[ROVER], delegation=rovers), TURN)
        assert nobody.value.reason == "NOBODY_ELIGIBLE"
        assert nobody.value.metadata["missing"] == "1 person with the role approver"
        for approval in (own, delegated, tool):
            assert not (await world.operator.get_approval(approval.name)).may_vote
            assert not (await world.operator.get_approval(approval.name)).votes


async def hidden(client: AsyncBroker, approval: Approval) -> None:
    """An approval is nobody's business who asks like that."""
    async with client:
        assert approval.name not in [item.name async for item in client.list_approvals()]
        for attempt in (client.get_approval, client.cancel_approval):
            with pytest.raises((NotFoundError, PermissionDeniedError)) as caught:
                await attempt(approval.name)
            assert caught.value.reason in {"APPROVAL_NOT_FOUND", "POLICY_DENIED"}


async def test_nobody_sees_what_does_not_concern_them(scene: Scene) -> None:
    async with scene.open() as world:
        call = await asked(world, world.agent())
        account = {"service": "slack", "team": "T0TEAM", "user": "U0BOB", "person": "bob"}
        administration = await world.operator.request_administration("account.map", account)
        for approval in (call, administration):
            await hidden(world.served.human(SPONSOR), approval)
            await hidden(world.served.human(BYSTANDER), approval)
            await hidden(world.agent(ROVER, session=scene.sessions[ROVER]), approval)
        async with world.agent() as agent:
            assert (await agent.get_approval(call.name)).rendering, "who asked sees it"
            with pytest.raises(NotFoundError):
                await agent.get_approval(administration.name)
        assert (await world.people["ada"].get_approval(administration.name)).rendering
        # Lists carry nothing of the content, whoever asks.
        for name in (OPERATOR, "ada", "dan"):
            items = [item async for item in world.people[name].list_approvals()]
            assert items
            assert not any(item.rendering or item.envelope for item in items)


async def test_a_bot_reads_content_for_who_may_decide_and_is_known_by_an_account(scene: Scene) -> None:
    async with scene.open() as world:
        call = await asked(world, world.agent())
        me = {name: await world.people[name].get_founding() for name in ("ada",)}
        ids = {item.key.holder_name.partition(":")[2]: item.key.holder for item in me["ada"].founders}
        async with world.served.connect("agent", BOT, world.context(session="")) as bot:
            assert call.name in [item.name async for item in bot.list_approvals()]
            assert not (await bot.get_approval(call.name)).rendering, "without a voter"
            assert (await bot.get_approval(call.name, voter=ids["ada"])).rendering
            for who, why in (
                (OPERATOR, "in the lineage"),
                (SPONSOR, "without the role"),
                ("dan", "without an account"),
            ):
                shown = await bot.get_approval(call.name, voter=ids[who])
                assert (shown.rendering, shown.envelope) == ("", b""), why
            assert not (await bot.get_approval(call.name, voter="hum_01k00000000000000000000001")).rendering
        for other in (world.agent(ROVER, session=scene.sessions[ROVER]), world.served.human(BYSTANDER)):
            async with other as client:
                with pytest.raises(BrokerError):
                    await client.get_approval(call.name, voter=ids["ada"])
        with pytest.raises(PermissionDeniedError) as human:
            await world.people["ada"].get_approval(call.name, voter=ids["ada"])
        assert human.value.reason == "NOT_A_BOT"


async def test_a_bot_sees_that_administration_waits_and_reads_it_for_who_may_decide(scene: Scene) -> None:
    async with scene.open() as world:
        account = {"service": "slack", "team": "T0TEAM", "user": "U0BOB", "person": "bob"}
        asks = await world.operator.request_administration("account.map", account)
        founders = (await world.people["ada"].get_founding()).founders
        ids = {item.key.holder_name.partition(":")[2]: item.key.holder for item in founders}
        async with world.served.connect("agent", BOT, world.context(session="")) as bot:
            assert asks.name in [item.name async for item in bot.list_approvals()]
            assert not (await bot.get_approval(asks.name)).rendering
            assert not (await bot.get_approval(asks.name, voter=ids["dan"])).rendering, "without an account"
            assert "U0BOB" in (await bot.get_approval(asks.name, voter=ids["ada"])).rendering
            (key,) = [key for key in await world.people["ada"].list_voter_keys() if key.bot]
            await world.people["ada"].revoke_voter_key(key.id, "odd")
            with pytest.raises(NotFoundError):
                await bot.get_approval(asks.name)
            assert asks.name not in [item.name async for item in bot.list_approvals()]


async def test_why_somebody_voted_so_is_read_by_who_may_vote_and_who_answers_for_it(scene: Scene) -> None:
    """The tool is cyn's, who may look at the request and not decide; the agent that asked may too."""
    async with scene.open() as world:
        call = await asked(world, world.agent(), TURN)
        voted = await world.vote("ada", call, VoteDecision.DENY, reason="not tonight")
        assert [vote.reason for vote in voted.votes] == ["not tonight"], "her own"

        async def shown(client: AsyncBroker, voter: str = "") -> list[str]:
            return [vote.reason for vote in (await client.get_approval(call.name, voter=voter)).votes]

        for name in ("ada", "bob", "dan", OPERATOR):
            assert await shown(world.people[name]) == ["not tonight"], name
        assert await shown(world.people["cyn"]) == [""]
        async with world.agent() as agent:
            assert await shown(agent) == [""]
        async with world.served.connect("agent", BOT, world.context(session="")) as bot:
            assert await shown(bot, voted.votes[0].person) == [""]
        for name in ("ada", OPERATOR):
            (listed,) = [item async for item in world.people[name].list_approvals() if item.name == call.name]
            assert [vote.reason for vote in listed.votes] == [""], name
