"""The commands by which people decide: as a script uses them, and as a person at a terminal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker.cli.approval_view import left_words
from broker.cli.pager import pages
from broker.domain.secret import Secret
from broker.domain.statement import key_id
from broker.signing import Ed25519Signer, load_key_file, new_key_file, read_public_key
from broker.tlog.note import VerifierKey
from broker.v1 import approvals_pb2 as pb
from tests.cli_program import Program, Ran
from tests.fake_approvals import FakeApprovals
from tests.fake_broker import Authority, FakeBroker, fake_broker_in_thread
from tests.fake_log import Log, LogServicer, leaf
from tests.terminal import Terminal

PASSPHRASE = "correct horse battery staple"  # noqa: S105 -- of keys that live as long as a test
ORIGIN = "broker-1"
PEOPLE = ("ada", "ben", "cleo")


@pytest.fixture
def log() -> LogServicer:
    return LogServicer(Log.make(ORIGIN))


@pytest.fixture
def service(log: LogServicer) -> FakeApprovals:
    return FakeApprovals(ORIGIN, leaf(log.log.entries[0]))


@pytest.fixture
def server(cli_authority: Authority, log: LogServicer, service: FakeApprovals) -> Iterator[FakeBroker]:
    with fake_broker_in_thread(cli_authority, log, service) as fake:
        yield fake


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key files of three people; their making is slow, as it is meant to be."""
    folder = tmp_path_factory.mktemp("keys") / "keys"
    for name in PEOPLE:
        new_key_file(folder / f"{name}.pem", Secret(PASSPHRASE.encode()))
    return folder


@pytest.fixture
def home(tmp_path: Path, state: Path, server: FakeBroker, service: FakeApprovals, key_files: Path) -> Path:
    """A home with the keys of three people, who are enrolled; each passphrase is the same."""
    folder = tmp_path / "home" / "agent-broker" / "keys"
    shutil.copytree(key_files, folder)
    for name in PEOPLE:
        server.authority.write(state / "identities" / "human" / name, name)
        key = read_public_key(folder / f"{name}.pem")
        assert key is not None
        service.enroll(name, key.public_key)
    words = tmp_path / "passphrase"
    words.write_text(PASSPHRASE + "\n")
    words.chmod(0o600)
    return tmp_path / "home"


