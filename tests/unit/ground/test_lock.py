"""The lock files are complete, checked by hashes, and name no place to download from."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "agent-broker"
LOCKS = {"requirements.lock": {"dev", "images", "slack"}, "requirements-run.lock": {"slack"}}


def locked(path: Path) -> dict[str, str]:
    """Name -> version of each pin; every pin has at least one hash, and there is nothing besides."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    pins: dict[str, str] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-z0-9][a-z0-9.-]*)==([^\s;]+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert match, f"not a pin with hashes: {line[:100]}"
        pins[canonicalize_name(match[1])] = match[2]
    return pins


def closure(extras: set[str]) -> set[str]:
    """All that the project needs with these extras, on this machine, by what the installed packages declare."""
    needed: set[tuple[str, str]] = set()
    todo = [(PROJECT, extra) for extra in {"", *extras}]
    while todo:
        name, extra = todo.pop()
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            wanted = canonicalize_name(requirement.name)
            fresh = {(wanted, each) for each in {"", *requirement.extras}} - needed
            needed |= fresh
            todo.extend(fresh)
    return {name for name, _ in needed}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_all_that_is_needed_and_nothing_besides(repository: Path, lock: str) -> None:
    assert set(locked(repository / lock)) == closure(LOCKS[lock])


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_place(repository: Path, lock: str) -> None:
    assert not re.search(r"://|--index|--find-links|@", (repository / lock).read_text("utf-8"))


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_installed_is_what_is_locked(repository: Path, lock: str) -> None:
    pins = locked(repository / lock)
    assert {name: metadata.version(name) for name in pins} == pins


def test_the_locks_agree(repository: Path) -> None:
    everything = locked(repository / "requirements.lock")
    running = locked(repository / "requirements-run.lock")
    assert running.items() <= everything.items()


def test_the_pins_fit_the_project(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    pins = locked(repository / "requirements.lock")
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


def test_only_one_of_the_two_packages_that_install_casbin_is_locked(repository: Path) -> None:
    pins = locked(repository / "requirements.lock")
    assert "pycasbin" in pins
    assert "casbin" not in pins
