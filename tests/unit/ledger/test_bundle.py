"""What a bundle holds, what the exporter refuses, and what comes back out of one."""

from __future__ import annotations

import ast
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.domain.canonical import canonical, digest
from broker.errors import BrokerError, ConflictError, DataLossError, InvalidArgumentError
from broker.ledger import dsse, verify_bundle
from broker.ledger.bundle_format import PAYLOAD_TYPE, Selection
from broker.ledger.bundle_import import check_bundle, import_entries
from broker.ledger.bundle_reader import is_bundle, open_bundle, open_target
from broker.ledger.bundle_verify import verify_bundle_file
from broker.ledger.bundle_zip import new_file
from broker.ledger.held import Held
from broker.ledger.reader import open_ledger
from broker.ledger.source import Reopen, UnreadableError
from broker.ledger.verdict import Expectation, Verdict
from broker.ledger.verifier import Known, verify_opened
from broker.store.database import Database
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import leaf_hash
from broker.tlog.note import Note, sign
from broker.tlog.proof import TlogProof
from tests.bundle_world import FILES, ORIGIN, POLICY, World, bundle_world, fill, hashed_spec, members, new_signer, pack


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with bundle_world(tmp_path) as made:
        fill(made)
        yield made


def manifest_of(files: dict[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files["manifest.json"])
    return found


def test_the_whole_ledger(world: World, tmp_path: Path) -> None:
    path = tmp_path / "full.zip"
    written = world.export(path)
    files, size = members(path), Checkpoint.parse(world.notes[0].text).size
    rows = world.database.read_sync(lambda tx: list(tx.ledger.entries(0, 1000)))
    assert files["entries.jsonl"] == b"".join(row.data + b"\n" for row in rows[:size])
    assert (written.entries, written.selected, written.size, written.not_proved) == (size, size, size, len(rows) - size)
    assert sum(name.startswith("checkpoints/") for name in files) == 3
    assert not any(name.startswith("proofs/") for name in files)
    manifest = manifest_of(files)
    assert manifest["kind"] == "full"
    assert manifest["entries"] == {"count": size, "selected": size, "first": 0, "last": size - 1}
    assert manifest["absent"]["policy"] == [hashlib.sha256(b"a policy that was erased").hexdigest()]
    listed = {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if not name.startswith("manifest.")
    }
    assert {name: item["sha256"] for name, item in manifest["files"].items()} == listed
    payload, signers = dsse.unseal(files["manifest.dsse.json"], PAYLOAD_TYPE, (world.signer.key,))
    assert (payload, signers) == (files["manifest.json"], (world.signer.key,))


def test_texts_are_what_the_digests_are_of(world: World, tmp_path: Path) -> None:
    world.export(tmp_path / "full.zip")
    files = members(tmp_path / "full.zip")
    assert files[f"texts/policy/{digest(POLICY.encode())[7:]}"] == POLICY.encode()
    assert files[f"texts/specs/{digest(hashed_spec())[7:]}"] == hashed_spec()
    for text in FILES.values():
        assert files[f"texts/files/{digest(text.encode())[7:]}"] == text.encode()


def test_proofs_are_others_proofs(world: World, tmp_path: Path) -> None:
    world.export(tmp_path / "agent.zip", Selection(agent="agt_c"))
    files = members(tmp_path / "agent.zip")
    for line in files["entries.jsonl"].splitlines():
        proof = TlogProof.parse(files[f"proofs/{json.loads(line)['seq']}.tlog-proof"])
        assert proof.verify(leaf_hash(line), (world.signer.key,)).size == 43


def test_the_same_export_is_the_same_bytes(world: World, tmp_path: Path) -> None:
    for selection in (Selection(), Selection(agent="agt_a")):
        for name in ("one.zip", "two.zip"):
            (tmp_path / name).unlink(missing_ok=True)
            world.export(tmp_path / name, selection)
        assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize(
    ("selection", "selected", "complete"),
    [
        (Selection(agent="agt_b"), 12, "all of the agent's entries before entry 42, of 43 in the checkpoint"),
        (Selection(agent="agt_unknown"), 0, "all of the agent's entries before entry 42, of 43 in the checkpoint"),
        (Selection(call="call_3"), 3, "not shown"),
        (Selection(session="ses_1"), 10, "not shown"),
        (Selection(first=0, last=0), 1, "all of the range"),
        (Selection(first=7, last=42), 36, "all of the range"),
    ],
)
def test_extracts(world: World, tmp_path: Path, selection: Selection, selected: int, complete: str) -> None:
    path = tmp_path / "extract.zip"
    assert world.export(path, selection).selected == selected
    report = verify_bundle.verify(str(path), (str(world.signer.key),), (world.notes[-1].encode(),))
    assert (report["verdict"], report["selected_entries"], report["complete"]) == ("ok", selected, complete)
    assert report["selected"] == selection.members()


def test_heads_are_those_of_their_entry_though_agents_went_on(world: World, tmp_path: Path) -> None:
    world.call("call_new", "agt_b")
    world.call("call_first", "agt_d")
    world.notes.insert(0, world.note())  # over entries that no heads entry covers
    for agent, selected in (("agt_a", 13), ("agt_b", 12), ("agt_d", 0)):
        path = tmp_path / f"{agent}.zip"
        assert world.export(path, Selection(agent=agent)).selected == selected
        assert verify_bundle.verify(str(path))["verdict"] == "ok"


def test_a_session_brings_the_outcomes_of_its_calls(world: World, tmp_path: Path) -> None:
    world.export(tmp_path / "session.zip", Selection(session="ses_1"))
    found = [json.loads(line) for line in members(tmp_path / "session.zip")["entries.jsonl"].splitlines()]
    assert [entry["type"] for entry in found].count("outcome") == 3


def test_after_a_rotation(world: World, tmp_path: Path) -> None:
    old = world.rotate()
    with pytest.raises(BrokerError) as caught:
        world.export(tmp_path / "too-early.zip")
    assert caught.value.reason == "CHECKPOINT_KEY_OTHER"
    world.publish()
    for name, selection in {"full": Selection(), "call": Selection(call="call_1")}.items():
        world.export(tmp_path / f"{name}.zip", selection)
        for key in (old.key, world.signer.key):
            report = verify_bundle.verify(str(tmp_path / f"{name}.zip"), (str(key),))
            assert (report["verdict"], len(report["keys"])) == ("ok", 2)


def test_cosignatures_of_a_witness_are_shown(world: World, tmp_path: Path) -> None:
    from broker.tlog.note import COSIGNATURE, VerifierKey, cosign  # noqa: PLC0415 - only this test is about witnesses

    witness = new_signer("witness.example")
    key = VerifierKey("witness.example", COSIGNATURE, witness.key.public_key)
    for place, moment in ((2, 1_700_000_000), (1, 1_800_000_000)):  # the newest of three waits for its witness
        note = world.notes[place]
        world.notes[place] = note.with_signature(cosign(note.text, key, witness.sign, moment))
    path = tmp_path / "full.zip"
    world.export(path)
    report = verify_bundle.verify(str(path), witnesses=(str(key),))
    assert report["verdict"] == "ok"
    assert report["witnesses"] == [{"key": str(key), "size": 30, "time": 1_800_000_000}]
    absent = VerifierKey("witness.example", COSIGNATURE, new_signer().key.public_key)
    report = verify_bundle.verify(str(path), witnesses=(str(key), str(absent)))
    assert (report["verdict"], [one["size"] for one in report["witnesses"]]) == ("wrong key", [30, None])
    with pytest.raises(verify_bundle.UsageError):
        verify_bundle.verify(str(path), keys=(str(key),))


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (Selection(call="call_late"), "NOTHING_SELECTED"),
        (Selection(call="call_none"), "NOTHING_SELECTED"),
        (Selection(session="ses_none"), "NOTHING_SELECTED"),
        (Selection(first=40, last=43), "RANGE_NOT_PROVED"),
    ],
)
def test_what_can_not_be_exported(world: World, tmp_path: Path, selection: Selection, reason: str) -> None:
    with pytest.raises(BrokerError) as caught:
        world.export(tmp_path / "none.zip", selection)
    assert caught.value.reason == reason
    assert list(tmp_path.glob("*none*")) == []


