"""`scripts/postgres.sh`: what is there is used, what is missing is installed or asked for; no server is ever started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

IS_DEBIAN = Path("/etc/debian_version").exists()


def _run(repository: Path, *command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run(command, cwd=repository, env=environment, check=False, capture_output=True, text=True)


def _without(repository: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script where PostgreSQL's programs are hidden, in a mount namespace of its own."""
    become_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    hide = "mkdir -p /usr/lib/postgresql 2>/dev/null || true; mount -t tmpfs tmpfs /usr/lib/postgresql; "
    command = ["unshare", *become_root, "--mount", "bash", "-ec", hide + script]
    return _run(repository, *command, path="/usr/sbin:/usr/bin:/sbin:/bin")


def test_programs_that_are_there_are_used(repository: Path) -> None:
    done = _run(repository, "scripts/postgres.sh")
    assert done.returncode == 0, done.stderr
    assert "PostgreSQL's programs are there: initdb (PostgreSQL)" in done.stdout
    assert "install" not in done.stdout


def test_root_on_debian_gets_the_package(repository: Path) -> None:
    if not IS_DEBIAN:
        pytest.skip("needs Debian")
    done = _without(repository, "scripts/postgres.sh --dry-run")
    assert done.returncode == 0, done.stderr
    assert "would install: postgresql" in done.stdout


def test_who_may_not_install_is_told_what_to_do(repository: Path) -> None:
    done = _without(repository, "unshare --user scripts/postgres.sh")
    assert done.returncode == 0, done.stderr
    assert "going on without PostgreSQL" in done.stdout
    assert "sudo apt-get install postgresql" in done.stdout


def test_an_unknown_option_is_a_wrong_use(repository: Path) -> None:
    done = _run(repository, "scripts/postgres.sh", "--now")
    assert done.returncode == 2
    assert "--dry-run" in done.stderr
