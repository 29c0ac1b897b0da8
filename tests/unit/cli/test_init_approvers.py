"""`broker init --approver NAME=VKEY`: public keys of people, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.cli.init_approvers import parse_approvers
from broker.cli.local import open_local
from broker.cli.main import run
from broker.domain.approval import KeyKind
from broker.errors import InvalidArgumentError
from broker.policy.electorate import roles_held
from broker.policy.live import read_snapshot
from broker.signing import Ed25519Signer

ADA, BOB = Ed25519Signer.generate(), Ed25519Signer.generate()


def test_they_are_registered_and_their_keys_enrolled_by_the_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    given = [("ada", ADA), ("olivia", BOB)]
    words = [word for name, signer in given for word in ("--approver", f"{name}={signer.vkey(name)}")]
    assert run(["init", "--state", str(state), "--operator", "olivia", *words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [(item["name"], item["key"]) for item in made["approvers"]] == [(name, one.id) for name, one in given]
    with open_local(state) as local:
        keys = local.read(lambda tx: tx.voters.all_keys())
        people = {item.id: item.name for item in local.read(lambda tx: tx.identities.all())}
        types = [json.loads(row.data) for row in local.read(lambda tx: tx.ledger.entries(0, 100))]
        assert not local.read(lambda tx: tx.voters.founding())
    assert [(people[key.holder], key.kind, key.public_key) for key in keys] == [
        (name, KeyKind.APPROVER, signer.public_key) for name, signer in given
    ]
    enrolled = [item for item in types if item["type"] == "key.enrolled"]
    assert [people[item["by"]] for item in enrolled] == ["olivia", "olivia"]
    policy = read_snapshot(state / "policy" / "policy.csv")
    assert "approver" in roles_held(policy, "ada", "demo")
    assert "approver" not in roles_held(policy, "bob", "demo")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["ada"], "NAME=VKEY"),
        (["=" + str(ADA.vkey("ada"))], "NAME=VKEY"),
        (["Ada=" + str(ADA.vkey("ada"))], "NAME=VKEY"),
        (["ada=/home/ada/key.pem"], "no key"),
        (["ada=-----BEGIN ENCRYPTED PRIVATE KEY-----"], "private key"),
        (["bob=" + str(ADA.vkey("ada"))], "is of 'ada'"),
        ([f"ada={ADA.vkey('ada')}", f"ada={BOB.vkey('ada')}"], "twice"),
        ([f"ada={ADA.vkey('ada')}", f"bob={ADA.vkey('bob')}"], "twice"),
    ],
)
def test_anything_else_is_refused(given: list[str], why: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_approvers(given)
    assert refused.value.reason == "APPROVER_INVALID"
    assert why in refused.value.message
    assert refused.value.violations[0].field == "--approver"


def test_a_refusal_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--state", str(tmp_path / "state"), "--approver", "ada=x", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["reason"] == "APPROVER_INVALID"
    assert not (tmp_path / "state").exists()
