"""Set-up on a machine where no Docker Engine answers: it starts one if it may, or says precisely what to do.

The machine is this one, seen from namespaces of its own: an empty /run, an empty /var/lib/docker, no other process and no
network. What starts in there ends with it, and the engine outside isn't touched.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PRIVATE = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/docker 2>/dev/null; "
MAY_START = os.geteuid() == 0 and Path("/etc/debian_version").exists() and Path("/usr/sbin/dockerd").exists()


def alone(repository: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in the repository, in namespaces of its own, as root there."""
    become_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *become_root, "--mount", "--net", "--pid", "--fork", "--mount-proc", "bash", "-ec"]
    variables = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"} | environment
    return subprocess.run(
        [*command, PRIVATE + script],
        cwd=repository,
        env=variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_an_engine_that_answers_is_used_as_it_is(repository: Path) -> None:
    done = subprocess.run(["scripts/engine.sh"], cwd=repository, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "answers" in done.stdout
    assert "starting" not in done.stdout


def test_who_may_not_install_is_told_what_to_do(repository: Path) -> None:
    done = alone(repository, "unshare --user scripts/engine.sh")
    assert done.returncode == 1
    assert "no Docker Engine answers at unix:///var/run/docker.sock" in done.stderr
    assert "sudo apt-get install docker.io" in done.stderr


def test_a_named_engine_that_is_away_is_never_replaced(repository: Path) -> None:
    done = alone(repository, "scripts/engine.sh", DOCKER_HOST="unix:///run/nowhere.sock")
    assert done.returncode == 1
    assert "no Docker Engine answers at DOCKER_HOST=unix:///run/nowhere.sock" in done.stderr


@pytest.mark.parametrize(("path", "install"), [("/usr/bin:/bin", True), ("/usr/sbin:/usr/bin:/bin:/sbin", False)])
def test_the_docker_command_alone_is_no_engine(repository: Path, *, path: str, install: bool) -> None:
    if not MAY_START:  # elsewhere the script ends before that, as the test above shows
        return
    done = alone(repository, "scripts/engine.sh --dry-run", PATH=path)
    assert done.returncode == 0, done.stderr
    assert ("would install: docker.io" in done.stdout) == install
    assert "would start: dockerd" in done.stdout


@pytest.mark.docker
def test_an_engine_is_started_past_a_stale_pid_file(repository: Path) -> None:
    script = "ip link set lo up; echo 4711 >/run/docker.pid; scripts/engine.sh; echo again; scripts/engine.sh"
    done = alone(repository, script)
    if not MAY_START:
        assert done.returncode == 1
        return
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.split("again")
    assert "removing /var/run/docker.pid: process 4711 is no dockerd" in first
    assert "starting dockerd" in first
    assert "answers" in first
    assert "starting" not in again


@pytest.mark.docker
def test_an_engine_that_ends_at_once_shows_its_last_words(repository: Path, tmp_path: Path) -> None:
    if not MAY_START:
        return
    broken = tmp_path / "dockerd"
    broken.write_text("#!/bin/sh\necho no space left in the cellar\nexit 1\n", "utf-8")
    broken.chmod(0o755)
    done = alone(repository, "scripts/engine.sh", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "no space left in the cellar" in done.stderr
    assert "dockerd did not answer" in done.stderr


def test_the_second_set_up_has_nothing_to_do(repository: Path) -> None:
    subprocess.run(["scripts/setup.sh", "--no-engine"], cwd=repository, check=True, capture_output=True)
    done = subprocess.run(
        ["scripts/setup.sh", "--no-engine"], cwd=repository, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("set-up is complete")
    assert len(done.stdout.splitlines()) == 1


def test_an_unknown_option_is_refused(repository: Path) -> None:
    done = subprocess.run(["scripts/setup.sh", "--nonsense"], cwd=repository, check=False, capture_output=True)
    assert done.returncode == 2
    assert b"Usage: scripts/setup.sh" in done.stderr


def test_a_python_without_venv_is_refused_by_name(repository: Path, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    stub.chmod(0o755)
    copy = tmp_path / "clone"
    (copy / "scripts").mkdir(parents=True)
    (copy / "protos").mkdir()
    for name in ("scripts/setup.sh", "scripts/lib.sh", "requirements.lock", "pyproject.toml"):
        (copy / name).write_bytes((repository / name).read_bytes())
    done = subprocess.run(
        ["bash", "scripts/setup.sh", "--no-engine"],
        cwd=copy,
        env=os.environ | {"PYTHON": str(stub)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"PYTHON={stub} is not Python 3.11 or newer" in done.stderr
    assert not (copy / ".venv").exists()
