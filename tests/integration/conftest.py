"""A broker that serves, shared by the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.served import OPERATOR, Served, make_state, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A broker with an operator and the agents scout and rover, over an engine and mutual TLS."""
    state = tmp_path_factory.mktemp("broker") / "state"
    make_state(state, agents={"scout": OPERATOR, "rover": OPERATOR})
    with serving(state) as broker:
        yield broker
