"""One stack of lifetimes: the bot's state, Slack, the broker, the poster, and the way by which Slack reaches the bot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tenacity import AsyncRetrying, retry_if_exception

from broker.client import AsyncBroker
from broker.errors import FailedPreconditionError
from broker.signing import Signer, load_key_file, read_passphrase
from broker.slack.bot import Work, make_app
from broker.slack.desk import Desk
from broker.slack.door import door
from broker.slack.memory import Memory
from broker.slack.posting import Poster
from broker.slack.settings import Mode, SlackSecrets, SlackSettings, read_secrets
from broker.slack.web import error_code, passes, pause, sdk_logger, web_client

_DRAIN_S = 15.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """A bot that serves."""

    mode: Mode
    address: str
    """Where it listens in mode ``http``; empty in mode ``socket``."""
    team: str
    bot_user: str
    key: str
    """Id of its signing key."""


def open_key(settings: SlackSettings) -> Signer:
    """The bot's own key.

    Raises:
        FailedPreconditionError: file or passphrase is missing, exposed or wrong.
        DataLossError: the file is damaged.
    """
    passphrase = read_passphrase(
        settings.key_passphrase, what="bot's signing key", hint="Name its place by the setting key_passphrase."
    )
    return load_key_file(settings.key, passphrase)


def connect(settings: SlackSettings) -> AsyncBroker:
    """A client under the bot's identity, not open yet.

    Raises:
        InvalidArgumentError: a file is missing, or the address is none.
    """
    return AsyncBroker.connect(settings.broker, identity=settings.identity, ca=settings.ca)


async def identify(web: AsyncWebClient, settings: SlackSettings) -> AuthorizeResult:
    """Asks Slack whom the token belongs to.

    Raises:
        FailedPreconditionError: ``SLACK_REFUSES``: the token is none; ``TEAM_DIFFERS``: it is another team's.
        Exception: whatever else keeps Slack from answering; ``broker.slack.web.passes`` says if it may pass.
    """
    try:
        answer = await web.auth_test()
    except SlackApiError as error:
        if passes(error):
            raise
        raise FailedPreconditionError(
            f"Slack refuses the bot's token: {error_code(error)}",
            reason="SLACK_REFUSES",
            hint="Take the token from the app's page OAuth & Permissions, and set it as bot_token.",
        ) from None
    if answer["team_id"] != settings.team:
        raise FailedPreconditionError(
            f"the token belongs to the Slack team {answer['team_id']}, and the setting team names {settings.team}",
            reason="TEAM_DIFFERS",
            hint="Set the one that is meant. People are known by their team and user: another team's are others.",
        )
    return AuthorizeResult.from_auth_test_response(
        bot_token=web.token, auth_test_response=answer, user_auth_test_response=None
    )


@asynccontextmanager
async def serving(settings: SlackSettings, stop: Callable[[], None]) -> AsyncIterator[Serving]:
    """Runs the bot until the block ends; then what is under way is brought to its end.

    Args:
        settings: the bot's.
        stop: is called when the bot can't go on by itself.

    Raises:
        BrokerError: a setting, a key or a token doesn't do, or another bot uses the same state.
    """
    secrets = read_secrets(settings)
    signer = open_key(settings)
    async with AsyncExitStack() as stack:
        memory = Memory.open(settings.state)
        stack.callback(memory.close)
        broker = await stack.enter_async_context(connect(settings))
        web = web_client(settings, secrets)
        installed = await _identified(web, settings)
        poster = Poster(broker=broker, web=web, memory=memory, channel=settings.channel)
        desk = Desk(broker=broker, signer=signer, web=web, memory=memory, team=settings.team, changed=poster.changed)
        work = Work()
        stack.push_async_callback(_drain, work)
        await stack.enter_async_context(_posting(poster, stop))
        # Bolt puts the token that is authorized into the clients that it makes of this one.
        bare = web_client(settings, secrets, with_token=False)
        app = make_app(web=web, bare=bare, secrets=secrets, installed=installed, desk=desk, memory=memory, work=work)
        address = await _reachable(stack, app, settings, secrets)
        yield Serving(settings.mode, address, settings.team, installed.bot_user_id or "", signer.id)


async def _identified(web: AsyncWebClient, settings: SlackSettings) -> AuthorizeResult:
    """Waits for Slack, however long it is away."""

    def wait(state: object) -> float:
        outcome = getattr(state, "outcome", None)
        error = outcome.exception() if outcome is not None else None
        seconds = pause(getattr(state, "attempt_number", 1), error)
        _log.warning("slack.waits", error=error_code(error) if error else "", seconds=round(seconds, 1))
        return seconds

    attempts = AsyncRetrying(retry=retry_if_exception(passes), wait=wait, reraise=True)
    return await attempts(identify, web, settings)


async def _reachable(stack: AsyncExitStack, app: AsyncApp, settings: SlackSettings, secrets: SlackSecrets) -> str:
    if secrets.signing_secret is not None:
        return await stack.enter_async_context(door(app, secrets.signing_secret, settings.listen))
    if secrets.app_token is None:
        raise FailedPreconditionError("there is neither a signing secret nor an app token", reason="SECRET_MISSING")
    handler = AsyncSocketModeHandler(app, secrets.app_token.reveal().decode(), logger=sdk_logger(secrets))
    stack.push_async_callback(handler.close_async)
    # Slack's library connects, and again after each loss, for as long as it takes.
    connecting = asyncio.create_task(handler.client.connect())  # type: ignore[no-untyped-call]  # the library's
    stack.push_async_callback(_ended, connecting)
    return ""


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def _posting(poster: Poster, stop: Callable[[], None]) -> AsyncIterator[None]:
    task = asyncio.create_task(poster.run())

    def ended(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            stop()

    task.add_done_callback(ended)
    try:
        yield
    finally:
        poster.stop()
        # What is being sent is waited for: a message that was posted and not remembered would be posted twice.
        await asyncio.wait([task], timeout=_DRAIN_S)
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _drain(work: Work) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            await work.done()
