"""``broker sandbox`` and the script that builds the images, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest

from broker.cli.local import open_local
from broker.cli.main import run as broker
from broker.sandbox.address import engine_address
from broker.sandbox.docker_config import container_config
from broker.sandbox.docker_engine import DockerEngine
from tests.sandbox_support import profile

pytestmark = pytest.mark.docker


def build(repository: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = repository / "scripts" / "build_images.py"
    return subprocess.run([sys.executable, script, *options], check=False, capture_output=True, text=True, timeout=250)


def test_images_that_are_there_are_not_built_again(repository: Path) -> None:
    assert build(repository).returncode == 0
    began = time.monotonic()
    again = build(repository)
    assert time.monotonic() - began < 2
    assert "building" not in again.stderr
    assert "broker-sandbox-python" in again.stderr


def test_the_bases_tag_follows_from_its_inputs(repository: Path) -> None:
    default, other = (
        build(repository, "--print-base").stdout,
        build(repository, "--print-base", "--base", "mine").stdout,
    )
    assert default.startswith("broker-base:")
    assert default != other


def test_a_base_that_is_nowhere_is_said(repository: Path) -> None:
    done = build(repository, "--base", "localhost:1/no-such-image")
    assert done.returncode == 1
    assert "--base" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_away_is_said(repository: Path, tmp_path: Path) -> None:
    done = build(repository, "--engine", f"unix://{tmp_path}/nobody.sock")
    assert done.returncode == 1
    assert "is it running?" in done.stderr


def test_images_are_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert broker(["sandbox", "images", "--state", str(tmp_path), "--json"]) == 0
    items = json.loads(capfd.readouterr().out)["items"]
    assert [item["name"] for item in items if item["current"]] == ["python"]
    assert broker(["sandbox", "images", "--state", str(tmp_path)]) == 0
    assert "python" in capfd.readouterr().out


def test_what_was_left_behind_is_shown_then_removed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    assert broker(["init", "--state", str(state)]) == 0
    with open_local(state) as local:
        origin = local.origin
    asyncio.run(leave_one(origin))
    capfd.readouterr()

    def gc(*options: str) -> dict[str, object]:
        assert broker(["sandbox", "gc", "--state", str(state), "--json", *options]) == 0
        answer: dict[str, object] = json.loads(capfd.readouterr().out)
        return answer

    shown, removed = gc("--dry-run"), gc()
    assert shown["items"] == removed["items"]
    assert len(shown["items"]) == 1  # type: ignore[arg-type]  # a list
    assert (shown["dry_run"], shown["broker_running"]) == (True, False)
    assert gc()["items"] == []


async def leave_one(instance: str) -> None:
    """Makes a container as a broker does, and forgets it."""
    async with DockerEngine(instance) as engine:
        chosen = await profile(engine)
    client = docker.APIClient(base_url=engine_address(), version="auto")
    client.create_container_from_config(container_config(instance, "call_left", chosen, client.api_version))
    client.close()
