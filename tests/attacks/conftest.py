"""The engines that are attacked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.sandbox.engine import Engine
from tests.approval_core import Core, Kept, copied, make_kept
from tests.approval_scene import Scene, make_scene
from tests.attacks.sandbox_probes import ENGINES


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """One engine, under a name of its own; the test fails where it leaves a container behind."""
    async with ENGINES[request.param]() as engine:
        yield engine


@pytest.fixture(scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kept, Kept]:
    return make_kept(tmp_path_factory.mktemp("approvals"))


@pytest.fixture
def early(_kept: tuple[Kept, Kept], tmp_path: Path) -> Iterator[Core]:
    """People whose keys are enrolled, and who haven't accepted each other yet."""
    with copied(_kept[0], tmp_path / "early") as core:
        yield core


@pytest.fixture
def core(_kept: tuple[Kept, Kept], tmp_path: Path) -> Iterator[Core]:
    """The two-person rule in force, and nothing asked for yet."""
    with copied(_kept[1], tmp_path / "core") as core:
        yield core


@pytest.fixture(scope="session")
def _scene_once(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("scene-home")))
        return make_scene(tmp_path_factory.mktemp("scene") / "state")


@pytest.fixture
def scene(_scene_once: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A state directory with everybody in it, for one test; nobody serves it yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return _scene_once.copy(tmp_path / "state")
