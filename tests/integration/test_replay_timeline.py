"""``broker replay timeline`` as the real program: over a state directory with a history, bundles, and a running broker."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.domain.canonical import JsonObject
from broker.ledger.bundle_format import Selection
from tests.bundle_world import bundle_world, fill
from tests.log_world import publish, write
from tests.pages import Page
from tests.rebuild_world import Rebuildable, make_rebuildable
from tests.served import OPERATOR, Served, command, command_json, make_state, serving
from tests.terminal import Terminal

TIMELINE = ("replay", "timeline")
CALL = "call_01k0000000000000000000000q"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Rebuildable:
    return make_rebuildable(tmp_path_factory.mktemp("made"))


def told(state: Path, *arguments: str) -> dict[str, Any]:
    return command_json(state, *TIMELINE, *arguments)


def calls(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {call["call"]: call for call in answer["calls"]}


def refusal(state: Path, *arguments: str) -> tuple[int, str]:
    done = command(state, *TIMELINE, *arguments, "--json", check=False)
    return done.returncode, json.loads(done.stdout)["reason"]


def test_a_call_that_people_agreed_to_is_told_with_names_and_texts(made: Rebuildable) -> None:
    answer = told(made.state, "--call", made.decided["used"])
    (call,) = answer["calls"]
    assert (call["state"], call["content"], call["purpose"]) == ("SUCCEEDED", "kept", "to see")
    assert json.loads(call["arguments"]) == {"code": "changed"}
    assert call["reason"] == "agents change the world"
    assert [vote["decision"] for vote in call["votes"]] == ["approve", "approve"]
    assert {answer["names"][vote["person"]] for vote in call["votes"]} == {"human:cyn", "human:dan"}
    own = [event for event in answer["events"] if event["group"] == call["call"]]
    assert [event["type"] for event in own] == [
        "decision",
        "approval.requested",
        "vote",
        "vote",
        "approval.closed",
        "intent",
        "outcome",
    ]
    by_seq = {event["seq"]: event for event in answer["events"]}
    assert all(cause < event["seq"] for event in answer["events"] for cause in event["causes"])
    around = {by_seq[cause]["type"] for cause in own[0]["causes"]}
    assert around == {"session.started", "spec.registered", "policy.changed", "workflow.approved"}
    assert answer["mark"]["sound"]


def test_the_whole_history_has_no_event_before_its_cause(made: Rebuildable) -> None:
    answer = told(made.state, "--limit", "5000")
    place = {event["seq"]: number for number, event in enumerate(answer["events"])}
    assert len(place) > 140
    assert all(place[cause] < place[event["seq"]] for event in answer["events"] for cause in event["causes"])
    assert not [event for event in answer["events"] if "names later entries as causes" in event["details"]]
    found = calls(answer)
    assert "it had begun" in found[made.running]["left_open"]
    assert found[made.decided["half"]]["state"] == "PENDING_APPROVAL"
    assert (found[made.erased]["content"], found[made.succeeded]["content"]) == ("erased", "kept")
    erased = next(event for event in answer["events"] if event["seq"] == found[made.erased]["erased_by"])
    assert erased["type"] == "erased"
    assert found[made.erased]["purpose"] == ""


def test_people_by_name_reasons_and_denials(made: Rebuildable) -> None:
    answer = told(made.state, "--person", "dan")
    denied = calls(answer)[made.decided["denied"]]
    assert denied["state"] == "DENIED"
    votes = {event["text"] for event in answer["events"] if event["type"].startswith("vote")}
    assert "human:dan: deny (attested by a bot's key in slack): no" in votes
    assert refusal(made.state, "--person", "nobody-at-all") == (2, "IDENTITY_UNKNOWN")
    assert refusal(made.state, "--call", CALL) == (2, "CALL_NOT_FOUND")
    assert refusal(made.state, "--since", "yesterday") == (2, "TIME_INVALID")
    assert refusal(made.state, "--since", "1h", "--until", "2h") == (2, "USAGE")


def test_a_file_is_looked_for_and_what_could_not_be_looked_into_is_said(made: Rebuildable) -> None:
    answer = told(made.state, "--file", "no/such/file")
    assert answer["calls"] == []
    assert [left["number"] for left in answer["left_out"]] == [1], "the erased one"


def test_folded_at_a_pipe_and_unfolded_for_one_call(made: Rebuildable) -> None:
    folded = command(made.state, *TIMELINE, "--agent", "reporter").stdout
    lines = [line for line in folded.splitlines() if made.decided["used"] in line]
    assert len(lines) == 1
    assert "human:cyn approves, human:dan approves" in lines[0]
    assert "\x1b" not in folded
    assert "NO END ON RECORD" in next(line for line in folded.splitlines() if made.running in line)
    assert "--all shows them" in folded
    one = command(made.state, *TIMELINE, "--call", made.decided["used"]).stdout
    assert "<- " in one
    assert "session.started" in one
    assert "<- " not in command(made.state, *TIMELINE, "--call", made.decided["used"], "--fold").stdout


def test_a_terminal_has_colours_and_no_line_wider_than_it(made: Rebuildable) -> None:
    environment = {"BROKER_STATE": str(made.state)}
    with Terminal(*TIMELINE, "--agent", "reporter", "--all", env=environment, columns=90) as shown:
        assert shown.end() == 0
        assert "\x1b[31m" in shown.seen or "\x1b[1;31m" in shown.seen
        entries = [line for line in shown.seen.splitlines() if "approval.requested" in line]
        plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in entries]
        assert plain
        assert all(len(line) <= 90 for line in plain)


def test_a_page_is_written_privately_and_never_over_another(made: Rebuildable, tmp_path: Path) -> None:
    page = tmp_path / "incident.html"
    answer = told(made.state, "--agent", "reporter", "--html", str(page))
    assert answer["html"] == str(page)
    assert page.stat().st_mode & 0o777 == 0o600
    text = Page(page.read_text("utf-8")).text
    assert "Verified: ok" in text
    assert "human:cyn: approve" in text
    assert refusal(made.state, "--html", str(page)) == (2, "FILE_EXISTS")
    command(made.state, *TIMELINE, "--call", made.failed, "--html", str(page), "--force")
    assert made.failed in page.read_text("utf-8")


def test_a_ledger_that_does_not_verify_is_shown_loudly_and_is_exit_code_6(made: Rebuildable, tmp_path: Path) -> None:
    state = Path(shutil.copytree(made.state, tmp_path / "state"))
    command(state, "ask", "refusals")
    with closing(sqlite3.connect(state / "broker.db")) as database, database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f'DROP TRIGGER "{name}"')
        changed = database.execute(
            "UPDATE ledger_entry SET data = CAST(replace(CAST(data AS TEXT), 'SUCCEEDED', 'CANCELLED') AS BLOB)"
            " WHERE CAST(data AS TEXT) LIKE ?",
            (f'%{made.succeeded}%"SUCCEEDED"%',),
        )
        assert changed.rowcount == 1
        for _, statement in triggers:
            database.execute(statement)
    done = command(state, *TIMELINE, "--call", made.succeeded, check=False)
    assert done.returncode == 6
    # It had been filed before somebody changed it.
    assert done.stdout.startswith("DOESN'T VERIFY: changed")
    (state / "casebook.db").unlink()
    done = command(state, *TIMELINE, "--call", made.succeeded, check=False)
    assert done.returncode == 6
    assert done.stdout.startswith("DOESN'T VERIFY: tampered")
    assert made.succeeded in done.stdout
    as_json = command(state, *TIMELINE, "--call", made.succeeded, "--json", check=False)
    assert as_json.returncode == 6
    assert json.loads(as_json.stdout)["mark"]["verdict"] == "tampered"


@dataclass
class Bundles:
    """Of a whole ledger, of an agent, and the first with one word changed."""

    whole: Path
    agent: Path
    doctored: Path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    folder = tmp_path_factory.mktemp("bundles")
    made = Bundles(folder / "whole.zip", folder / "agent.zip", folder / "doctored.zip")
    with bundle_world(folder / "world") as world:
        fill(world)
        world.export(made.whole)
        world.export(made.agent, Selection(agent="agt_a"))
    with zipfile.ZipFile(made.whole) as source, zipfile.ZipFile(made.doctored, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b'"rule":"rule-1"', b'"rule":"rule-2"'))
    return made


def test_a_bundle_is_read_without_any_state_directory(bundles: Bundles, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    answer = told(nowhere, "--bundle", str(bundles.whole), "--session", "ses_1")
    assert set(calls(answer)) == {"call_0", "call_4", "call_8"}
    assert answer["mark"]["sound"]
    assert {call["content"] for call in answer["calls"]} == {"away"}
    part = told(nowhere, "--bundle", str(bundles.agent), "--agent", "agt_a")
    assert part["mark"]["extract"]
    assert set(calls(part)) == {f"call_{number}" for number in range(0, 12, 3)}
    refused = command(nowhere, *TIMELINE, "--bundle", str(bundles.whole), "--file", "a.txt", "--json", check=False)
    assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (2, "USAGE")
    assert "sealed" in json.loads(refused.stdout)["error"]
    assert refusal(nowhere, "--bundle", str(bundles.whole), "--server") == (2, "USAGE")


def test_a_doctored_bundle_is_marked(bundles: Bundles, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("--bundle", str(bundles.doctored), "--call", "call_0", "--html", str(page))
    done = command(tmp_path / "nowhere", *TIMELINE, *options, check=False)
    assert done.returncode == 6
    assert done.stdout.startswith("DOESN'T VERIFY")
    assert "rule-2" in done.stdout, "it is shown all the same"
    assert "DOESN'T VERIFY" in page.read_text("utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("broker") / "state"
    make_state(state, settings={"checkpoint_interval_s": 86400})
    with serving(state) as broker:
        yield broker


def test_a_running_broker_shows_what_the_caller_may_see_and_proves_it(served: Served, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    human = ("--server", "--identity", f"human/{OPERATOR}")
    scout = ("--server", "--identity", "agent/scout")
    people = command_json(served.state, "identity", "list")["items"]
    agent = next(item["id"] for item in people if item["name"] == "scout")
    about: JsonObject = {"call_id": CALL, "workspace": "demo", "tool": {"name": "files.read", "version": "v"}}
    policy: JsonObject = {"policy": {"decision": "allow", "rule": "rule-1", "digest": "", "inputs": {}}}
    ended: JsonObject = {"outcome": {"state": "SUCCEEDED", "exit_code": 0}}
    asyncio.run(
        write(
            served.state,
            ("decision", agent, {**about, **policy, "lineage": {"owner": "hum", "proofs": []}}),
            ("outcome", agent, {**about, **ended, "intent_seq": -1}),
        )
    )
    asyncio.run(publish(served.state))
    asyncio.run(write(served.state, ("outcome", agent, {**about, **ended})))
    answer = command_json(served.state, *TIMELINE, "--agent", "scout", *human, XDG_STATE_HOME=home)
    (call,) = answer["calls"]
    assert (call["call"], call["state"], call["agent"]) == (CALL, "SUCCEEDED", agent)
    assert (answer["mark"]["sound"], answer["mark"]["extract"]) == (True, "as far as you may see")
    assert answer["mark"]["checkpoint_size"] > max(event["seq"] for event in answer["events"])
    assert [left["number"] for left in answer["left_out"]] == [1], "no checkpoint covers the last entry yet"
    own = command_json(served.state, *TIMELINE, "--call", CALL, *scout, XDG_STATE_HOME=home)
    assert {event["type"] for event in own["events"]} == {"decision", "outcome"}, "what isn't its own isn't there"
    text = command(served.state, *TIMELINE, "--call", CALL, *scout, XDG_STATE_HOME=home).stdout
    assert "as far as you may see" in text
