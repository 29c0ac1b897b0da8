"""A denial in Slack: the real bot, and in Slack's place the server by which the project tests it, on loopback.

That server signs what it sends as Slack does, and checks what the bot answers against Slack's documented limits.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import yaml
from stage import ROOT, Stage, check, tell

sys.path.append(str(ROOT))  # for tests/, which is no part of the package

from tests.slack_server import BOT_TOKEN, CHANNEL, SIGNING_SECRET, TEAM, FakeSlack, fake_slack

USER = "UCYN"


def write_bot_settings(folder: Path) -> tuple[str, str]:
    """Writes the bot's secrets; gives the team, and the user who is cyn there."""
    for name, text in (("bot_token", BOT_TOKEN), ("signing_secret", SIGNING_SECRET)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text, "utf-8")
    return TEAM, USER


async def denied_in_slack(stage: Stage, address: str, bot: Mapping[str, str], approval: str) -> None:
    """Cyn presses the button below the bot's message, looks at all of it, and denies it.

    Args:
        stage: the state directory, and beside it the bot's secrets.
        address: the broker's.
        bot: the environment of the bot's process, with its home.
        approval: ``approvals/...``.
    """
    which = approval.removeprefix("approvals/")
    async with fake_slack() as slack:
        settings = _settings(stage, address, bot, slack)
        arguments = ("slack", "serve", "--settings", str(settings))
        running = ExitStack()
        process = stage.running(*arguments, name="the bot", ready="address", env=bot)
        ready = await asyncio.to_thread(running.enter_context, process)
        try:
            slack.bot = str(ready["address"])
            await slack.until(lambda: any(which in str(message["blocks"]) for message in slack.messages.values()))
            tell(f"the bot's message in the channel names {which}, and none of the content")
            check("plum" not in slack.seen_in_channel(), "content was shown to a whole channel")
            await slack.send(slack.click(which, USER))
            await slack.until(lambda: "callback_id" in str(slack.views) and "broker_decide" in str(slack.views))
            view = next(iter(slack.views))
            await slack.send(slack.submission(view, "deny", "a plum for a cent?", user=USER))
            await slack.until(lambda: "It is denied" in str(slack.views[view]))
            tell("cyn opens it, sees all of it, and denies it: attested by the bot's key, and marked as such for ever")
            check(not slack.refused, f"Slack would have refused: {slack.refused}")
        finally:
            await asyncio.to_thread(running.close)


def _settings(stage: Stage, address: str, bot: Mapping[str, str], slack: FakeSlack) -> Path:
    folder = stage.folder
    identity = stage.state / "identities" / "agent" / "slack-bot"
    values = {
        "mode": "http",
        "listen": "127.0.0.1:0",
        "bot_token": f"file:{folder}/bot_token",
        "signing_secret": f"file:{folder}/signing_secret",
        "api_url": slack.api_url,
        "team": TEAM,
        "channels": {"*": CHANNEL},
        "broker": address,
        "identity": str(identity),
        "ca": str(stage.state / "ca" / "ca.pem"),
        "key": f"{bot['XDG_CONFIG_HOME']}/agent-broker/keys/slack-bot.pem",
        "key_passphrase": f"file:{bot['BROKER_KEY_PASSPHRASE_FILE']}",
        "state": str(folder / "slack.db"),
    }
    path = folder / "slack.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path
