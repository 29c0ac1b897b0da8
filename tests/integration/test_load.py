"""Many clients at once: a bounded queue, fair turns, and refusals that say when to try again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.client import RetryPolicy
from broker.domain.call import CallState
from broker.errors import ResourceExhaustedError
from tests.served import Served, ledger, make_state, serving

pytestmark = pytest.mark.docker


async def _one(served: Served, number: int) -> bytes:
    async with served.client() as client:
        call = await client.run("python.run", {"code": f"print({number})"})
        assert call.state is CallState.SUCCEEDED
        return call.stdout


async def test_64_clients_at_once_hold(served: Served) -> None:
    outputs = await asyncio.gather(*(_one(served, number) for number in range(64)))
    assert outputs == [f"{number}\n".encode() for number in range(64)]
    entries = ledger(served.state)
    intents = [entry["call_id"] for entry in entries if entry["type"] == "intent"]
    outcomes = [entry["call_id"] for entry in entries if entry["type"] == "outcome"]
    assert sorted(intents) == sorted(outcomes)
    assert len(set(intents)) == 64


async def test_a_full_queue_refuses_with_a_delay_and_one_agent_cannot_fill_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(
        state,
        agents={"scout": "olivia", "rover": "olivia", "third": "olivia"},
        settings={"max_running": 1, "max_queued": 3, "max_active_per_agent": 3, "drain_s": 0},
    )
    endless = {"code": "import time\ntime.sleep(3600)"}
    no_retry = RetryPolicy(attempts=1)
    with serving(state) as served:
        async with (
            served.client(retry=no_retry) as scout,
            served.client("rover", retry=no_retry) as rover,
            served.client("third", retry=no_retry) as third,
        ):
            calls = [await scout.create_call("python.run", endless) for _ in range(3)]
            with pytest.raises(ResourceExhaustedError) as agent_quota:
                await scout.create_call("python.run", endless)
            await rover.create_call("python.run", endless)
            with pytest.raises(ResourceExhaustedError) as queue:
                await third.create_call("python.run", endless)
            assert agent_quota.value.reason == "AGENT_QUOTA"
            assert queue.value.reason == "QUEUE_FULL"
            assert queue.value.retry_after_s == 1.0
            for call in calls:
                await scout.cancel_call(call)
