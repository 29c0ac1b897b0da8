"""The broker's own image: it builds without a network on the sandboxes' base, and a broker in it works."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from broker.sandbox.address import Endpoint, engine_address

if TYPE_CHECKING:
    from docker.models.containers import Container
    from docker.models.volumes import Volume

pytestmark = [pytest.mark.docker, pytest.mark.alone]  # it builds in the project's own folder

HARDENED = {
    "read_only": True,
    "tmpfs": {"/tmp": "size=64m"},  # noqa: S108 -- inside the container
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "network_mode": "none",
}
SECOND_NS = 10**9


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    connection = docker.DockerClient(base_url=engine_address(), version="auto", timeout=300)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def image(repository: Path) -> str:
    """The image's id; what it is made of decides whether it is built again."""
    script = repository / "scripts" / "build_broker_image.py"
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.fixture
def volume(client: docker.DockerClient) -> Iterator[Volume]:
    made = client.volumes.create(f"broker-test-{uuid.uuid4().hex}")
    yield made
    made.remove(force=True)


def run(client: docker.DockerClient, image: str, *arguments: str, volume: Volume | None = None) -> tuple[int, str]:
    """Runs one command in a container of its own; returns its exit code and all that it wrote."""
    volumes = {volume.name: {"bind": "/var/lib/broker"}} if volume else {}
    container = client.containers.create(image, list(arguments), volumes=volumes, **HARDENED)
    try:
        container.start()
        code = container.wait(timeout=120)["StatusCode"]
        return code, container.logs().decode()
    finally:
        container.remove(force=True)


def test_the_image_is_made_for_a_stranger(client: docker.DockerClient, image: str) -> None:
    config = client.images.get(image).attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["broker"]
    assert set(config["ExposedPorts"]) == {"7443/tcp"}
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "broker", "doctor"]


def test_the_command_answers(client: docker.DockerClient, image: str) -> None:
    code, output = run(client, image, "--help")
    assert code == 0, output
    assert "doctor" in output
    code, output = run(client, image, "--version")
    assert code == 0, output
    assert "0.1.0" in output


def test_the_image_brings_no_installer(client: docker.DockerClient, image: str) -> None:
    container = client.containers.create(image, ["-m", "pip"], entrypoint="/opt/broker/bin/python", **HARDENED)
    try:
        container.start()
        assert container.wait(timeout=60)["StatusCode"] == 1
        assert b"No module named pip" in container.logs()
    finally:
        container.remove(force=True)


def test_a_second_build_makes_nothing(image: str, repository: Path) -> None:
    script = repository / "scripts" / "build_broker_image.py"
    done = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True, timeout=600)
    assert done.stdout.split()[-1] == image
    assert "building" not in done.stderr


@pytest.fixture
def serving(client: docker.DockerClient, image: str, volume: Volume) -> Iterator[Container]:
    """A broker in a container, with the engine's socket, once its own health check passes."""
    code, output = run(client, image, "init", volume=volume)
    assert code == 0, output
    socket = Endpoint.parse(engine_address()).path
    container = client.containers.create(
        image,
        volumes={volume.name: {"bind": "/var/lib/broker"}, socket: {"bind": "/run/docker.sock"}},
        group_add=[str(Path(socket).stat().st_gid)],
        environment={"DOCKER_HOST": "unix:///run/docker.sock"},
        healthcheck={
            "test": ["CMD", "broker", "doctor", "--only", "running", "--expect-running"],
            "interval": 1 * SECOND_NS,
            "timeout": 10 * SECOND_NS,
        },
        **HARDENED,
    )
    try:
        began = int(time.time())
        container.start()
        wanted = {"container": container.id, "event": ["health_status", "die"]}
        events = client.events(since=began, until=began + 90, filters=wanted, decode=True)
        seen = []
        for event in events:
            seen.append(event["status"])
            if event["status"] in {"health_status: healthy", "die"}:
                break
        assert seen[-1:] == ["health_status: healthy"], f"{seen}\n{container.logs().decode()}"
        yield container
    finally:
        container.remove(force=True)


def test_a_broker_serves_in_it_and_ends_in_order(serving: Container) -> None:
    code, output = serving.exec_run(["broker", "doctor", "--json", "--only", "running", "--only", "permissions"])
    assert code == 0, output
    assert json.loads(output)["status"] == "ok"
    serving.kill("SIGTERM")
    assert serving.wait(timeout=60)["StatusCode"] == 0
