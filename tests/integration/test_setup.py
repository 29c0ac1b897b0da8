"""Set-up on a machine where no Docker Engine answers: it starts one if it may, or says precisely what to do.

The machine is this one, seen from namespaces of its own: an empty /run, an empty /var/lib/docker, no other process and no
network. What starts in there ends with it, and the engine outside isn't touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone  # it sets the project's own folder up

PRIVATE = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/docker 2>/dev/null; "
MAY_START = os.geteuid() == 0 and Path("/etc/debian_version").exists() and Path("/usr/sbin/dockerd").exists()
NEEDS = "needs root on Debian with dockerd installed, where the script may start an engine"


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
    if not MAY_START:
        pytest.skip(NEEDS)
    done = alone(repository, "scripts/engine.sh --dry-run", PATH=path)
    assert done.returncode == 0, done.stderr
    assert ("would install: docker.io" in done.stdout) == install
    assert "would start: dockerd" in done.stdout


@pytest.mark.docker
def test_an_engine_is_started_past_a_stale_pid_file(repository: Path) -> None:
    if not MAY_START:
        pytest.skip(NEEDS)
    script = "ip link set lo up; echo 4711 >/run/docker.pid; scripts/engine.sh; echo again; scripts/engine.sh"
    done = alone(repository, script)
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.split("again")
    assert "removing /var/run/docker.pid: process 4711 is no dockerd" in first
    assert "starting dockerd" in first
    assert "answers" in first
    assert "starting" not in again


@pytest.mark.docker
def test_an_engine_that_ends_at_once_shows_its_last_words(repository: Path, tmp_path: Path) -> None:
    if not MAY_START:
        pytest.skip(NEEDS)
    program(tmp_path / "dockerd", "echo no space left in the cellar\nexit 1\n")
    done = alone(repository, "scripts/engine.sh", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "no space left in the cellar" in done.stderr
    assert "dockerd did not answer" in done.stderr


@pytest.mark.docker
def test_the_engine_that_is_started_knows_runsc(repository: Path) -> None:
    if not MAY_START or not shutil.which("runsc"):
        pytest.skip(f"{NEEDS}, and the program runsc")
    script = "ip link set lo up; scripts/engine.sh >&2; docker info --format '{{json .Runtimes.runsc}}'"
    done = alone(repository, script)
    assert done.returncode == 0, done.stderr
    arguments = ["--platform=ptrace", "--network=none"]
    assert json.loads(done.stdout) == {"path": shutil.which("runsc"), "runtimeArgs": arguments}


@pytest.mark.docker
@pytest.mark.parametrize(
    ("configured", "said"),
    [(True, "/etc/docker/daemon.json holds as it is"), (False, "going on without the runtime runsc")],
)
def test_the_engine_is_started_without_runsc(repository: Path, tmp_path: Path, *, configured: bool, said: str) -> None:
    if not MAY_START:
        pytest.skip(NEEDS)
    program(tmp_path / "apt-get", "echo no such package >&2\nexit 100\n")
    program(tmp_path / "dockerd", 'echo "given: $#"\nexit 1\n')
    for found in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
        if found.name != "runsc" and not (tmp_path / found.name).exists():
            (tmp_path / found.name).symlink_to(found)
    before = "mount -t tmpfs tmpfs /etc/docker; echo {} >/etc/docker/daemon.json; " if configured else ""
    done = alone(repository, f"{before}scripts/engine.sh", PATH=str(tmp_path))
    assert said in done.stdout
    assert "no such package" not in done.stderr
    assert "given: 0" in done.stderr


def program(path: Path, script: str) -> None:
    """Puts a shell script where the set-up looks for a program."""
    path.write_text(f"#!/bin/sh\n{script}", "utf-8")
    path.chmod(0o755)


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


def test_the_systems_python_is_taken_where_it_fits(repository: Path, tmp_path: Path) -> None:
    own = Path("/usr/bin/python3")
    check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    fits = sys.platform == "linux" and subprocess.run([own, "-c", check], check=False).returncode == 0
    other = tmp_path / "python3"
    program(other, f'exec {sys.executable} "$@"\n')
    copy = tmp_path / "clone"
    (copy / "scripts").mkdir(parents=True)
    (copy / "protos").mkdir()
    for name in ("scripts/setup.sh", "scripts/lib.sh"):
        (copy / name).write_bytes((repository / name).read_bytes())
    (copy / "requirements.lock").write_text("nothing==0\n", "utf-8")
    (copy / "pyproject.toml").touch()
    (copy / ".venv").mkdir()
    (copy / ".venv" / "left").touch()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = subprocess.run(
        ["bash", "scripts/setup.sh", "--no-engine"],
        cwd=copy,
        env=environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "the locked packages could not be installed" in done.stderr
    assert f"({own if fits else other})" in done.stdout
    assert not (copy / ".venv" / "left").exists()


def test_a_python_without_venv_is_refused_by_name(repository: Path, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    program(stub, "exit 1\n")
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
