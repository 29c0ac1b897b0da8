"""The HTTP door: one path, by POST, and only what Slack has signed in the last five minutes gets through to bolt."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response
from slack_bolt.async_app import AsyncApp, AsyncBoltRequest

from broker.domain.secret import Secret
from broker.errors import FailedPreconditionError

PATH = "/slack/events"
MAX_BODY = 2**20
"""Bytes of a request: a modal of the largest size comes back in it, encoded for a form."""
WINDOW_S = 300
"""How old, or how far ahead, the time of a signature may be."""

_BODY_S = 5.0
_TIME = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"v0=[0-9a-f]{64}")
_log = structlog.get_logger(__name__)


def is_signed(secret: Secret, timestamps: list[str], signatures: list[str], body: bytes, now: float) -> bool:
    """Has Slack signed these very bytes within the window? Each header must be there once.

    Args:
        secret: the app's signing secret.
        timestamps: values of ``X-Slack-Request-Timestamp``.
        signatures: values of ``X-Slack-Signature``.
        body: the raw body.
        now: Unix time in seconds.
    """
    if len(timestamps) != 1 or len(signatures) != 1:
        return False
    timestamp, signature = timestamps[0], signatures[0]
    if not _TIME.fullmatch(timestamp) or not _SIGNATURE.fullmatch(signature):
        return False
    if abs(now - int(timestamp)) > WINDOW_S:
        return False
    expected = hmac.new(secret.reveal(), b"v0:" + timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(f"v0={expected}", signature)


@asynccontextmanager
async def door(
    app: AsyncApp, secret: Secret, listen: str, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[str]:
    """Listens while the block runs; gives the address. At its end, requests that are under way are answered.

    Raises:
        FailedPreconditionError: ``ADDRESS_IN_USE``.
    """

    async def take(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_BODY_S):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return web.Response(status=413)
        except TimeoutError:
            return web.Response(status=408)
        headers = request.headers
        if not is_signed(
            secret,
            headers.getall("X-Slack-Request-Timestamp", []),
            headers.getall("X-Slack-Signature", []),
            body,
            clock(),
        ):
            _log.warning("slack.unsigned_request", peer=request.remote, bytes=len(body))
            return web.Response(status=401)
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            return web.Response(status=400)
        answer = await app.async_dispatch(
            AsyncBoltRequest(body=text, headers={name: headers.getall(name) for name in headers})
        )
        return await to_aiohttp_response(answer)

    server = web.Application(client_max_size=MAX_BODY)
    server.router.add_post(PATH, take)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=10.0)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]"), int(port))
    try:
        try:
            await site.start()
        except OSError as error:
            raise FailedPreconditionError(
                f"the bot can't listen on {listen}: {error.strerror}",
                reason="ADDRESS_IN_USE",
                hint="Choose another with the setting listen.",
            ) from error
        bound = runner.addresses[0]
        yield f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()
