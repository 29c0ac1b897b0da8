"""The benchmark framework, and the workload of the policy benchmark."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as runner
from benchmarks.policy import policy_text, requests
from benchmarks.report import Measure, Report, percentile, print_json
from broker.policy.snapshot import Snapshot


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([4, 3, 2, 1], 50) == 2
    assert percentile(range(1, 101), 95) == 95
    assert percentile([7], 100) == 7
    for values, percent in (([], 50), ([1], 0), ([1], 101)):
        with pytest.raises(ValueError, match="percentile"):
            percentile(values, percent)


def test_a_report_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(Report("title", (Measure("a_ms", 1.23456, "ms", at_most=1), Measure("b", 2, "x", at_least=1))))
    assert json.loads(capsys.readouterr().out) == {"a_ms": 1.235, "b": 2.0}
    assert not Measure("a_ms", 1.2, "ms", at_most=1).met
    assert Measure("b", 2, "x", at_least=1).met


def test_without_a_name_the_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(runner.BENCHMARKS)
    with pytest.raises(SystemExit):
        runner.main(["nothing"])


def test_the_workload_is_as_described() -> None:
    rules = 1_000
    policy = Snapshot.load(policy_text(rules))
    assert policy.rules == rules
    assert policy.warnings == ()
    assert len({rule.workspace for rule in policy.table} - {"*"}) == rules // 50
    assert sum(rule.workspace == "*" and rule.effect == "deny" for rule in policy.table) == 20
    assert policy.roles_of("agent:a0-0", "w0") == ("role:agent", "role:department", "role:team")
    asked = requests(rules, 400, lambda request: policy.decide(request).allowed)
    decisions = [policy.decide(request) for request in asked]
    assert sum(decision.allowed for decision in decisions) == 200
    reasons = {decision.rule.rpartition("-")[0] for decision in decisions if not decision.allowed}
    assert {"global-deny", "rule", "default"} <= reasons
