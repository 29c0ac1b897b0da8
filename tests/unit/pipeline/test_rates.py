"""The bucket of each agent: a burst at once, then one token after another as time goes by."""

from __future__ import annotations

import pytest

from broker.errors import ResourceExhaustedError
from broker.pipeline.rates import Rates


def test_a_burst_passes_and_then_only_what_time_brings_back() -> None:
    moment = [0.0]
    rates = Rates(per_s=50, burst=500, clock=lambda: moment[0])
    for _ in range(500):
        rates.take("agt_1")
    with pytest.raises(ResourceExhaustedError) as caught:
        rates.take("agt_1")
    assert caught.value.reason == "AGENT_RATE"
    assert caught.value.retry_after_s == pytest.approx(0.02)
    rates.take("agt_2")
    moment[0] = 1.0
    for _ in range(50):
        rates.take("agt_1")
    with pytest.raises(ResourceExhaustedError):
        rates.take("agt_1")


def test_a_rest_fills_the_bucket_and_no_more() -> None:
    moment = [0.0]
    rates = Rates(per_s=2, burst=3, clock=lambda: moment[0])
    for _ in range(3):
        rates.take("agt_1")
    moment[0] = 1000.0
    for _ in range(3):
        rates.take("agt_1")
    with pytest.raises(ResourceExhaustedError):
        rates.take("agt_1")


def test_thousands_of_agents_are_forgotten_once_they_rest() -> None:
    moment = [0.0]
    rates = Rates(per_s=2, burst=1, clock=lambda: moment[0])
    for number in range(5000):
        moment[0] = number
        rates.take(f"agt_{number}")
    with pytest.raises(ResourceExhaustedError):
        rates.take("agt_4999")
