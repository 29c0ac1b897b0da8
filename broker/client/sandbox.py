"""The sandboxes of a broker as the client gives them: values, and how they come from messages."""

from __future__ import annotations

from dataclasses import dataclass

from broker.client.wire import protocol_error, seconds
from broker.domain.call import CallState
from broker.domain.run import EndCause
from broker.v1 import administration_pb2, call_pb2


@dataclass(frozen=True, slots=True)
class WarmPool:
    """Containers that are equal before their call."""

    fingerprint: str
    """Digest of all that such a container is made from."""
    image: str
    """``sha256:`` and the digest of the image."""
    runtime: str
    """Empty is the engine's own choice."""
    prewarmed: bool
    """Whether it is kept warm before the first call comes."""
    idle: int
    making: int
    leased: int
    target: int
    """How many should be idle."""
    warm_claims: int
    """Calls since the broker's start that got a waiting container."""
    cold_claims: int
    """Calls whose container was made while they waited."""
    unfit_claims: int
    """Waiting containers that failed their check when a call came."""
    oldest_idle_s: float | None
    """``None`` where none is idle."""
    trouble: str
    """Reason of the error with which the last container couldn't be made; empty where it could."""


@dataclass(frozen=True, slots=True)
class SandboxCall:
    """A call that holds a container."""

    call: str
    """``calls/...``"""
    container_id: str


@dataclass(frozen=True, slots=True)
class EndCount:
    """How many calls ended by one cause, in one state."""

    cause: EndCause
    state: CallState
    count: int


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step takes, as far as the buckets of a histogram say it."""

    step: str
    count: int
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """The sandboxes of a broker at one moment, and what it has counted since its start."""

    ceiling: int
    """Most warm containers of all pools together."""
    idle: int
    making: int
    leased: int
    pools: tuple[WarmPool, ...]
    calls: tuple[SandboxCall, ...]
    ends: tuple[EndCount, ...]
    steps: tuple[StepTime, ...]


def sandbox_status(message: administration_pb2.SandboxStatus) -> SandboxStatus:
    """A status.

    Raises:
        InternalError: a cause or state that no broker of this version says.
    """
    return SandboxStatus(
        ceiling=message.ceiling,
        idle=message.idle,
        making=message.making,
        leased=message.leased,
        pools=tuple(_pool(item) for item in message.pools),
        calls=tuple(SandboxCall(item.call, item.container_id) for item in message.calls),
        ends=tuple(_end(item) for item in message.ends),
        steps=tuple(StepTime(item.step, item.count, seconds(item.p50), seconds(item.p95)) for item in message.steps),
    )


def _pool(item: administration_pb2.WarmPool) -> WarmPool:
    return WarmPool(
        fingerprint=item.fingerprint,
        image=item.image,
        runtime=item.runtime,
        prewarmed=item.prewarmed,
        idle=item.idle,
        making=item.making,
        leased=item.leased,
        target=item.target,
        warm_claims=item.warm_claims,
        cold_claims=item.cold_claims,
        unfit_claims=item.unfit_claims,
        oldest_idle_s=seconds(item.oldest_idle) if item.HasField("oldest_idle") else None,
        trouble=item.trouble,
    )


def _end(item: administration_pb2.EndCount) -> EndCount:
    try:
        cause = EndCause(call_pb2.EndCause.Name(item.cause).removeprefix("END_CAUSE_"))
        state = CallState(call_pb2.ToolCallState.Name(item.state).removeprefix("TOOL_CALL_STATE_"))
    except ValueError as error:
        raise protocol_error(f"{item.cause}, {item.state} is no end of a call") from error
    return EndCount(cause, state, item.count)
