"""The peers: the same container by the `docker` command, and the engine's bare floor."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import docker

from broker.domain.run import Limits, Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.address import engine_address
from broker.sandbox.docker_config import USER, container_config, tmpfs
from broker.sandbox.engine import LABEL_INSTANCE

CODE = "print(1)"
PROGRAM = ("/usr/bin/python3", "-c", CODE)
_PARALLELISMS = (1, 2, 3, 4, 6)
_SCAN_S = 5.0


def require_docker() -> None:
    """Returns where the `docker` command is.

    Raises:
        FailedPreconditionError: it isn't.
    """
    if shutil.which("docker") is None:
        raise FailedPreconditionError("this benchmark needs the `docker` command", reason="DOCKER_COMMAND_MISSING")


def run_once(image: str, limits: Limits) -> None:
    """`docker run` of the program, with the broker's hardening, until its output is there and the container is gone."""
    _expect_one(["docker", "run", "--rm", *_hardening(limits), "--entrypoint", PROGRAM[0], image, *PROGRAM[1:]])


def exec_once(container: str) -> None:
    """`docker exec` of the program in a container that runs already."""
    _expect_one(["docker", "exec", container, *PROGRAM])


@contextmanager
def waiting_container(image: str, limits: Limits) -> Iterator[str]:
    """A container with the same hardening that does nothing; its id."""
    command = ["docker", "run", "--detach", *_hardening(limits), "--entrypoint", "/bin/sleep", image, "infinity"]
    container = _output(command).decode().strip()
    try:
        yield container
    finally:
        _output(["docker", "rm", "--force", container])


def best_parallelism(instance: str, profile: Profile) -> int:
    """How many at a time the engine creates, starts and removes fastest."""
    rates = {parallelism: engine_floor(instance, profile, parallelism, _SCAN_S) for parallelism in _PARALLELISMS}
    return max(rates, key=lambda parallelism: rates[parallelism])


def waiting_mib() -> list[float]:
    """What each container with a broker's label takes: its processes and the engine's shim, of shared pages their part."""
    client = docker.APIClient(base_url=engine_address(""), version="auto")
    with client:
        listing = client.containers(filters={"label": [LABEL_INSTANCE]})
        roots = [client.inspect_container(item["Id"])["State"]["Pid"] for item in listing]
    return [(_proportional_kib(pid) + _proportional_kib(_parent(pid))) / 1024 for pid in roots if pid]


def _proportional_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])


def engine_floor(instance: str, profile: Profile, parallelism: int, seconds: float) -> float:
    """Containers that the engine creates, starts and removes in a second, so many at a time.

    Measure it anew once the parallelism is chosen: the best of several short measurements is too high by chance.
    """
    client = docker.APIClient(base_url=engine_address(""), version="auto", max_pool_size=parallelism)
    body = container_config(instance, profile, client.api_version)

    def work(until: float) -> int:
        made = 0
        while time.monotonic() < until:
            container = client.create_container_from_config(body)["Id"]
            client.start(container)
            client.remove_container(container, force=True, v=True)
            made += 1
        return made

    with client, ThreadPoolExecutor(parallelism) as threads:
        began = time.monotonic()
        made = sum(threads.map(work, [began + seconds] * parallelism))
        return made / (time.monotonic() - began)


def _hardening(limits: Limits) -> list[str]:
    mounts = [part for path, options in tmpfs(limits).items() for part in ("--tmpfs", f"{path}:{options}")]
    return [
        "--pull", "never",
        "--user", USER, "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--pids-limit", str(limits.processes + 1),
        "--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes),
        "--cpus", str(limits.cpu_cores), "--ipc", "none",
        "--log-driver", "none", "--ulimit", f"nofile={limits.open_files}",
        *mounts,
    ]  # fmt: skip


def _expect_one(command: list[str]) -> None:
    if (found := _output(command)) != b"1\n":
        raise FailedPreconditionError(f"{command[1]} answered {found!r}", reason="UNEXPECTED_OUTPUT")


def _output(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout
