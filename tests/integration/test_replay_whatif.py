"""`broker replay whatif` on a history that the broker's own parts made, and on a bundle of it."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.checkpointer import Checkpointer
from broker.ledger.genesis import read_origin
from broker.ledger.ledger import Ledger
from broker.ledger.signer import FileSigner, read_passphrase
from broker.policy.whatif_report import read_report
from broker.settings import StatePaths
from broker.specs.shipped import shipped_folder
from broker.store.database import Database
from tests.rebuild_world import make_rebuildable
from tests.served import command, command_json

NO_SHELL = "demo-no-shell, *, demo, shell.run, call, 4, deny"


def now() -> datetime:
    return datetime.now(UTC)


async def publish(state: Path) -> None:
    """Signs the ledger as it is."""
    paths = StatePaths(state)
    async with Database.open(paths.database) as store:
        ledger = Ledger(await store.read(read_origin), "boot_2", now)
        checkpointer = Checkpointer(
            store=store,
            ledger=ledger,
            signer=FileSigner.load(paths.checkpoint_key, read_passphrase("", paths.checkpoint_passphrase)),
            checkpoints=DirectoryCheckpoints(paths.checkpoints),
            clock=now,
            interval_s=3600,
            on_unfit=lambda _: None,
        )
        async with checkpointer:
            await checkpointer.publish_now()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state as a killed broker left it, then signed."""
    made = make_rebuildable(tmp_path_factory.mktemp("made")).state
    asyncio.run(publish(made))
    return made


@pytest.fixture(scope="module")
def policy(state: Path) -> str:
    """The policy that decided."""
    return (state / "policy" / "policy.csv").read_text("utf-8")


def written(folder: Path, text: str) -> str:
    path = folder / "candidate.csv"
    path.write_text(text, "utf-8")
    return str(path)


def test_the_policy_in_force_flips_nothing_and_is_reproduced(state: Path) -> None:
    found = command_json(state, "replay", "whatif", "--policy", str(state / "policy" / "policy.csv"))
    assert (found["widened"]["requests"], found["narrowed"]["requests"], found["undecided"]) == (0, 0, [])
    assert found["totals"]["requests"] == found["control"]["reproduced"] > 10
    assert found["control"]["disagree"] == []
    assert (found["ledger"]["sound"], found["ledger"]["checkpoint_size"] > 500) == (True, True)
    assert found["present"]["policy"] == found["candidate"]["policy"]
    asked = found["forecast"]
    assert (asked["before"], asked["people_known"]) == (asked["after"], True)
    assert {"bob", "cyn", "dan"} <= {item["name"] for item in asked["approvers"]}
    assert "ada" not in {item["name"] for item in asked["approvers"]}


