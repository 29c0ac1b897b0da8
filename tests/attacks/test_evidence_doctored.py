"""Somebody works on an incident's bundle: leaves entries out, swaps names, hides texts as erased, rewrites who had it.

The worst of them holds the broker's own checkpoint key and signs what he likes. What he can't do then is to leave out an entry
of a session, a vote that was counted, or to say that something is erased that isn't.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.domain.canonical import JsonObject, canonical
from broker.identity import keys
from broker.identity.holder import Holder
from broker.ledger import dsse
from broker.ledger.bundle_evidence import PAYLOAD_TYPE
from broker.ledger.custody import PAYLOAD_TYPE as LINE_TYPE
from broker.ledger.signer import FileSigner, read_passphrase
from broker.ledger.verify_bundle import UsageError, verify
from broker.replay.packed import open_packed
from broker.settings import StatePaths
from broker.tlog.note import encode_base64
from tests.bundle_world import members, pack
from tests.incident_world import make_incident, publish
from tests.rebuild_world import Rebuildable
from tests.served import command, command_json

Files = dict[str, bytes]
UNSIGNED = ("manifest.json", "manifest.dsse.json")


@dataclass
class Scene:
    """Genuine bundles of one ledger, and its key."""

    made: Rebuildable
    folder: Path
    signer: FileSigner
    open_session: str
    """With calls that go on."""
    over: str
    """A session that was ended."""

    def path(self, name: str) -> Path:
        """A bundle's file."""
        return self.folder / f"{name}.zip"

    def files(self, name: str) -> Files:
        """What is in a bundle."""
        return members(self.path(name))

    def check(self, files: Files, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of verify
        """What the verifier says of these files."""
        return verify(str(pack(self.folder / "doctored.zip", files)), **given)

    def verdict(self, files: Files, **given: Any) -> str:  # noqa: ANN401 - arguments of verify
        """The verdict alone."""
        return str(self.check(files, **given)["verdict"])

    def resealed(self, files: Files, **changes: Any) -> Files:  # noqa: ANN401 - of the manifest
        """The files with a manifest that fits them, signed by the broker's own key."""
        manifest = {**json.loads(files["manifest.json"]), **changes}
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in files.items()
            if name not in UNSIGNED
        }
        data = canonical(manifest)
        envelope = dsse.seal(PAYLOAD_TYPE, data, self.signer.key, self.signer.sign)
        return {**files, "manifest.json": data, "manifest.dsse.json": envelope}

    def without(self, files: Files, seq: int, **changes: Any) -> Files:  # noqa: ANN401 - of the manifest
        """The files without an entry, and all that is said of how many there are put right."""
        manifest = json.loads(files["manifest.json"])
        left = [line for line in files["entries.jsonl"].splitlines() if json.loads(line)["seq"] != seq]
        story = {part: [one for one in numbers if one != seq] for part, numbers in manifest["story"].items()}
        counts = manifest["entries"]
        if seq in selected(files):
            rest = [one for one in selected(files) if one != seq]
            counts = {
                **counts,
                "selected": len(rest),
                "first": min(rest, default=None),
                "last": max(rest, default=None),
            }
        kept = {name: data for name, data in files.items() if name != f"proofs/{seq}.tlog-proof"}
        kept["entries.jsonl"] = b"".join(line + b"\n" for line in left)
        said = {"entries": {**counts, "count": len(left)}, "story": {part: one for part, one in story.items() if one}}
        return self.resealed(kept, **{**said, **changes})


def entries(files: Files) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["entries.jsonl"].splitlines()]


def selected(files: Files) -> list[int]:
    """Numbers of the entries that were selected: all that are neither story, nor key history, nor between."""
    manifest = json.loads(files["manifest.json"])
    told = {one for numbers in manifest["story"].values() for one in numbers}
    chosen, calls, found = manifest["selected"], set[str](), list[int]()
    for entry in entries(files):
        proofs = entry.get("lineage", {}).get("proofs", [])
        named = f"session:{chosen.get('session')}" in proofs
        call = entry.get("call_id")
        calls |= {call} if named and call else set()
        hit = entry.get("call_id") == chosen.get("call", "-") or entry.get("session") == chosen.get("session", "-")
        if (hit or named or call in calls) and entry["seq"] not in told:
            found.append(entry["seq"])
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("incident")
    made = make_incident(folder)
    paths = StatePaths(made.state)
    signer = FileSigner.load(paths.checkpoint_key, read_passphrase("", paths.checkpoint_passphrase))
    shown = command_json(made.state, "ledger", "show", "--limit", "1000")
    listed = [item["entry"] for item in shown["items"]]
    ended = next(one["session"] for one in listed if one["type"] == "session.ended")
    proofs = [proof for one in listed for proof in one.get("lineage", {}).get("proofs", [])]
    going_on = next(one.removeprefix("session:") for one in proofs if one.startswith("session:"))
    scene = Scene(made, folder, signer, going_on, ended)
    more = ("--names", "--approvals", "--as", "ada", "--case", "a wrong clean-up")
    for name, arguments in {
        "call": ("--call", made.decided["used"]),
        "open": ("--session", going_on),
        "over": ("--session", ended),
        "agent": ("--agent", "reporter"),
        "range": ("--from", "90", "--to", "120"),
    }.items():
        command_json(made.state, "replay", "bundle", str(scene.path(name)), *arguments, *more)
    return scene


@pytest.mark.parametrize(
    ("name", "complete"),
    [
        ("call", "to its end, entry"),
        ("over", "to its end, entry"),
        ("open", "which commits its end"),
        ("agent", "all of the agent's entries before entry"),
        ("range", "all of the range"),
    ],
)
def test_genuine_ones_are_found_right(scene: Scene, name: str, complete: str) -> None:
    report = verify(str(scene.path(name)))
    assert (report["verdict"], report["place"]) == ("ok", None)
    assert complete in report["complete"]
    assert report["custody"][0]["for"] == "a wrong clean-up"
    assert report["custody"][0]["by"]["person"].startswith("hum_")
    assert report["names"] >= 2
    with open_packed(scene.path(name)) as (casebook, names):
        assert casebook.mark.sound
        assert names.find("agent:reporter").startswith("agt_")


def test_the_story_of_a_call_is_in_its_bundle(scene: Scene) -> None:
    files = scene.files("call")
    types = {entry["type"] for entry in entries(files)}
    assert {"decision", "intent", "outcome", "approval.requested", "vote", "approval.closed"} <= types
    assert {"spec.registered", "workflow.approved", "session.started", "key.enrolled", "identity.issued"} <= types
    report = verify(str(scene.path("call")))
    assert report["story"]["signatures"] == report["story"]["votes"] > 1
    assert report["texts"]["approvals"] == 1


@pytest.mark.parametrize("name", ["call", "over", "open"])
def test_any_entry_of_it_left_out(scene: Scene, name: str) -> None:
    files = scene.files(name)
    manifest = json.loads(files["manifest.json"])
    span = manifest["span"]
    chain = [one["seq"] for one in entries(files) if one.get("agent", {}).get("id") == span["agent"]]
    inside = [seq for seq in chain if span["first"] <= seq <= span["last"]]
    assert len(inside) >= 2
    for seq in inside:
        assert scene.verdict(scene.without(files, seq)) in {"gapped", "truncated", "malformed", "forked"}


def test_the_end_left_out_and_said_to_be_elsewhere(scene: Scene) -> None:
    for name in ("call", "over"):
        files = scene.files(name)
        span = json.loads(files["manifest.json"])["span"]
        before = max(
            one["seq"]
            for one in entries(files)
            if one.get("agent", {}).get("id") == span["agent"] and one["seq"] < span["last"]
        )
        doctored = scene.without(files, span["last"], span={**span, "last": before})
        assert scene.verdict(doctored) in {"truncated", "malformed"}
        assert scene.verdict(scene.resealed(files, span={**span, "last": before})) == "malformed"
        assert scene.verdict(scene.resealed(files, span={**span, "first": span["last"]})) == "malformed"
        assert scene.verdict(scene.resealed(files, span=None)) == "malformed"


def test_a_session_that_goes_on_is_not_said_to_be_over(scene: Scene) -> None:
    files = scene.files("open")
    span = json.loads(files["manifest.json"])["span"]
    last = max(one["seq"] for one in entries(files) if one.get("agent", {}).get("id") == span["agent"])
    kept = {name: data for name, data in files.items() if name != "heads.json"}
    assert scene.verdict(scene.resealed(kept, span={**span, "last": last, "heads": False})) != "ok"


def test_a_vote_or_a_request_left_out(scene: Scene) -> None:
    for name in ("call", "agent"):
        files = scene.files(name)
        votes = [one for one in entries(files) if one["type"] == "vote"]
        counted = {
            seq for one in entries(files) if one["type"] == "approval.closed" for seq in one["approval"]["votes"]
        }
        for seq in sorted(counted & {one["seq"] for one in votes}):
            assert scene.verdict(scene.without(files, seq)) != "ok"


def test_what_is_no_part_of_it_is_brought_in(scene: Scene) -> None:
    files = scene.files("call")
    story = json.loads(files["manifest.json"])["story"]
    moved = {**story, "freezes": story["identities"]}
    assert scene.verdict(scene.resealed(files, story=moved)) == "malformed"
    del moved["identities"]
    assert scene.verdict(scene.resealed(files, story=moved)) == "malformed"
    less = {part: numbers for part, numbers in story.items() if part != "specs"}
    assert scene.verdict(scene.resealed(files, story=less)) == "malformed"
    assert scene.verdict(scene.resealed(files, story={**story, "gossip": [3]})) == "malformed"
    assert scene.verdict(scene.resealed(files, story={**story, "policy": [*story["policy"], 599]})) == "gapped"


def test_names_doctored(scene: Scene) -> None:
    files = scene.files("call")
    names = json.loads(files["names.json"])
    who = next(one for one, said in names.items() if said["kind"] == "human")
    other = canonical({**names, who: {"kind": "human", "name": "mallory"}})
    assert scene.verdict({**files, "names.json": other}) == "tampered"
    for wrong in (
        {**names, who: {"kind": "agent", "name": "ada"}},
        {**names, "hum_01m00000000000000000000000": {"kind": "human", "name": "nobody"}},
        {**names, who: {"kind": "human", "name": ""}},
        {**names, who: {"kind": "human", "name": "ada", "mail": "x"}},
    ):
        assert scene.verdict(scene.resealed({**files, "names.json": canonical(wrong)})) == "malformed"


def test_something_is_hidden_as_erased(scene: Scene) -> None:
    files = scene.files("call")
    name = next(one for one in files if one.startswith("approvals/"))
    which = name.removeprefix("approvals/").removesuffix(".json")
    hidden = {one: data for one, data in files.items() if one != name}
    absent = {**json.loads(files["manifest.json"])["absent"], "approvals": [which]}
    for seq in (entries(files)[-1]["seq"], 0, 599):
        said = {"absent": absent, "redacted": [{"id": which, "erased": seq}]}
        assert scene.verdict(scene.resealed(hidden, **said)) == "tampered"
    assert scene.verdict(scene.resealed(hidden, absent=absent)) == "malformed"
    # What he can do is to withhold it, and that is said.
    report = scene.check(scene.resealed(hidden, absent=absent, withheld=[which]))
    assert (report["verdict"], report["withheld"]) == ("ok", [which])


def test_the_maker_doctored(scene: Scene) -> None:
    files = scene.files("call")
    custody = json.loads(files["custody.json"])
    for name, value in (
        ("by", {**custody["by"], "person": "hum_01m00000000000000000000000"}),
        ("by", {**custody["by"], "fingerprint": f"sha256:{'0' * 64}"}),
        ("origin", "brk_other"),
        ("checkpoint", {**custody["checkpoint"], "size": 1}),
    ):
        doctored = {**files, "custody.json": canonical({**custody, name: value})}
        assert scene.verdict(doctored) == "tampered"
        assert scene.verdict(scene.resealed(doctored)) == "tampered"
    more = canonical({**custody, "seen": "by nobody"})
    assert scene.verdict(scene.resealed({**files, "custody.json": more})) == "malformed"
    gone = {name: data for name, data in files.items() if name != "custody.json"}
    assert scene.verdict(scene.resealed(gone)) == "malformed"


def test_members_of_an_incident_in_a_bundle_of_the_ledger(scene: Scene) -> None:
    path = scene.folder / "plain.zip"
    command_json(scene.made.state, "ledger", "export", str(path), "--call", scene.made.decided["used"])
    files = members(path)
    assert scene.verdict({**files, "names.json": b"{}"}) == "malformed"
    # An incident's bundle can't be passed off as a plain one: another type was signed.
    incident = scene.files("call")
    manifest = json.loads(incident["manifest.json"])
    plain = canonical({**manifest, "format": "broker.ledger-bundle.v1"})
    envelope = dsse.seal(PAYLOAD_TYPE, plain, scene.signer.key, scene.signer.sign)
    kept = {name: data for name, data in incident.items() if name not in {"names.json", "custody.json"}}
    assert scene.verdict({**kept, "manifest.json": plain, "manifest.dsse.json": envelope}) == "tampered"
    with pytest.raises(UsageError):
        verify(str(path), custody=b"")


@pytest.fixture(scope="module")
def lines(scene: Scene) -> bytes:
    """The bundle of the call went through two hands."""
    for to in ("the audit", "the court"):
        command_json(scene.made.state, "replay", "hand-over", str(scene.path("call")), "--to", to, "--as", "ada")
    return scene.path("call").with_name("call.zip.custody.jsonl").read_bytes()


