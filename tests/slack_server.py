"""A server that speaks Slack's Web API and Socket Mode on loopback, checks what it is given against Slack's documented
limits, and sends a bot what people do, signed as Slack signs.

It can be told to answer 429, 500 or an error, to hang, to be down, and to drop its sockets.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import WSMsgType, web

from tests.slack_limits import Refused, check_message, check_view

TEAM = "T0000ONE"
CHANNEL = "C0000OPS"
BOT_TOKEN = "xoxb-1111-2222-abcdefgh"  # noqa: S105 - of a Slack that doesn't exist
APP_TOKEN = "xapp-1-A000-3333-abcdefgh"  # noqa: S105 - as above
SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"  # noqa: S105 - as above
TRIGGER_S = 3.0
WAIT_S = 20.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What is answered in place of the truth."""

    status: int = 200
    error: str = ""
    retry_after: str = ""
    hang: bool = False
    """Never answers."""
    lose: bool = False
    """Does what it is asked, and breaks the connection in place of an answer."""
    body: str = ""
    """A body that is no JSON."""


def limited(seconds: float = 0) -> Fault:
    return Fault(status=429, error="ratelimited", retry_after=str(seconds))


@dataclass
class Answer:
    """What a bot answered to a request of Slack's."""

    status: int
    body: str
    seconds: float

    @property
    def json(self) -> Json:
        return json.loads(self.body) if self.body else {}


