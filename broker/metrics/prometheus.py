"""A meter that keeps counters, gauges and histograms in a registry of its own.

Labels are members of fixed enums: nothing that comes from outside, such as the name of an agent, a tool or a host,
becomes a label. So the number of series is bounded, and the page tells nobody what is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Sample

from broker.domain.call import CallState
from broker.domain.meter import Claim, Step
from broker.domain.run import EgressVerdict, EndCause
from broker.metrics.quantiles import quantile

STEP_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the histogram's buckets in seconds. Close together where a call on a warm container spends its time."""
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_NO_STATE = "other"
_STATES = frozenset(state.value for state in CallState)


@dataclass(frozen=True, slots=True)
class EndTotal:
    """How many calls ended by one cause, in one state."""

    cause: EndCause
    state: CallState
    count: int


@dataclass(frozen=True, slots=True)
class StepTotal:
    """How often a step was taken, and how long it took, in seconds, as the buckets allow to say it."""

    step: Step
    count: int
    p50_s: float
    p95_s: float


class PrometheusMeter:
    """A ``broker.domain.meter.Meter``.

    Args:
        version: of the software, shown as ``broker_info``.
    """

    def __init__(self, version: str) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("broker", "The software.", registry=registry).info({"version": version})
        claims = Counter("broker_claims", "Containers that calls looked for.", ["claim"], registry=registry)
        steps = Histogram(
            "broker_step_seconds",
            "Time of each step of a call, and of what the pool does beside them.",
            ["step"],
            registry=registry,
            buckets=STEP_BUCKETS_S,
        )
        self._ends = Counter("broker_calls_ended", "Calls that ended.", ["cause", "state"], registry=registry)
        egress = Counter("broker_egress", "What became of tools' ways out.", ["verdict"], registry=registry)
        size = Counter("broker_egress_bytes", "Bytes that tools sent and received.", ["direction"], registry=registry)
        pool = Gauge("broker_pool_containers", "Containers by what they do.", ["state"], registry=registry)
        # Made now, and not looked up for each measurement: cheaper, and every series is there from the start, at zero.
        self._claims = {claim: claims.labels(claim.value) for claim in Claim}
        self._steps = {step: steps.labels(step.value) for step in Step}
        self._egress = {verdict: egress.labels(verdict.value) for verdict in EgressVerdict}
        self._sent = size.labels("sent")
        self._received = size.labels("received")
        self._idle, self._making, self._leased = (pool.labels(state) for state in ("idle", "making", "leased"))
        self._step_histogram = steps

    def claimed(self, claim: Claim) -> None:
        """See ``Meter``."""
        self._claims[claim].inc()

    def took(self, step: Step, seconds: float) -> None:
        """See ``Meter``."""
        self._steps[step].observe(max(seconds, 0.0))

    def ended(self, cause: EndCause, state: str) -> None:
        """See ``Meter``; a state that no call has counts as ``other``."""
        self._ends.labels(cause.value, state if state in _STATES else _NO_STATE).inc()

    def egress(self, verdict: EgressVerdict, sent_bytes: int, received_bytes: int) -> None:
        """See ``Meter``."""
        self._egress[verdict].inc()
        self._sent.inc(max(sent_bytes, 0))
        self._received.inc(max(received_bytes, 0))

    def pool(self, *, idle: int, making: int, leased: int) -> None:
        """See ``Meter``."""
        self._idle.set(idle)
        self._making.set(making)
        self._leased.set(leased)

    def ends(self) -> tuple[EndTotal, ...]:
        """Calls that ended since the start, by cause and state; those that there were none of are left out."""
        return tuple(
            EndTotal(EndCause(sample.labels["cause"]), CallState(sample.labels["state"]), int(sample.value))
            for sample in _samples(self._ends, "broker_calls_ended_total")
            if sample.labels["state"] in _STATES
        )

    def steps(self) -> tuple[StepTotal, ...]:
        """Steps that were taken since the start, in the order of ``Step``; those that never were are left out."""
        buckets: dict[str, list[tuple[float, float]]] = {}
        for sample in _samples(self._step_histogram, "broker_step_seconds_bucket"):
            buckets.setdefault(sample.labels["step"], []).append((float(sample.labels["le"]), sample.value))
        return tuple(
            StepTotal(step, int(found[-1][1]), quantile(found, 0.5), quantile(found, 0.95))
            for step in Step
            if (found := buckets[step.value])[-1][1]
        )

    def page(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """All of it as text, in OpenMetrics or in Prometheus' older format.

        Returns:
            The text and its ``Content-Type``.
        """
        # Not the reader's own words: prometheus_client parses them loosely, and says them again in the answer's header.
        encode, content_type = choose_encoder(_OPENMETRICS if openmetrics else "")
        return encode(self._registry), content_type


def _samples(metric: Counter | Histogram, name: str) -> Iterator[Sample]:
    for family in metric.collect():
        yield from (sample for sample in family.samples if sample.name == name)
