"""Options of ``broker replay`` that can't be met are refused with what to do next, and leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.cli.init import create_state
from broker.cli.main import run


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory in which nothing has happened yet."""
    made = tmp_path_factory.mktemp("options") / "state"
    create_state(made, operator="ada", hosts=())
    return made


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (
            ("whatif", "--policy", "{state}/policy/policy.csv", "--report", "{free}/none/report.json"),
            (5, "FILE_UNWRITABLE"),
        ),
        (("whatif", "--policy", "{state}/policy/policy.csv", "--report", "{free}"), (5, "FILE_UNWRITABLE")),
        (("timeline", "--html", "{free}", "--force"), (5, "FILE_UNWRITABLE")),
        (("timeline", "--since", "0001-01-01T00:00+14:00"), (2, "TIME_INVALID")),
    ],
)
def test_what_can_not_be_is_refused(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    refusal: tuple[int, str],
) -> None:
    free = tmp_path / "free"
    free.mkdir()
    given = [item.format(state=state, free=free) for item in arguments]
    code = run(["replay", *given, "--state", str(state), "--json"])
    assert (code, json.loads(capsys.readouterr().out)["reason"]) == refusal
    assert [*tmp_path.iterdir(), *free.iterdir()] == [free]


def test_a_number_that_no_entry_can_have_is_refused(state: Path, tmp_path: Path) -> None:
    span = ("--from", "1", "--to", "9" * 20)
    assert run(["replay", "bundle", str(tmp_path / "a.zip"), *span, "--state", str(state)]) == 2
    assert not list(tmp_path.iterdir())