@pytest.fixture
def voter(home: Path, broker: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Runs a command in this process, with keys and a passphrase at hand and a memory of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.setenv("BROKER_KEY_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    return broker


@pytest.fixture
def terminal(home: Path, state: Path, tmp_path: Path) -> Callable[..., Terminal]:
    """Starts a command on a terminal, where passphrases are asked for."""
    env = {"BROKER_STATE": str(state), "XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(tmp_path / "state-home")}
    return lambda *args, **values: Terminal(*args, env=env, **values)


@pytest.fixture
def fits(repository: Path) -> Callable[[Ran, str], dict[str, Any]]:
    """Checks an answer against its documented schema."""

    def fits(ran: Ran, schema: str) -> dict[str, Any]:
        jsonschema.validate(ran.json, json.loads((repository / "docs" / "cli" / f"{schema}.json").read_text("utf-8")))
        return ran.json

    return fits


Fits = Callable[[Ran, str], dict[str, Any]]


def digest_of(service: FakeApprovals, which: str) -> str:
    return service.approvals[f"approvals/{which}"].rendering_digest


# Keys


def test_keys_are_made_and_shown(voter: Program, home: Path, fits: Fits) -> None:
    made = fits(voter("keys", "new", "dora", "--json"), "keys-new")
    path = home / "agent-broker" / "keys" / "dora.pem"
    signer = load_key_file(path, Secret(PASSPHRASE.encode()))
    assert (made["file"], made["id"]) == (str(path), signer.id)
    assert key_id(VerifierKey.parse(made["vkey"]).public_key) == signer.id
    shown = voter("keys", "show", "dora")
    assert shown.out == made["vkey"] + "\n"
    assert fits(voter("keys", "show", "dora", "--json"), "keys-show") == made
    again = voter("keys", "new", "dora", "--json")
    assert (again.code, again.json["reason"]) == (2, "KEY_EXISTS")


def test_a_key_needs_a_passphrase_and_a_name(voter: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_KEY_PASSPHRASE_FILE")
    assert voter("keys", "new", "dora", "--json").json["reason"] == "PASSPHRASE_MISSING"
    monkeypatch.setenv("WORDS", "short")
    assert voter("keys", "new", "dora", "--passphrase-file", "env:WORDS", "--json").json["reason"] == "PASSPHRASE_UNFIT"
    assert voter("keys", "new", "Dora Ann", "--json").json["reason"] == "NAME_INVALID"


def test_a_key_is_made_on_a_terminal(terminal: Callable[..., Terminal], home: Path) -> None:
    with terminal("keys", "new", "dora") as shown:
        shown.until("Passphrase for the new key: ")
        shown.type(PASSPHRASE)
        shown.until("The same again: ")
        shown.type(PASSPHRASE)
        assert shown.end() == 0
        assert PASSPHRASE not in shown.seen
        assert re.search(r"^dora\+[0-9a-f]{8}\+\S+$", shown.seen, re.MULTILINE)
    assert load_key_file(home / "agent-broker" / "keys" / "dora.pem", Secret(PASSPHRASE.encode()))


def test_two_passphrases_that_differ_make_nothing(terminal: Callable[..., Terminal], home: Path) -> None:
    with terminal("keys", "new", "dora") as shown:
        shown.until("Passphrase for the new key: ")
        shown.type(PASSPHRASE)
        shown.until("The same again: ")
        shown.type(PASSPHRASE + "!")
        assert shown.end() == 2
        assert "PASSPHRASES_DIFFER" in shown.seen
    assert not (home / "agent-broker" / "keys" / "dora.pem").exists()


# Voting by a script


def test_a_script_votes_by_digest(voter: Program, service: FakeApprovals, fits: Fits) -> None:
    which = service.ask()
    shown = fits(voter("approvals", "show", which, "--as", "ada", "--json"), "approvals-show")
    whole, last = shown["rendering_digest"], shown["rendering_digest"][-6:]
    first = voter("approvals", "approve", which, "--as", "ada", "--digest", whole, "--json")
    assert (first.code, fits(first, "approvals-approve")["state"]) == (0, "PENDING")
    second = voter(
        "approvals", "approve", f"approvals/{which}", "--as", "ben", "--digest", last, "--reason", "yes", "--json"
    )
    assert (second.code, second.json["state"]) == (0, "APPROVED")
    assert [vote["reason"] for vote in second.json["votes"]] == ["", "yes"]
    back = fits(voter("approvals", "withdraw", which, "--as", "ben", "--digest", last, "--json"), "approvals-withdraw")
    assert back["state"] == "PENDING"
    denied = voter("approvals", "deny", which, "--as", "cleo", "--digest", last, "--json")
    assert (denied.code, fits(denied, "approvals-deny")["state"]) == (0, "DENIED")


@pytest.mark.parametrize("command", ["approve", "deny", "withdraw"])
def test_a_script_says_which_text_it_means(voter: Program, service: FakeApprovals, command: str) -> None:
    which = service.ask()
    digest = digest_of(service, which)
    wrong = ("f" if digest[-1] != "f" else "e") * 6
    for options, reason in (
        ((), "DIGEST_MISSING"),
        (("--digest", wrong), "DIGEST_DIFFERS"),
        (("--digest", digest[-5:]), "DIGEST_INVALID"),
        (("--digest", ""), "DIGEST_MISSING"),
        (("--digest", service.approvals[f"approvals/{which}"].envelope_digest), "DIGEST_DIFFERS"),
    ):
        ran = voter("approvals", command, which, "--as", "ada", *options, "--json")
        assert (ran.code, ran.json["reason"]) == (2, reason)
    assert service.votes == []


def test_there_is_no_command_for_several(voter: Program, service: FakeApprovals) -> None:
    first, second = service.ask(), service.ask()
    ran = voter(
        "approvals", "approve", first, second, "--as", "ada", "--digest", digest_of(service, first)[-6:], "--json"
    )
    assert (ran.code, ran.json["reason"], service.votes) == (2, "USAGE", [])


def test_a_lie_is_not_approved_and_can_be_denied(voter: Program, service: FakeApprovals) -> None:
    which = service.ask()

    def lie(message: pb.Approval) -> pb.Approval:
        message.rendering = message.rendering.replace("ada", "eve")
        return message

    service.change["GetApproval"] = lie
    last = digest_of(service, which)[-6:]
    shown = voter("approvals", "show", which, "--as", "ada")
    assert (shown.code, "DIGEST_DIFFERS" in shown.err) == (6, True)
    ran = voter("approvals", "approve", which, "--as", "ada", "--digest", last, "--json")
    assert (ran.code, ran.json["reason"], service.votes) == (6, "DIGEST_DIFFERS", [])
    assert voter("approvals", "deny", which, "--as", "ada", "--digest", last, "--json").json["state"] == "DENIED"


def test_a_refused_vote_is_3_or_2(voter: Program, service: FakeApprovals, home: Path) -> None:
    which = service.ask()
    key = ("--key", str(home / "agent-broker" / "keys" / "eve.pem"))
    new_key_file(Path(key[1]), Secret(PASSPHRASE.encode()))
    last = digest_of(service, which)[-6:]
    unknown = voter("approvals", "approve", which, "--as", "ada", *key, "--digest", last, "--json")
    assert (unknown.code, unknown.json["reason"]) == (2, "KEY_UNKNOWN")
    wrong = voter(
        "approvals", "approve", which, "--as", "ada", "--passphrase-file", "env:PATH", "--digest", last, "--json"
    )
    assert (wrong.code, wrong.json["reason"]) == (2, "PASSPHRASE_WRONG")
    assert service.votes == []


def test_which_key_when_nothing_says_so(voter: Program, service: FakeApprovals) -> None:
    which = service.ask()
    last = digest_of(service, which)[-6:]
    folder = ("--identity", "human/ben")
    assert (
        voter("approvals", "approve", which, *folder, "--digest", last, "--json").json["votes"][0]["person_name"]
        == "human:ben"
    )
    nobody = voter("approvals", "approve", which, "--identity", "agent/bot", "--digest", last, "--json")
    assert (nobody.code, nobody.json["reason"]) == (2, "KEY_NOT_GIVEN")


# Showing and finding


def test_a_person_sees_the_whole_text_and_how_it_stands(voter: Program, service: FakeApprovals) -> None:
    which = service.ask(parameters={"person": "a\u202eda", "note": "zero\u200bwidth"})
    last = digest_of(service, which)[-6:]
    voter("approvals", "approve", which, "--as", "ada", "--digest", last, "--reason", "it is hers")
    bot = Ed25519Signer.generate()
    service.enroll("slackbot", bot.public_key, bot=True)
    vote = service.approvals[f"approvals/{which}"].votes.add(
        number=2, person="hum_2", person_name="human:ben", decision=pb.VOTE_DECISION_APPROVE, key=bot.id
    )
    vote.channel, vote.why_not = pb.VOTE_CHANNEL_SLACK, "Tier 4 takes votes by cli alone"
    shown = voter("approvals", "show", which, "--as", "ben")
    text = service.approvals[f"approvals/{which}"].rendering
    assert shown.code == 0
    assert shown.out.startswith(text)
    assert "\\u{202E}" in text
    assert "\\u{200B}" in text
    assert "human:ada approved at " in shown.out
    assert ": it is hers" in shown.out
    assert f"attested by bot {bot.id}, not signed by the person (does not count: Tier 4 takes" in shown.out
    assert re.search(r"left +1 hour 2 minutes\n", shown.out)
    assert "missing: 1 more who approve it" in shown.out
    assert "may vote on it" in shown.out


def test_the_beginning_of_a_name_is_enough(voter: Program, service: FakeApprovals) -> None:
    first = service.ask(approval="apv_0000000000000000000000000a")
    second = service.ask(approval="apv_1111111111111111111111111a")
    service.ask(approval="apv_1111111111111111111111111b")
    last = digest_of(service, first)[-6:]
    assert voter("approvals", "deny", "apv_0000", "--as", "ada", "--digest", last, "--json").json["name"].endswith("0a")
    for given, reason in (
        ("apv_1111", "APPROVAL_AMBIGUOUS"),
        ("apv_000", "APPROVAL_AMBIGUOUS"),
        ("apv_2222", "APPROVAL_NOT_FOUND"),
    ):
        ran = voter("approvals", "show", given, "--as", "ada", "--json")
        assert (ran.code, ran.json["reason"]) == (2, reason)
    # It is closed, so there is nothing to vote on any more.
    assert (
        voter("approvals", "deny", "apv_0000", "--as", "ben", "--digest", last, "--json").json["reason"]
        == "APPROVAL_NOT_FOUND"
    )
    assert voter("approvals", "show", second[:-1] + "a", "--as", "ada", "--json").json["name"].endswith("1a")


def test_lists(voter: Program, service: FakeApprovals, fits: Fits) -> None:
    first, second = service.ask(), service.ask()
    assert (
        fits(voter("approvals", "cancel", first, "--as", "ada", "--json"), "approvals-cancel")["state"] == "CANCELLED"
    )
    listed = fits(voter("approvals", "list", "--as", "ada", "--json"), "approvals-list")
    assert [item["name"] for item in listed["items"]] == [f"approvals/{second}"]
    assert len(fits(voter("approvals", "list", "--all", "--as", "ada", "--json"), "approvals-list")["items"]) == 2
    plain = voter("approvals", "list", "--as", "ada").out.splitlines()
    assert [line.split("\t")[:5] for line in plain] == [
        [second, "PENDING", "ADMINISTRATION, key.enroll, tier 4, asked by human:olivia", "human:olivia", "0 of 2"]
    ]
    assert fits(voter("approvals", "list", "--all", "-n", "1", "--as", "ada", "--json"), "approvals-list")["more"]


def test_a_watch_of_one_ends_with_it(voter: Program, service: FakeApprovals, fits: Fits) -> None:
    which = service.ask()

    def changes(_: object) -> Iterator[pb.Approval]:
        found = service.approvals[f"approvals/{which}"]
        found.state = pb.APPROVAL_STATE_DENIED
        yield found

    service.change["WatchApprovals"] = changes
    ran = voter("approvals", "watch", which, "--as", "ada", "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    fits(Ran(0, ran.out.splitlines()[0], ""), "approvals-watch")
    assert ran.code == 3
    assert [item["state"] for item in lines] == ["PENDING", "DENIED"]
    assert voter("approvals", "watch", which, "--as", "ada").out.split()[:2] == [which, "DENIED"]


def test_time_is_left_in_words() -> None:
    assert [left_words(item) for item in (None, 0, 1, 59.9, 60, 3661, 90_000, 3600.5)] == [
        "",
        "none: its time is over",
        "1 second",
        "59 seconds",
        "1 minute",
        "1 hour 1 minute",
        "1 day 1 hour",
        "1 hour",
    ]


def test_pages_hold_all_lines_and_no_more_than_fit() -> None:
    text = "".join(f"{number} {'x' * (number % 50)}\n" for number in range(100)) + "y" * 400 + "\n"
    found = list(pages(text, 40, 10))
    assert "".join(f"{line}\n" for page in found for line in page) == text
    assert all(sum(-(-max(len(line), 1) // 40) for line in page) <= 10 for page in found)


# On a terminal


def test_a_person_reads_it_all_and_types_the_digest(terminal: Callable[..., Terminal], service: FakeApprovals) -> None:
    which = service.ask(parameters={f"line-{number:03}": "x" * 60 for number in range(60)})
    digest = digest_of(service, which)
    with terminal("approvals", "approve", which, "--as", "ada") as shown:
        page = shown.until("Enter goes on, q leaves -- ")
        assert len(page.splitlines()) <= 24
        for _ in range(int(re.findall(r"page 1 of (\d+)", page)[0]) - 2):
            shown.type("")
            shown.until("Enter goes on, q leaves -- ")
        shown.type("")
        for wrong in ("y", "yes", digest[-7:-1]):
            shown.until("type the last six characters of the digest of the text: ")
            shown.type(wrong)
        assert shown.end() == 2
        text = re.sub(r"-- page \d+ of \d+: Enter goes on, q leaves -- \n", "", shown.seen)
        assert service.approvals[f"approvals/{which}"].rendering in text
        assert "NOT_CONFIRMED" in text
    assert service.votes == []


def test_a_person_approves_with_the_passphrase_of_their_key(
    terminal: Callable[..., Terminal], service: FakeApprovals
) -> None:
    which = service.ask()
    with terminal("approvals", "approve", which, "--as", "ada", rows=2000) as shown:
        shown.until("type the last six characters of the digest of the text: ")
        shown.type(digest_of(service, which)[-6:].upper())
        shown.until("Passphrase of ")
        shown.type("not the right one")
        shown.until("Passphrase of ")
        shown.type(PASSPHRASE)
        assert shown.end() == 0
        assert "\x1b[" in shown.seen
        assert PASSPHRASE not in shown.seen
    assert [said.decision.value for said, _ in service.votes] == ["approve"]


def test_leaving_before_the_end_signs_nothing(terminal: Callable[..., Terminal], service: FakeApprovals) -> None:
    which = service.ask(parameters={f"line-{number:03}": "x" for number in range(60)})
    with terminal("approvals", "approve", which, "--as", "ada") as shown:
        shown.until("Enter goes on, q leaves -- ")
        shown.type("q")
        assert shown.end() == 130
    assert service.votes == []


def test_a_denial_is_read_and_says_why(terminal: Callable[..., Terminal], service: FakeApprovals) -> None:
    which = service.ask()
    with terminal("approvals", "deny", which, "--as", "ben", rows=2000) as shown:
        shown.until("Why do you deny it?")
        shown.type("wrong person")
        shown.until("Passphrase of ")
        shown.type(PASSPHRASE)
        assert shown.end() == 0
    assert [(said.decision.value, request.reason) for said, request in service.votes] == [("deny", "wrong person")]


def test_a_false_text_cannot_work_the_terminal(terminal: Callable[..., Terminal], service: FakeApprovals) -> None:
    which = service.ask()

    def lie(message: pb.Approval) -> pb.Approval:
        message.rendering = "all is well\x1b[2J\u202egnp.exe\n"
        return message

    service.change["GetApproval"] = lie
    with terminal("approvals", "deny", which, "--as", "ben", rows=2000) as shown:
        shown.until("Why do you deny it?")
        assert "all is well\\x1b[2J\\u202egnp.exe" in shown.seen


# The founding, keys and the rest


def test_three_people_found_it(voter: Program, fits: Fits) -> None:
    shown = fits(voter("approvers", "founding", "--as", "ada", "--json"), "approvers-founding")
    assert (shown["verified"], shown["complete"], shown["accepted_here"]) == (True, False, None)
    assert voter("approvers", "accept", "--as", "ada", "--json").json["reason"] == "DIGEST_MISSING"
    for name in ("ada", "ben", "cleo"):
        ran = voter("approvers", "accept", "--as", name, "--digest", shown["digest"][-6:], "--json")
        assert ran.code == 0, ran.out
        done = fits(ran, "approvers-accept")
    assert (done["complete"], done["accepted"], done["accepted_here"]) == (True, 3, True)
    plain = voter("approvers", "founding", "--as", "ben").out
    assert "human:cleo" in plain
    assert re.search(r"accepted here +yes", plain)


def test_another_founding_is_loud(voter: Program, service: FakeApprovals) -> None:
    last = service.founding().digest[-6:]
    for name in ("ada", "ben", "cleo"):
        voter("approvers", "accept", "--as", name, "--digest", last)
    service.completed = "sha256:" + "9" * 64
    which = service.ask()
    digest = digest_of(service, which)
    for words in (
        ("approvals", "list"),
        ("approvals", "show", which),
        ("approvals", "approve", which, "--digest", digest),
        ("approvals", "deny", which, "--digest", digest),
        ("approvers", "keys"),
        ("approvers", "accept", "--digest", "9" * 6),
        ("approvals", "watch"),
    ):
        ran = voter(*words, "--as", "ada", "--json")
        assert (ran.code, ran.json["reason"]) == (6, "FOUNDING_DIFFERS"), words
    shown = voter("approvers", "founding", "--as", "ada")
    assert shown.code == 6
    assert "ANOTHER ONE WAS" in shown.out
    assert "IS NOT THE ONE THAT WAS ACCEPTED HERE" in shown.err
    assert service.votes == []


def test_a_founder_compares_keys_on_a_terminal(terminal: Callable[..., Terminal], service: FakeApprovals) -> None:
    service.texts["policy"] += "# innocent \u202e remark\n"
    digest = service.founding().digest
    with terminal("approvers", "accept", "--as", "ada") as shown:
        shown.until("Enter goes on, q leaves -- ")
        shown.type("")
        shown.until("To accept it, type the last six characters of the digest of the founding: ")
        for key in service.keys.values():
            assert key.holder_name in shown.seen
            assert key.name.removeprefix("voterKeys/") in shown.seen
        assert service.genesis_leaf.hex() in shown.seen
        for covered in ("python.run: tier 1", "unsafe_chat_only_quorum: off", "approvers decide", "\\u{202E} remark"):
            assert covered in shown.seen, "all that is signed is shown before"
        shown.type(digest[-6:])
        shown.until("Passphrase of ")
        shown.type(PASSPHRASE)
        assert shown.end() == 0
    assert len(service.acceptances) == 1


def test_what_a_change_has_voided_is_told(voter: Program, service: FakeApprovals, fits: Fits) -> None:
    voter("approvers", "accept", "--as", "ada", "--digest", service.founding().digest)
    service.texts["tools"] = '{"tools":{"python.run":0}}'

    def told(message: pb.Founding) -> pb.Founding:
        message.voided.append("human:ada")
        message.changes.add(seq=17, what="settings.changed: tools sha256:00")
        return message

    service.change["GetFounding"] = told
    ran = voter("approvers", "founding", "--as", "ada", "--json")
    assert ran.code == 6
    shown = fits(ran, "approvers-founding")
    assert (shown["accepted_here"], shown["voided"], shown["accepted"]) == (False, ["human:ada"], 0)
    assert shown["changes"] == ["entry 17: settings.changed: tools sha256:00"]
    assert any(item.startswith("the tools or their tiers: sha256:") for item in shown["changed_here"])
    plain = voter("approvers", "founding", "--as", "ada").out
    assert "accepted before, and must look and sign again: human:ada" in plain
    assert "python.run: tier 0" in plain


def test_keys_are_listed_enrolled_and_revoked(voter: Program, service: FakeApprovals, fits: Fits) -> None:
    made = voter("keys", "new", "dora", "--json").json
    enrolled = voter("approvers", "enroll", "dora", made["vkey"], "--as", "ada", "--json")
    assert (enrolled.code, fits(enrolled, "approvers-enroll")["state"]) == (0, "USED")
    asked = dict(service.requests)["RequestAdministration"]
    assert json.loads(asked.parameters_json) == {"person": "dora", "vkey": made["vkey"], "kind": "approver"}
    wrong = voter("approvers", "enroll", "eve", made["vkey"], "--as", "ada", "--json")
    assert (wrong.code, wrong.json["reason"]) == (2, "KEY_INVALID")
    keys = fits(voter("approvers", "keys", "--as", "ada", "--json"), "approvers-keys")["items"]
    assert [item["holder_name"] for item in keys] == ["human:ada", "human:ben", "human:cleo"]
    gone = voter("approvers", "revoke", keys[0]["id"], "--as", "ada", "--reason", "lost", "--json")
    assert fits(gone, "approvers-revoke")["items"][0]["revoked"]
    assert len(voter("approvers", "keys", "--as", "ada", "--json").json["items"]) == 2
    assert len(voter("approvers", "keys", "--all", "--as", "ada", "--json").json["items"]) == 3


def test_freezes(voter: Program, service: FakeApprovals, fits: Fits) -> None:
    for words in (("agent", "bot"), ("tool", "ops.deploy"), ("workspace", "sales"), ("all",)):
        ran = voter("freeze", *words, "--as", "ada", "--reason", "odd", "--json")
        assert fits(ran, f"freeze-{words[0]}")["scope"] == words[0]
    assert len(fits(voter("freeze", "list", "--as", "ada", "--json"), "freeze-list")["items"]) == 4
    service.completed = "sha256:" + "1" * 64
    asked = voter("unfreeze", "tool", "ops.deploy", "--as", "ada", "--json")
    assert (asked.code, fits(asked, "unfreeze")["state"]) == (4, "PENDING")
    assert json.loads(dict(service.requests)["RequestAdministration"].parameters_json) == {
        "scope": "tool",
        "target": "ops.deploy",
    }
    for words in (("all", "x"), ("tool",)):
        assert voter("unfreeze", *words, "--as", "ada", "--json").json["reason"] == "SCOPE_INVALID"


def test_workflows_runbooks_and_accounts(voter: Program, service: FakeApprovals, fits: Fits, tmp_path: Path) -> None:
    listed = fits(voter("workflows", "list", "--as", "ada", "--json"), "workflows-list")
    assert listed["items"][0]["name"] == "workflows/report"
    assert voter("workflows", "list", "--as", "ada").out.split("\t")[:3] == ["report", "3", "not approved"]
    submitted = voter("workflows", "submit", "report", "--as", "ada", "--reason", "new", "--json")
    assert (submitted.code, fits(submitted, "workflows-submit")["state"]) == (4, "PENDING")
    (tmp_path / "args.json").write_text('{"host": "db1"}')
    create = (
        "runbooks",
        "create",
        "ops.restart",
        "--agent",
        "bot",
        "--for",
        "7d",
        "--args",
        f"@{tmp_path / 'args.json'}",
    )
    made = voter(*create, "-w", "prod", "--as", "ada", "--json")
    assert (made.code, fits(made, "runbooks-create")["state"]) == (4, "PENDING")
    asked = dict(service.requests)["CreateRunbook"]
    assert (asked.tool, asked.workspace, json.loads(asked.arguments_json)) == (
        "tools/ops.restart",
        "prod",
        {"host": "db1"},
    )
    assert fits(voter("runbooks", "list", "--as", "ada", "--json"), "runbooks-list")["items"] == []
    account = ("--team", "T1", "--user", "U1")
    mapped = voter("accounts", "map", *account, "--person", "ada", "--as", "ada", "--json")
    assert (mapped.code, fits(mapped, "accounts-map")["result"]) == (0, {"done": True})
    assert fits(voter("accounts", "unmap", *account, "--as", "ada", "--json"), "accounts-unmap")["state"] == "USED"
    service.accounts["U1"] = pb.ChatAccount(service="slack", team="T1", user="U1", person="hum_1", person_name="ada")
    shown = voter("accounts", "show", *account, "--identity", "agent/bot", "--json")
    assert fits(shown, "accounts-show")["person_name"] == "ada"
    assert voter("accounts", "show", "--team", "T1", "--identity", "agent/bot", "--json").code == 2


def test_who_is_no_name_is_refused(voter: Program) -> None:
    ran = voter("approvals", "list", "--as", "../ada", "--json")
    assert (ran.code, ran.json["reason"]) == (2, "CONNECTION_OPTIONS_INVALID")
