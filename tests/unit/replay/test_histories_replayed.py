"""Recorded histories, old ones too, are told, asked and decided again; the one that is wrong on purpose is found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.cli.main import run
from tests.bundle_world import members
from tests.unit.replay.test_histories import SOUND, bundle, read

WHOLE = ("day", "clean-up", "earlier")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == code, capsys.readouterr()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def last_policy(name: str, folder: Path) -> str:
    """A file with the policy that decided last in a history."""
    digests = [entry["policy"]["digest"] for entry in read(name) if entry["type"] == "decision" and "policy" in entry]
    text = members(bundle(name))[f"texts/policy/{digests[-1].removeprefix('sha256:')}"]
    (folder / "policy.csv").write_bytes(text)
    return str(folder / "policy.csv")


@pytest.mark.parametrize("name", SOUND)
def test_each_is_told_in_causal_order(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = next(entry["call_id"] for entry in read(name) if entry["type"] == "outcome")
    found = answer(capsys, "replay", "timeline", "--call", call, "--bundle", str(bundle(name)))
    assert found["mark"]["sound"]
    told = set[int]()
    for event in found["events"]:
        assert all(cause < event["seq"] for cause in event["causes"])
        told.add(event["seq"])
    assert {entry["seq"] for entry in read(name) if entry.get("call_id") == call} <= told


@pytest.mark.parametrize("name", SOUND)
def test_each_answers_what_was_done(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = {entry["call_id"] for entry in read(name) if entry["type"] in {"intent", "plan.intent"}}
    found = answer(capsys, "ask", "paths", "--bundle", str(bundle(name)))
    classes = [line["values"] for line in found["lines"]]
    tools = {entry["tool"]["name"] for entry in read(name) if entry.get("call_id") in ran and "tool" in entry}
    assert {line["tool"] for line in classes} == tools


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_flips_under_the_policy_that_decided(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("replay", "whatif", "--policy", last_policy(name, tmp_path), "--bundle", str(bundle(name)))
    found = answer(capsys, *asked, "--fail-on", "any", "--allow-undecided")
    assert (found["widened"]["requests"], found["narrowed"]["requests"]) == (0, 0)
    assert found["totals"]["requests"] == found["control"]["reproduced"] > 0


def test_the_record_that_contradicts_its_policy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("replay", "whatif", "--policy", last_policy("wrong", tmp_path), "--bundle", str(bundle("wrong")))
    found = answer(capsys, *asked, code=6)
    assert found["ledger"]["sound"]
    (wrong,) = found["control"]["disagree"]
    assert wrong["recorded"].startswith("allow")
    assert wrong["policy_says"].startswith("deny")
    assert wrong["entry"] == max(entry["seq"] for entry in read("wrong") if entry["type"] == "decision")


@pytest.mark.parametrize("name", ["doctored", "first"])
def test_what_does_not_verify_is_told_and_marked(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--bundle", str(bundle(name)))
    for asked in (("replay", "timeline", "--tool", "python.run"), ("ask", "refusals")):
        assert not answer(capsys, *asked, *where, code=6)["mark"]["sound"]
    tried = ("replay", "whatif", "--policy", last_policy(name, tmp_path), *where)
    assert not answer(capsys, *tried, code=6)["ledger"]["sound"]
    assert answer(capsys, *tried, "--fail-on", "widened", code=6)["reason"] == "LEDGER_UNSOUND"
