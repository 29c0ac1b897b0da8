"""One message per approval in the channel of its workspace, which shows the approval as it stands.

The watch only says that something has changed. What is shown is asked for right before it is sent, so that changes which
come meanwhile become one update, and nothing older ever takes the place of something newer. Whatever is away, Slack or the
broker, is waited for; what was posted is remembered, so that a new start goes on with the same messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from broker.client import AsyncBroker
from broker.errors import BrokerError, NotFoundError
from broker.slack.memory import Memory, Post
from broker.slack.messages import Message, channel_message, is_open
from broker.slack.web import error_code, passes, pause

_GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found"})
_log = structlog.get_logger(__name__)


class _StoppedError(Exception):
    """The bot stops; what is not sent is sent after its next start."""


class Poster:
    """Keeps the channels up to date, between ``run`` and ``stop``.

    Args:
        broker: an open client under the bot's own identity.
        web: Slack.
        memory: which message shows which approval.
        channel: id of the channel for a workspace; empty for none.
        sweep_s: how often all messages that show something open are looked at, whatever the watch says.
        retry_s: after how long something that Slack refuses for good is tried once more.
    """

    def __init__(
        self,
        *,
        broker: AsyncBroker,
        web: AsyncWebClient,
        memory: Memory,
        channel: Callable[[str], str],
        sweep_s: float = 30.0,
        retry_s: float = 60.0,
    ) -> None:
        self._broker = broker
        self._web = web
        self._memory = memory
        self._channel = channel
        self._sweep_s = sweep_s
        self._retry_s = retry_s
        self._changed: dict[str, None] = {}
        self._something = asyncio.Event()
        self._stopping = asyncio.Event()

    def changed(self, approval: str) -> None:
        """Notes that an approval, by its id, may look different now."""
        self._changed[approval] = None
        self._something.set()

    def stop(self) -> None:
        """Has ``run`` end after what is being sent."""
        self._stopping.set()

    async def run(self) -> None:
        """Works until ``stop``."""
        # A helper that fails ends all: a bot that no longer sees what changes must not go on as if it did.
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(self._watch()), group.create_task(self._sweep())]
            await self._work()
            for helper in helpers:
                helper.cancel()

    async def _watch(self) -> None:
        failures = 0
        while True:
            self._mark_open()  # those that ended while nobody watched don't come by the watch
            try:
                async with aclosing(self._broker.watch_approvals()) as approvals:
                    async for approval in approvals:
                        failures = 0
                        self.changed(approval.id)
                ended: BrokerError | None = None
            except BrokerError as error:
                ended = error
            failures += 1
            _log.warning("slack.watch_ended", reason=ended.reason if ended else "", failures=failures)
            await asyncio.sleep(pause(failures, ended))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_s)
            self._mark_open()

    def _mark_open(self) -> None:
        for post in self._memory.open_posts():
            self.changed(post.approval)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            approval = await self._next()
            if approval is None:
                return
            try:
                await self._deliver(approval)
            except _StoppedError:
                return
            except Exception as error:  # noqa: BLE001 - refused by Slack or the broker, or a defect: others must not wait
                _log.error("slack.not_posted", approval=approval, error=error_code(error))
                loop.call_later(self._retry_s, self.changed, approval)

    async def _next(self) -> str | None:
        while not self._stopping.is_set():
            if self._changed:
                approval = next(iter(self._changed))
                del self._changed[approval]
                return approval
            self._something.clear()
            await _first(self._something, self._stopping)
        return None

    async def _deliver(self, approval: str) -> None:
        def waits(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            seconds = pause(state.attempt_number, error)
            if error is not None:
                _log.warning("slack.waits", approval=approval, error=error_code(error), seconds=round(seconds, 1))
            return seconds

        attempts = AsyncRetrying(retry=retry_if_exception(passes), wait=waits, sleep=self._pause, reraise=True)
        # Each attempt asks anew how the approval stands.
        await attempts(self._attempt, approval)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
            raise _StoppedError

    async def _attempt(self, approval: str) -> None:
        self._changed.pop(approval, None)  # whatever came until now is in what is asked for next
        try:
            present = await self._broker.get_approval(approval)
        except NotFoundError:
            _log.warning("slack.approval_gone", approval=approval)
            self._memory.forget_post(approval)
            return
        message = channel_message(present)
        post = self._memory.post(approval)
        if post is None:
            await self._post(approval, present.workspace, message, opened=is_open(present))
        elif post.fingerprint != message.fingerprint:
            await self._update(post, message, present.workspace, opened=is_open(present))

    async def _post(self, approval: str, workspace: str, message: Message, *, opened: bool) -> None:
        channel = self._channel(workspace)
        if not opened or not channel:
            return
        reply = await self._web.chat_postMessage(channel=channel, **_arguments(message))
        # Slack's own word for the channel: an update takes no other.
        post = Post(approval, str(reply["channel"]), str(reply["ts"]), message.fingerprint, open=True)
        self._memory.keep_post(post)
        _log.info("slack.posted", approval=approval)

    async def _update(self, post: Post, message: Message, workspace: str, *, opened: bool) -> None:
        try:
            await self._web.chat_update(channel=post.channel, ts=post.ts, **_arguments(message))
        except SlackApiError as error:
            if passes(error) or error_code(error) not in _GONE:
                raise
            _log.warning("slack.message_gone", approval=post.approval, error=error_code(error))
            self._memory.forget_post(post.approval)
            await self._post(post.approval, workspace, message, opened=opened)
            return
        self._memory.keep_post(replace(post, fingerprint=message.fingerprint, open=opened))


def _arguments(message: Message) -> dict[str, Any]:
    return {
        "text": message.text,
        "blocks": message.blocks,
        # Nothing in the text becomes a link, a mention or a preview.
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