def test_a_ledger_that_its_checkpoint_is_not_of(world: World, tmp_path: Path) -> None:
    def signed(size: int, root: bytes) -> Note:
        text = Checkpoint(ORIGIN, size, root).text()
        return Note(text, (sign(text, world.signer.key, world.signer.sign),))

    for notes, reason in (
        ((), "NO_CHECKPOINT"),
        ((signed(1000, b"r" * 32),), "LEDGER_BEHIND"),
        ((signed(20, b"r" * 32),), "LEDGER_FORKED"),
    ):
        with pytest.raises(BrokerError) as caught:
            world.export(tmp_path / "none.zip", notes=notes)
        assert caught.value.reason == reason


def test_no_heads_yet(tmp_path: Path) -> None:
    with bundle_world(tmp_path) as world:
        world.call("call_1", "agt_a")
        world.notes.insert(0, world.note())
        with pytest.raises(BrokerError) as caught:
            world.export(tmp_path / "none.zip", Selection(agent="agt_a"))
        assert caught.value.reason == "NO_HEADS"


@pytest.mark.parametrize(
    "chosen",
    [
        {"agent": "a", "call": "c"},
        {"call": "c", "first": 0, "last": 1},
        {"first": 1},
        {"last": 1},
        {"first": 2, "last": 1},
    ],
)
def test_selections_that_are_none(chosen: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Selection(**chosen)


def test_a_file_is_never_replaced(world: World, tmp_path: Path) -> None:
    path = tmp_path / "there.zip"
    path.write_bytes(b"mine")
    with pytest.raises(ConflictError):
        world.export(path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(ConflictError), new_file(tmp_path / "between.zip"):
        (tmp_path / "between.zip").write_bytes(b"theirs")
    assert (tmp_path / "between.zip").read_bytes() == b"theirs"
    assert not list(tmp_path.glob(".*new"))


def test_a_place_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with new_file(tmp_path / "stick.zip") as stream:
        stream.write(b"mine")
    assert (tmp_path / "stick.zip").read_bytes() == b"mine"
    with pytest.raises(ConflictError), new_file(tmp_path / "between.zip"):
        (tmp_path / "between.zip").write_bytes(b"theirs")
    assert (tmp_path / "between.zip").read_bytes() == b"theirs"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_bundle_is_a_source_of_the_same_rows(world: World, tmp_path: Path) -> None:
    path = tmp_path / "full.zip"
    world.export(path)
    assert is_bundle(path)
    assert not is_bundle(tmp_path / "broker.db")
    assert not is_bundle(tmp_path / "none")
    with open_target(Reopen("bundle", str(path))) as source, open_ledger(tmp_path / "broker.db") as file:
        assert (source.name, source.incomplete, source.reopen, source.count()) == (str(path), "", None, 43)
        assert list(source.rows()) == list(file.rows(0, 42))
        assert list(source.rows(40)) == list(file.rows(40, 42))
        assert list(source.rows(3, 5)) == list(file.rows(3, 5))
        assert [Checkpoint.parse(note.text).size for note in source.notes()] == [17, 30, 43]


def test_what_is_no_bundle_of_a_ledger(world: World, tmp_path: Path) -> None:
    world.export(tmp_path / "extract.zip", Selection(call="call_3"))
    world.export(tmp_path / "full.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "full.zip").read_bytes()[:-30])
    files = members(tmp_path / "full.zip")
    pack(tmp_path / "other.zip", {**files, "manifest.json": canonical({"format": "other"})})
    pack(tmp_path / "strange.zip", {"x": b""})
    cases = {"extract": "BUNDLE_IS_EXTRACT", "cut": "BUNDLE_UNREADABLE", "other": "BUNDLE_UNREADABLE"}
    for name, reason in {**cases, "strange": "BUNDLE_UNREADABLE", "none": "LEDGER_MISSING"}.items():
        with pytest.raises(BrokerError) as caught, open_bundle(tmp_path / f"{name}.zip"):
            pass
        assert caught.value.reason == reason, name


def test_rows_of_a_damaged_stream(world: World, tmp_path: Path) -> None:
    path = tmp_path / "full.zip"
    world.export(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("entries.jsonl").header_offset + 80
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with open_bundle(path) as source, pytest.raises(UnreadableError):
        list(source.rows())


def test_an_import_is_the_same_ledger(world: World, tmp_path: Path) -> None:
    path, into = tmp_path / "full.zip", tmp_path / "copy.db"
    world.export(path)
    report = check_bundle(path, key=str(world.signer.key), checkpoint=None)
    Database.create(into)
    with open_bundle(path) as source, Database.open_sync(into) as store:
        assert import_entries(source, store.write_sync, root=report["checkpoint"]["root"]) == 43
        found = store.read_sync(lambda tx: (tx.ledger.indexed(), dict(tx.ledger.agent_heads())))
    with open_ledger(into) as copy, open_ledger(tmp_path / "broker.db") as file:
        assert list(copy.rows()) == list(file.rows(0, 42))
    assert found[0] == 43
    assert {name: head.seq for name, head in found[1].items()} == {"agt_a": 12, "agt_b": 11, "agt_c": 11}


def test_an_import_of_what_was_changed_meanwhile(world: World, tmp_path: Path) -> None:
    path, into = tmp_path / "full.zip", tmp_path / "copy.db"
    world.export(path)
    Database.create(into)
    with open_bundle(path) as source, Database.open_sync(into) as store, pytest.raises(DataLossError) as caught:
        import_entries(source, store.write_sync, root="0" * 64)
    assert caught.value.reason == "BUNDLE_CHANGED"
    with pytest.raises(DataLossError) as caught:
        check_bundle(path, key=str(new_signer().key), checkpoint=None)
    assert (caught.value.reason, caught.value.metadata["verdict"]) == ("BUNDLE_NOT_VERIFIED", "wrong key")
    with pytest.raises(InvalidArgumentError):
        check_bundle(path, key="no key", checkpoint=None)


def test_the_verifier_stands_alone(repository: Path) -> None:
    source = (repository / "broker" / "ledger" / "verify_bundle.py").read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] == "broker" for name in imported)
    assert {name for name in imported if name.startswith("cryptography")} <= {
        "cryptography.exceptions",
        "cryptography.hazmat.primitives",
        "cryptography.hazmat.primitives.asymmetric",
        "cryptography.hazmat.primitives.asymmetric.ed25519",
        "cryptography.hazmat.primitives.serialization",
    }


def test_the_brokers_own_verifier_agrees(world: World, tmp_path: Path) -> None:
    world.export(tmp_path / "full.zip")
    world.export(tmp_path / "agent.zip", Selection(agent="agt_a"))
    known = Known(keys=(new_signer().key, world.signer.key))
    whole = verify_bundle_file(tmp_path / "full.zip", known)
    assert (whole.verdict, whole.entries, whole.checkpoints, whole.checkpoint_size) == (Verdict.OK, 43, 3, 43)
    assert whole.open_intents == ()
    extract = verify_bundle_file(tmp_path / "agent.zip", known)
    assert (extract.verdict, extract.entries, extract.head_seq, extract.checkpoint_size) == (Verdict.OK, 15, 35, 43)
    wrong = verify_bundle_file(tmp_path / "full.zip", Known(keys=(new_signer().key,)))
    assert wrong.verdict is Verdict.WRONG_KEY
    assert wrong.place is not None
    assert wrong.place.field == "keys.json"
    beyond = world.note()
    held = Held("mine", beyond, Checkpoint.parse(beyond.text))
    assert verify_bundle_file(tmp_path / "full.zip", Known(held=(held,))).verdict is Verdict.ROLLED_BACK
    files = members(tmp_path / "full.zip")
    pack(
        tmp_path / "cut.zip",
        {**files, "entries.jsonl": files["entries.jsonl"][: files["entries.jsonl"].rindex(b'{"boot')]},
    )
    report = verify_bundle_file(tmp_path / "cut.zip", Known())
    assert (report.verdict, report.place and report.place.seq) == (Verdict.TRUNCATED, 42)
    with pytest.raises(InvalidArgumentError):
        verify_bundle_file(tmp_path / "none.zip", Known())


@pytest.mark.parametrize(
    ("size", "verdict"),
    [(30, Verdict.FORKED), (31, Verdict.RECOVERED), (60, Verdict.RECOVERED), (61, Verdict.ROLLED_BACK)],
)
def test_both_verifiers_excuse_the_same(world: World, tmp_path: Path, size: int, verdict: Verdict) -> None:
    assert world.recover(30, 59) == 46
    world.publish()
    path = tmp_path / "full.zip"
    world.export(path, notes=(world.notes[0],))
    note = world.lost_note(size)
    assert verify_bundle.verify(str(path), checkpoints=(note.encode(),))["verdict"] == verdict
    held = Held("mine", note, Checkpoint.parse(note.text))
    assert verify_opened(lambda: open_bundle(path), Known(held=(held,))).verdict is verdict


def test_an_extract_says_which_checkpoints_it_excuses(world: World, tmp_path: Path) -> None:
    world.recover(30, 59)
    world.publish()
    world.export(tmp_path / "call.zip", Selection(call="call_1"))
    held = [Held("mine", note, Checkpoint.parse(note.text)) for note in (world.lost_note(60), world.notes[0])]
    report = verify_bundle_file(tmp_path / "call.zip", Known(held=held))
    assert report.verdict is Verdict.RECOVERED
    assert report.place is not None
    assert report.place.why.endswith("don't agree: [60]")


@pytest.mark.parametrize("kind", ["agent", "full"])
def test_an_entry_that_is_expected(world: World, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bundle.zip"
    world.export(path, Selection(agent="agt_a") if kind == "agent" else Selection())
    lines = members(path)["entries.jsonl"].splitlines()
    seq, leaf = json.loads(lines[3])["seq"], leaf_hash(lines[3]).hex()
    for right in (Expectation(seq), Expectation(seq, leaf)):
        assert verify_bundle_file(path, Known(right)).verdict is Verdict.OK
    report = verify_bundle_file(path, Known(Expectation(seq, "f" * 64)))
    assert (report.verdict, report.place and (report.place.seq, report.place.field)) == (Verdict.FORKED, (seq, "leaf"))


def test_what_an_extract_can_not_answer(world: World, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    world.export(path, Selection(agent="agt_a"))
    for known, first in ((Known(Expectation(7)), 0), (Known(Expectation(7, "f" * 64)), 0), (Known(), 20)):
        with pytest.raises(InvalidArgumentError) as caught:
            verify_bundle_file(path, known, first=first)
        assert caught.value.reason == "USAGE"
        assert "extract" in str(caught.value)
    world.export(tmp_path / "full.zip")
    assert verify_bundle_file(tmp_path / "full.zip", Known(), first=20).first == 20


def test_each_kind_of_source_names_what_lies_beyond(world: World, tmp_path: Path) -> None:
    world.export(tmp_path / "full.zip")
    with open_bundle(tmp_path / "full.zip") as source:
        assert (source.beyond(43), source.beyond(42)) == ("", "the manifest names 43 entries")
