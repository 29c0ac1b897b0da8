"""Requests that don't come from Slack, or come late, twice or changed: nothing of them reaches the desk."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
import structlog.testing

from broker.domain.secret import Secret
from broker.slack.door import MAX_BODY, WINDOW_S, is_signed
from tests.slack_server import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, Fault
from tests.slack_world import PASSPHRASE, World, slack_world

STAMP, SIGNATURE = "X-Slack-Request-Timestamp", "X-Slack-Signature"


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[tuple[World, str]]:
    """A bot that shows an approval, whose button nobody has pressed."""
    async with slack_world(tmp_path) as world:
        approval = world.service.add("secret content")
        await world.shown(approval)
        yield world, approval
        assert not world.slack.views
        assert not world.service.casts


async def refused(world: World, body: bytes, headers: Any, status: int = 401) -> None:  # noqa: ANN401
    answer = await world.slack.post(body, headers)
    assert (answer.status, answer.body) == (status, "")


@pytest.mark.parametrize("secret", ["", "8f742231b10e8888abcd99yyyzzz85a6", BOT_TOKEN])
async def test_forged_signature(shown: tuple[World, str], secret: str) -> None:
    world, approval = shown
    await refused(world, *world.slack.request(world.slack.click(approval), secret=secret))


@pytest.mark.parametrize("age_s", [WINDOW_S + 2, 86400, -WINDOW_S - 60])
async def test_old_or_future_timestamp_with_a_right_signature(shown: tuple[World, str], age_s: float) -> None:
    world, approval = shown
    await refused(world, *world.slack.request(world.slack.click(approval), age_s=age_s))


async def test_new_timestamp_with_an_old_signature(shown: tuple[World, str]) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval), age_s=WINDOW_S + 60)
    await refused(world, body, {**headers, STAMP: str(int(time.time()))})


@pytest.mark.parametrize("name", [STAMP, SIGNATURE])
async def test_header_missing(shown: tuple[World, str], name: str) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval))
    await refused(world, body, {key: value for key, value in headers.items() if key != name})


@pytest.mark.parametrize("name", [STAMP, SIGNATURE])
async def test_header_twice(shown: tuple[World, str], name: str) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval))
    await refused(world, body, [*headers.items(), (name, headers[name])])


@pytest.mark.parametrize("stamp", ["", "now", "1e9", "-5", " 5", "٣", "9" * 40, "nan"])
async def test_timestamp_that_is_no_number(shown: tuple[World, str], stamp: str) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval))
    await refused(world, body, {**headers, STAMP: stamp})


@pytest.mark.parametrize("signature", ["", "v0=", "v1=" + "0" * 64, "v0=" + "0" * 64, "v0=" + "é" * 64])
async def test_signature_that_is_none(shown: tuple[World, str], signature: str) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval))
    await refused(world, body, {**headers, SIGNATURE: signature})


async def test_body_changed_by_one_byte(shown: tuple[World, str]) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval))
    await refused(world, body.replace(b"UADA", b"UBOB"), headers)
    await refused(world, body + b" ", headers)
    await refused(world, body[:-1], headers)


async def test_ssl_check_opens_nothing(shown: tuple[World, str]) -> None:
    world, approval = shown
    payload = json.dumps(world.slack.click(approval))
    body = urlencode({"ssl_check": "1", "payload": payload}).encode()
    await refused(world, body, {"Content-Type": "application/x-www-form-urlencoded"})


async def test_url_verification_is_not_answered_unsigned(shown: tuple[World, str]) -> None:
    world, _ = shown
    body = json.dumps({"type": "url_verification", "challenge": "abc"}).encode()
    await refused(world, body, {"Content-Type": "application/json"})


async def test_request_that_claims_to_come_by_the_socket(shown: tuple[World, str]) -> None:
    world, approval = shown
    payload = {**world.slack.click(approval), "mode": "socket_mode"}
    body, headers = world.slack.request(payload, secret="wrong")  # noqa: S106 - a forged one
    await refused(world, body, {**headers, "X-Slack-Mode": "socket_mode"})


@pytest.mark.parametrize(
    "path", ["/", "/slack", "/slack/events/", "/slack/oauth_redirect", "/slack/install", "/metrics"]
)
async def test_other_path(shown: tuple[World, str], path: str) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval))
    assert (await world.slack.post(body, headers, path)).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_other_method(shown: tuple[World, str], method: str) -> None:
    world, _ = shown
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{world.slack.bot}/slack/events") as reply,
    ):
        assert reply.status == 405


async def test_body_beyond_all_size(shown: tuple[World, str]) -> None:
    world, _ = shown
    body, headers = world.slack.request({"type": "event_callback", "pad": "x" * MAX_BODY})
    await refused(world, body, headers, status=413)


async def test_body_that_never_ends(shown: tuple[World, str]) -> None:
    world, approval = shown
    body, headers = world.slack.request(world.slack.click(approval))
    host, _, port = world.slack.bot.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{name}: {value}" for name, value in {**headers, "Host": host, "Content-Length": str(len(body))}.items()]
    writer.write("\r\n".join(["POST /slack/events HTTP/1.1", *lines, "", ""]).encode() + body[:-1])
    async with asyncio.timeout(20):
        assert b" 408 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_body_that_is_no_text(shown: tuple[World, str]) -> None:
    world, _ = shown
    stamp = str(int(time.time()))
    body = b"payload=\xff\xfe"
    headers = {STAMP: stamp, SIGNATURE: _signature(stamp, body)}
    await refused(world, body, headers, status=400)


@pytest.mark.parametrize(
    "payload", ["", "[]", "5", "{", '{"type": "block_actions"}', '{"type": "view_submission"}', "[" * 500]
)
async def test_signed_nonsense(shown: tuple[World, str], payload: str) -> None:
    world, approval = shown
    stamp = str(int(time.time()))
    body = urlencode({"payload": payload}).encode()
    headers = {
        STAMP: stamp,
        SIGNATURE: _signature(stamp, body),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = await world.slack.post(body, headers)
    assert answer.status >= 400
    assert "Traceback" not in answer.body
    assert approval in await world.shown(approval)


async def test_replayed_submission_after_the_vote_was_taken_back(tmp_path: Path) -> None:
    async with slack_world(tmp_path) as world:
        approval = world.service.add()
        view = await world.opened(approval)
        body, headers = world.slack.request(world.slack.submission(view, "approve"))
        await world.slack.post(body, headers)
        await world.shown(approval, "1 more people")
        again = await world.opened(approval)
        await world.slack.send(world.slack.submission(again, "withdraw"))
        await world.shown(approval, "took their vote back")
        await world.stop()
        await world.start()  # a new start forgets nothing of it
        replayed = await world.slack.post(body, headers)
        assert "cast already" in replayed.body
        assert world.service.casts == 2


async def test_secrets_stay_out_of_logs_and_the_bots_file(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with slack_world(tmp_path, mode="socket") as world:
            await world.slack.until(lambda: world.slack.sockets)
            world.slack.fail("apps.connections.open", Fault(error="internal_error"))
            await world.slack.drop()
            approval = world.service.add("secret content")
            world.slack.fail("chat.postMessage", Fault(status=500, body="oops"))
            await world.shown(approval)
    text = json.dumps(logs, default=str) + (tmp_path / "bot.db").read_bytes().decode("latin-1")
    assert "slack.posted" in text
    for secret in (BOT_TOKEN, APP_TOKEN, SIGNING_SECRET, PASSPHRASE, "secret-ticket", "secret content"):
        assert secret not in text


def test_slacks_own_example_of_a_signature() -> None:
    # As docs.slack.dev gives it.
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    secret = Secret(SIGNING_SECRET.encode())
    signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    assert is_signed(secret, ["1531420618"], [signature], body, 1531420618.0)
    assert is_signed(secret, ["1531420618"], [signature], body, 1531420618.0 + WINDOW_S)
    assert not is_signed(secret, ["1531420618"], [signature], body, 1531420619.0 + WINDOW_S)
    assert not is_signed(secret, ["1531420618"], [signature], body, 1531420617.0 - WINDOW_S)


def _signature(stamp: str, body: bytes) -> str:
    return "v0=" + hmac.new(SIGNING_SECRET.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
