"""Slack before the real broker: a person votes in a modal, another with a key, the call runs, and the ledger says how."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.client.models import Call
from broker.domain.approval import ApprovalState
from broker.domain.call import CallState
from broker.domain.secret import Secret
from broker.errors import BrokerError
from broker.signing import new_key_file
from broker.slack.check import check
from broker.slack.settings import load_settings
from tests.approval_world import OPERATOR, TOOL, World, make_approval_state, tiers_with
from tests.served import command_json, ledger, serving
from tests.slack_limits import shown
from tests.slack_server import TEAM, fake_slack
from tests.slack_world import PASSPHRASE, BotWorld, write_settings

pytestmark = pytest.mark.docker

_CODE = {"code": "print('changed')  # <!channel> &lt;"}
BOT = "slack-bot"


@asynccontextmanager
async def two_people(tmp_path: Path, *, slack_approves: bool) -> AsyncIterator[tuple[Path, World, BotWorld]]:
    """A broker with the two-person rule in force, and a bot whose key is enrolled; Ada has a Slack account."""
    state = tmp_path / "state"
    settings = {"unsafe_slack_approves_tier4": True} if slack_approves else {}
    tiers = tiers_with(channels=["cli", "slack"]) if slack_approves else ""
    make_approval_state(state, settings=settings, tiers=tiers)
    command_json(state, "identity", "issue", "agent", BOT, "--owner", OPERATOR)
    policy = state / "policy" / "policy.csv"
    # Nothing but the shipped role: what it lacks, the bot can't do.
    rows = [row for row in policy.read_text("utf-8").splitlines() if not row.startswith("p, t-agents,")]
    policy.write_text("\n".join([*rows, f"g, agent:{BOT}, role:slack-bot, *", ""]), "utf-8")
    folder = tmp_path / "bot"
    folder.mkdir()
    signer = new_key_file(folder / "bot.key", Secret(PASSPHRASE.encode()), name=BOT)
    with serving(state) as served:
        async with World(served) as world, fake_slack() as slack:
            await world.ready()
            await world.admit_bot(BOT, signer, team=TEAM, user="UADA")
            path = write_settings(
                folder,
                slack,
                served.address,
                identity=str(served.identity("agent", BOT)),
                ca=str(state / "ca" / "ca.pem"),
            )
            bot = BotWorld(folder, slack, load_settings(path))
            found = await check(bot.settings)
            assert all(item.fit for item in found), found
            await bot.start()
            try:
                yield state, world, bot
                assert not slack.refused
            finally:
                await bot.stop()


async def ended(world: World, call: Call) -> Call:
    async with world.agent() as agent:
        async for _ in agent.watch(call):
            pass
        return await agent.get_call(call)


async def test_one_vote_by_slack_and_one_by_key_and_the_call_runs(tmp_path: Path) -> None:
    async with two_people(tmp_path, slack_approves=True) as (state, world, bot):
        async with world.agent() as agent:
            call = await agent.create_call(TOOL, _CODE)
        waiting = await world.pending(call.name)
        message = await bot.shown(waiting.id, "Waits for approval", "Tier 4", TOOL)
        assert "changed" not in message
        view = await bot.opened(waiting.id)
        whole = await world.people["ada"].get_approval(waiting.name)
        assert "\n".join(shown(bot.slack.views[view], decoding=True)) == whole.rendering
        await bot.slack.send(bot.slack.submission(view, "approve", "looks right"))
        await bot.told(view, "attested by this bot")
        await bot.shown(waiting.id, "attested by the bot")
        again = await bot.opened(waiting.id)
        assert "You have approved this" in str(bot.slack.views[again])
        await world.vote("bob", waiting)
        assert (await ended(world, call)).state is CallState.SUCCEEDED
        await bot.shown(waiting.id, "Approved and used", "signed with their own key")
        assert "changed" not in bot.slack.seen_in_channel()
    votes = [item["type"] for item in ledger(state) if item["type"].startswith("vote")]
    assert votes[-2:] == ["vote.attested", "vote"]
    verified = command_json(state, "ledger", "verify")
    assert verified["verdict"] == "ok"
    assert verified["votes"]["attested_count"] == 1


async def test_by_default_slack_denies_at_tier_4_and_can_not_approve(tmp_path: Path) -> None:
    async with two_people(tmp_path, slack_approves=False) as (_, world, bot):
        async with world.agent() as agent:
            call = await agent.create_call(TOOL, _CODE)
        waiting = await world.pending(call.name)
        view = await bot.opened(waiting.id)
        assert "takes no approval of it by Slack" in str(bot.slack.views[view])
        forged = await bot.slack.send(bot.slack.submission(view, "approve"))
        assert "offer that decision" in forged.body
        view = await bot.opened(waiting.id)
        await bot.slack.send(bot.slack.submission(view, "deny", "wrong rows"))
        await bot.told(view, "It is denied")
        await bot.shown(waiting.id, "Denied", "denies")
        assert (await ended(world, call)).state is CallState.DENIED


async def test_administration_is_told_and_denied_in_slack_and_not_approved(tmp_path: Path) -> None:
    async with two_people(tmp_path, slack_approves=True) as (_, world, bot):
        account = {"service": "slack", "team": TEAM, "user": "U0BOB", "person": "bob"}
        asked = await world.operator.request_administration("account.map", account, "he moved")
        message = await bot.shown(asked.id, "Waits for approval", "a change of who may do what", "account.map")
        assert not [text for text in ("U0BOB", "he moved", "in workspace") if text in message]
        view = await bot.opened(asked.id)
        assert "U0BOB" in str(bot.slack.views[view])
        assert "takes no approval of it by Slack" in str(bot.slack.views[view])
        forged = await bot.slack.send(bot.slack.submission(view, "approve"))
        assert "offer that decision" in forged.body
        view = await bot.opened(asked.id)
        await bot.slack.send(bot.slack.submission(view, "deny", "he didn't"))
        await bot.told(view, "It is denied")
        await bot.shown(asked.id, "Denied", "denies")
        assert (await world.operator.get_approval(asked.name)).state is ApprovalState.DENIED
        assert "he didn't" not in bot.slack.seen_in_channel()


async def test_the_bot_s_identity_can_do_nothing_else(tmp_path: Path) -> None:
    async with two_people(tmp_path, slack_approves=True) as (_, world, _bot), world.agent(BOT) as bot:
        with pytest.raises(BrokerError):
            await bot.create_call(TOOL, _CODE)
        for forbidden in (
            bot.request_administration(
                "account.map", {"service": "slack", "team": TEAM, "user": "UX", "person": "bob"}
            ),
            bot.submit_workflow("clean-up"),
            bot.revoke_voter_key(world.signers["ada"].id, "why not"),
            bot.status(),
        ):
            with pytest.raises(BrokerError) as refused:
                await forbidden
            assert refused.value.reason in {"POLICY_DENIED", "HUMANS_ONLY", "NOT_A_VOTER"}
