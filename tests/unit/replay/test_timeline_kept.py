"""Texts of calls: from the vault as far as they are kept, and from a bundle as far as they are disclosed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.domain.call import CallContext, Decision, InputFile, Lineage
from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.events import REQUEST, REQUEST_TEXTS, Outcome, StoredRequest, encode_request
from broker.domain.planned import PLANNED, Planned, encode_planned
from broker.domain.ports import Transaction
from broker.domain.run import EndCause, EvidenceSource
from broker.domain.tree import Change, Effect, TreeFile
from broker.errors import DataLossError
from broker.replay.timeline.kept_texts import KeptTexts
from broker.replay.timeline.model import Kept
from broker.replay.timeline.selecting import Looked
from broker.replay.timeline.texts import DisclosedTexts
from tests.bundle_world import START, World, bundle_world

NOW = START


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with bundle_world(tmp_path_factory.mktemp("world")) as world:
        keep(world, "call_1", request(("in/report.csv",)), removed=("data/a.txt", "data/b.txt"))
        keep(world, "call_2", request(("other.csv",)))
        keep(world, "call_3", None)
        yield world


def request(files: tuple[str, ...]) -> StoredRequest:
    """A request with files."""
    return StoredRequest(
        tool="files.write",
        tool_version="v",
        arguments_json='{"delete":true}',
        files=tuple(InputFile(path, f"blob_{path}") for path in files),
        file_digests={},
        context=CallContext(workspace="demo", purpose="to clean up"),
        request_id="",
        fingerprint="f",
        agent_name="scout",
        lineage=Lineage("agt_a", "hum_1", "hum_1"),
        decision=Decision(allowed=True, rule="rule-1", reason="cleaning is fine", policy_digest="p", inputs={}),
        data_classes=(),
        expires=NOW,
        envelope="{}",
    )


def keep(world: World, call: str, stored: StoredRequest | None, *, removed: tuple[str, ...] = ()) -> None:
    """Seals a call's content, or something that is none."""

    def work(tx: Transaction) -> None:
        sealed = world.vault.create(tx, object_id=call, owner="agt_a", kind="call", now=NOW, expires=None)
        if stored is None:
            sealed.put(tx, {REQUEST: b"nonsense", REQUEST_TEXTS: b"nonsense"})
            return
        brief, texts = encode_request(stored)
        sealed.put(tx, {REQUEST: brief, REQUEST_TEXTS: texts})
        if removed:
            effect = Effect(tuple(Change(path, TreeFile(digest(b"x"), 1, 0o644), None) for path in removed))
            outcome = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "")
            sealed.put(tx, {PLANNED: encode_planned(Planned("s1", "s1", effect, "", outcome))})

    world.database.write_sync(work)


def test_what_is_kept_is_told_and_what_is_not_is_said(world: World) -> None:
    found = KeptTexts(world.database.read_sync, world.vault).calls(["call_1", "call_2", "call_3", "call_9"])
    first = found["call_1"]
    assert (first.kept, first.purpose, first.arguments) == (Kept.KEPT, "to clean up", '{"delete":true}')
    assert (first.reason, first.files) == ("cleaning is fine", ("in/report.csv",))
    assert first.changes == ("removed data/a.txt", "removed data/b.txt")
    assert found["call_2"].changes == ()
    assert (found["call_3"].kept, found["call_9"].kept) == (Kept.DAMAGED, Kept.ERASED)


@pytest.mark.parametrize(
    ("file", "calls"),
    [
        ("data/a.txt", {"call_1"}),
        ("data/*", {"call_1"}),
        ("in/report.csv", {"call_1"}),
        ("*.csv", {"call_1", "call_2"}),
        ("a.txt", set()),
        ("DATA/A.TXT", set()),
    ],
)
def test_files_that_went_in_or_were_changed_are_found(world: World, file: str, calls: set[str]) -> None:
    texts = KeptTexts(world.database.read_sync, world.vault)
    assert texts.look(["call_1", "call_2", "call_3", "call_9"], file) == Looked(frozenset(calls), 2)


def test_a_reason_that_is_not_kept_is_left_out(world: World) -> None:
    assert KeptTexts(world.database.read_sync, world.vault).votes([("apv_1", 1)]) == {}


def bundle(folder: Path, disclosed: object) -> Path:
    """A file with the members of a bundle, as far as texts of approvals need them."""
    path = folder / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("approvals/apv_01k0000000000000000000000a.json", json.dumps(disclosed))
    return path


def test_a_bundle_tells_what_people_were_shown_and_why_they_voted_so(tmp_path: Path) -> None:
    call: JsonObject = {"call_id": "call_1", "arguments": {"b": 1, "a": 2}, "files": [{"path": "a.csv"}]}
    people: JsonObject = {"hum_1": "ada", "agt_1": "scout", "hum_2": "hum_2"}
    envelope: JsonObject = {"call": {**call, "lineage": {"agent": "agt_1"}}, "purpose": "to see", "people": people}
    approval = "apv_01k0000000000000000000000a"
    votes = {"1": {"reason": "looks right", "salt": ""}, "x": {"reason": "no"}}
    texts = DisclosedTexts(
        bundle(tmp_path, {"approval": approval, "envelope": canonical(envelope).decode(), "votes": votes})
    )
    found = texts.calls(["call_1", "call_2"])
    assert set(found) == {"call_1"}
    assert (found["call_1"].purpose, found["call_1"].arguments, found["call_1"].files) == (
        "to see",
        '{"a":2,"b":1}',
        ("a.csv",),
    )
    assert texts.votes([(approval, 1), (approval, 2)]) == {(approval, 1): "looks right"}
    assert texts.names == {"hum_1": "human:ada", "agt_1": "agent:scout"}


@pytest.mark.parametrize(
    "disclosed", [7, [], {"envelope": "[]"}, {"votes": 3}, {"envelope": '{"call": 3, "people": []}'}]
)
def test_what_is_no_approval_tells_nothing(tmp_path: Path, disclosed: object) -> None:
    texts = DisclosedTexts(bundle(tmp_path, disclosed))
    assert (texts.calls(["call_1"]), texts.names) == ({}, {})


def test_a_bundle_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataLossError) as caught:
        DisclosedTexts(bundle(tmp_path, {"envelope": "{"}))
    assert caught.value.reason == "BUNDLE_UNREADABLE"
