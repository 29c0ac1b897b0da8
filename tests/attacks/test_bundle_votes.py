"""Votes in bundles: an auditor sees with one file that they are missing, and that what is shown isn't what was approved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.approvals.content import Texts, disclosed, keep, keep_vote
from broker.domain.approval import Approval, ApprovalKind, ApprovalState
from broker.domain.canonical import JsonObject, canonical
from broker.domain.ports import Transaction
from broker.ledger import verify_bundle
from broker.ledger.bundle_format import Selection
from broker.ledger.chain import Chain
from broker.ledger.segment import Run, Summary
from broker.ledger.signer import FileSigner
from broker.ledger.votes import Votes
from tests.approval_envelopes import approval_envelope
from tests.attacks.test_bundle_doctored import reseal
from tests.bundle_world import ORIGIN, START, World, bundle_world, members, pack
from tests.ledger_world import rows_of
from tests.votes_world import (
    ACCOUNT,
    ADA,
    APPROVAL,
    BOB,
    BY_CHAT,
    CALL,
    CYD,
    REQUIREMENT,
    SALT,
    Story,
    reason_of,
)

Files = dict[str, bytes]
NAME = f"approvals/{APPROVAL}.json"


class Told(Story):
    """A story that a real ledger tells."""

    origin = ORIGIN

    def __init__(self, world: World, path: Path) -> None:
        self.world, self.path = world, path
        super().__init__()

    def begun(self) -> None:
        self.rows = rows_of(self.path)
        self.stand()

    def append(self, kind: str, body: JsonObject) -> int:
        seq = self.world.append(kind, body)
        self.rows = rows_of(self.path)
        return seq


def shown(_: Transaction, approval: str) -> JsonObject | None:
    """What is kept of the approval of these tests; of another nothing is."""
    if approval != APPROVAL:
        return None
    return {
        "approval": approval,
        "envelope": f"envelope of {approval}",
        "rendering": f"rendering of {approval}",
        "votes": {
            "1": {"reason": reason_of(ADA), "salt": SALT.hex()},
            "2": {"reason": reason_of(BOB), "salt": SALT.hex(), "account": list(ACCOUNT)},
        },
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Files, FileSigner, Path]]:
    folder = tmp_path_factory.mktemp("votes")
    with bundle_world(folder) as world:
        story = Told(world, folder / "broker.db").found().with_bot()
        story.ask(requirement=BY_CHAT)
        votes = [story.vote(ADA), story.vote(BOB, bot=True)]
        story.close(*votes)
        story.begin(*votes)
        world.publish()
        world.export(folder / "full.zip", approvals=shown)
        world.export(folder / "plain.zip")
        world.export(folder / "call.zip", Selection(call=CALL), approvals=shown)
        yield members(folder / "full.zip"), world.signer, folder


def test_a_genuine_one_says_whose_votes_are_attested(scene: tuple[Files, FileSigner, Path]) -> None:
    report = verify_bundle.verify(str(scene[2] / "full.zip"))
    assert (report["verdict"], report["place"]) == ("ok", None)
    assert (report["votes"]["acts"], report["votes"]["votes"], report["votes"]["signatures"]) == (2, 4, 7)
    assert [item["person"] for item in report["votes"]["attested"]] == [BOB]
    assert report["texts"]["approvals"] == 1
    assert verify_bundle.verify(str(scene[2] / "plain.zip"))["texts"]["approvals"] == 0


def test_an_extract_shows_the_texts_and_says_that_votes_aren_t_checked(scene: tuple[Files, FileSigner, Path]) -> None:
    report = verify_bundle.verify(str(scene[2] / "call.zip"))
    assert (report["verdict"], report["votes"], report["texts"]["approvals"]) == ("ok", {"checked": False}, 1)


def _changed(part: str, value: Any) -> Callable[[dict[str, Any]], None]:  # noqa: ANN401 - any JSON
    def change(texts: dict[str, Any]) -> None:
        *path, last = part.split(".")
        inner = texts
        for name in path:
            inner = inner[name]
        inner[last] = value

    return change


DOCTORED: dict[str, tuple[Callable[[dict[str, Any]], None], str, str]] = {
    "another envelope": (_changed("envelope", "harmless"), "tampered", "envelope"),
    "another text": (_changed("rendering", "harmless"), "tampered", "rendering"),
    "another reason": (_changed("votes.1.reason", "because I was told to"), "tampered", "votes.1"),
    "another salt": (_changed("votes.1.salt", "00" * 32), "tampered", "votes.1"),
    "no salt": (_changed("votes.1.salt", ""), "malformed", "votes.1"),
    "another account": (_changed("votes.2.account", ["slack", "T1", "U2"]), "tampered", "votes.2"),
    "an account of a person's own vote": (_changed("votes.1.account", list(ACCOUNT)), "tampered", "votes.1"),
    "a vote that wasn't cast": (_changed("votes.3", {"reason": "", "salt": "00" * 32}), "malformed", "votes.3"),
    "a vote that is no number": (_changed("votes.said", {"reason": "", "salt": "00" * 32}), "malformed", "votes.said"),
    "another approval": (_changed("approval", "apv_x"), "malformed", ""),
    "more than that": (_changed("more", ""), "malformed", ""),
    "no envelope": (_changed("envelope", None), "malformed", "envelope"),
}


@pytest.mark.parametrize("case", DOCTORED)
def test_a_text_that_the_entries_don_t_commit_to(scene: tuple[Files, FileSigner, Path], case: str) -> None:
    files, signer, folder = scene
    change, verdict, field = DOCTORED[case]
    texts = json.loads(files[NAME])
    change(texts)
    doctored = reseal({**files, NAME: canonical(texts)}, signer)
    report = verify_bundle.verify(str(pack(folder / "doctored.zip", doctored)))
    assert (report["verdict"], report["place"]["file"], report["place"]["field"]) == (verdict, NAME, field)


def test_texts_of_an_approval_that_nobody_asked_for(scene: tuple[Files, FileSigner, Path]) -> None:
    files, signer, folder = scene
    texts = canonical({**json.loads(files[NAME]), "approval": "apv_other"})
    doctored = reseal({**files, "approvals/apv_other.json": texts}, signer)
    report = verify_bundle.verify(str(pack(folder / "doctored.zip", doctored)))
    assert (report["verdict"], report["place"]["field"]) == ("malformed", "approval")


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger in which one person's vote was enough, and its bundle."""
    folder = tmp_path_factory.mktemp("forged")
    with bundle_world(folder) as world:
        story = Told(world, folder / "broker.db").found().with_bot()
        story.run(ADA)
        world.publish()
        world.export(folder / "full.zip")
    return folder


