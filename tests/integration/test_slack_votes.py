"""Votes by Slack: from the message in the channel, through the modal, to the broker; real libraries, real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.domain.approval import VoteDecision
from broker.domain.requirement import Channel
from broker.v1 import approvals_pb2 as pb
from tests.fake_broker import Refuse
from tests.slack_limits import shown
from tests.slack_server import CHANNEL, Fault
from tests.slack_world import slack_world

MODES = pytest.mark.parametrize("mode", ["http", "socket"])


def offered(view: dict[str, Any]) -> list[str]:
    """The decisions that a modal offers."""
    inputs = [block["element"] for block in view["blocks"] if block["type"] == "input"]
    return [option["value"] for element in inputs for option in element.get("options", [])]


def in_full(view: dict[str, Any]) -> str:
    """The content as a reader puts it together from its boxes."""
    return "\n".join(shown(view, decoding=True))


@MODES
async def test_two_people_approve_and_the_message_follows(tmp_path: Path, mode: str) -> None:
    async with slack_world(tmp_path, mode=mode) as world:
        if mode == "socket":
            await world.slack.until(lambda: world.slack.sockets)
        approval = world.service.add("limit = 3")
        await world.shown(approval, "Waits for approval", "2 more people")
        view = await world.opened(approval)
        assert world.slack.owners[view] == "UADA"
        assert in_full(world.slack.views[view]) == world.service.kept[approval].rendering
        answer = await world.slack.send(world.slack.submission(view, "approve", "looks right"))
        assert answer.seconds < 3
        await world.told(view, "attested by this bot")
        message = await world.shown(approval, "human:ada", "attested by the bot", "1 more people")
        assert "looks right" not in message
        second = await world.opened(approval, "UBO")
        await world.slack.send(world.slack.submission(second, "approve", user="UBO"))
        await world.shown(approval, "Approved, not yet used")
        assert [item.decision for item in world.service.statements] == [VoteDecision.APPROVE, VoteDecision.APPROVE]
        assert all(item.attested and item.channel is Channel.SLACK for item in world.service.statements)
        assert world.bot is not None
        assert {item.key for item in world.service.statements} == {world.bot.key}
        assert world.service.reasons == ["looks right", ""]
        assert [place[0] for place in world.slack.messages] == [CHANNEL]


async def test_one_denial_closes_the_message(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        await world.slack.send(world.slack.submission(view, "deny", "no"))
        await world.told(view, "It is denied")
        message = await world.shown(approval, "Denied", "human:ada")
        assert "Look and decide" not in message


async def test_a_vote_is_taken_back(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.shown(approval, "1 more people")
        again = await world.opened(approval)
        assert offered(world.slack.views[again]) == ["deny", "withdraw"]
        await world.slack.send(world.slack.submission(again, "withdraw"))
        await world.told(again, "taken back")
        await world.shown(approval, "took their vote back")


async def test_at_tier_4_slack_denies_and_does_not_approve(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(tier=4, slack=False)
        view = await world.opened(approval)
        assert offered(world.slack.views[view]) == ["deny"]
        assert f"broker approvals approve {approval}" in str(world.slack.views[view])
        await world.slack.send(world.slack.submission(view, "deny"))
        await world.shown(approval, "Denied", "Tier 4")


async def test_at_tier_4_slack_approves_where_the_broker_takes_it(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(tier=4, slack=True)
        view = await world.opened(approval)
        assert offered(world.slack.views[view]) == ["approve", "deny"]


async def test_a_long_content_that_fits_is_shown_whole(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add("secret content, " * 4000)
        view = await world.opened(approval)
        assert in_full(world.slack.views[view]) == world.service.kept[approval].rendering
        assert offered(world.slack.views[view]) == ["approve", "deny"]
        answer = await world.slack.send(world.slack.submission(view, "approve"))
        assert answer.status == 200


async def test_what_does_not_fit_whole_is_not_approved_here(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add("secret content, " * 10_000)
        view = await world.opened(approval)
        modal = world.slack.views[view]
        assert "secret content" not in str(modal)
        assert offered(modal) == ["deny"]
        assert f"broker approvals show {approval}" in str(modal)
        assert f"broker approvals approve {approval}" in str(modal)
        await world.slack.send(world.slack.submission(view, "deny"))
        await world.shown(approval, "Denied")


async def test_what_slack_refuses_to_show_is_not_approved_there(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add("secret content")
        world.slack.fail("views.update", Fault(error="invalid_arguments"))
        view = await world.opened(approval)
        modal = world.slack.views[view]
        assert offered(modal) == ["deny"]
        assert f"broker approvals show {approval}" in str(modal)
        assert "secret content" not in str(modal)


async def test_the_same_vote_twice_is_told_as_done(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        first, second = await world.opened(approval), await world.opened(approval)
        for view in (first, second):
            await world.slack.send(world.slack.submission(view, "approve"))
            await world.told(view, "Done")
        assert "counts already" in str(world.slack.views[second])
        assert len(world.service.statements) == 1
        assert world.service.casts == 2


async def test_slack_sends_a_submission_again(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        submission = world.slack.submission(view, "approve")
        held = world.service.hold["CastAttestedVote"] = asyncio.Event()
        retry = {"X-Slack-Retry-Num": "1", "X-Slack-Retry-Reason": "http_timeout"}
        await world.slack.send(submission)
        again = await world.slack.send(submission, headers=retry)
        assert "on its way" in again.body
        held.set()
        await world.told(view, "attested by this bot")
        late = await world.slack.send(submission, headers=retry)
        assert "cast already" in late.body
        assert world.service.casts == 1


async def test_slack_sends_a_click_again(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        click = world.slack.click(approval)
        await world.slack.send(click)
        await world.slack.until(lambda: world.slack.views)
        again = await world.slack.send(click, headers={"X-Slack-Retry-Num": "1"})
        assert again.status == 200
        # Slack's leave to open a window counts once: the person has theirs, and is told of the other.
        await world.slack.until(lambda: world.slack.whispers)
        assert len(world.slack.views) == 1
        world.slack.refused.clear()


async def test_slack_is_answered_while_the_broker_thinks(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        held = world.service.hold["GetChatAccount"] = asyncio.Event()
        answer = await world.slack.send(world.slack.click(approval))
        assert (answer.status, answer.seconds < 3) == (200, True)
        await world.slack.until(lambda: world.slack.views)
        view = next(iter(world.slack.views))
        assert "Asking the broker" in str(world.slack.views[view])
        held.set()
        await world.told(view, "What would be done, in full")


@pytest.mark.parametrize("reason", ["VOTER_IN_LINEAGE", "CHANNEL_REFUSED", "APPROVAL_CLOSED"])
async def test_a_refusal_is_told_with_its_reason_and_the_command(tmp_path: Path, reason: str) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        world.service.refuse["CastAttestedVote"] = Refuse(
            grpc.StatusCode.FAILED_PRECONDITION, "no <such> vote", reason=reason
        )
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.told(view, reason)
        assert "Not cast" in str(world.slack.views[view])
        assert "no <such> vote" in str(world.slack.views[view])
        assert f"broker approvals show {approval}" in str(world.slack.views[view])


async def test_a_vote_that_failed_may_be_given_again(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        submission = world.slack.submission(view, "approve")
        world.service.refuse["CastAttestedVote"] = Refuse(grpc.StatusCode.UNAVAILABLE, reason="NOT_SERVING")
        await world.slack.send(submission)
        await world.told(view, "It is not known whether your vote was cast")
        del world.service.refuse["CastAttestedVote"]
        await world.slack.send(submission)
        await world.told(view, "attested by this bot")
        assert len(world.service.statements) == 1


async def test_the_vote_counts_where_slack_takes_no_answer(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        world.slack.fail("views.update", Fault(error="not_found"))
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.shown(approval, "human:ada")
        await world.slack.until(lambda: world.slack.whispers)
        assert world.slack.whispers[0]["user"] == "UADA"


async def test_a_window_that_can_not_be_opened_is_told_to_the_one_person(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add("secret content")
        await world.shown(approval)
        world.slack.fail("views.open", Fault(status=500, body="<html>oops</html>"))
        await world.slack.send(world.slack.click(approval))
        await world.slack.until(lambda: world.slack.whispers)
        assert f"broker approvals show {approval}" in world.slack.whispers[0]["text"]
        assert "secret content" not in str(world.slack.whispers)


async def test_the_broker_is_away_while_somebody_looks(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        world.service.refuse["GetChatAccount"] = Refuse(grpc.StatusCode.PERMISSION_DENIED, reason="POLICY_DENIED")
        view = await world.opened(approval)
        assert "POLICY_DENIED" in str(world.slack.views[view])
        assert f"broker approvals show {approval}" in str(world.slack.views[view])


async def test_a_closed_approval_shows_no_content(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add("secret content")
        await world.shown(approval)
        click = world.slack.click(approval)
        world.service.set(approval, state=pb.APPROVAL_STATE_EXPIRED)
        await world.shown(approval, "Expired")
        await world.slack.send(click)
        await world.slack.until(lambda: "It is closed" in str(world.slack.views))
        assert "secret content" not in str(world.slack.views)


@MODES
async def test_a_mention_is_answered_once(tmp_path: Path, mode: str) -> None:
    async with slack_world(tmp_path, mode=mode) as world:
        if mode == "socket":
            await world.slack.until(lambda: world.slack.sockets)
        approval = world.service.add("secret content")
        await world.shown(approval)
        for event in ("Ev1", "Ev1", "Ev2"):
            await world.slack.send(world.slack.event("app_mention", event, text="<@UBOT> hello"))
        await world.slack.until(lambda: len(world.slack.whispers) == 2)
        assert approval in world.slack.whispers[0]["text"]
        assert "secret content" not in str(world.slack.whispers)


async def test_slack_asks_whether_the_address_is_ours(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        answer = await world.slack.send({"type": "url_verification", "token": "x", "challenge": "abc"})
        assert "abc" in answer.body


async def test_a_socket_that_drops_is_opened_again(tmp_path: Path) -> None:
    async with slack_world(tmp_path, mode="socket") as world:
        await world.slack.until(lambda: world.slack.sockets)
        await world.slack.drop()
        await world.slack.until(lambda: world.slack.sockets, within_s=40)
        approval = world.service.add()
        view = await world.opened(approval)
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.shown(approval, "human:ada")


async def test_a_bot_that_stops_brings_a_vote_to_its_end(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        held = world.service.hold["CastAttestedVote"] = asyncio.Event()
        await world.slack.send(world.slack.submission(view, "approve"))
        stopping = asyncio.create_task(world.stop())
        held.set()
        await stopping
        assert len(world.service.statements) == 1
        assert "attested by this bot" in str(world.slack.views[view])
