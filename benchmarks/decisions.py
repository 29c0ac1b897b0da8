"""A ledger of decisions, each of a request of its own, over so many distinct inputs: half allowed, half refused by the policy.

Policy and requests are those of the benchmark of the policy; the bodies come from the pipeline's own functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.entries import Entry, calls
from benchmarks.policy import policy_text, requests
from broker.domain.call import PolicyRequest
from broker.domain.canonical import JsonObject
from broker.domain.ports import Store, Transaction
from broker.ledger.genesis import genesis_body, read_origin
from broker.ledger.ledger import Ledger
from broker.pipeline import journal
from broker.policy.snapshot import Snapshot
from broker.store.opening import DatabaseTarget, create_store, open_store

RULES = 5_000
"""Of the policy that decided."""
_PER_TRANSACTION = 2_000
_BETWEEN = timedelta(milliseconds=2_500)
_START = datetime(2026, 1, 1, tzinfo=UTC)


def agent_of(request: PolicyRequest) -> str:
    """Id of the agent that asks."""
    return f"agt_{request.subject.removeprefix('agent:'):x>26}"


def asked(distinct: int) -> tuple[Snapshot, list[PolicyRequest]]:
    """The policy, and so many different requests."""
    snapshot = Snapshot.load(policy_text(RULES))
    found: dict[PolicyRequest, None] = {}
    for request in requests(RULES, 3 * distinct, lambda one: snapshot.decide(one).allowed):
        found[request] = None
        if len(found) == distinct:
            break
    return snapshot, list(found)


def decisions(snapshot: Snapshot, chosen: list[PolicyRequest]) -> Generator[Entry, int, None]:
    """The endless entries of their decisions, one request after the other."""
    made = [_body(snapshot, request) for request in chosen]
    allowed = [snapshot.decide(request).allowed for request in chosen]
    # Of a real call's entry, what doesn't depend on the request.
    common = next(calls(0)).body
    of_a_call = {
        name: common[name] for name in common.keys() - {"policy", "agent", "call_id", "tier", "workspace", "tool"}
    }
    turn = 0
    while True:
        for request, body, may in zip(chosen, made, allowed, strict=True):
            own: JsonObject = {"call_id": f"call_{turn:026d}", **of_a_call} if may else {}
            yield Entry("decision", {**body, **own}, agent_of(request))
            turn += 1


def _body(snapshot: Snapshot, request: PolicyRequest) -> JsonObject:
    decision = snapshot.decide(request)
    said = journal.decision_body(decision, agent_of(request))
    if not decision.allowed:
        return journal.refusal_body(
            reason="POLICY_DENIED",
            rule=decision.rule,
            obj=request.obj,
            workspace=request.workspace,
            tier=request.tier,
            owner="hum_owner",
            policy=said,
        )
    tool: JsonObject = {"name": request.obj, "version": "sha256:" + "0" * 64}
    return {"workspace": request.workspace, "tool": tool, "tier": int(request.tier), **said}


def write_ledger(path: Path, entries: Generator[Entry, int, None], size: int) -> None:
    """Makes a ledger's file with so many entries, the genesis included; they are some seconds apart."""
    asyncio.run(_write(path, entries, size))


def extend_ledger(path: Path, entries: Generator[Entry, int, None], size: int) -> None:
    """Adds entries to the ledger of a state directory's database until it has so many, likewise."""
    asyncio.run(_extend(path, entries, size))


async def _write(path: Path, entries: Generator[Entry, int, None], size: int) -> None:
    target = DatabaseTarget(path=path)
    await asyncio.to_thread(create_store, target)
    ledger = Ledger("brk_benchmark", "boot_benchmark", _clock(_START))
    async with open_store(target) as store:
        await store.write(lambda tx: ledger.append(tx, "genesis", genesis_body(trust_domain="x.example", software="b")))
        await _fill(store, ledger, entries, size)


async def _extend(path: Path, entries: Generator[Entry, int, None], size: int) -> None:
    async with open_store(DatabaseTarget(path=path)) as store:
        origin = await store.read(read_origin)
        await _fill(store, Ledger(origin, "boot_benchmark", _clock(datetime.now(UTC))), entries, size)


def _clock(start: datetime) -> Callable[[], datetime]:
    turn = 0

    def clock() -> datetime:
        nonlocal turn
        turn += 1
        return start + turn * _BETWEEN

    return clock


async def _fill(store: Store, ledger: Ledger, entries: Generator[Entry, int, None], size: int) -> None:
    entry = next(entries)

    def work(tx: Transaction) -> int:
        nonlocal entry
        seq = -1
        for _ in range(_PER_TRANSACTION):
            seq = ledger.append(tx, entry.type, entry.body, agent=entry.agent)
            entry = entries.send(seq)
            if seq + 1 >= size:
                break
        return seq

    while await store.write(work) + 1 < size:
        pass
