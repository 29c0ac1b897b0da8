"""People who want to see what isn't theirs, vote as others, or vote for something else than they were shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.domain.canonical import digest
from broker.slack.modal import MAX_REASON
from broker.v1 import approvals_pb2 as pb
from tests.slack_broker import ADA, BO, CY, TEAM, envelope
from tests.slack_limits import shown
from tests.slack_world import World, slack_world

OTHER = "T0000TWO"
CONTENT = "secret content"


async def sees_nothing(world: World, approval: str, user: str, team: str, words: str) -> None:
    """Presses the button as somebody: they are told why not, and nothing of the content."""
    view = await world.opened(approval, user, team)
    assert words in str(world.slack.views[view])
    assert CONTENT not in json.dumps(world.slack.views[view])
    assert "submit" not in world.slack.views[view]


async def test_same_user_id_in_another_team(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(CONTENT)
        await sees_nothing(world, approval, "UADA", OTHER, "TEAM_REFUSED")
        # Not even where the broker would know them: the bot serves one team.
        world.service.accounts[OTHER, "UADA"] = ADA
        await sees_nothing(world, approval, "UADA", OTHER, "TEAM_REFUSED")


async def test_no_team_is_named(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(CONTENT)
        await world.shown(approval)
        click = world.slack.click(approval)
        del click["user"]["team_id"]  # the message's own team is no one's who presses
        await world.slack.send(click)
        await world.slack.until(lambda: "TEAM_REFUSED" in str(world.slack.views))
        assert CONTENT not in str(world.slack.views)


async def test_account_that_nobody_has_mapped(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(CONTENT)
        await sees_nothing(world, approval, "UEVE", TEAM, "ACCOUNT_NOT_MAPPED")
        assert not [asked for asked in world.service.asked if asked[1]]


async def test_person_who_may_not_vote(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        world.service.accounts[TEAM, "UCY"] = CY  # who asked for it
        approval = world.service.add(CONTENT)
        await sees_nothing(world, approval, "UCY", TEAM, "you hold none of the roles")


async def test_account_that_stands_for_somebody_else_now(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        world.service.accounts[TEAM, "UADA"] = BO
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.told(view, "ACCOUNT_CHANGED")
        assert not world.service.casts


async def test_account_that_was_unmapped_meanwhile(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        del world.service.accounts[TEAM, "UADA"]
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.told(view, "ACCOUNT_NOT_MAPPED")
        assert not world.service.casts


@pytest.mark.parametrize(("user", "team"), [("UBO", TEAM), ("UADA", OTHER), ("", TEAM), ("UADA", "")])
async def test_submission_by_another_than_the_window_was_opened_for(tmp_path: Path, user: str, team: str) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        answer = await world.slack.send(world.slack.submission(view, "approve", user=user, team=team))
        assert "opened for somebody else" in answer.body
        assert not world.service.casts


@pytest.mark.parametrize(
    "changed",
    [
        {"approval": "apv_00000000000000000000000000"},
        {"envelope_digest": "sha256:" + "0" * 64},
        {"rendering_digest": "sha256:" + "0" * 64},
        {"person": BO},
        {"choices": ["approve", "deny", "withdraw"]},
        {"user": "UBO"},
        {"more": "x"},
    ],
)
async def test_forged_metadata(tmp_path: Path, changed: dict[str, Any]) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        ticket = json.loads(world.slack.views[view]["private_metadata"])
        forged = json.dumps({**ticket, **changed}, separators=(",", ":"), sort_keys=True)
        answer = await world.slack.send(world.slack.submission(view, "approve", metadata=forged))
        assert "not what this window was opened for" in answer.body
        assert not world.service.casts


async def test_submission_with_another_approvals_metadata(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        harmless, harmful = world.service.add("a"), world.service.add("b")
        first, second = await world.opened(harmless), await world.opened(harmful)
        other = world.slack.views[second]["private_metadata"]
        answer = await world.slack.send(world.slack.submission(first, "approve", metadata=other))
        assert "not what this window was opened for" in answer.body
        assert not world.service.casts


async def test_window_that_the_bot_never_opened(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        world.slack.views["V99999999"] = world.slack.views[view]
        answer = await world.slack.send(world.slack.submission("V99999999", "approve"))
        assert "has not opened this window" in answer.body
        assert not world.service.casts


@pytest.mark.parametrize("decision", ["approve", "withdraw", "", "APPROVE", "yes"])
async def test_decision_that_was_not_offered(tmp_path: Path, decision: str) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(CONTENT * 20_000)  # too long to be approved here
        view = await world.opened(approval)
        answer = await world.slack.send(world.slack.submission(view, decision))
        assert "offer that decision" in answer.body
        assert not world.service.casts


async def test_reason_beyond_the_window_s_limit(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        answer = await world.slack.send(world.slack.submission(view, "approve", "x" * (MAX_REASON + 1)))
        assert "longer than" in answer.body
        assert not world.service.casts


async def test_approval_that_changed_after_it_was_shown(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add("harmless")
        other = world.service.kept[world.service.add("harmful")]
        view = await world.opened(approval)
        kept = world.service.kept[approval]
        kept.envelope, kept.envelope_digest = other.envelope, other.envelope_digest
        kept.rendering, kept.rendering_digest = other.rendering, other.rendering_digest
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.told(view, "DIGEST_DIFFERS")
        assert not world.service.casts


async def test_broker_whose_text_is_not_that_of_its_content(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(CONTENT)
        kept = world.service.kept[approval]
        kept.envelope = envelope(approval, "something else")
        kept.envelope_digest = digest(kept.envelope)
        view = await world.opened(approval)
        modal = world.slack.views[view]
        assert "RENDERING_DIFFERS" in str(modal)
        assert CONTENT not in str(modal)
        assert [option["value"] for block in modal["blocks"] for option in _options(block)] == ["deny"]
        await world.slack.send(world.slack.submission(view, "deny"))
        await world.shown(approval, "Denied")


async def test_broker_that_answers_with_another_approval(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval, other = world.service.add("harmless"), world.service.add(CONTENT)
        await world.shown(approval)
        await world.shown(other)
        click = world.slack.click(approval)
        world.service.kept[approval] = world.service.kept[other]
        await world.slack.send(click)
        await world.slack.until(lambda: "PROTOCOL_ERROR" in str(world.slack.views))
        assert CONTENT not in str(world.slack.views)


@pytest.mark.parametrize("value", ["", "../keys", "apv_1", "apv_" + "0" * 26 + "/x", "x" * 2000])
async def test_button_that_holds_no_approval(tmp_path: Path, value: str) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        await world.shown(approval)
        channel, ts = world.slack.message(approval)
        answer = await world.slack.send(
            world.slack.press("UADA", TEAM, channel, ts, action_id="broker_look", value=value)
        )
        assert answer.status == 200
        await world.opened(approval)  # the bot goes on
        assert len(world.slack.views) == 1


MARKUP = [
    "<!channel> <!here> <!everyone>",
    "<@UADA> @ada #general <#C0000OPS>",
    "<https://evil.example|harmless> https://evil.example mailto:a@b.example",
    ":smile: :no_entry: *bold* _italic_ ~gone~ `code` ```block```",
    "&lt;!channel&gt; &amp;amp; &lt; &#60; &copy;",
    "<!date^1392734382^{date}|x> <!subteam^S1|@team>",
    '", "type": "mrkdwn", "x": "',
    "right-to-left \u202e and zero\u200bwidth",
]


@pytest.mark.parametrize("content", MARKUP)
async def test_markup_in_the_content_stays_letters(tmp_path: Path, content: str) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(content)
        view = await world.opened(approval)
        modal = world.slack.views[view]
        text = world.service.kept[approval].rendering
        # Whichever way Slack reads entities there, the very letters are seen.
        assert "\n".join(shown(modal, decoding=False)) == text
        assert "\n".join(shown(modal, decoding=True)) == text
        assert _kinds(modal) <= {"text", "date"}
        assert "mrkdwn" not in {item.get("type") for item in _objects(modal)}


async def test_markup_in_names_and_summary_stays_letters(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(
            summary="<!channel> &lt;@U1&gt; :smile:",
            object="<@UADA>",
            requester_name="<https://evil.example|ada>",
            missing=["<!here> *now*"],
            held="<!everyone>",
        )
        await world.shown(approval)
        message = world.slack.messages[world.slack.message(approval)]
        assert _kinds(message) <= {"text", "date"}
        assert "<" not in message["text"]
        assert message["parse"] == "none"
        assert all(item.get("emoji") is False for item in _objects(message) if item.get("type") == "plain_text")


async def test_reasons_and_content_never_come_to_the_channel(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(CONTENT)
        view = await world.opened(approval)
        await world.slack.send(world.slack.submission(view, "approve", "secret reason"))
        await world.shown(approval, "human:ada")
        await sees_nothing(world, approval, "UEVE", TEAM, "ACCOUNT_NOT_MAPPED")
        world.service.set(approval, state=pb.APPROVAL_STATE_USED)
        await world.shown(approval, "Approved and used")
        public = world.slack.seen_in_channel() + json.dumps(world.slack.whispers)
        assert CONTENT not in public
        assert "secret reason" not in public
        assert {world.slack.owners[item] for item, modal in world.slack.views.items() if CONTENT in str(modal)} <= {
            "UADA"
        }


async def test_vote_of_the_bot_s_own(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add(CONTENT)
        await sees_nothing(world, approval, "UBOT", TEAM, "ACCOUNT_NOT_MAPPED")


async def test_key_that_the_broker_does_not_know(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        world.service.bot_key = bytes(32)
        await world.slack.send(world.slack.submission(view, "approve"))
        await world.told(view, "SIGNATURE_INVALID")
        assert not world.service.statements


def _options(block: dict[str, Any]) -> list[dict[str, Any]]:
    options: list[dict[str, Any]] = block.get("element", {}).get("options", [])
    return options


def _objects(value: object) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for item in value for found in _objects(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in _objects(item))]


def _kinds(content: dict[str, Any]) -> set[str]:
    """The kinds of elements in all rich text."""
    parts = [item for item in _objects(content["blocks"]) if str(item.get("type", "")).startswith("rich_text_")]
    return {element["type"] for part in parts for element in part["elements"]}
