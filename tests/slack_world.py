"""A bot between a Slack and a broker, all three over real sockets: what the tests of the bot begin with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from broker.domain.secret import Secret
from broker.signing import new_key_file
from broker.slack.serve import Serving, serving
from broker.slack.settings import SlackSettings, load_settings
from tests.slack_broker import Approvals, ApprovalsBroker, approvals_broker
from tests.slack_server import APP_TOKEN, BOT_TOKEN, CHANNEL, SIGNING_SECRET, TEAM, FakeSlack, fake_slack

PASSPHRASE = "a passphrase of the bot"  # noqa: S105 - of a key that a test makes


@contextmanager
def _logger_put_back() -> Iterator[None]:
    """Slack's library gives its handlers and its level to the logger of its app's name, which is ours: in a test's process
    they would stay.
    """
    logger = logging.getLogger("broker")
    level, handlers, filters = logger.level, logger.handlers[:], logger.filters[:]
    try:
        yield
    finally:
        logger.handlers[:], logger.filters[:] = handlers, filters
        logger.setLevel(level)


@dataclass
class BotWorld:
    """A Slack, and a bot that can be stopped and started again, before any broker."""

    folder: Path
    slack: FakeSlack
    settings: SlackSettings
    bot: Serving | None = None
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        self._stack.enter_context(_logger_put_back())
        self.bot = await self._stack.enter_async_context(serving(self.settings, self.failed.set))
        self.slack.bot = self.bot.address

    async def stop(self) -> None:
        stack, self._stack, self.bot = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def shown(self, approval: str, *words: str) -> str:
        """Waits until a message shows an approval, and some words; gives its text."""

        def fits() -> bool:
            texts = [str(message["blocks"]) for message in self.slack.messages.values()]
            return any(approval in text and all(word in text for word in words) for text in texts)

        await self.slack.until(fits)
        return str(self.slack.messages[self.slack.message(approval)]["blocks"])

    async def opened(self, approval: str, user: str = "UADA", team: str = TEAM, words: str = "") -> str:
        """Presses the button, and waits until the modal has more to say than to wait; gives its id."""
        await self.shown(approval)
        before = set(self.slack.views)
        answer = await self.slack.send(self.slack.click(approval, user, team))
        assert answer.status == 200
        await self.slack.until(lambda: self._told(set(self.slack.views) - before, words))
        return (set(self.slack.views) - before).pop()

    async def told(self, view: str, words: str) -> None:
        """Waits until a modal says something."""
        await self.slack.until(lambda: words in str(self.slack.views[view]))

    def _told(self, views: set[str], words: str) -> bool:
        return any("Asking the broker" not in str(self.slack.views[view]) for view in views) and (
            any(words in str(self.slack.views[view]) for view in views)
        )


@dataclass
class World(BotWorld):
    """All three."""

    broker: ApprovalsBroker = field(kw_only=True)

    @property
    def service(self) -> Approvals:
        return self.broker.service


def write_settings(folder: Path, slack: FakeSlack, address: str, **changed: Any) -> Path:  # noqa: ANN401
    """Writes the bot's settings and its secrets."""
    files = {"bot_token": BOT_TOKEN, "app_token": APP_TOKEN, "signing_secret": SIGNING_SECRET, "passphrase": PASSPHRASE}
    for name, text in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(f"{text}\n", "utf-8")
    values = {
        "mode": "http",
        "listen": "127.0.0.1:0",
        "bot_token": f"file:{folder}/bot_token",
        "app_token": f"file:{folder}/app_token",
        "signing_secret": f"file:{folder}/signing_secret",
        "api_url": slack.api_url,
        "team": TEAM,
        "channels": {"*": CHANNEL},
        "broker": address,
        "identity": "identity",
        "ca": "ca.pem",
        "key": "bot.key",
        "key_passphrase": f"file:{folder}/passphrase",
        "state": "bot.db",
        **changed,
    }
    path = folder / "slack.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


@asynccontextmanager
async def slack_world(folder: Path, *, running: bool = True, **changed: Any) -> AsyncIterator[World]:  # noqa: ANN401
    """A world, in which the bot runs unless it is said otherwise; ``changed`` are its settings."""
    async with fake_slack() as slack, approvals_broker(Approvals()) as broker:
        signer = new_key_file(folder / "bot.key", Secret(PASSPHRASE.encode()), name="slack-bot")
        broker.service.bot_key = signer.public_key
        broker.authority.write(folder / "identity", "slack-bot")
        (folder / "ca.pem").write_bytes(broker.authority.pem)
        settings = load_settings(write_settings(folder, slack, broker.address, **changed))
        world = World(folder, slack, settings, broker=broker)
        try:
            if running:
                await world.start()
            yield world
            assert not slack.refused, slack.refused
        finally:
            await world.stop()