def _ran(*command: str | Path) -> tuple[int, dict[str, Any]]:
    ended = subprocess.run([sys.executable, *command, "--json"], capture_output=True, text=True, check=False)
    return ended.returncode, json.loads(ended.stdout)


def test_each_program_ends_with_the_code_for_it(forged: Path) -> None:
    code, report = _ran(Path(verify_bundle.__file__), forged / "full.zip")
    assert (code, report["verdict"], report["place"]["field"]) == (18, "votes invalid", "approval.votes")
    for target in ("full.zip", "broker.db"):
        code, report = _ran("-m", "broker.cli.main", "ledger", "verify", forged / target)
        assert (code, report["verdict"]) == (18, "votes invalid"), target
    assert report["votes"]["found"] == 2
    code, report = _ran("-m", "broker.cli.main", "ledger", "verify", forged / "broker.db", "--no-votes")
    assert (code, report["verdict"], report["votes"]) == (0, "ok", None)
    code, report = _ran("-m", "broker.cli.main", "ledger", "verify", forged / "broker.db", "--from", "5")
    assert (code, report["votes"]) == (0, None)


def test_entries_that_come_one_by_one_or_from_another_process_give_the_same(forged: Path) -> None:
    rows = rows_of(forged / "broker.db")
    slow, fast = Votes(), Votes()
    one_by_one, at_once = Chain(votes=slow), Chain(votes=fast)
    for row in rows:
        one_by_one.entry(row)
    run = Run(0, at_once.asked)
    assert run.add(rows)
    summary = msgspec.json.decode(msgspec.json.encode(run.summary()), type=Summary)
    assert at_once.take(summary)
    assert slow.report() == fast.report()
    assert slow.report().found == 2


def test_what_is_sealed_is_what_is_disclosed(tmp_path: Path) -> None:
    approval = Approval(
        id=APPROVAL,
        kind=ApprovalKind.CALL,
        subject=CALL,
        workspace="ops",
        obj="files.write",
        tier=4,
        requester=CYD,
        excluded=(),
        state=ApprovalState.PENDING,
        requirement=REQUIREMENT,
        envelope_digest="",
        rendering_digest="",
        created=START,
        expires=START,
        requested_seq=1,
    )
    texts = Texts.of(approval_envelope())
    vote: JsonObject = {"reason": "yes", "salt": SALT.hex()}
    with bundle_world(tmp_path) as world:

        def work(tx: Transaction) -> tuple[JsonObject | None, JsonObject | None]:
            keep(tx, world.vault, approval, texts, None)
            keep_vote(tx, world.vault, APPROVAL, 1, vote)
            return disclosed(tx, world.vault, APPROVAL), disclosed(tx, world.vault, "apv_none")

        found, none = world.database.write_sync(work)
    assert none is None
    assert found == {
        "approval": APPROVAL,
        "envelope": texts.envelope.decode(),
        "rendering": texts.rendering,
        "votes": {"1": vote},
    }
