"""Recorded histories, by this version and by earlier ones, are read, verified and filed; the wrong ones are found wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.ledger.verify_bundle import verify
from broker.policy.snapshot import Snapshot
from broker.replay.casebook import Casebook
from broker.replay.packed import open_packed
from tests.bundle_world import members

FOLDER = Path(__file__).parent.parent.parent / "histories"
SOUND = (
    "day",
    "day-session",
    "clean-up",
    "wrong",
    "earlier",
    "earlier-agent",
    "earlier-session",
    "first-agent",
)
MOST_BYTES = 300 * 1024


def bundle(name: str) -> Path:
    return FOLDER / f"{name}.zip"


def read(name: str) -> list[dict[str, Any]]:
    """The entries of a history."""
    return [json.loads(line) for line in members(bundle(name))["entries.jsonl"].splitlines()]


def disagreements(name: str) -> list[int]:
    """Numbers of the decisions on record that the recorded policy gives to nobody who asks the recorded question."""
    files = members(bundle(name))
    found, snapshots = list[int](), dict[str, Snapshot]()
    for entry in read(name):
        said = entry.get("policy") or {}
        inputs = said.get("inputs")
        if entry["type"] != "decision" or not inputs:
            continue
        policy = said["digest"].removeprefix("sha256:")
        if policy not in snapshots:
            snapshots[policy] = Snapshot.load(files[f"texts/policy/{policy}"].decode())
        if not agrees(snapshots[policy], inputs, allowed=said["decision"] == "allow"):
            found.append(entry["seq"])
    return found


def agrees(policy: Snapshot, inputs: dict[str, str], *, allowed: bool) -> bool:
    """Is there somebody with the recorded roles, one that the policy names or another, to whom it gives that answer?"""
    named = set(re.findall(r"(?:agent|human):[a-z0-9-]+", policy.text))
    where, obj, action, tier = inputs["workspace"], inputs["object"], inputs["action"], Tier(int(inputs["tier"]))
    for who in ("agent:somebody-else", "human:somebody-else", *sorted(named)):
        holds = set(policy.roles_of(who, where)) == set(inputs["roles"].split())
        if holds and policy.decide(PolicyRequest(who, where, obj, action, tier)).allowed is allowed:
            return True
    return False


def filed(casebook: Casebook) -> dict[str, int]:
    """How much a casebook has of each kind."""
    tables = ("entry", "call", "decision", "approval", "vote", "act")
    counts = {table: casebook.one(f"SELECT count(*) FROM {table}") for table in tables}  # noqa: S608 - ours
    return {table: 0 if row is None else int(row[0]) for table, row in counts.items()}


def test_all_of_them_are_looked_at() -> None:
    there = {path.stem for path in FOLDER.glob("*.zip")}
    assert there == {*SOUND, "doctored", "first"}
    assert all(path.stat().st_size < MOST_BYTES for path in FOLDER.glob("*.zip"))


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_one_is_verified_and_filed(name: str) -> None:
    report = verify(str(bundle(name)))
    assert (report["verdict"], report["place"]) == ("ok", None)
    entries = read(name)
    with open_packed(bundle(name)) as (casebook, _):
        assert casebook.mark.sound
        assert casebook.mark.entries == len(entries) == report["entries"]
        counts = filed(casebook)
        assert counts["entry"] == len(entries)
        assert counts["call"] == len({entry["call_id"] for entry in entries if "call_id" in entry})
        assert counts["decision"] == sum(entry["type"] == "decision" for entry in entries)
        assert counts["vote"] == sum(entry["type"] in {"vote", "vote.attested"} for entry in entries)
        for entry in entries:
            assert casebook.entry(entry["seq"]).body == entry


def test_the_session_of_the_day_is_whole_and_has_names() -> None:
    report = verify(str(bundle("day-session")))
    assert "to its end, entry" in report["complete"]
    with open_packed(bundle("day-session")) as (_, names):
        agent = names.find("agent:scout")
        assert agent.startswith("agt_")
        assert names.name(agent) == "agent:scout"
        assert names.find("olivia").startswith("hum_")


def test_the_clean_up_was_agreed_to_and_taken_back() -> None:
    with open_packed(bundle("clean-up")) as (casebook, _):
        undone = casebook.rows("SELECT call, target FROM undo")
        assert undone
        for call, target in undone:
            assert casebook.one("SELECT 1 FROM used WHERE call = ?", target) is not None
            assert call != target
        assert casebook.mark.votes_checked == casebook.mark.entries


@pytest.mark.parametrize("name", ["day", "clean-up", "earlier"])
def test_each_decision_is_what_its_policy_says(name: str) -> None:
    assert sum(bool((entry.get("policy") or {}).get("inputs")) for entry in read(name)) > 1
    assert disagreements(name) == []


def test_the_one_that_is_wrong_on_purpose() -> None:
    """Nothing but the policy itself shows it: chain, signatures and votes are in order."""
    assert verify(str(bundle("wrong")))["verdict"] == "ok"
    wrong = disagreements("wrong")
    assert len(wrong) == 1
    entry = next(entry for entry in read("wrong") if entry["seq"] == wrong[0])
    assert entry["policy"]["decision"] == "allow"
    assert entry["seq"] == max(one["seq"] for one in read("wrong") if one["type"] == "decision")


def test_the_doctored_one() -> None:
    report = verify(str(bundle("doctored")))
    assert (report["verdict"], report["place"]["file"]) == ("tampered", "entries.jsonl")
    with open_packed(bundle("doctored")) as (casebook, _):
        assert not casebook.mark.sound
        assert filed(casebook)["entry"] == len(read("doctored"))


def test_one_from_before_the_founding_covered_everything() -> None:
    """A rule that came later isn't met by what was done before; that is said, and everything can be read all the same."""
    report = verify(str(bundle("first")))
    assert report["verdict"] == "votes invalid"
    with open_packed(bundle("first")) as (casebook, _):
        assert (casebook.mark.verdict, casebook.mark.entries) == ("votes invalid", len(read("first")))
        assert "in_force" in casebook.mark.why
        assert filed(casebook)["call"] == len({entry["call_id"] for entry in read("first") if "call_id" in entry})
    assert disagreements("first") == []
