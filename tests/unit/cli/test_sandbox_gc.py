"""``broker sandbox gc`` over a real engine: containers, volumes and networks of one label, and of no other."""

from __future__ import annotations

import asyncio
import fcntl
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import jsonschema
import pytest

from broker.cli.local import open_local
from broker.cli.main import run as broker
from broker.cli.replay_opening import instance_of
from broker.replay.scratch import Room
from broker.sandbox.address import engine_address
from broker.sandbox.docker_leftovers import Kind, Leftover, find_leftovers
from broker.sandbox.engine import LABEL_INSTANCE
from broker.settings import StatePaths

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def client() -> Iterator[docker.APIClient]:
    opened = docker.APIClient(base_url=engine_address(), version="auto", timeout=60)
    yield opened
    opened.close()


@pytest.fixture
def state(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "state"
    assert broker(["init", "--state", str(path)]) == 0
    capfd.readouterr()
    return path


@pytest.fixture
def origin(state: Path) -> str:
    with open_local(state) as local:
        return local.origin


@pytest.fixture
def stranger() -> Iterator[str]:
    """The label of somebody else's things, which are removed when the test ends."""
    instance = f"test-{uuid.uuid4().hex[:16]}"
    yield instance
    left(instance, remove=True)


def left(instance: str, *, remove: bool = False) -> Sequence[Leftover]:
    return asyncio.run(find_leftovers(instance, remove=remove))


def leave(client: docker.APIClient, instance: str) -> dict[str, str]:
    """Makes one of each kind, never started; returns their ids."""
    labels = {LABEL_INSTANCE: instance}
    image = client.images(filters={"label": ["broker.image"]})[0]["Id"]
    return {
        "container": client.create_container(image, command=["x"], labels=labels, network_disabled=True)["Id"],
        "volume": client.create_volume(labels=labels)["Name"],
        "network": client.create_network(f"gc-{uuid.uuid4().hex[:12]}", labels=labels, internal=True)["Id"],
    }


def gc(state: Path, capfd: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert broker(["sandbox", "gc", "--state", str(state), "--json", *options]) == 0
    answer: dict[str, Any] = json.loads(capfd.readouterr().out)
    return answer


def test_all_three_kinds_are_shown_then_removed(
    client: docker.APIClient, state: Path, origin: str, capfd: pytest.CaptureFixture[str], repository: Path
) -> None:
    made = leave(client, origin)
    shown, removed = gc(state, capfd, "--dry-run"), gc(state, capfd)
    jsonschema.validate(shown, json.loads((repository / "docs" / "cli" / "sandbox-gc.json").read_text("utf-8")))
    assert {item["kind"]: item["id"] for item in shown["items"]} == made
    assert shown["items"] == removed["items"]
    assert (shown["dry_run"], removed["dry_run"], shown["broker_running"]) == (True, False, False)
    container = next(item for item in shown["items"] if item["kind"] == "container")
    assert container["state"] == "created"
    for item in shown["items"]:
        age = datetime.now(UTC) - datetime.fromisoformat(item["created"])
        assert abs(age) < timedelta(minutes=10)
    assert gc(state, capfd)["items"] == []
    assert left(origin) == []


def test_what_another_broker_left_is_not_touched(
    client: docker.APIClient, state: Path, stranger: str, capfd: pytest.CaptureFixture[str]
) -> None:
    made = leave(client, stranger)
    assert gc(state, capfd)["items"] == []
    assert {item.id for item in left(stranger)} == set(made.values())


def test_a_person_is_told_what_and_how_many(
    client: docker.APIClient, state: Path, origin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    made = leave(client, origin)
    assert broker(["sandbox", "gc", "--state", str(state), "--dry-run"]) == 0
    shown = capfd.readouterr().out
    assert f"would be removed: container {made['container'][:12]} created, made 20" in shown
    assert shown.endswith("1 container, 1 volume, 1 network would be removed\n")
    assert broker(["sandbox", "gc", "--state", str(state)]) == 0
    assert capfd.readouterr().out.endswith("1 container, 1 volume, 1 network removed\n")
    assert broker(["sandbox", "gc", "--state", str(state)]) == 0
    assert capfd.readouterr().out == "0 containers, 0 volumes, 0 networks removed\n"


def test_beside_a_broker_it_only_shows(
    client: docker.APIClient, state: Path, origin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    leave(client, origin)
    with StatePaths(state).lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert gc(state, capfd, "--dry-run")["broker_running"]
        assert broker(["sandbox", "gc", "--state", str(state), "--json"]) == 2
        assert json.loads(capfd.readouterr().out)["reason"] == "ALREADY_SERVING"
        assert len(left(origin)) == len(Kind)
    assert len(gc(state, capfd)["items"]) == len(Kind)


def test_an_engine_that_is_away_is_said(state: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    away = f"unix://{tmp_path}/nobody.sock"
    assert broker(["sandbox", "gc", "--state", str(state), "--engine", away, "--json"]) == 5
    assert json.loads(capfd.readouterr().out)["reason"] == "ENGINE_FAILED"


def test_what_somebody_else_removes_meanwhile_is_no_error(
    client: docker.APIClient, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = leave(client, origin)
    listing = docker.APIClient.networks

    def removed_after_the_list(self: docker.APIClient, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the SDK's
        found = listing(self, *args, **kwargs)
        client.remove_container(made["container"], force=True)
        client.remove_volume(made["volume"])
        client.remove_network(made["network"])
        return found

    monkeypatch.setattr(docker.APIClient, "networks", removed_after_the_list)
    assert {item.id for item in left(origin, remove=True)} == set(made.values())


def test_what_killed_replays_left_is_removed_beside_a_broker(
    client: docker.APIClient, state: Path, origin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    room = Room(StatePaths(state).replays)
    (room.place / "scratch").mkdir()
    (room.place / "scratch" / "file").write_text("left")
    made = leave(client, instance_of(origin))["container"]
    with StatePaths(state).lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        room.share()
        found = gc(state, capfd, "--replays")
        assert found["replay_running"]
        assert (room.place / "scratch" / "file").exists()
        assert made in {item.id for item in left(instance_of(origin))}
        room.leave()
        found = gc(state, capfd, "--replays")
    assert {(item["kind"], item["replay"]) for item in found["items"]} == {
        (kind, True) for kind in ("container", "volume", "network", "scratch")
    }
    assert (gc(state, capfd)["items"], left(instance_of(origin))) == ([], [])
    assert [item.name for item in room.place.iterdir()] == ["lock"]
