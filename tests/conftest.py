"""What all tests share: where the repository is, and a place for what clients remember."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.approval_world import Founded, World, make_founded
from tests.outside_world import Shelf, make_outside_world
from tests.postgres_server import PostgresServer, postgres_server
from tests.sql_world import SqlWorld, sql_server, sql_world
from tests.tree_world import make_tree_world

# On a busy machine an example may take long to be made: that is no finding about what is tested.
settings.register_profile("broker", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("broker")

pytest_plugins = ["tests.alone"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in its background had it ignored, by all that they start too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, as durable as a real one."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def trusting_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server as a tool reaches it through the broker's gate: no password is asked for."""
    with sql_server() as server:
        yield server


@pytest.fixture
def sql(trusting_postgres: PostgresServer, tmp_path: Path) -> SqlWorld:
    """A database for one test, and ``sql.execute`` at work on it."""
    return sql_world(trusting_postgres, tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clients remember checkpoints in the user's state folder: that of a test run is its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state-home")))
        yield


@pytest.fixture(scope="session")
def founded_once(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    """A state directory with the two-person rule in force, to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("founding-home")))
        return asyncio.run(make_founded(tmp_path_factory.mktemp("founded") / "state"))


@pytest.fixture
def founded(founded_once: Founded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Founded:
    """A copy of it for one test, with clients that remember nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return founded_once.copy(tmp_path / "state")


@pytest.fixture(scope="session")
def tree_world_once(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    """A state directory with a workspace's tree, tools that change it and the two-person rule, to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("tree-home")))
        return asyncio.run(make_tree_world(tmp_path_factory.mktemp("trees") / "state"))


@pytest.fixture
def tree_world(tree_world_once: Founded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Founded:
    """A copy of it for one test, with clients that remember nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return tree_world_once.copy(tmp_path / "state")


@pytest.fixture(scope="session")
def one_shelf() -> Iterator[Shelf]:
    """The service outside, for all tests of a process."""
    shelf = Shelf()
    with shelf.serving():
        yield shelf


@pytest.fixture
def shelf(one_shelf: Shelf) -> Shelf:
    """The service outside, as at the beginning."""
    one_shelf.reset()
    return one_shelf


@pytest.fixture(scope="session")
def outside_once(one_shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Founded:
    """A state directory with the two-person rule in force and tools that change that service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("outside-home")))
        return asyncio.run(make_outside_world(tmp_path_factory.mktemp("outside") / "state", one_shelf.port))


@pytest.fixture
def outside(outside_once: Founded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Founded:
    """A copy of it for one test, with clients that remember nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return outside_once.copy(tmp_path / "state")


@pytest.fixture
async def outside_world(outside: Founded) -> AsyncIterator[World]:
    """The same, served."""
    with outside.serving() as serving:
        async with serving as world:
            yield world
