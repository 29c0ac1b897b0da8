"""``broker policy``: exit codes, JSON and what a person reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.cli import main
from broker.cli.policy import app
from broker.errors import InvalidArgumentError
from broker.policy.default import default_policy

RUNNER = CliRunner(env={"BROKER_STATE": "no-such-state"})
SHELL = ["explain", "--agent", "scout", "--tool", "shell.run", "--workspace", "demo"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy" / "policy.csv"
    path.parent.mkdir()
    path.write_text(default_policy("olivia"), "utf-8")
    return path


def test_check_passes_a_good_file(file: Path) -> None:
    done = RUNNER.invoke(app, ["check", str(file), "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["valid"], found["findings"], found["omitted"]) == (0, True, [], 0)
    assert found["rules"] > 40
    assert "may go live" in RUNNER.invoke(app, ["check", str(file)]).stdout


def test_check_shows_each_place_of_a_bad_file_and_exits_with_2(file: Path) -> None:
    file.write_text("p, [red]x, *, demo, data.query, call, 9, Allow, why\n", "utf-8")
    done = RUNNER.invoke(app, ["check", str(file), "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["valid"]) == (2, False)
    assert [(item["line"], item["column"], item["severity"]) for item in found["findings"]] == [
        (1, 4, "error"),
        (1, 39, "error"),
        (1, 42, "error"),
    ]
    shown = RUNNER.invoke(app, ["check", str(file)])
    assert shown.exit_code == 2
    assert f"{file}:1:4: error: '[red]x'" in shown.stdout


def test_check_knows_which_rpcs_and_tools_there_are(file: Path) -> None:
    file.write_text(default_policy("olivia").replace("ToolBroker/GetTool,", "ToolBroker/GetTol,"), "utf-8")
    done = RUNNER.invoke(app, ["check", str(file)])
    assert done.exit_code == 2
    assert "there is no RPC broker.v1.ToolBroker/GetTol" in done.stdout
    file.write_text(default_policy("olivia").replace("shell.run, call, 4", "shel.run, call, 4"), "utf-8")
    done = RUNNER.invoke(app, ["check", str(file)])
    assert done.exit_code == 2
    assert "demo-no-shell: there is no tool shel.run" in done.stdout


def test_check_says_how_much_it_leaves_out(file: Path) -> None:
    file.write_text("p\n" * 300, "utf-8")
    found = json.loads(RUNNER.invoke(app, ["check", str(file), "--json"]).stdout)
    assert (len(found["findings"]), found["omitted"]) == (200, 100)


def test_explain_names_the_rule_and_the_reason(file: Path) -> None:
    done = RUNNER.invoke(app, [*SHELL, "--tier", "1", "--policy", str(file), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found["decisions"] == [
        {"tier": 1, "allowed": False, "rule": "demo-no-shell", "reason": "no shell in the demo workspace"}
    ]
    assert {item["rule"]: item["matches"] for item in found["considered"]} == {
        "analyst-shell-run": True,
        "demo-no-shell": True,
    }


def test_explain_takes_the_state_directorys_policy_and_asks_about_every_tier(file: Path) -> None:
    done = RUNNER.invoke(app, [*SHELL, "--state", str(file.parent.parent), "--json"])
    assert [item["tier"] for item in json.loads(done.stdout)["decisions"]] == [0, 1, 2, 3, 4]
    shown = RUNNER.invoke(app, [*SHELL, "--state", str(file.parent.parent)]).stdout
    assert "tier 2: denied by demo-no-shell" in shown
    assert "(demo-no-shell) decides" in shown


def test_explain_answers_for_rpcs(file: Path) -> None:
    rpc = ["explain", "--rpc", "broker.v1.Administration/ReloadPolicy", "--policy", str(file), "--json"]
    refused = json.loads(RUNNER.invoke(app, [*rpc, "--human", "hugo"]).stdout)
    assert refused["decisions"][0]["allowed"] is False
    assert [item["condition"] for item in refused["considered"][0]["fails"]] == ["subject"]
    assert json.loads(RUNNER.invoke(app, [*rpc, "--human", "olivia"]).stdout)["decisions"][0]["allowed"] is True


def test_explain_answers_who_may_approve(file: Path) -> None:
    file.write_text(default_policy("olivia") + "g, human:ann, role:approver, *\n", "utf-8")
    asked = ["explain", "--tool", "shell.run", "--workspace", "demo", "--action", "approve", "--tier", "4"]
    asked += ["--policy", str(file), "--json"]
    found = json.loads(RUNNER.invoke(app, [*asked, "--human", "ann"]).stdout)
    assert [(item["allowed"], item["rule"]) for item in found["decisions"]] == [(True, "approver-any-tool")]
    assert json.loads(RUNNER.invoke(app, [*asked, "--human", "olivia"]).stdout)["decisions"][0]["allowed"] is False
    admin = ["explain", "--human", "ann", "--tool", "broker.admin", "--action", "approve", "--policy", str(file)]
    shown = RUNNER.invoke(app, admin).stdout
    assert "human:ann approve broker.admin in -" in shown
    assert "tier 4: allowed by approver-administration" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--agent", "a", "--tool", "data.query", "--workspace", "demo", "--action", "approve"],
        ["--human", "a", "--tool", "data.query", "--action", "approve"],
        ["--human", "a", "--tool", "data.query", "--workspace", "demo", "--action", "rpc"],
        ["--human", "a", "--rpc", "broker.v1.ToolBroker/GetTool", "--action", "call"],
        ["--tool", "data.query", "--workspace", "demo"],
        ["--agent", "a", "--human", "b", "--tool", "data.query", "--workspace", "demo"],
        ["--agent", "a", "--workspace", "demo"],
        ["--agent", "a", "--tool", "data.query"],
        ["--agent", "A", "--tool", "data.query", "--workspace", "demo"],
        ["--agent", "a", "--tool", "data.*", "--workspace", "demo"],
    ],
)
def test_explain_refuses_an_unclear_question(file: Path, arguments: list[str]) -> None:
    done = RUNNER.invoke(app, ["explain", *arguments, "--policy", str(file)])
    assert isinstance(done.exception, InvalidArgumentError)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for arguments in (["check", str(tmp_path / "none.csv")], [*SHELL, "--state", str(tmp_path)]):
        done = RUNNER.invoke(app, arguments)
        assert isinstance(done.exception, InvalidArgumentError)
        assert done.exception.reason == "POLICY_UNREADABLE"


def compared(file: Path, new: str, *, lines: bool = False) -> tuple[int, str]:
    other = file.parent / "new.csv"
    other.write_text(new, "utf-8")
    asked = ["policy", "diff", str(other), "--state", str(file.parent.parent), *([] if lines else ["--json"])]
    done = RUNNER.invoke(main.app, asked)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_diff_says_what_widens_and_exits_with_1_where_it_is_sensitive(file: Path) -> None:
    new = file.read_text("utf-8") + "g, human:ann, role:approver, *\n"
    code, shown = compared(file, new)
    found = json.loads(shown)
    assert (code, found["sensitive"]) == (1, True)
    assert found["grants_added"] == ["human:ann now holds role:approver in every workspace"]
    assert [(item["kind"], item["row"]) for item in found["widens"]] == [("approver", "g, human:ann, role:approver, *")]
    code, shown = compared(file, new, lines=True)
    assert code == 1
    assert "WIDENS (two-person rule) human:ann may now approve" in shown


def test_diff_exits_with_0_where_nothing_sensitive_widens(file: Path) -> None:
    old = file.read_text("utf-8")
    code, shown = compared(file, old, lines=True)
    assert (code, shown) == (0, "It widens nothing.\n")
    code, shown = compared(file, old + "g, agent:scout, role:analyst, finance\n", lines=True)
    assert code == 0
    assert "WIDENS agent:scout may now call data.query in finance up to tier 2" in shown
    code, shown = compared(file, old.replace("text.search, call, 2", "text.search, call, 1"))
    assert (code, json.loads(shown)["widens"]) == (0, [])
    assert json.loads(shown)["rules_changed"] == ['analyst-text-search changed: its tier "2" becomes "1"']


def test_diff_refuses_a_file_that_may_not_go_live(file: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no tool shel"):
        compared(file, file.read_text("utf-8").replace("shell.run, call, 4", "shel.run, call, 4"))