def test_what_was_refused_is_decided_again_and_fails_a_build(state: Path, policy: str, tmp_path: Path) -> None:
    wider = written(tmp_path, policy.replace(NO_SHELL, "demo-no-shell, role:agent, demo, shell.run, call, 4, allow"))
    report = tmp_path / "report.json"
    options = ("replay", "whatif", "--policy", wider, "--json")
    done = command(state, *options, "--fail-on", "widened", "--report", str(report), check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    (flip,) = found["widened"]["flips"]
    assert flip["before"] == "deny demo-no-shell"
    assert flip["after"].startswith("allow demo-no-shell")
    assert (flip["name"], flip["tool"], flip["workspace"]) == ("agent:reporter", "shell.run", "demo")
    entry = command_json(state, "ledger", "show", "--from", str(flip["first"]), "--limit", "1")["items"][0]["entry"]
    assert entry["refused"]["rule"] == entry["policy"]["rule"] == "demo-no-shell"
    assert entry["policy"]["inputs"]["subject"] == flip["agent"]
    assert json.loads(report.read_bytes()) == found
    assert read_report(report).digest == found["digest"]
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert command(state, *options, "--fail-on", "narrowed", check=False).returncode == 0


def test_a_table_of_tiers_that_asks_people_of_more_calls(state: Path, tmp_path: Path) -> None:
    table = yaml.safe_load((shipped_folder() / "tiers.yaml").read_text("utf-8"))
    for row in table["tiers"][:4]:
        row["call_approval"] = dict(table["tiers"][4]["call_approval"])
    tiers = tmp_path / "tiers.yaml"
    tiers.write_text(json.dumps(table), "utf-8")
    same = str(state / "policy" / "policy.csv")
    found = command(
        state, "replay", "whatif", "--policy", same, "--tiers", str(tiers), "--fail-on", "any", "--json", check=False
    )
    assert found.returncode == 1, found.stdout + found.stderr
    answer = json.loads(found.stdout)
    assert answer["widened"]["requests"] == 0
    assert answer["narrowed"]["flips"][0]["why"] == ["2 people have to agree"]
    assert answer["forecast"]["after"]["total"] > answer["forecast"]["before"]["total"]
    text = command(state, "replay", "whatif", "--policy", same, "--tiers", str(tiers)).stdout
    assert "NARROWED" in text
    assert "REQUESTS FOR APPROVAL, over 1 day\n" in text
    assert "bob: before" in text


@pytest.mark.parametrize("text", ["p, no\n", "p, x, role:agent, *, no.such, call, 1, allow, nothing\n"])
def test_a_policy_that_may_not_go_live_is_refused(state: Path, tmp_path: Path, text: str) -> None:
    done = command(state, "replay", "whatif", "--policy", written(tmp_path, text), "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)["reason"]) == (2, "POLICY_INVALID")


def test_a_bundle_is_enough_where_no_answer_depends_on_a_name(state: Path, policy: str, tmp_path: Path) -> None:
    bundle = tmp_path / "evidence.zip"
    command_json(state, "ledger", "export", str(bundle))
    tighter = written(
        tmp_path,
        policy.replace(
            "analyst-python-run, role:analyst, *, python.run, call, 2",
            "analyst-python-run, role:analyst, *, python.run, call, 0",
        ),
    )
    here = command_json(state, "replay", "whatif", "--policy", tighter)
    shutil.move(bundle, tmp_path / "elsewhere.zip")
    apart = ("replay", "whatif", "--policy", tighter, "--bundle", str(tmp_path / "elsewhere.zip"))
    found = command_json(tmp_path / "none", *apart)
    assert found["narrowed"]["requests"] == here["narrowed"]["requests"] > 0
    assert [item["of"] for item in found["narrowed"]["by_rule"]] == [item["of"] for item in here["narrowed"]["by_rule"]]
    assert found["control"]["reproduced"] == here["control"]["reproduced"]
    assert (found["forecast"]["people_known"], len(found["notes"])) == (False, 2)
    assert found["ledger"]["sound"]
    assert found["ledger"]["checkpoint_root"] == here["ledger"]["checkpoint_root"]


def test_a_ledger_that_does_not_verify_fails_a_build_and_is_marked(state: Path, policy: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(state, tmp_path / "state"))
    (copy / "casebook.db").unlink(missing_ok=True)  # what was filed before it was changed would still be right
    data = bytearray((copy / "broker.db").read_bytes())
    place = data.index(b'"rule":"demo-no-shell"},"seq"')
    data[place + 8 : place + 12] = b"demX"
    (copy / "broker.db").write_bytes(data)
    options = ("replay", "whatif", "--policy", written(tmp_path, policy), "--json")
    shown = command(copy, *options, check=False)
    assert (shown.returncode, json.loads(shown.stdout)["ledger"]["sound"]) == (6, False)
    failed = command(copy, *options, "--fail-on", "widened", check=False)
    assert (failed.returncode, json.loads(failed.stdout)["reason"]) == (6, "LEDGER_UNSOUND")


def test_a_build_fails_where_it_is_not_known_whether_something_flips(tmp_path: Path, policy: str) -> None:
    # Recorded before refusals had what the policy read: that of shell.run may flip or not.
    day = Path(__file__).parents[1] / "histories" / "day.zip"
    wider = written(tmp_path, policy.replace(NO_SHELL, "demo-no-shell, role:agent, demo, shell.run, call, 4, allow"))
    options = ("replay", "whatif", "--policy", wider, "--bundle", str(day))
    failed = command(tmp_path, *options, "--fail-on", "widened", check=False)
    assert failed.returncode == 1
    assert "4 request(s) can't be decided again" in failed.stderr
    assert command(tmp_path, *options, check=False).returncode == 0
    accepted = command(tmp_path, *options, "--fail-on", "widened", "--allow-undecided", check=False)
    assert (accepted.returncode, accepted.stderr) == (0, "")
