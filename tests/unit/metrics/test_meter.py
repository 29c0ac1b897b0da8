"""What the meter counts and times, and what a reader of its page sees."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from broker.domain.call import CallState
from broker.domain.meter import Claim, Meter, NoMeter, Step
from broker.domain.run import EgressVerdict, EndCause
from broker.metrics.prometheus import STEP_BUCKETS_S, EndTotal, PrometheusMeter
from broker.metrics.quantiles import quantile


@pytest.fixture
def meter() -> PrometheusMeter:
    return PrometheusMeter("1.2.3")


def values(meter: PrometheusMeter) -> dict[tuple[str, str], float]:
    """Name and label values -> value, of every sample on the page."""
    text, _ = meter.page(openmetrics=False)
    return {
        (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_counts_are_those_that_were_told(meter: PrometheusMeter) -> None:
    for _ in range(3):
        meter.claimed(Claim.WARM)
    meter.claimed(Claim.UNFIT)
    meter.ended(EndCause.MEMORY, CallState.FAILED)
    meter.egress(EgressVerdict.ALLOWED, 10, 2000)
    meter.egress(EgressVerdict.NOT_LISTED, 5, 0)
    meter.pool(idle=4, making=2, leased=1)
    found = values(meter)
    assert found["broker_claims_total", "warm"] == 3
    assert found["broker_claims_total", "cold"] == 0
    assert found["broker_claims_total", "unfit"] == 1
    assert found["broker_calls_ended_total", "MEMORY,FAILED"] == 1
    assert found["broker_egress_total", "ALLOWED"] == 1
    assert found["broker_egress_total", "NOT_LISTED"] == 1
    assert found["broker_egress_bytes_total", "sent"] == 15
    assert found["broker_egress_bytes_total", "received"] == 2000
    assert [found["broker_pool_containers", state] for state in ("idle", "making", "leased")] == [4, 2, 1]
    assert found["broker_info", "1.2.3"] == 1
    assert found["process_start_time_seconds", ""] > 0


def test_a_step_falls_into_its_bucket(meter: PrometheusMeter) -> None:
    meter.took(Step.CLAIM, 0.0004)
    meter.took(Step.CLAIM, 0.004)
    meter.took(Step.CLAIM, 3600)
    found = values(meter)
    assert found["broker_step_seconds_bucket", "0.0005,claim"] == 1
    assert found["broker_step_seconds_bucket", "0.005,claim"] == 2
    assert found["broker_step_seconds_bucket", "60.0,claim"] == 2
    assert found["broker_step_seconds_bucket", "+Inf,claim"] == 3
    assert found["broker_step_seconds_count", "run"] == 0


def test_the_buckets_go_from_half_a_millisecond_to_a_minute() -> None:
    assert (STEP_BUCKETS_S[0], STEP_BUCKETS_S[-1]) == (0.0005, 60.0)
    assert list(STEP_BUCKETS_S) == sorted(set(STEP_BUCKETS_S))


def test_words_from_outside_never_become_labels(meter: PrometheusMeter) -> None:
    for word in ('x"} 1\nevil 1', "SUCCEEDED ", "", "other"):
        meter.ended(EndCause.TOOL, word)
    found = values(meter)
    assert found["broker_calls_ended_total", "TOOL,other"] == 4
    assert sum(name == "broker_calls_ended_total" for name, _ in found) == 1
    assert meter.ends() == ()


def test_a_clock_that_goes_back_takes_nothing_away(meter: PrometheusMeter) -> None:
    meter.took(Step.RUN, -1.0)
    meter.egress(EgressVerdict.ALLOWED, -5, -5)
    found = values(meter)
    assert found["broker_step_seconds_sum", "run"] == 0
    assert found["broker_egress_bytes_total", "sent"] == 0


def test_nothing_is_registered_for_the_whole_process(meter: PrometheusMeter) -> None:
    meter.claimed(Claim.COLD)
    assert not [family for family in REGISTRY.collect() if family.name.startswith("broker")]
    assert values(PrometheusMeter("other"))["broker_claims_total", "cold"] == 0


def test_totals_say_what_the_page_says(meter: PrometheusMeter) -> None:
    meter.ended(EndCause.TOOL, CallState.SUCCEEDED)
    meter.ended(EndCause.TOOL, CallState.SUCCEEDED)
    meter.ended(EndCause.TIME, CallState.FAILED)
    for _ in range(100):
        meter.took(Step.RUN, 0.0045)
    meter.took(Step.ADMIT, 0.2)
    assert set(meter.ends()) == {
        EndTotal(EndCause.TOOL, CallState.SUCCEEDED, 2),
        EndTotal(EndCause.TIME, CallState.FAILED, 1),
    }
    admit, run = meter.steps()
    assert (admit.step, admit.count, run.step, run.count) == (Step.ADMIT, 1, Step.RUN, 100)
    assert 0.003 <= run.p50_s <= run.p95_s <= 0.005


def test_both_formats_are_offered(meter: PrometheusMeter) -> None:
    text, content_type = meter.page(openmetrics=True)
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    text, content_type = meter.page(openmetrics=False)
    assert content_type.startswith("text/plain")
    assert b"# EOF" not in text


def test_it_is_a_meter() -> None:
    meters: list[Meter] = [PrometheusMeter("1"), NoMeter()]
    for meter in meters:
        meter.took(Step.QUEUE, 1.0)


def test_without_observations_a_quantile_is_zero() -> None:
    assert quantile([(1.0, 0), (math.inf, 0)], 0.5) == 0


def test_beyond_the_last_bound_a_quantile_is_the_last_bound() -> None:
    assert quantile([(1.0, 0), (2.0, 0), (math.inf, 9)], 0.95) == 2.0


@given(st.lists(st.floats(0.0001, 59), min_size=1), st.sampled_from([0.5, 0.95]))
def test_a_quantile_lies_in_the_bucket_of_the_true_value(observed: list[float], share: float) -> None:
    bounds = [*STEP_BUCKETS_S, math.inf]
    buckets = [(bound, float(sum(item <= bound for item in observed))) for bound in bounds]
    true = sorted(observed)[math.ceil(len(observed) * share) - 1]
    high = next(bound for bound in bounds if true <= bound)
    low = max((bound for bound in bounds if bound < high), default=0.0)
    assert low <= quantile(buckets, share) <= high
