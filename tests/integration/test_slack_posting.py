"""The channel's messages: they follow each approval, through restarts, rate limits, and whatever is away."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from broker.errors import FailedPreconditionError
from broker.v1 import approvals_pb2 as pb
from tests.slack_server import CHANNEL, Fault, limited
from tests.slack_world import World, slack_world


async def test_a_message_says_ids_tool_tier_and_summary_and_no_content(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add("secret content", tier=4)
        text = await world.shown(approval)
        for word in (approval, "broker.admin", "Tier 4", "ops", "asked by human:cy", "Look and decide"):
            assert word in text
        assert "secret content" not in world.slack.seen_in_channel()
        sent = world.slack.called("chat.postMessage")[0]
        assert (sent["parse"], sent["link_names"], sent["unfurl_links"]) == ("none", False, False)


async def test_it_is_updated_when_it_expires(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        world.service.set(approval, state=pb.APPROVAL_STATE_EXPIRED)
        assert "Look and decide" not in await world.shown(approval, "Expired")
        assert len(world.slack.called("chat.postMessage")) == 1


async def test_a_new_start_goes_on_with_the_same_message(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        open_one, closed_one = world.service.add(), world.service.add()
        await world.shown(open_one)
        await world.shown(closed_one)
        await world.stop()
        world.service.set(closed_one, state=pb.APPROVAL_STATE_DENIED)
        world.service.set(open_one, missing=["1 more person of finance"])
        await world.start()
        await world.shown(closed_one, "Denied")
        await world.shown(open_one, "finance")
        assert len(world.slack.called("chat.postMessage")) == 2


async def test_what_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        for _ in range(3):
            world.service.tell(approval)
        other = world.service.add()
        await world.shown(other)
        assert not world.slack.called("chat.update")


async def test_a_rate_limit_is_kept_to_and_the_last_state_comes(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        world.slack.fail("chat.update", limited(1), limited(1))
        begun = time.monotonic()
        for number in range(20):
            world.service.set(approval, missing=[f"change {number}"])
        await world.shown(approval, "change 19")
        assert time.monotonic() - begun >= 2
        assert len(world.slack.called("chat.update")) <= 5  # twenty changes, most of them in one message


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, body="<html>oops</html>"),
        Fault(status=503, error="service_unavailable"),
        Fault(error="internal_error"),
        Fault(status=429, error="ratelimited", retry_after="0"),
    ],
)
async def test_a_failure_of_slacks_that_passes_is_waited_for(tmp_path: Path, fault: Fault) -> None:
    async with slack_world(tmp_path) as world:
        world.slack.fail("chat.postMessage", fault, fault)
        approval = world.service.add()
        await world.shown(approval)
        assert len(world.slack.called("chat.postMessage")) == 3
        assert len(world.slack.messages) == 1


async def test_slack_is_down_and_the_last_state_comes_later(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        await world.slack.stop()
        world.service.set(approval, missing=["1 more person"])
        world.service.set(approval, state=pb.APPROVAL_STATE_DENIED)
        later = world.service.add()
        await world.slack.start()
        await world.shown(approval, "Denied")
        await world.shown(later, "Waits for approval")


async def test_the_bot_starts_while_slack_is_down(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False) as world:
        approval = world.service.add()
        await world.slack.stop()
        starting = asyncio.create_task(world.start())
        await world.slack.start()
        await starting
        await world.shown(approval)


async def test_the_broker_is_down_and_what_came_meanwhile_is_shown_later(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        ended = world.service.add()
        await world.shown(ended)
        await world.broker.stop()
        world.service.kept[ended].state = pb.APPROVAL_STATE_EXPIRED
        later = world.service.add()
        await world.broker.start()
        await world.shown(ended, "Expired")
        await world.shown(later)


async def test_one_that_slack_refuses_holds_up_no_other(tmp_path: Path) -> None:
    channels = {"ops": "C9999GONE", "*": CHANNEL}
    async with slack_world(tmp_path, channels=channels) as world:
        world.service.add()
        other = world.service.add(workspace="demo")
        await world.shown(other)
        assert world.slack.refused == ["chat.postMessage: channel_not_found: C9999GONE"]
        world.slack.refused.clear()


async def test_each_workspace_has_its_channel_and_one_without_gets_no_message(tmp_path: Path) -> None:
    async with slack_world(tmp_path, channels={"ops": "C0000AAA", "-": "C0000BBB"}) as world:
        nowhere = world.service.add(workspace="demo")
        first, second = world.service.add(), world.service.add(workspace="-")
        await world.shown(second)
        assert world.slack.message(first)[0] == "C0000AAA"
        assert world.slack.message(second)[0] == "C0000BBB"
        assert nowhere not in world.slack.seen_in_channel()


async def test_a_message_that_somebody_deleted_is_posted_again(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        world.slack.messages.clear()
        world.service.set(approval, missing=["1 more person"])
        await world.shown(approval, "1 more person")
        world.slack.messages.clear()
        world.service.set(approval, state=pb.APPROVAL_STATE_DENIED)
        other = world.service.add()
        await world.shown(other)
        assert len(world.slack.messages) == 1  # what is closed and deleted stays away
        assert all(item.startswith("chat.update: message_not_found") for item in world.slack.refused)
        world.slack.refused.clear()


async def test_what_the_broker_no_longer_knows_is_let_be(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        del world.service.kept[approval]
        await world.stop()
        await world.start()
        other = world.service.add()
        await world.shown(other)
        assert len(world.slack.messages) == 2
        assert not world.slack.called("chat.update")


async def test_two_bots_do_not_share_one_state(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        second = World(world.folder, world.slack, world.settings, broker=world.broker)
        with pytest.raises(FailedPreconditionError) as refusal:
            await second.start()
        assert refusal.value.reason == "BOT_RUNNING"
        await second.stop()


async def test_a_token_of_another_team_is_refused(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False, team="T0000TWO") as world:
        with pytest.raises(FailedPreconditionError) as refusal:
            await world.start()
        assert refusal.value.reason == "TEAM_DIFFERS"


async def test_a_token_that_slack_refuses_ends_the_start(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False) as world:
        world.slack.fail("auth.test", Fault(error="invalid_auth"))
        with pytest.raises(FailedPreconditionError) as refusal:
            await world.start()
        assert refusal.value.reason == "SLACK_REFUSES"
