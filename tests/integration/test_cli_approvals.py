"""The two-person rule by commands alone, on a real broker: keys, the founding by three people, votes, and a freeze."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker.cli.main import run as run_program
from tests.served import OPERATOR, Served, issue, ledger, make_state, serving
from tests.terminal import Terminal

pytestmark = pytest.mark.docker

PEOPLE = ("ada", "ben", "cleo")
PASSPHRASE = "correct horse battery staple"  # noqa: S105 -- of keys that live as long as a test
POLICY = "".join(f"g, human:{name}, role:approver, *\n" for name in PEOPLE)


@dataclass
class People:
    """Three people, each with a home of their own, and the operator."""

    served: Served
    root: Path
    schemas: Path

    def env(self, name: str) -> dict[str, str]:
        """The environment of somebody's commands."""
        return {
            "XDG_CONFIG_HOME": str(self.root / name / "config"),
            "XDG_STATE_HOME": str(self.root / name / "state"),
            "BROKER_KEY_PASSPHRASE_FILE": str(self.root / "passphrase"),
            "BROKER_IDENTITY": f"human/{name}",
            "BROKER_STATE": str(self.served.state),
        }

    def run(self, name: str, schema: str, *args: str, code: int = 0) -> dict[str, Any]:
        """Runs a command as somebody; its answer must fit the documented schema."""
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            for variable, value in self.env(name).items():
                patch.setenv(variable, value)
            ended = run_program([*args, "--json"])
        assert ended == code, out.getvalue()
        answer: dict[str, Any] = json.loads(out.getvalue())
        jsonschema.validate(answer, json.loads((self.schemas / f"{schema}.json").read_text("utf-8")))
        return answer

    def refused(self, name: str, reason: str, *args: str, code: int) -> None:
        """Runs a command that is refused."""
        assert self.run(name, "error", *args, code=code)["reason"] == reason

    def vote(self, name: str, decision: str, approval: dict[str, Any]) -> dict[str, Any]:
        """Looks, and votes on what was shown."""
        shown = self.run(name, "approvals-show", "approvals", "show", approval["name"])
        digest = shown["rendering_digest"]
        return self.run(name, f"approvals-{decision}", "approvals", decision, approval["name"], "--digest", digest)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[People]:
    root = tmp_path_factory.mktemp("people")
    make_state(root / "broker")
    issue(root / "broker", dict.fromkeys(PEOPLE, ""))
    policy = root / "broker" / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")
    (root / "passphrase").write_text(PASSPHRASE)
    (root / "passphrase").chmod(0o600)
    with serving(root / "broker") as served:
        yield People(served, root, repository / "docs" / "cli")


@pytest.fixture(scope="module")
def founded(people: People) -> People:
    """Three people have made keys and accepted each other's."""
    for name in PEOPLE:
        people.refused(name, "KEY_MISSING", "keys", "show", name, code=2)
        made = people.run(name, "keys-new", "keys", "new", name)
        people.run(OPERATOR, "approvers-enroll", "approvers", "enroll", name, made["vkey"])
    digests = set()
    for name in PEOPLE:
        shown = people.run(name, "approvers-founding", "approvers", "founding")
        assert shown["verified"]
        digests.add(shown["digest"])
        done = people.run(name, "approvers-accept", "approvers", "accept", "--as", name, "--digest", shown["digest"])
    assert len(digests) == 1
    assert (done["complete"], done["accepted"], done["accepted_here"]) == (True, 3, True)
    return people


def test_three_people_found_it_and_it_stands_in_the_ledger(founded: People) -> None:
    entries = ledger(founded.served.state)
    kinds = [item["type"] for item in entries]
    assert kinds.count("key.enrolled") == 3
    assert kinds.count("approver.accepted") == 3
    assert kinds.count("founding.completed") == 1
    keys = founded.run("ada", "approvers-keys", "approvers", "keys")["items"]
    assert [item["holder_name"] for item in keys] == [f"human:{name}" for name in PEOPLE]


