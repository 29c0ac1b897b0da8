"""When the pool may make and remove containers: after a call that came alone soon, after close ones later."""

from __future__ import annotations

import pytest

from broker.sandbox.pool_keeper import Traffic
from broker.sandbox.pool_sizing import Sizing
from tests.memory_engine import Clock

SIZING = Sizing(quiet_s=0.002, close_s=0.02)


def test_while_somebody_is_in_a_hurry_it_is_never_quiet() -> None:
    traffic = Traffic(SIZING, Clock(), lambda: None)
    with traffic.busy():
        with traffic.busy():
            pass
        assert traffic.quiet_at() == float("inf")


@pytest.mark.parametrize(("gap_s", "wait_s"), [(0.0, 0.02), (0.019, 0.02), (0.021, 0.002), (60.0, 0.002)])
def test_calls_that_follow_each_other_closely_are_given_longer(gap_s: float, wait_s: float) -> None:
    clock = Clock()
    traffic = Traffic(SIZING, clock, lambda: None)
    with traffic.busy():
        clock.now += 0.01
    assert traffic.quiet_at() == pytest.approx(clock.now + 0.002)  # the first came alone
    clock.now += gap_s
    with traffic.busy():
        clock.now += 0.01
    assert traffic.quiet_at() == pytest.approx(clock.now + wait_s)


def test_calls_that_run_side_by_side_came_together_and_alone() -> None:
    clock = Clock()
    traffic = Traffic(SIZING, clock, lambda: None)
    with traffic.busy():
        clock.now += 0.005
        with traffic.busy():
            clock.now += 0.005
    assert traffic.quiet_at() == pytest.approx(clock.now + 0.002)
