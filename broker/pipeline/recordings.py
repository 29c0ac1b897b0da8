"""What a call asked of hosts and was answered becomes an encrypted artifact, before its outcome is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import structlog

from broker.domain.events import KeptRecording, Outcome
from broker.errors import BrokerError
from broker.pipeline.active import ActiveCall
from broker.pipeline.parts import Parts
from broker.sandbox.egress.recording import Recording, dump_recording

KIND = "egress-recording"
"""An artifact's kind in the vault."""

_log = structlog.get_logger(__name__)


async def with_recording(parts: Parts, active: ActiveCall, outcome: Outcome) -> Outcome:
    """The outcome with the address of what was kept, which is durable by then.

    A recording that can't be kept takes nothing from the outcome: a warning says so, and why.

    Args:
        parts: the broker's.
        active: the call, whose connections are cut.
        outcome: how it ended.
    """
    found = None if active.egress is None else active.egress.recording()
    if found is None:
        return outcome
    try:
        return replace(outcome, recording=await _kept(parts, active, found))
    except BrokerError as error:
        _log.warning("recording.not_kept", call=active.row.id, reason=error.reason, error=error.message)
        why = f"{error.reason}: {error.message}"
    except Exception:  # noqa: BLE001 - whatever it is, the call has run, and how it ended has to be on record
        _log.exception("recording.not_kept", call=active.row.id)
        why = "the broker failed"
    return replace(outcome, warnings=(*outcome.warnings, f"what hosts answered was not kept: {why}"))


async def _kept(parts: Parts, active: ActiveCall, found: Recording) -> KeptRecording:
    data = await asyncio.to_thread(lambda: b"".join(dump_recording(found)))
    kept = await parts.artifacts.put(
        _whole(data),
        workspace=active.row.workspace,
        call=active.row.id,
        kind=KIND,
        retention=timedelta(seconds=active.tool.spec.retention),
    )
    return KeptRecording(kept.digest, len(found.exchanges), found.missed, kept.size, whole=found.whole)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
