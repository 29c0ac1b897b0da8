"""The pool's word about itself and the meter's totals, as a message."""

from __future__ import annotations

from broker.metrics.prometheus import EndTotal, PrometheusMeter, StepTotal
from broker.rpc import wire
from broker.sandbox.pool_status import PoolRow, PoolStatus
from broker.v1 import administration_pb2 as pb
from broker.v1 import call_pb2


def sandbox_status(pool: PoolStatus, meter: PrometheusMeter) -> pb.SandboxStatus:
    """The message."""
    return pb.SandboxStatus(
        ceiling=pool.ceiling,
        idle=pool.idle,
        making=pool.making,
        leased=pool.leased,
        pools=[_pool(row) for row in pool.rows],
        calls=[
            pb.SandboxCall(call=f"calls/{call}", container_id=container)
            for call, container in sorted(pool.calls.items())
        ],
        ends=[_end(total) for total in meter.ends()],
        steps=[_step(total) for total in meter.steps()],
    )


def _pool(row: PoolRow) -> pb.WarmPool:
    return pb.WarmPool(
        fingerprint=row.fingerprint,
        image=row.image,
        runtime=row.runtime,
        prewarmed=row.prewarmed,
        idle=row.idle,
        making=row.making,
        leased=row.leased,
        target=row.target,
        warm_claims=row.warm,
        cold_claims=row.cold,
        unfit_claims=row.unfit,
        oldest_idle=wire.duration(row.oldest_idle_s) if row.idle else None,
        trouble=row.trouble,
    )


def _end(total: EndTotal) -> pb.EndCount:
    return pb.EndCount(
        cause=call_pb2.EndCause.Value(f"END_CAUSE_{total.cause.value}"),
        state=call_pb2.ToolCallState.Value(f"TOOL_CALL_STATE_{total.state.value}"),
        count=total.count,
    )


def _step(total: StepTotal) -> pb.StepTime:
    return pb.StepTime(
        step=total.step.value, count=total.count, p50=wire.duration(total.p50_s), p95=wire.duration(total.p95_s)
    )