def test_hands_are_told(scene: Scene, lines: bytes) -> None:
    before = hashlib.sha256(scene.path("call").read_bytes()).hexdigest()
    report = verify(str(scene.path("call")), custody=lines)
    assert report["verdict"] == "ok"
    assert [one.get("to") for one in report["custody"]] == [None, "the audit", "the court"]
    assert all(one["proved_by"] is not None and one["bundle"] == before for one in report["custody"][1:])


def test_hands_doctored(scene: Scene, lines: bytes) -> None:
    bundle = str(scene.path("call"))
    first, second = lines.splitlines()
    said = json.loads(first)
    for name, value in (("to", "the press"), ("at", "2026-01-01T00:00:00.000000Z"), ("note", "x"), ("person", "hum_x")):
        changed = canonical({**said, name: value})
        assert verify(bundle, custody=changed + b"\n" + second + b"\n")["verdict"] == "tampered"
    for wrong, verdict in (
        (second + b"\n", "gapped"),
        (second + b"\n" + first + b"\n", "gapped"),
        (first + b"\n" + first + b"\n", "gapped"),
        (lines[:-1], "truncated"),
        (b"", "truncated"),
        (canonical({**said, "more": 1}) + b"\n", "malformed"),
        (b"{}\n", "malformed"),
        (b"\n", "malformed"),
    ):
        assert verify(bundle, custody=wrong)["verdict"] == verdict
    assert verify(str(scene.path("over")), custody=lines)["verdict"] == "tampered"


def test_a_line_in_anothers_name(scene: Scene, lines: bytes) -> None:
    said: JsonObject = json.loads(lines.splitlines()[0])
    del said["signature"]
    thief = keys.new_key()
    folder = scene.made.state / "identities" / "human" / "ada"
    certificate = Holder.load((folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()).certificate
    forged = {**said, "key": encode_base64(keys.public_der(thief.public_key()))}
    signature = Holder(certificate, thief).sign(dsse.pae(LINE_TYPE, canonical(forged)))
    line = canonical({**forged, "signature": encode_base64(signature)}) + b"\n"
    assert verify(str(scene.path("call")), custody=line)["verdict"] == "tampered"
    # Under a certificate that the ledger doesn't know it is told as that, and proves nothing.
    forged |= {"fingerprint": f"sha256:{'1' * 64}"}
    signature = Holder(certificate, thief).sign(dsse.pae(LINE_TYPE, canonical(forged)))
    report = verify(
        str(scene.path("call")), custody=canonical({**forged, "signature": encode_base64(signature)}) + b"\n"
    )
    assert (report["verdict"], report["custody"][1]["proved_by"]) == ("ok", None)


def test_a_broken_file_of_hands_is_not_gone_on_with(scene: Scene, lines: bytes) -> None:
    path = scene.folder / "broken.jsonl"
    path.write_bytes(lines.replace(b"the audit", b"the press"))
    arguments = ("replay", "hand-over", str(scene.path("call")), "--to", "me", "--as", "ada", "--custody", str(path))
    refused = command(scene.made.state, *arguments, "--json", check=False)
    assert json.loads(refused.stdout)["reason"] == "CUSTODY_BROKEN"
    assert path.read_bytes() == lines.replace(b"the audit", b"the press")


def test_what_was_erased_is_listed_with_the_entry_that_says_so(scene: Scene, tmp_path: Path) -> None:
    state = Path(shutil.copytree(scene.made.state, tmp_path / "state"))
    call, path = scene.made.decided["used"], tmp_path / "erased.zip"
    command_json(state, "ledger", "erase", "--subject", call, "--as", "ada", "--yes")
    arguments = ("replay", "bundle", str(path), "--call", call, "--names", "--approvals", "--as", "ada")
    refused = command(state, *arguments, "--json", check=False)
    assert json.loads(refused.stdout)["reason"] == "ERASURE_NOT_PROVED"
    assert not path.exists()
    asyncio.run(publish(state))
    done = command_json(state, *arguments)
    assert (done["verdict"], done["withheld"]) == ("ok", [])
    which, seq = next(iter(done["redacted"].items()))
    assert which.startswith("apv_")
    files = members(path)
    assert not [name for name in files if name.startswith("approvals/")]
    assert next(one for one in entries(files) if one["seq"] == seq)["type"] == "erased"
    # Without the entry that says so it is not believed.
    assert scene.verdict(scene.without(files, seq)) != "ok"
    assert scene.verdict(scene.resealed(files, redacted=[{"id": which, "erased": 0}])) == "tampered"
