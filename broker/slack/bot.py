"""The bot's handlers: what Slack tells, turned into clicks and submissions for the desk. Each answers Slack first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from slack_bolt.async_app import AsyncAck, AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_sdk.web.async_client import AsyncWebClient

from broker.slack.blocks import escape
from broker.slack.desk import Click, Desk, Person, Submission
from broker.slack.memory import Memory
from broker.slack.messages import LOOK
from broker.slack.modal import DECIDE, DECISION, REASON
from broker.slack.settings import SlackSecrets
from broker.slack.web import error_code, sdk_logger

_REMEMBERED = 1000
_log = structlog.get_logger(__name__)


class Work:
    """Counts what is being done, so that a stop can wait for it."""

    def __init__(self) -> None:
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def piece(self) -> AsyncIterator[None]:
        """While the block runs, ``done`` waits."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def done(self) -> None:
        """Waits until nothing is being done."""
        await self._idle.wait()


class Events:
    """Ids of events that were taken: Slack sends one again that it has no answer for."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()

    def is_new(self, event: str) -> bool:
        """Is it the first time? An event without an id never is."""
        if not event or event in self._seen:
            return False
        self._seen[event] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True


def make_app(
    *,
    web: AsyncWebClient,
    bare: AsyncWebClient,
    secrets: SlackSecrets,
    installed: AuthorizeResult,
    desk: Desk,
    memory: Memory,
    work: Work,
) -> AsyncApp:
    """The bolt application.

    Args:
        web: Slack's Web API.
        bare: the same without a token, for bolt to make its own clients of.
        secrets: the signing secret is checked by bolt once more, where there is one.
        installed: whom Slack says that the bot is.
        desk: where people decide.
        memory: which approvals are shown.
        work: counts what is being done.
    """

    async def authorize(**_: object) -> AuthorizeResult:
        # Who acts is asked at the desk; the bot itself has this one token.
        return installed

    signing = secrets.signing_secret
    app = AsyncApp(
        name="broker",
        logger=sdk_logger(secrets),
        # In socket mode there is nothing to sign, and a request by HTTP fits no secret that nobody knows.
        signing_secret=signing.reveal().decode() if signing is not None else None,
        client=bare,
        authorize=authorize,
        user_facing_authorize_error_message="This bot doesn't serve this workspace.",
    )
    seen = Events()

    @app.action(LOOK)
    async def look(ack: AsyncAck, body: dict[str, Any], action: dict[str, Any]) -> None:
        async with work.piece():
            await ack()
            await desk.look(
                Click(
                    who=_person(body),
                    approval=_text(action, "value"),
                    trigger=_text(body, "trigger_id"),
                    channel=_text(_object(body, "channel"), "id"),
                )
            )

    @app.view(DECIDE)
    async def submit(ack: AsyncAck, body: dict[str, Any], view: dict[str, Any]) -> None:
        async with work.piece():
            answer, vote = desk.receive(_submission(body, view))
            await ack(response_action="update", view=answer)
            if vote is not None:
                await desk.cast(vote)

    @app.event("app_mention")
    async def mention(body: dict[str, Any], event: dict[str, Any]) -> None:
        async with work.piece():
            if seen.is_new(_text(body, "event_id")):
                await _tell_open(web, memory, _text(event, "channel"), _text(event, "user"))

    @app.event("app_uninstalled")
    @app.event("tokens_revoked")
    async def removed(event: dict[str, Any]) -> None:
        _log.error("slack.removed", what=_text(event, "type"))

    @app.error
    async def failed(error: Exception) -> None:
        _log.error("slack.handler_failed", error=error_code(error))

    return app


async def _tell_open(web: AsyncWebClient, memory: Memory, channel: str, user: str) -> None:
    waiting = [post.approval for post in memory.open_posts() if post.channel == channel]
    listed = "".join(f"\n- {escape(approval)}" for approval in waiting[:20])
    more = f"\nand {len(waiting) - 20} more" if len(waiting) > 20 else ""
    text = f"{len(waiting)} open here.{listed}{more}\nDecide by the button of its message."
    try:
        await web.chat_postEphemeral(channel=channel, user=user, text=text)
    except Exception as error:  # noqa: BLE001 - a courtesy; nothing depends on it
        _log.warning("slack.mention_unanswered", error=error_code(error))


def _submission(body: dict[str, Any], view: dict[str, Any]) -> Submission:
    values = _object(_object(view, "state"), "values")
    chosen = _object(_object(_object(values, DECISION), DECISION), "selected_option")
    reason = _text(_object(_object(values, REASON), REASON), "value")
    return Submission(
        who=_person(body),
        view=_text(view, "id"),
        metadata=_text(view, "private_metadata"),
        decision=_text(chosen, "value"),
        reason=reason,
    )


def _person(body: dict[str, Any]) -> Person:
    user = _object(body, "user")
    # The user's own team: in a channel that is shared, the message's team is another.
    return Person(team=_text(user, "team_id"), user=_text(user, "id"))


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