def test_what_one_stops_two_let_go_on(founded: People) -> None:
    founded.run("ada", "freeze-tool", "freeze", "tool", "python.run", "--reason", "odd")
    frozen = founded.run("ben", "freeze-list", "freeze", "list")["items"]
    assert [(item["scope"], item["target"]) for item in frozen] == [("tool", "python.run")]
    asked = founded.run(OPERATOR, "unfreeze", "unfreeze", "tool", "python.run", "--reason", "mended", code=4)
    shown = founded.run("ada", "approvals-show", "approvals", "show", asked["name"])
    assert "| mended" in shown["rendering"]
    assert "python.run" in shown["rendering"]
    assert (shown["may_vote"], shown["kind"]) == (True, "ADMINISTRATION")
    mine = founded.run("ada", "approvals-list", "approvals", "list", "--mine")["items"]
    assert [item["name"] for item in mine] == [asked["name"]]

    first = founded.vote("ada", "approve", asked)
    assert (first["state"], len(first["missing"]) > 0) == ("PENDING", True)
    last = shown["rendering_digest"][-6:]
    again = ("approvals", "approve", asked["name"], "--digest", last)
    founded.refused("ada", "ALREADY_VOTED", *again, code=2)
    founded.refused(OPERATOR, "KEY_NOT_GIVEN", *again, code=2)
    assert founded.vote("ada", "withdraw", asked)["state"] == "PENDING"
    founded.vote("ada", "approve", asked)
    done = founded.vote("ben", "approve", asked)
    assert done["state"] == "USED"
    assert founded.run("ben", "freeze-list", "freeze", "list")["items"] == []
    founded.refused("cleo", "APPROVAL_CLOSED", *again, code=2)

    votes = [item for item in ledger(founded.served.state) if item["type"] == "vote"]
    said = [json.loads(item["vote"]["statement"]) for item in votes]
    assert [item["decision"] for item in said] == ["approve", "withdraw", "approve", "approve"]
    assert all(item["rendering_digest"] == shown["rendering_digest"] for item in said)
    # Each has seen a checkpoint of this very ledger.
    sizes = [item["checkpoint"]["size"] for item in said]
    assert sizes == sorted(sizes)


def test_the_requester_has_no_vote_on_it(founded: People) -> None:
    founded.run("cleo", "freeze-agent", "freeze", "agent", "scout")
    asked = founded.run("cleo", "unfreeze", "unfreeze", "agent", "scout", code=4)
    shown = founded.run("cleo", "approvals-show", "approvals", "show", asked["name"])
    assert not shown["may_vote"]
    options = ("--digest", shown["rendering_digest"][-6:])
    founded.refused("cleo", "VOTER_IN_LINEAGE", "approvals", "approve", asked["name"], *options, code=3)
    done = founded.run("cleo", "approvals-cancel", "approvals", "cancel", asked["name"])
    assert done["state"] == "CANCELLED"
    watched = founded.run("ada", "approvals-watch", "approvals", "watch", asked["name"], code=3)
    assert watched["state"] == "CANCELLED"


def test_a_denial_on_a_terminal_ends_it(founded: People) -> None:
    founded.run("ada", "freeze-workspace", "freeze", "workspace", "demo")
    asked = founded.run(OPERATOR, "unfreeze", "unfreeze", "workspace", "demo", code=4)
    founded.vote("ada", "approve", asked)
    env = {**founded.env("ben"), "BROKER_KEY_PASSPHRASE_FILE": ""}
    with Terminal("approvals", "deny", asked["name"], "--as", "ben", env=env, rows=1000) as shown:
        shown.until("Why do you deny it?")
        shown.type("not yet")
        shown.until("Passphrase of ")
        shown.type(PASSPHRASE)
        assert shown.end() == 0, shown.seen
        assert re.search(r"ben denied at .* signed with sha256:[0-9a-f]{64}: not yet", shown.seen)
    closed = founded.run("ada", "approvals-show", "approvals", "show", asked["name"])
    assert (closed["state"], closed["votes"][-1]["reason"]) == ("DENIED", "not yet")


def test_a_revoked_key_votes_no_more(founded: People) -> None:
    made = founded.run("cleo", "keys-show", "keys", "show", "cleo")
    revoke = ("approvers", "revoke", made["id"], "--reason", "laptop lost")
    founded.refused("ada", "APPROVAL_REQUIRED", *revoke, code=4)  # two people would be left
    founded.run("cleo", "approvers-revoke", *revoke)
    founded.run("ada", "freeze-all", "freeze", "all")
    asked = founded.run(OPERATOR, "unfreeze", "unfreeze", "all", code=4)
    shown = founded.run("cleo", "approvals-show", "approvals", "show", asked["name"])
    options = ("--digest", shown["rendering_digest"][-6:])
    founded.refused("cleo", "KEY_REVOKED", "approvals", "approve", asked["name"], *options, code=2)
    founded.vote("ada", "approve", asked)
    assert founded.vote("ben", "approve", asked)["state"] == "USED"