@dataclass
class FakeSlack:
    """The server."""

    port: int = 0
    scopes: str = "chat:write,app_mentions:read"
    messages: dict[tuple[str, str], Json] = field(default_factory=dict)
    views: dict[str, Json] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """View -> the user who sees it."""
    whispers: list[Json] = field(default_factory=list)
    calls: list[tuple[str, Json]] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    """What broke a limit of Slack's."""
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    bot: str = ""
    """Address of the bot in mode ``http``."""
    triggers: dict[str, tuple[str, float]] = field(default_factory=dict)
    _acks: dict[str, asyncio.Future[Json]] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _runner: web.AppRunner | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    # Running

    async def start(self) -> None:
        app = web.Application(client_max_size=4 * 2**20)
        app.router.add_post("/api/{method}", self._api)
        app.router.add_get("/socket", self._socket)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        self._runner = runner

    async def stop(self) -> None:
        """Slack is down: nothing listens, and the sockets are gone."""
        await self.drop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def drop(self) -> None:
        """Drops the sockets."""
        sockets, self.sockets = self.sockets, []
        for socket in sockets:
            await socket.close()

    async def until(self, fits: Callable[[], object], *, within_s: float = WAIT_S) -> None:
        """Waits until something is so; looks whenever something has happened here."""
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(lambda: bool(fits()))

    async def happened(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def fail(self, method: str, *faults: Fault) -> None:
        """Lets a method's next requests fail, one by one."""
        self.faults.setdefault(method, []).extend(faults)

    def called(self, method: str) -> list[Json]:
        """The requests of a method so far, those that failed too."""
        return [request for name, request in self.calls if name == method]

    def seen_in_channel(self) -> str:
        """All that anybody in a channel has ever been sent."""
        shared = ("chat.postMessage", "chat.update")
        return json.dumps([request for name, request in self.calls if name in shared], ensure_ascii=False)

    # What people do

    def message(self, approval: str) -> tuple[str, str]:
        """(channel, ts) of the message that shows an approval."""
        found = [place for place, message in self.messages.items() if approval in json.dumps(message["blocks"])]
        assert len(found) == 1, f"{len(found)} messages show {approval}"
        return found[0]

    def click(self, approval: str, user: str = "UADA", team: str = TEAM, **changed: Any) -> Json:  # noqa: ANN401
        """The payload of a press on the message's button."""
        channel, ts = self.message(approval)
        blocks = self.messages[channel, ts]["blocks"]
        button = next(item for block in blocks if block["type"] == "actions" for item in block["elements"])
        return self.press(user, team, channel, ts, action_id=button["action_id"], value=button["value"], **changed)

    def press(self, user: str, team: str, channel: str, ts: str, **action: Any) -> Json:  # noqa: ANN401
        trigger = f"{next(self._numbers)}.{next(self._numbers)}.abc"
        self.triggers[trigger] = (user, time.monotonic() + TRIGGER_S)
        return {
            "type": "block_actions",
            "api_app_id": "A000",
            "token": "not-used",
            "user": {"id": user, "username": user.lower(), "name": user.lower(), "team_id": team},
            "team": {"id": TEAM, "domain": "example"},
            "channel": {"id": channel, "name": "approvals"},
            "container": {"type": "message", "message_ts": ts, "channel_id": channel},
            "trigger_id": trigger,
            "actions": [{"type": "button", "block_id": "b", "action_ts": ts, **action}],
        }

    def submission(
        self,
        view: str,
        decision: str,
        reason: str | None = None,
        *,
        user: str = "UADA",
        team: str = TEAM,
        metadata: str | None = None,
    ) -> Json:
        """The payload of a modal that somebody submits."""
        shown = self.views[view]
        values = {
            "decision": {"decision": {"type": "radio_buttons", "selected_option": {"value": decision}}},
            "reason": {"reason": {"type": "plain_text_input", "value": reason}},
        }
        given = shown.get("private_metadata", "") if metadata is None else metadata
        return {
            "type": "view_submission",
            "api_app_id": "A000",
            "user": {"id": user, "username": user.lower(), "name": user.lower(), "team_id": team},
            "team": {"id": TEAM, "domain": "example"},
            "trigger_id": "1.2.never",
            "response_urls": [],
            "view": {
                **shown,
                "id": view,
                "team_id": TEAM,
                "app_installed_team_id": TEAM,
                "callback_id": "broker_decide",
                "private_metadata": given,
                "state": {"values": values},
                "hash": "1.abc",
            },
        }

    def event(self, kind: str, event_id: str, user: str = "UADA", **values: Any) -> Json:  # noqa: ANN401
        """The payload of an event."""
        return {
            "type": "event_callback",
            "team_id": TEAM,
            "api_app_id": "A000",
            "event_id": event_id,
            "event_time": int(time.time()),
            "event": {"type": kind, "user": user, "channel": CHANNEL, "event_ts": "1.1", **values},
            "authorizations": [{"team_id": TEAM, "user_id": "UBOT", "is_bot": True}],
        }

    # How it comes to the bot

    def request(
        self,
        payload: Json,
        *,
        secret: str = SIGNING_SECRET,
        age_s: float = 0,
        headers: dict[str, str] | None = None,
    ) -> tuple[bytes, dict[str, str]]:
        """Body and headers of a request, signed as Slack signs."""
        if payload["type"] in {"event_callback", "url_verification"}:
            body, kind = json.dumps(payload).encode(), "application/json"
        else:
            body = urlencode({"payload": json.dumps(payload)}).encode()
            kind = "application/x-www-form-urlencoded"
        stamp = str(int(time.time() - age_s))
        signature = hmac.new(secret.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
        return body, {
            "Content-Type": kind,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={signature}",
            **(headers or {}),
        }

    async def post(self, body: bytes, headers: dict[str, str], path: str = "/slack/events") -> Answer:
        """Posts to the bot."""
        begun = time.monotonic()
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{self.bot}{path}", data=io.BytesIO(body), headers=headers) as reply,
        ):
            return Answer(reply.status, await reply.text(), time.monotonic() - begun)

    async def send(self, payload: Json, **signing: Any) -> Answer:  # noqa: ANN401
        """Sends by HTTP, or by the socket that is open; applies what the bot answers to a modal."""
        if self.sockets:
            answer = await self._by_socket(payload)
        else:
            answer = await self.post(*self.request(payload, **signing))
        if payload["type"] == "view_submission" and answer.status == 200 and answer.body:
            answered = answer.json
            if answered.get("response_action") == "update":
                await self._apply(payload["view"]["id"], answered["view"])
        return answer

    async def _by_socket(self, payload: Json) -> Answer:
        envelope = f"env-{next(self._numbers)}"
        kind = "events_api" if payload["type"] == "event_callback" else "interactive"
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._acks[envelope] = future
        begun = time.monotonic()
        message = {"type": kind, "envelope_id": envelope, "payload": payload, "accepts_response_payload": True}
        await self.sockets[-1].send_json(message)
        async with asyncio.timeout(WAIT_S):
            answered = (await future).get("payload")
        return Answer(200, json.dumps(answered) if answered else "", time.monotonic() - begun)

    async def _apply(self, view: str, content: Json) -> None:
        try:
            check_view(content)
        except Refused as refusal:
            self.refused.append(f"response_action: {refusal}")
            return
        self.views[view] = content
        await self.happened()

    # What the bot asks

    async def _api(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        if request.content_type == "application/json":
            body = await request.json()
        else:
            body = dict(await request.post())
        for name in ("blocks", "view"):
            if isinstance(body.get(name), str):
                body[name] = json.loads(body[name])
        body["authorization"] = request.headers.get("Authorization", "")
        self.calls.append((method, body))
        fault = self.faults[method].pop(0) if self.faults.get(method) else Fault()
        try:
            if fault.hang:
                await self.happened()
                await asyncio.Event().wait()
            if fault.status != 200 or fault.error or fault.body:
                return self._faulty(fault)
            token = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
            if body["authorization"] != f"Bearer {token}":
                return web.json_response({"ok": False, "error": "invalid_auth"})
            handler = getattr(self, "_" + method.replace(".", "_"), None)
            if handler is None:
                return web.json_response({"ok": False, "error": "unknown_method"})
            try:
                answer = handler(body)
            except Refused as refusal:
                self.refused.append(f"{method}: {refusal}")
                answer = {"ok": False, "error": refusal.code}
            if fault.lose and request.transport is not None:
                request.transport.abort()
            return web.json_response(answer, headers={"x-oauth-scopes": self.scopes})
        finally:
            await self.happened()

    @staticmethod
    def _faulty(fault: Fault) -> web.Response:
        headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
        if fault.body:
            return web.Response(status=fault.status, text=fault.body, content_type="text/html", headers=headers)
        return web.json_response({"ok": False, "error": fault.error}, status=fault.status, headers=headers)

    def _auth_test(self, _: Json) -> Json:
        return {
            "ok": True,
            "url": "https://example.slack.com/",
            "team": "example",
            "user": "broker",
            "team_id": TEAM,
            "user_id": "UBOT",
            "bot_id": "BBOT",
        }

    def _chat_postMessage(self, body: Json) -> Json:  # noqa: N802 - Slack's name
        check_message(body)
        if not body["channel"].startswith("C0000"):
            raise Refused("channel_not_found", body["channel"])
        ts = f"1700000000.{next(self._numbers):06d}"
        self.messages[body["channel"], ts] = body
        return {"ok": True, "channel": body["channel"], "ts": ts, "message": {"text": body["text"]}}

    def _chat_update(self, body: Json) -> Json:
        check_message(body)
        place = body["channel"], body["ts"]
        if place not in self.messages:
            raise Refused("message_not_found", str(place))
        self.messages[place] = body
        return {"ok": True, "channel": place[0], "ts": place[1]}

    def _chat_postEphemeral(self, body: Json) -> Json:  # noqa: N802 - Slack's name
        self.whispers.append(body)
        return {"ok": True, "message_ts": "1.1"}

    def _views_open(self, body: Json) -> Json:
        check_view(body["view"])
        user, until = self.triggers.pop(body["trigger_id"], ("", 0.0))
        if time.monotonic() > until:
            raise Refused("expired_trigger_id", body["trigger_id"])
        view = f"V{next(self._numbers):08d}"
        self.views[view] = body["view"]
        self.owners[view] = user
        return {"ok": True, "view": {"id": view, "hash": "1.abc", **body["view"]}}

    def _views_update(self, body: Json) -> Json:
        check_view(body["view"])
        if body["view_id"] not in self.views:
            raise Refused("not_found", body["view_id"])
        self.views[body["view_id"]] = body["view"]
        return {"ok": True, "view": {"id": body["view_id"], **body["view"]}}

    def _apps_connections_open(self, _: Json) -> Json:
        return {"ok": True, "url": f"ws://127.0.0.1:{self.port}/socket?ticket=secret-ticket-{next(self._numbers)}"}

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1, "connection_info": {"app_id": "A000"}})
        self.sockets.append(socket)
        await self.happened()
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                answer = json.loads(message.data)
                future = self._acks.pop(answer["envelope_id"], None)
                if future is not None and not future.done():
                    future.set_result(answer)
        if socket in self.sockets:
            self.sockets.remove(socket)
        return socket


@asynccontextmanager
async def fake_slack() -> AsyncIterator[FakeSlack]:
    """A server that runs."""
    slack = FakeSlack()
    await slack.start()
    try:
        yield slack
    finally:
        await slack.stop()
