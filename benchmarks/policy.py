"""What a policy decision costs as the policy grows, beside plain casbin, and how long a large policy takes to go live.

The workload: rules spread over rules/50 workspaces with five tool namespaces each; agents hold a team's role, which
holds a department's; 20 denies hold everywhere; half of the requests are refused, for different reasons. Every request
is evaluated: neither side keeps answers. Plain is casbin as its manual says: the same model and the same file, read by
casbin's own adapter, its own role manager, one ``Enforcer`` over the whole policy.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import casbin

from benchmarks.report import Measure, Report, percentile
from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.policy.engine import ALLOW_FUNCTION, MODEL, allow_reaches
from broker.policy.live import LivePolicy
from broker.policy.snapshot import Snapshot

_GLOBAL_DENIES = 20
_NAMESPACES = 5
_RULES_PER_WORKSPACE = 50
_AGENTS_PER_WORKSPACE = 4
_REQUESTS = 4000
_PLAIN_REQUESTS = {1_000: 200, 10_000: 40}


def policy_text(rules: int) -> str:
    """A policy with this many rules."""
    lines = [
        f"p, global-deny-{number}, *, *, ns{number % _NAMESPACES}.forbidden{number}, call, 4, deny, nobody may"
        for number in range(_GLOBAL_DENIES)
    ]
    workspaces = _workspaces(rules)
    for number in range(rules - _GLOBAL_DENIES):
        workspace, index = number % workspaces, number // workspaces
        tool = f"ns{index % _NAMESPACES}.tool{index // _NAMESPACES}"
        role = "team" if index % 2 else "department"
        effect = "deny" if index % 10 == 9 else "allow"
        tier = 4 if effect == "deny" else 2
        lines.append(f"p, rule-{number}, role:{role}, w{workspace}, {tool}, call, {tier}, {effect}, as agreed")
    for workspace in range(workspaces):
        lines.append(f"g, role:team, role:department, w{workspace}")
        lines += [f"g, agent:a{workspace}-{n}, role:team, w{workspace}" for n in range(_AGENTS_PER_WORKSPACE)]
    return "\n".join(lines) + "\n"


def requests(rules: int, count: int, allowed: Callable[[PolicyRequest], bool]) -> list[PolicyRequest]:
    """This many requests, half of them refused by the policy (unknown tool, tier, workspace or a deny)."""
    dice = random.Random(rules)  # noqa: S311 - a workload, no secret
    yes: list[PolicyRequest] = []
    no: list[PolicyRequest] = []
    while len(yes) + len(no) < count:
        workspace = dice.randrange(_workspaces(rules))
        agent = f"agent:a{workspace}-{dice.randrange(_AGENTS_PER_WORKSPACE)}"
        tool = f"ns{dice.randrange(_NAMESPACES)}.tool{dice.randrange(_RULES_PER_WORKSPACE // _NAMESPACES - 1)}"
        tier = Tier(dice.randint(0, 2))
        match dice.randrange(10):
            case 0:
                forbidden = dice.randrange(_GLOBAL_DENIES)
                tool = f"ns{forbidden % _NAMESPACES}.forbidden{forbidden}"
            case 1:
                agent = "agent:stranger"
            case 2:
                tier = Tier.REGULATED
            case 3:
                tool = "ns0.unknown"
            case _:
                pass
        request = PolicyRequest(agent, f"w{workspace}", tool, "call", tier)
        chosen = yes if allowed(request) else no
        if len(chosen) < count // 2:
            chosen.append(request)
    mixed = [*yes, *no]
    dice.shuffle(mixed)
    return mixed


def measure() -> Report:
    """Runs the benchmark; takes about a minute."""
    decide: dict[int, float] = {}
    plain: dict[int, float] = {}
    for rules in (1_000, 10_000, 100_000):
        text = policy_text(rules)
        snapshot = Snapshot.load(text)
        asked = requests(rules, _REQUESTS, lambda request, policy=snapshot: policy.decide(request).allowed)  # type: ignore[misc]
        decide[rules] = _p50_us(snapshot.evaluate, asked)
        if rules in _PLAIN_REQUESTS:
            plain[rules] = _plain(text, snapshot, asked[: _PLAIN_REQUESTS[rules]])
    load_s, stall_ms = asyncio.run(_load(policy_text(1_000), policy_text(100_000)))
    return Report(
        "policy: microseconds for one decision, by number of rules",
        (
            Measure("decide_p50_us_1k", decide[1_000], "us", at_most=300, note="sharded snapshot, 1,000 rules"),
            Measure("decide_p50_us_10k", decide[10_000], "us", at_most=300, note="sharded snapshot, 10,000 rules"),
            Measure("decide_p50_us_100k", decide[100_000], "us", at_most=300, note="sharded snapshot, 100,000 rules"),
            Measure("growth_100k", decide[100_000] / decide[1_000], "x", at_most=1.5, note="100,000 rules to 1,000"),
            Measure("plain_p50_us_1k", plain[1_000], "us", note="casbin as its manual says, 1,000 rules"),
            Measure("plain_p50_us_10k", plain[10_000], "us", note="casbin as its manual says, 10,000 rules"),
            Measure("speedup_10k", plain[10_000] / decide[10_000], "x", at_least=80, note="plain to sharded"),
            Measure("load_s_100k", load_s, "s", at_most=10, note="a file read, checked and live"),
            Measure("load_stall_ms_100k", stall_ms, "ms", note="longest pause of the event loop meanwhile"),
        ),
    )


def _workspaces(rules: int) -> int:
    return max(1, rules // _RULES_PER_WORKSPACE)


def _p50_us(decide: Callable[[PolicyRequest], object], asked: Sequence[PolicyRequest]) -> float:
    for request in asked[:50]:
        decide(request)
    gc.collect()
    times = []
    for request in asked:
        start = time.perf_counter_ns()
        decide(request)
        times.append((time.perf_counter_ns() - start) / 1000)
    return percentile(times, 50)


def plain_decider(text: str) -> Callable[[PolicyRequest], bool]:
    """Casbin as its manual says, over one policy."""
    with tempfile.TemporaryDirectory() as folder:
        model, policy = Path(folder, "model.conf"), Path(folder, "policy.csv")
        model.write_text(MODEL, "utf-8")
        policy.write_text(text, "utf-8")
        enforcer = casbin.Enforcer(str(model), str(policy))
    enforcer.add_function(ALLOW_FUNCTION, allow_reaches)
    enforcer.add_named_domain_matching_func("g", lambda _asked, pattern: pattern == "*")

    def decide(request: PolicyRequest) -> bool:
        row = (request.subject, request.workspace, request.obj, request.action, int(request.tier))
        return bool(enforcer.enforce(*row))

    return decide


def _plain(text: str, snapshot: Snapshot, asked: Sequence[PolicyRequest]) -> float:
    decide = plain_decider(text)
    if any(decide(request) != snapshot.decide(request).allowed for request in asked):
        raise RuntimeError("plain casbin and the snapshot answer differently; the numbers would mean nothing")
    times = []
    for request in asked:
        start = time.perf_counter_ns()
        decide(request)
        times.append((time.perf_counter_ns() - start) / 1000)
    return percentile(times, 50)


async def _load(small: str, large: str) -> tuple[float, float]:
    # The way of an edit in a running broker: the file is replaced, then read, checked and swapped in.
    longest = 0.0
    done = asyncio.Event()

    async def watch_the_loop() -> None:
        nonlocal longest
        while not done.is_set():
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - start - 0.001)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "policy.csv")
        await asyncio.to_thread(path.write_text, small, "utf-8")
        policy = LivePolicy(path, known_tools=None)
        await policy.start()
        await asyncio.to_thread(path.write_text, large, "utf-8")
        watcher = asyncio.create_task(watch_the_loop())
        start = time.perf_counter()
        await policy.reload()
        taken = time.perf_counter() - start
        done.set()
        await watcher
    return taken, longest * 1000
