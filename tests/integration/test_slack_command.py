"""``broker slack serve`` as the process that operators run, and ``broker slack check``, which says what it lacks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.slack_server import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, Fault
from tests.slack_world import World, slack_world


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "broker.cli.main", "slack", *arguments]


@asynccontextmanager
async def started(world: World, *arguments: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of the program that is ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments, "--settings", str(world.folder / "slack.yaml"), "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def checked(world: World, **env: str) -> tuple[int, dict[str, Any]]:
    """What `broker slack check` answers: its exit code, and the findings by what they are about."""
    async with started(world, "check", **env) as process:
        out, _ = await process.communicate()
    answer = json.loads(out)
    assert answer["fit"] is (process.returncode == 0)
    return process.returncode or 0, {item["what"]: item for item in answer["findings"]}


@pytest.mark.parametrize("mode", ["http", "socket"])
async def test_the_bot_serves_until_it_is_asked_to_stop(tmp_path: Path, mode: str) -> None:
    async with slack_world(tmp_path, running=False, mode=mode) as world, started(world, "serve") as process:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        assert (ready["mode"], ready["team"], ready["bot_user"]) == (mode, "T0000ONE", "UBOT")
        world.slack.bot = ready["address"]
        if mode == "socket":
            await world.slack.until(lambda: world.slack.sockets)
        approval = world.service.add("secret content")
        view = await world.opened(approval)
        await world.slack.send(world.slack.submission(view, "approve", "secret reason"))
        await world.shown(approval, "human:ada")
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    assert process.returncode == 0
    for secret in (BOT_TOKEN, APP_TOKEN, SIGNING_SECRET, "secret content", "secret reason", "secret-ticket"):
        assert secret not in log.decode()
    assert "slack.vote" in log.decode()


async def test_a_bot_that_waits_for_slack_stops_when_asked(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False) as world:
        world.slack.fail("auth.test", *[Fault(status=503, error="service_unavailable")] * 50)
        async with started(world, "serve") as process:
            await world.slack.until(lambda: world.slack.called("auth.test"))
            process.send_signal(signal.SIGTERM)
            _, log = await process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in log.decode()


async def test_what_can_not_serve_says_why(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False) as world:
        (tmp_path / "bot_token").chmod(0o644)
        async with started(world, "serve") as process:
            out, log = await process.communicate()
    assert process.returncode == 2
    assert json.loads(out)["reason"] == "KEY_EXPOSED"
    assert "Traceback" not in log.decode()


@pytest.mark.parametrize("mode", ["http", "socket"])
async def test_a_check_finds_nothing_where_all_is_well(tmp_path: Path, mode: str) -> None:
    async with slack_world(tmp_path, running=False, mode=mode) as world:
        code, found = await checked(world)
        assert code == 0, found
        assert set(found) == {"channels", "secrets", "slack", "key", "broker"} | (
            {"socket"} if mode == "socket" else set()
        )
        assert not world.slack.called("chat.postMessage")


async def test_a_check_says_what_slack_lacks(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False, mode="socket") as world:
        world.slack.scopes = "app_mentions:read"
        world.slack.fail("apps.connections.open", Fault(error="not_allowed_token_type"))
        code, found = await checked(world)
        assert code == 2
        assert "chat:write" in found["slack"]["text"]
        assert "connections:write" in found["socket"]["hint"]
        _, other = await checked(world, BROKER_SLACK_TEAM="T0000TWO")
        assert "TEAM_DIFFERS" in other["slack"]["text"]
        await world.slack.stop()
        _, away = await checked(world)
        assert not away["slack"]["fit"]
        assert not away["socket"]["fit"]


async def test_a_check_says_what_the_broker_and_the_key_lack(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False) as world:
        (tmp_path / "passphrase").write_text("another passphrase\n", "utf-8")
        _, found = await checked(world)
        assert "PASSPHRASE_WRONG" in found["key"]["text"]
        (tmp_path / "passphrase").write_text("a passphrase of the bot\n", "utf-8")
        world.service.bot_key = bytes(32)
        _, found = await checked(world)
        assert "doesn't know the bot's key" in found["broker"]["text"]
        await world.broker.stop()
        _, found = await checked(world)
        assert "BROKER_UNREACHABLE" in found["broker"]["text"]


async def test_wrong_settings_are_named(tmp_path: Path) -> None:
    async with slack_world(tmp_path, running=False) as world, started(world, "check", BROKER_SLACK_TEAM="x") as process:
        out, _ = await process.communicate()
    assert process.returncode == 2
    assert "team" in json.loads(out)["fields"]
