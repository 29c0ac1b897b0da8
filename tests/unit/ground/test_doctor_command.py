"""`broker doctor` as a user runs it, on this machine and a state directory that `broker init` made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.cli.main import run
from broker.doctor import CHECKS, Place, Status, examine
from broker.errors import InvalidArgumentError

LOCAL = [name for name in CHECKS if name not in {"engine", "images", "clock", "listeners"}]
"""Checks that neither an engine nor another program on this machine has a say in."""


@pytest.fixture
def initialised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    root = tmp_path / "state"
    assert run(["init", "--state", str(root), "--operator", "ada"]) == 0
    capsys.readouterr()
    return root


def doctor(capsys: pytest.CaptureFixture[str], state: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    only = [word for name in LOCAL for word in ("--only", name)]
    code = run(["doctor", "--json", "--state", str(state), *(arguments or only)])
    return code, json.loads(capsys.readouterr().out)


def test_a_fresh_state_directory_is_sound(initialised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = doctor(capsys, initialised)
    assert output["status"] == "ok", output
    assert code == 0


def test_an_open_key_fails_and_says_how_to_mend_it(initialised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (initialised / "keys" / "vault.key").chmod(0o644)
    code, output = doctor(capsys, initialised)
    assert code == 1
    assert output["status"] == "fail"
    (bad,) = [each for each in output["findings"] if each["status"] == "fail"]  # type: ignore[attr-defined] # JSON
    assert bad["check"] == "permissions"
    assert "chmod 0600" in bad["mend"]


def test_a_policy_that_would_be_refused_fails(initialised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (initialised / "policy" / "policy.csv").open("a") as file:
        file.write("p, typo, role:agent, demo, python.rum, call, 1, allow, misspelt\n")
    code, output = doctor(capsys, initialised, "--only", "policy")
    assert code == 1
    assert "python.rum" in json.dumps(output)


def test_no_state_directory_is_only_worth_a_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = doctor(capsys, tmp_path / "none")
    assert code == 0
    assert output["status"] == "warn"


def test_a_broker_that_should_run_and_does_not(initialised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(capsys, initialised, "--only", "running")[0] == 0
    assert doctor(capsys, initialised, "--only", "running", "--expect-running")[0] == 1


def test_an_engine_that_is_away_fails(initialised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = initialised / "nowhere.sock"
    with (initialised / "settings.yaml").open("a") as file:
        file.write(f"engine: unix://{nowhere}\n")
    code, output = doctor(capsys, initialised, "--only", "engine")
    assert code == 1
    assert str(nowhere) in json.dumps(output)


@pytest.mark.docker
def test_the_engine_and_its_images_are_fit(tmp_path: Path) -> None:
    findings = examine(Place(state=tmp_path), ["engine", "images"])
    assert {each.check for each in findings} == {"engine", "cgroups", "seccomp", "runtimes", "images"}
    assert not [each for each in findings if each.status is Status.FAIL]


def test_a_check_that_breaks_is_a_finding(initialised: Path) -> None:
    (initialised / "policy" / "policy.csv").unlink()
    (initialised / "policy" / "policy.csv").mkdir()
    (finding,) = examine(Place(state=initialised), ["policy"])
    assert finding.status is Status.FAIL


def test_an_unknown_check_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="there is no check 'nonsense'"):
        examine(Place(state=tmp_path), ["nonsense"])
    assert run(["doctor", "--only", "nonsense", "--state", str(tmp_path)]) == 2
    assert "CHECK_UNKNOWN" in capsys.readouterr().err


def test_for_people_each_finding_is_a_line(initialised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--state", str(initialised), "--only", "state", "--only", "ledger"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   state")
    assert lines[-1] == "2 ok, 0 to look at, 0 to mend"


def test_a_table_of_tiers_and_a_workflow_that_would_be_refused_fail(
    initialised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (initialised / "tool_specs").mkdir()
    (initialised / "tool_specs" / "tiers.yaml").write_text("tiers: []\n", "utf-8")
    (initialised / "workflows").mkdir()
    (initialised / "workflows" / "broken.yaml").write_text("name: broken\n", "utf-8")
    code, output = doctor(capsys, initialised, "--only", "tiers", "--only", "workflows")
    assert code == 1
    found = {each["check"]: each for each in output["findings"]}  # type: ignore[attr-defined] # JSON
    assert found["tiers"]["status"] == found["workflows"]["status"] == "fail"
    assert "tiers.yaml" in found["tiers"]["found"]
    assert "broken.yaml" in found["workflows"]["found"]
