"""Somebody works on a bundle: takes away, swaps, changes, forges and makes hashes fit. Each is found, and said rightly."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker.domain.canonical import JsonObject, canonical
from broker.ledger import dsse
from broker.ledger.bundle_format import PAYLOAD_TYPE, Selection
from broker.ledger.signer import FileSigner
from broker.ledger.tree import Tree
from broker.ledger.verify_bundle import verify
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import CompactRange, leaf_hash
from broker.tlog.note import COSIGNATURE, Note, Signature, VerifierKey, cosign, encode_base64, sign
from tests.bundle_world import ORIGIN, START, World, bundle_world, fill, members, new_signer, pack

Files = dict[str, bytes]
UNSIGNED = ("manifest.json", "manifest.dsse.json")
KINDS = {
    "full": Selection(),
    "agent": Selection(agent="agt_b"),
    "call": Selection(call="call_3"),
    "session": Selection(session="ses_1"),
    "range": Selection(first=5, last=17),
}


@dataclass
class Scene:
    """Genuine bundles of one ledger, and its keys."""

    bundles: dict[str, Files]
    signer: FileSigner
    first_key: FileSigner
    folder: Path
    held: bytes
    """The first checkpoint that was kept."""

    def check(self, files: Files, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of verify
        """What the verifier says of these files."""
        path = pack(self.folder / "doctored.zip", files)
        report = verify(str(path), **given)
        json.dumps(report)
        return report

    def verdict(self, files: Files, **given: Any) -> str:  # noqa: ANN401 - arguments of verify
        """The verdict alone."""
        return str(self.check(files, **given)["verdict"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("bundles")
    with bundle_world(folder) as world:
        fill(world)
        first = world.rotate()
        world.call("call_12", "agt_b")
        world.publish()
        bundles = {}
        for name, selection in KINDS.items():
            world.export(folder / f"{name}.zip", selection)
            bundles[name] = members(folder / f"{name}.zip")
        yield Scene(bundles, world.signer, first, folder, world.notes[-1].encode())


def reseal(files: Files, signer: FileSigner | None = None, /, **changes: Any) -> Files:  # noqa: ANN401 - of the manifest
    """The files with a manifest that fits them: signed by a key, or with the signature of the old one."""
    files = dict(files)
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in files.items()
        if name not in UNSIGNED
    }
    manifest.update(changes)
    data = canonical(manifest)
    envelope = json.loads(files["manifest.dsse.json"])
    if signer is None:
        envelope["payload"] = base64.b64encode(data).decode()
        files["manifest.dsse.json"] = canonical(envelope)
    else:
        files["manifest.dsse.json"] = dsse.seal(PAYLOAD_TYPE, data, signer.key, signer.sign)
    files["manifest.json"] = data
    return files


def entries(files: Files) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["entries.jsonl"].splitlines()]


def with_entries(files: Files, found: list[dict[str, Any]]) -> Files:
    return {**files, "entries.jsonl": b"".join(canonical(entry) + b"\n" for entry in found)}


def counted(found: list[dict[str, Any]], selected: list[dict[str, Any]]) -> JsonObject:
    seqs = [entry["seq"] for entry in selected]
    return {
        "count": len(found),
        "selected": len(seqs),
        "first": seqs[0] if seqs else None,
        "last": seqs[-1] if seqs else None,
    }


def rechained(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries with all links made right again."""
    prev, agents = "0" * 64, {}
    for entry in found:
        if isinstance(entry.get("prev"), str):
            entry["prev"] = prev
        agent = entry.get("agent")
        known = isinstance(agent, dict) and isinstance(agent.get("id"), str) and isinstance(agent.get("prev"), str)
        if known:
            agent["prev"] = agents.get(agent["id"], "0" * 64)
        prev = leaf_hash(canonical(entry)).hex()
        if known:
            agents[agent["id"]] = prev
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_genuine_one_is_ok(scene: Scene, kind: str) -> None:
    report = scene.check(scene.bundles[kind], keys=(str(scene.signer.key),), checkpoints=(scene.held,))
    assert (report["verdict"], report["place"]) == ("ok", None)
    assert scene.verdict(scene.bundles[kind], keys=(str(scene.first_key.key),)) == "ok"


@pytest.mark.parametrize("kind", ["full", "agent"])
@pytest.mark.parametrize("sealed", [False, True], ids=["as it was", "listed no more"])
def test_a_file_that_is_taken_away(scene: Scene, kind: str, *, sealed: bool) -> None:
    files = scene.bundles[kind]
    for name in files:
        left = {other: data for other, data in files.items() if other != name}
        if sealed and name in UNSIGNED:
            continue
        report = scene.check(reseal(left) if sealed else left)
        assert report["verdict"] in {"malformed", "tampered", "forked"}, (name, report)
        if not sealed and not name.startswith("checkpoints/"):
            assert report["verdict"] == "malformed"
            assert report["place"]["file"] == name


@pytest.mark.parametrize("kind", ["full", "agent"])
@pytest.mark.parametrize("sealed", [False, True], ids=["as it was", "hashes made right"])
def test_a_byte_of_each_file_changed(scene: Scene, kind: str, *, sealed: bool) -> None:
    files = scene.bundles[kind]
    for name, data in files.items():
        for place in {0, len(data) // 3, len(data) // 2, len(data) - 2}:
            if not data or (sealed and name in UNSIGNED):
                continue
            changed = {**files, name: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]}
            report = scene.check(reseal(changed) if sealed else changed)
            assert report["verdict"] != "ok", (name, place)


@pytest.mark.parametrize("kind", ["full", "agent"])
def test_two_files_swapped(scene: Scene, kind: str) -> None:
    files = scene.bundles[kind]
    for folder in ("proofs/", "checkpoints/", "texts/files/", "texts/"):
        names = [name for name in files if name.startswith(folder)]
        for one, other in pairwise(names):
            swapped = {**files, one: files[other], other: files[one]}
            assert scene.verdict(reseal(swapped, scene.signer)) == "tampered", (one, other)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - any JSON
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        yield from paths_in(item, (*path, step))


def changed(value: Any) -> Any:  # noqa: ANN401 - any JSON
    match value:
        case bool():
            return not value
        case str():
            return value[:-1] + ("0" if value.endswith("1") else "1")
        case list():
            return [*value, "added"]
        case dict():
            return {**value, "added": 1}
        case _:
            return 0 if value is None else value + 1


@pytest.mark.parametrize("drop", [False, True], ids=["changed", "dropped"])
@pytest.mark.parametrize("kind", ["full", "call"])
def test_each_field_of_an_entry_with_all_hashes_made_right(scene: Scene, kind: str, *, drop: bool) -> None:
    files = scene.bundles[kind]
    found = entries(files)
    types: dict[str, int] = {}
    for place, entry in enumerate(found):
        types.setdefault(entry["type"], place)
    tried = 0
    for place in types.values():
        for path in paths_in(found[place]):
            doctored = copy.deepcopy(found)
            parent: Any = doctored[place]
            for step in path[:-1]:
                parent = parent[step]
            if drop:
                del parent[path[-1]]
            else:
                parent[path[-1]] = changed(parent[path[-1]])
            after = rechained(doctored) if kind == "full" and path[-1] != "prev" else doctored
            report = scene.check(reseal(with_entries(files, after)))
            allowed = {"tampered", "malformed", "gapped", "forked"}
            if found[place]["type"] in ("genesis", "signer.rotated"):
                allowed.add("wrong key")  # they say whose signature the checkpoint must have
            assert report["verdict"] in allowed, (found[place]["type"], path, report)
            tried += 1
    assert tried > 30


@pytest.mark.parametrize("forger", ["outsider", "operator"])
@pytest.mark.parametrize(
    ("which", "expected"), [(0, "gapped"), (4, "gapped"), (-1, "truncated")], ids=["first", "middle", "last"]
)
def test_an_agents_entry_left_out(scene: Scene, forger: str, which: int, expected: str) -> None:
    files = dict(scene.bundles["agent"])
    found = entries(files)
    mine = [entry for entry in found if entry.get("agent", {}).get("id") == "agt_b"]
    gone = mine.pop(which)
    left = [entry for entry in found if entry is not gone]
    del files[f"proofs/{gone['seq']}.tlog-proof"]
    signer = scene.signer if forger == "operator" else None
    report = scene.check(reseal(with_entries(files, left), signer, entries=counted(left, mine)))
    assert report["verdict"] == expected
    if expected == "truncated":
        assert report["place"]["file"] == "heads.json"


def test_all_of_an_agents_entries_left_out(scene: Scene) -> None:
    files = dict(scene.bundles["agent"])
    left = [entry for entry in entries(files) if "agent" not in entry]
    seqs = {entry["seq"] for entry in left}
    files = {name: data for name, data in files.items() if "tlog-proof" not in name or int(name[7:-11]) in seqs}
    files = {name: data for name, data in files.items() if not name.startswith("texts/")}
    assert scene.verdict(reseal(with_entries(files, left), scene.signer, entries=counted(left, []))) == "truncated"


@pytest.mark.parametrize(
    ("which", "expected"), [(0, "gapped"), (20, "gapped"), (-1, "truncated")], ids=["first", "middle", "last"]
)
def test_an_entry_of_the_whole_ledger_left_out(scene: Scene, which: int, expected: str) -> None:
    found = entries(scene.bundles["full"])
    del found[which]
    sealed = reseal(with_entries(scene.bundles["full"], found), scene.signer, entries=counted(found, found))
    assert scene.verdict(sealed) == expected


def test_an_entry_of_a_range_left_out(scene: Scene) -> None:
    files = scene.bundles["range"]
    for seq, expected in ((5, "gapped"), (9, "gapped"), (17, "truncated")):
        found = [entry for entry in entries(files) if entry["seq"] != seq]
        chosen = [entry for entry in found if 5 <= entry["seq"] <= 17]
        left = {name: data for name, data in files.items() if name != f"proofs/{seq}.tlog-proof"}
        sealed = reseal(with_entries(left, found), scene.signer, entries=counted(found, chosen))
        assert scene.verdict(sealed) == expected, seq


def test_an_entry_twice_and_two_in_another_order(scene: Scene) -> None:
    found = entries(scene.bundles["full"])
    twice = [*found[:5], found[4], *found[5:]]
    assert scene.verdict(reseal(with_entries(scene.bundles["full"], twice))) == "forked"
    turned = [*found[:5], found[6], found[5], *found[7:]]
    assert scene.verdict(reseal(with_entries(scene.bundles["full"], turned))) == "gapped"


def test_an_entry_added_at_the_end(scene: Scene) -> None:
    found = entries(scene.bundles["full"])
    last = {**found[-1], "seq": len(found), "prev": leaf_hash(canonical(found[-1])).hex()}
    added = [*found, last]
    sealed = reseal(with_entries(scene.bundles["full"], added), scene.signer, entries=counted(added, added))
    report = scene.check(sealed)
    assert (report["verdict"], report["place"]["seq"]) == ("tampered", len(found))


def test_a_foreign_entry_in_an_extract(scene: Scene) -> None:
    files = dict(scene.bundles["call"])
    other = next(entry for entry in entries(scene.bundles["range"]) if entry["seq"] == 9)
    found = sorted([*entries(files), other], key=lambda entry: entry["seq"])
    files["proofs/9.tlog-proof"] = scene.bundles["range"]["proofs/9.tlog-proof"]
    assert scene.verdict(reseal(with_entries(files, found), scene.signer)) == "malformed"


def test_the_proof_of_another_entry(scene: Scene) -> None:
    files = dict(scene.bundles["agent"])
    one, other = [name for name in files if name.startswith("proofs/")][2:4]
    files[one] = files[other]
    report = scene.check(reseal(files, scene.signer))
    assert (report["verdict"], report["place"]["file"]) == ("tampered", one)
    index = f"index {one[7:-11]}".encode()
    files[one] = files[other].replace(f"index {other[7:-11]}".encode(), index)
    assert scene.verdict(reseal(files, scene.signer)) == "tampered"


def test_proofs_of_another_form(scene: Scene) -> None:
    files = scene.bundles["agent"]
    name = next(name for name in files if name.startswith("proofs/"))
    head, _, note = files[name].partition(b"\n\n")
    first, index, *hashes = head.split(b"\n")
    for lines, expected in (
        ([b"c2sp.org/tlog-proof@v2", index, *hashes], "malformed"),
        ([first, b"extra AA==", index, *hashes], "malformed"),
        ([first, index, *hashes, b"AAAA"], "malformed"),
        ([first, index, *hashes, b"%"], "malformed"),
        ([first], "malformed"),
        ([first, index, *hashes[:-1]], "tampered"),
        ([first, index, *hashes, hashes[0]], "tampered"),
        ([first, index, *reversed(hashes)], "tampered"),
        ([first, b"index 01", *hashes], "tampered"),
    ):
        report = scene.check(reseal({**files, name: b"\n".join(lines) + b"\n\n" + note}, scene.signer))
        assert (report["verdict"], report["place"]["file"]) == (expected, name), lines
    other = min(name for name in files if name.startswith("checkpoints/"))
    assert scene.verdict(reseal({**files, name: head + b"\n\n" + files[other]}, scene.signer)) == "tampered"


def test_a_checkpoint_of_another_ledger(scene: Scene, tmp_path: Path) -> None:
    with bundle_world(tmp_path) as other:
        fill(other)
        foreign = other.export(tmp_path / "other.zip")
        files = dict(scene.bundles["full"])
        newest = max(name for name in files if name.startswith("checkpoints/"))
        del files[newest]
        note = members(tmp_path / "other.zip")[f"checkpoints/{foreign.size:016d}.note"]
        said: JsonObject = {"size": foreign.size, "root": foreign.root, "older_left_out": False}
        replaced = {name: data for name, data in files.items() if not name.startswith("checkpoints/")}
        replaced[f"checkpoints/{foreign.size:016d}.note"] = note
        kept = entries(files)[: foreign.size]
        sealed = reseal(with_entries(replaced, kept), checkpoint=said, entries=counted(kept, kept))
        assert scene.verdict(sealed) == "wrong key"


def test_a_whole_ledger_of_another_key_proves_no_origin(scene: Scene, tmp_path: Path) -> None:
    with bundle_world(tmp_path) as other:
        fill(other)
        other.export(tmp_path / "other.zip")
        path = str(tmp_path / "other.zip")
        alone = verify(path)
        assert alone["verdict"] == "ok"
        assert "not origin" in alone["trusted"]
        for key in (scene.signer.key, scene.first_key.key):
            assert verify(path, keys=(str(key),))["verdict"] == "wrong key"
        assert verify(path, checkpoints=(scene.held,))["verdict"] == "wrong key"


def test_a_manifest_signed_by_a_foreign_key(scene: Scene) -> None:
    files = scene.bundles["full"]
    report = scene.check(reseal(files, new_signer()))
    assert (report["verdict"], report["place"]["file"]) == ("wrong key", "manifest.dsse.json")
    assert scene.verdict(reseal(files, scene.first_key)) == "wrong key"  # it was replaced: it seals nothing any more
    assert scene.verdict(reseal(files, made={"at": "2020", "by": "nobody"})) == "tampered"
    envelope = json.loads(files["manifest.dsse.json"])
    envelope["signatures"] = []
    assert scene.verdict({**files, "manifest.dsse.json": canonical(envelope)}) == "wrong key"
    envelope = json.loads(files["manifest.dsse.json"])
    envelope["payloadType"] = "text/plain"
    assert scene.verdict({**files, "manifest.dsse.json": canonical(envelope)}) == "tampered"
    other = {**json.loads(files["manifest.json"]), "made": None}
    assert scene.verdict({**files, "manifest.json": canonical(other)}) == "tampered"


def resigned(note: bytes, root: bytes, signer: FileSigner, size: int | None = None) -> bytes:
    """The checkpoint with another root, signed as it must be."""
    found = Checkpoint.parse(Note.parse(note).text)
    text = Checkpoint(ORIGIN, found.size if size is None else size, root).text()
    return Note(text, (sign(text, signer.key, signer.sign),)).encode()


@pytest.mark.parametrize("kind", ["full", "agent"])
def test_the_operator_signed_two_histories(scene: Scene, kind: str) -> None:
    files = scene.bundles[kind]
    oldest = min(name for name in files if name.startswith("checkpoints/"))
    other = resigned(files[oldest], b"r" * 32, scene.first_key)
    report = scene.check(reseal({**files, oldest: other}, scene.signer))
    assert (report["verdict"], report["place"]["file"]) == ("forked", oldest)
    assert scene.verdict(files, checkpoints=(other,)) == "forked"
    newest = max(name for name in files if name.startswith("checkpoints/"))
    ahead = resigned(files[newest], b"r" * 32, scene.signer, size=10**6)
    assert scene.verdict(files, checkpoints=(ahead,)) == "rolled back"
    assert scene.verdict(files, checkpoints=(resigned(files[newest], b"r" * 32, scene.signer),)) == "forked"
    assert scene.verdict(files, checkpoints=(resigned(files[newest], b"r" * 32, new_signer()),)) == "wrong key"
    assert scene.verdict(files, checkpoints=(b"no note at all",)) == "malformed"


@pytest.mark.parametrize("kind", ["full", "agent"])
def test_an_older_checkpoint_that_another_key_signed(scene: Scene, kind: str) -> None:
    files = scene.bundles[kind]
    oldest = min(name for name in files if name.startswith("checkpoints/"))
    right = Checkpoint.parse(Note.parse(files[oldest]).text).root
    for signer in (new_signer(), scene.signer):  # a stranger's, and the later key of this ledger
        other = resigned(files[oldest], right, signer)
        report = scene.check(reseal({**files, oldest: other}, scene.signer))
        assert (report["verdict"], report["place"]["file"]) == ("wrong key", oldest)
    false = bytearray(files[oldest])
    false[-10] ^= 1
    assert scene.verdict(reseal({**files, oldest: bytes(false)}, scene.signer)) in {"tampered", "malformed"}


def test_another_format_or_kind(scene: Scene) -> None:
    files = scene.bundles["full"]
    for changes in (
        {"format": "broker.ledger-bundle.v2"},
        {"kind": "whole"},
        {"kind": "extract"},
        {"selected": {"agent": "agt_b"}},
        {"selected": {"agent": 1}},
        {"origin": ""},
        {"checkpoint": None},
        {"checkpoint": {"size": 17, "root": "0" * 64, "older_left_out": False}},
        {"files": []},
        {"absent": {}},
    ):
        assert scene.verdict(reseal(files, scene.signer, **changes)) in {"malformed", "tampered"}, changes


def test_entries_that_the_newest_checkpoint_is_not_of(scene: Scene) -> None:
    files = dict(scene.bundles["full"])
    newest = max(name for name in files if name.startswith("checkpoints/"))
    size = len(entries(files))
    files[newest] = resigned(files[newest], b"r" * 32, scene.signer)
    said: JsonObject = {"size": size, "root": (b"r" * 32).hex(), "older_left_out": False}
    assert scene.verdict(reseal(files, scene.signer, checkpoint=said)) == "tampered"
    assert scene.verdict(reseal(files, scene.signer)) == "tampered"


def test_texts(scene: Scene) -> None:
    files = scene.bundles["full"]
    policy = next(name for name in files if name.startswith("texts/policy/"))
    assert scene.verdict(reseal({**files, policy: b"p, *, *, *, *, call, 4\n"}, scene.signer)) == "tampered"
    spec = next(name for name in files if name.startswith("texts/specs/"))
    assert scene.verdict(reseal({**files, spec: b"[]"}, scene.signer)) == "tampered"
    extra = f"texts/policy/{hashlib.sha256(b'x').hexdigest()}"
    assert scene.verdict(reseal({**files, extra: b"x"}, scene.signer)) == "malformed"
    fewer = {name: data for name, data in files.items() if name != policy}
    assert scene.verdict(reseal(fewer, scene.signer)) == "malformed"


@pytest.mark.parametrize("name", ["keys.json", "heads.json", "consistency.json"])
def test_json_beside_the_entries(scene: Scene, name: str) -> None:
    files = scene.bundles["agent"]
    found = json.loads(files[name])
    for path in paths_in(found):
        doctored = copy.deepcopy(found)
        parent: Any = doctored
        for step in path[:-1]:
            parent = parent[step]
        parent[path[-1]] = changed(parent[path[-1]])
        report = scene.check(reseal({**files, name: canonical(doctored)}, scene.signer))
        assert report["verdict"] in {"tampered", "malformed", "forked", "truncated", "gapped"}, (path, report)


def test_consistency_proofs_for_other_checkpoints(scene: Scene) -> None:
    files = scene.bundles["agent"]
    found = json.loads(files["consistency.json"])
    more = canonical({**found, "3": []})
    fewer = canonical(dict(list(found.items())[1:]))
    for data in (more, fewer):
        assert scene.verdict(reseal({**files, "consistency.json": data}, scene.signer)) == "malformed"


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":1.5}',
        b'{"v":1e2}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a": 1}',
        b'{"a":"\\u0041"}',
        b'{"a":-0}',
        b'{"a":9007199254740993}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b"[" * 50_000,
        b"\xff\xfe",
        b"[]",
        b"",
        b'{"a":"' + b"x" * 70_000 + b'"}',
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_lines_that_are_no_entry(scene: Scene, line: bytes) -> None:
    files = scene.bundles["full"]
    first, _, rest = files["entries.jsonl"].partition(b"\n")
    report = scene.check(reseal({**files, "entries.jsonl": first + b"\n" + line + b"\n" + rest}, scene.signer))
    assert (report["verdict"], report["place"]["seq"]) == ("malformed", 1)


@pytest.mark.parametrize("name", ["manifest.json", "keys.json", "manifest.dsse.json"])
@pytest.mark.parametrize("data", [b"{}", b"[]", b"", b"null", b"[" * 100_000, b'{"format":"broker.ledger-bundle.v1"}'])
def test_json_of_another_shape(scene: Scene, name: str, data: bytes) -> None:
    assert scene.verdict({**scene.bundles["full"], name: data}) in {"malformed", "tampered"}


def test_a_member_twice(scene: Scene, tmp_path: Path) -> None:
    path = pack(tmp_path / "twice.zip", scene.bundles["full"])
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("entries.jsonl", b"another text\n")
    report = verify(str(path))
    assert (report["verdict"], report["place"]["why"]) == ("malformed", "is there twice")


@pytest.mark.parametrize(
    "name",
    [
        "../entries.jsonl",
        "/etc/passwd",
        "proofs/../../x",
        "proofs\\1.tlog-proof",
        "texts/policy/../../x",
        "C:\\x",
        "proofs/01.tlog-proof",
        "proofs/",
        "checkpoints/latest.note",
        "verify_bundle.py\n",
        "approvals/.hidden.json",
        "ENTRIES.JSONL",
        "\u202ereversed",
    ],
)
def test_names_that_lead_elsewhere(scene: Scene, name: str) -> None:
    assert scene.verdict(reseal({**scene.bundles["full"], name: b"x"}, scene.signer)) == "malformed"


def test_an_approval_that_no_entry_asked_for_is_not_taken(scene: Scene) -> None:
    files = {**scene.bundles["full"], "approvals/apr_1.json": b"{}"}
    assert scene.verdict(reseal(files, scene.signer)) == "malformed", "listed, and of no entry"
    assert scene.verdict(files) == "malformed", "not even listed"


def test_a_cut_file(scene: Scene, tmp_path: Path) -> None:
    whole = pack(tmp_path / "whole.zip", scene.bundles["agent"]).read_bytes()
    cut = tmp_path / "cut.zip"
    for length in (0, 1, 30, len(whole) // 2, len(whole) - 200, len(whole) - 22, len(whole) - 1):
        cut.write_bytes(whole[:length])
        assert verify(str(cut))["verdict"] == "malformed", length


def test_flipped_bytes_never_pass_for_another_content(scene: Scene, tmp_path: Path) -> None:
    whole = pack(tmp_path / "whole.zip", scene.bundles["call"]).read_bytes()
    path = tmp_path / "flipped.zip"
    dice = random.Random(7)  # noqa: S311 - places to damage
    passed = 0
    for _ in range(300):
        place = dice.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << dice.randrange(8))]) + whole[place + 1 :])
        if verify(str(path))["verdict"] == "ok":
            passed += 1  # a time or an attribute of a member, which says nothing
            assert members(path) == scene.bundles["call"]
    assert passed < 100


def central(data: bytearray, name: bytes) -> int:
    """Where the directory's record of a member begins."""
    at = data.rindex(name) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return at


def patched(path: Path, files: Files, change: Callable[[bytearray, int], None], name: bytes = b"README.txt") -> str:
    data = bytearray(pack(path, files).read_bytes())
    change(data, central(data, name))
    path.write_bytes(data)
    return str(verify(str(path))["verdict"])


def test_bombs(scene: Scene, tmp_path: Path) -> None:
    files, path = scene.bundles["full"], tmp_path / "bomb.zip"
    assert scene.verdict({**files, "README.txt": bytes(8 * 2**20)}) == "malformed"  # says its size, which is too large
    assert scene.verdict({**files, "manifest.json": bytes(64 * 2**20)}) == "malformed"

    def says_less(data: bytearray, at: int) -> None:
        struct.pack_into("<I", data, at + 24, 10)

    def says_more(data: bytearray, at: int) -> None:
        struct.pack_into("<I", data, at + 24, 3 * 2**20)

    def says_zip64(data: bytearray, at: int) -> None:
        struct.pack_into("<I", data, at + 24, 0xFFFFFFFF)  # without the extra field that would hold it

    def encrypted(data: bytearray, at: int) -> None:
        data[at + 8] |= 1

    def other_method(data: bytearray, at: int) -> None:
        struct.pack_into("<H", data, at + 10, zipfile.ZIP_LZMA)

    def onto_the_first(data: bytearray, at: int) -> None:
        struct.pack_into("<I", data, at + 42, 0)

    for change in (says_less, says_more, says_zip64, encrypted, other_method, onto_the_first):
        assert patched(path, {**files, "README.txt": bytes(2**20)}, change) == "malformed", change.__name__
    assert "overlaps" in verify(str(path))["place"]["why"]


def test_a_zip64_member_of_an_enormous_size(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "zip64.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in scene.bundles["full"].items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    assert verify(str(path))["verdict"] == "ok"
    data = bytearray(path.read_bytes())
    at = central(data, b"README.txt")
    name_length, extra_length = struct.unpack_from("<HH", data, at + 28)
    assert extra_length == 0
    extra = struct.pack("<HHQ", 1, 8, 2**62)
    struct.pack_into("<I", data, at + 24, 0xFFFFFFFF)
    struct.pack_into("<H", data, at + 30, len(extra))
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<I", data, end + 12, struct.unpack_from("<I", data, end + 12)[0] + len(extra))
    place = at + 46 + name_length
    data[place:place] = extra
    path.write_bytes(data)
    report = verify(str(path))
    assert (report["verdict"], report["place"]["file"]) == ("malformed", "README.txt")
    assert str(2**62) in report["place"]["why"]


def revoke(world: World, old: FileSigner) -> None:
    world.append("signer.revoked", {"key": str(old.key), "reason_commit": "0" * 64})


def test_a_revoked_key_counts_for_nothing(tmp_path: Path) -> None:
    with bundle_world(tmp_path) as world:
        fill(world)
        old = world.rotate()
        world.publish()
        revoke(world, old)
        world.publish()
        world.export(tmp_path / "b.zip", signer=world.signer)
        path = str(tmp_path / "b.zip")
        assert verify(path, keys=(str(world.signer.key),))["verdict"] == "ok"
        assert verify(path, keys=(str(old.key),))["verdict"] == "wrong key"
        files = members(tmp_path / "b.zip")
        oldest = min(name for name in files if name.startswith("checkpoints/"))
        forged = {**files, oldest: resigned(files[oldest], b"r" * 32, old)}
        report = verify(str(pack(tmp_path / "c.zip", reseal(forged, world.signer))))
        assert report["verdict"] == "ok"
        assert oldest in report["set_aside"]
        both = Note.parse(forged[oldest])
        signature = sign(both.text, world.signer.key, world.signer.sign)
        forged[oldest] = both.with_signature(signature).encode()  # a key that counts vouches for it: no excuse
        report = verify(str(pack(tmp_path / "c.zip", reseal(forged, world.signer))))
        assert (report["verdict"], report["place"]["file"]) == ("forked", oldest)
        size = Checkpoint.parse(world.notes[0].text).size
        text = Checkpoint(ORIGIN, size, b"r" * 32).text()
        note = Note(text, (sign(text, old.key, old.sign),)).encode()
        assert verify(path, checkpoints=(note,))["verdict"] == "wrong key"


def test_a_key_history_that_was_made_up(tmp_path: Path) -> None:
    with bundle_world(tmp_path) as world:
        thief = new_signer()
        note = world.note(f"next-key {thief.key}", signers=(thief,))
        body: JsonObject = {"old": str(world.signer.key), "new": str(thief.key), "checkpoint": note.encode().decode()}
        world.append("signer.rotated", body)
        world.signer, right = thief, world.signer
        world.publish()
        files = _bundle_by_hand(world, right)
        report = verify(str(pack(tmp_path / "b.zip", files)))
        assert (report["verdict"], report["place"]["seq"]) == ("wrong key", 1)


def _bundle_by_hand(world: World, right: FileSigner) -> Files:
    """A bundle of a ledger that the exporter itself would refuse."""
    rows = world.database.read_sync(lambda tx: list(tx.ledger.entries(0, 1000)))
    found = [json.loads(row.data) for row in rows]
    size, root = len(found), Checkpoint.parse(world.notes[0].text).root
    files = {
        "entries.jsonl": b"".join(row.data + b"\n" for row in rows),
        f"checkpoints/{size:016d}.note": world.notes[0].encode(),
        "keys.json": canonical({"genesis": str(right.key), "keys": [], "recovered": []}),
        "manifest.dsse.json": canonical({"payload": "", "payloadType": PAYLOAD_TYPE, "signatures": []}),
    }
    manifest: JsonObject = {
        "format": "broker.ledger-bundle.v1",
        "kind": "full",
        "origin": ORIGIN,
        "selected": {},
        "entries": counted(found, found),
        "checkpoint": {"size": size, "root": root.hex(), "older_left_out": False},
        "absent": {"policy": [], "specs": [], "files": []},
        "files": {},
        "made": {"at": str(START), "by": "nobody"},
    }
    return reseal({**files, "manifest.json": canonical(manifest)}, world.signer)


@pytest.mark.parametrize("key", ["of a witness", "of another name", "no key"])
def test_a_genesis_with_another_kind_of_key(tmp_path: Path, key: str) -> None:
    with bundle_world(tmp_path) as world:
        right = world.signer.key
        texts = {
            "of a witness": str(VerifierKey(right.name, COSIGNATURE, right.public_key)),
            "of another name": str(VerifierKey("other", right.algorithm, right.public_key)),
            "no key": "brk_example+00000000+AQ==",
        }
        world.publish()
        files = _bundle_by_hand(world, world.signer)
        found = entries(files)
        found[0]["checkpoint_key"] = texts[key]
        report = verify(str(pack(tmp_path / "b.zip", with_entries(files, rechained(found)))))
        assert (report["verdict"], report["place"]["field"]) == ("malformed", "checkpoint_key")


def test_a_genesis_without_a_key_needs_one_from_elsewhere(tmp_path: Path) -> None:
    with bundle_world(tmp_path) as world:
        world.publish()
        files = _bundle_by_hand(world, world.signer)
        found = entries(files)
        del found[0]["checkpoint_key"]
        root = CompactRange(leaf_hash(canonical(entry)) for entry in rechained(found)).root()
        name = next(name for name in files if name.startswith("checkpoints/"))
        files = {**with_entries(files, found), name: resigned(files[name], root, world.signer)}
        known: JsonObject = {"from_size": 1, "key": str(world.signer.key), "revoked": False, "until_size": None}
        files["keys.json"] = canonical({"genesis": None, "keys": [known], "recovered": []})
        said: JsonObject = {"size": len(found), "root": root.hex(), "older_left_out": False}
        path = str(pack(tmp_path / "b.zip", reseal(files, world.signer, checkpoint=said)))
        assert verify(path)["verdict"] == "wrong key"
        assert verify(path, keys=(str(new_signer().key),))["verdict"] == "wrong key"
        assert verify(path, keys=(str(world.signer.key),))["verdict"] == "ok"


def test_a_specification_that_is_none(tmp_path: Path) -> None:
    for text in (b"[]", b"no json", b'{"files":{"a":1}}', b'{"files":{"a":"sha256:0"}}'):
        with bundle_world(tmp_path / hashlib.sha256(text).hexdigest()) as world:
            name = hashlib.sha256(text).hexdigest()
            world.append("spec.registered", {"tool": {"name": "x", "version": f"sha256:{name}"}})
            world.publish()
            world.export(tmp_path / f"{name}.zip")
            files = {**members(tmp_path / f"{name}.zip"), f"texts/specs/{name}": text}
            absent: JsonObject = {"policy": [], "specs": [], "files": []}
            report = verify(str(pack(tmp_path / "b.zip", reseal(files, world.signer, absent=absent))))
            assert (report["verdict"], report["place"]["file"]) == ("malformed", f"texts/specs/{name}")


def by_operator(world: World, found: list[dict[str, Any]], *lost: JsonObject) -> Files:
    """A bundle of entries as the operator likes them, with the right root and the right signatures."""
    files = with_entries(_bundle_by_hand(world, world.signer), found)
    name = next(name for name in files if name.startswith("checkpoints/"))
    root = CompactRange(leaf_hash(canonical(entry)) for entry in found).root()
    note = resigned(files.pop(name), root, world.signer, size=len(found))
    known: JsonObject = {"from_size": 1, "key": str(world.signer.key), "revoked": False, "until_size": None}
    files["keys.json"] = canonical({"genesis": str(world.signer.key), "keys": [known], "recovered": list(lost)})
    files[f"checkpoints/{len(found):016d}.note"] = note
    said: JsonObject = {"size": len(found), "root": root.hex(), "older_left_out": False}
    return reseal(files, world.signer, checkpoint=said, entries=counted(found, found))


LIES: dict[str, tuple[str, str, Callable[[list[dict[str, Any]]], None]]] = {
    "prev of nothing": ("tampered", "prev", lambda found: found[4].update(prev="1" * 64)),
    "prev of the one before": ("forked", "prev", lambda found: found[4].update(prev=found[3]["prev"])),
    "no prev": ("malformed", "prev", lambda found: found[4].pop("prev")),
    "another version": ("malformed", "v", lambda found: found[4].update(v=2)),
    "a version that is true": ("malformed", "v", lambda found: found[4].update(v=True)),
    "another ledger": ("tampered", "origin", lambda found: found[4].update(origin="brk_other")),
    "a time without a zone": ("malformed", "", lambda found: found[4].update(ts="2026-01-01T00:00:00.000000")),
    "a second genesis": ("malformed", "", lambda found: found[4].update(type="genesis")),
    "no boot": ("malformed", "boot_id", lambda found: found[4].pop("boot_id")),
    "a number twice": ("forked", "seq", lambda found: found[4].update(seq=3)),
    "a number left out": ("gapped", "seq", lambda found: found[4].update(seq=5)),
    "too long": ("malformed", "", lambda found: found[4].update(text="x" * 65_500)),
    "an agent with more": ("malformed", "agent", lambda found: found[4]["agent"].update(more=1)),
    "an agent's number twice": ("forked", "agent.seq", lambda found: found[4]["agent"].update(seq=0)),
    "an agent's number left out": ("gapped", "agent.seq", lambda found: found[4]["agent"].update(seq=5)),
    "an agent's prev": ("forked", "agent.prev", lambda found: found[4]["agent"].update(prev="1" * 64)),
    "an agent that is none": ("malformed", "id", lambda found: found[4].update(agent="agt_a")),
    "a revocation of the key in force": (
        "tampered",
        "key",
        lambda found: found[4].update(type="signer.revoked", key=found[0]["checkpoint_key"]),
    ),
    "a recovery by nobody": (
        "wrong key",
        "checkpoint",
        lambda found: found[4].update(recovery(new_signer(), 4, 9, size=10)),
    ),
    "a recovery of another size": (
        "tampered",
        "lost",
        lambda found: found[4].update(recovery(new_signer(), 4, 9, size=11)),
    ),
    "a recovery of what comes later": (
        "tampered",
        "lost",
        lambda found: found[4].update(recovery(new_signer(), 7, 9, size=10)),
    ),
}
"""What the operator wrote into the ledger itself: verdict, member, and how."""


def recovery(signer: FileSigner, first: int, last: int, *, size: int) -> dict[str, Any]:
    text = Checkpoint(ORIGIN, size, b"l" * 32).text()
    note = Note(text, (sign(text, signer.key, signer.sign),)).encode().decode()
    return {"type": "recovered", "lost": {"from": first, "to": last}, "checkpoint": note, "votes": []}


@pytest.mark.parametrize("lie", LIES)
def test_a_ledger_that_the_operator_wrote_wrong_and_signed(tmp_path: Path, lie: str) -> None:
    verdict, field, change = LIES[lie]
    with bundle_world(tmp_path) as world:
        world.append("session.started", {"session": "ses_1"}, "agt_a")
        for number in range(6):
            world.append("decision", {"call_id": f"call_{number}"}, "agt_a")
        world.publish()
        found = entries(_bundle_by_hand(world, world.signer))
        assert verify(str(pack(tmp_path / "right.zip", by_operator(world, found))))["verdict"] == "ok"
        change(found)
        if not lie.startswith(("prev", "no prev", "a number", "an agent")):
            rechained(found)
        report = verify(str(pack(tmp_path / "wrong.zip", by_operator(world, found))))
        seq = 3 if lie == "a number twice" else 4
        assert (report["verdict"], report["place"]["seq"], report["place"]["field"]) == (verdict, seq, field), report


LOST: JsonObject = {"from": 4, "to": 9}
LINE = f"recovered 4 9 {encode_base64(b'l' * 32)}"
UNPROVED = f"recovered 4 9 {encode_base64(bytes(32))}"
RECOVERIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "right": ("recovered", "lost", {}),
    "right, and without a proof": ("recovered", "lost", {"lines": [UNPROVED], "unproved": True}),
    "right, by a key that is lost": ("recovered", "lost", {"lost_key": "another"}),
    "no statement": ("malformed", "statement", {"statement": None}),
    "a statement that is no note": ("malformed", "", {"statement": "no note"}),
    "by the key that is lost": ("wrong key", "statement", {"lost_key": "another", "by": "another"}),
    "by nobody": ("wrong key", "statement", {"by": "another"}),
    "a false signature": ("tampered", "signature", {"false": True}),
    "the key in force as the lost one": ("tampered", "lost_key", {"lost_key": "in force"}),
    "of a smaller tree": ("tampered", "statement", {"size": 3}),
    "of a larger tree": ("tampered", "statement", {"size": 5}),
    "of another tree": ("forked", "root", {"root": b"r" * 32}),
    "of another ledger": ("tampered", "statement", {"origin": "brk_other"}),
    "without the line": ("tampered", "statement", {"lines": []}),
    "with a line more": ("tampered", "statement", {"lines": [LINE, "more"]}),
    "with the line twice": ("tampered", "statement", {"lines": [LINE, LINE]}),
    "of fewer entries": ("tampered", "statement", {"lines": [LINE.replace(" 9 ", " 8 ")]}),
    "of other entries": ("tampered", "statement", {"lines": [LINE.replace(" 4 ", " 3 ")]}),
    "of another lost checkpoint": ("tampered", "statement", {"lines": [UNPROVED]}),
    "of a checkpoint that proves nothing": ("tampered", "statement", {"unproved": True}),
    "neither proved nor unproved": ("malformed", "unproved", {"unproved": 1}),
}
"""A recovery that the operator wrote: verdict, member, and what its statement is otherwise."""


@pytest.mark.parametrize("lie", RECOVERIES)
def test_a_recovery_is_what_the_key_in_force_has_stated(tmp_path: Path, lie: str) -> None:
    verdict, field, given = RECOVERIES[lie]
    with bundle_world(tmp_path) as world:
        for number in range(6):
            world.append("decision", {"call_id": f"call_{number}"}, "agt_a")
        world.publish()
        found, keys = entries(_bundle_by_hand(world, world.signer)), {"in force": world.signer, "another": new_signer()}
        before = CompactRange(leaf_hash(canonical(entry)) for entry in found[:4]).root()
        root, lines = given.get("root", before), tuple(given.get("lines", (LINE,)))
        text = Checkpoint(given.get("origin", ORIGIN), given.get("size", 4), root, lines).text()
        by = keys[given.get("by", "in force")]
        signature = sign(text, by.key, by.sign)
        if given.get("false"):
            signature = Signature(by.key.name, by.key.key_id, bytes(64))
        told = given.get("statement", Note(text, (signature,)).encode().decode())
        lost_key = given.get("lost_key", "")
        found[4].update(recovery(keys[lost_key or "in force"], 4, 9, size=10))
        found[4].update({} if told is None else {"statement": told})
        found[4].update({"lost_key": str(keys[lost_key].key)} if lost_key else {})
        found[4].update({"unproved": given["unproved"]} if "unproved" in given else {})
        report = verify(str(pack(tmp_path / "b.zip", by_operator(world, rechained(found), LOST))))
        assert (report["verdict"], report["place"]["field"]) == (verdict, field), report
        assert verdict == "recovered" or report["place"]["seq"] == 4


def test_what_a_recovery_stated_can_not_be_lost_by_a_later_one(tmp_path: Path) -> None:
    with bundle_world(tmp_path) as world:
        for number in range(9):
            world.append("decision", {"call_id": f"call_{number}"}, "agt_a")
        world.publish()
        found = entries(_bundle_by_hand(world, world.signer))

        def recovered(seq: int, first: int) -> None:
            root = CompactRange(leaf_hash(canonical(entry)) for entry in rechained(found)[:seq]).root()
            line = f"recovered {first} 9 {encode_base64(b'l' * 32)}"
            text = Checkpoint(ORIGIN, seq, root, (line,)).text()
            told = Note(text, (sign(text, world.signer.key, world.signer.sign),)).encode().decode()
            found[seq].update(recovery(world.signer, first, 9, size=10), statement=told)

        recovered(4, 4)
        for first, verdict in ((4, "recovered"), (3, "tampered")):
            recovered(6, first)
            files = by_operator(world, rechained(found), LOST, {"from": first, "to": 9})
            report = verify(str(pack(tmp_path / "b.zip", files)))
            assert (report["verdict"], report["place"]["field"]) == (verdict, "lost")
            assert verdict == "recovered" or report["place"]["seq"] == 6


def test_a_recovery_of_a_ledger_that_names_no_key(tmp_path: Path) -> None:
    with bundle_world(tmp_path) as world:
        world.call("call_1", "agt_a")
        world.publish()
        found = entries(_bundle_by_hand(world, world.signer))
        del found[0]["checkpoint_key"]
        found[3].update(recovery(world.signer, 3, 9, size=10), lost_key=str(world.signer.key), statement="none")
        path = pack(tmp_path / "b.zip", by_operator(world, rechained(found), LOST))
        report = verify(str(path), keys=(str(world.signer.key),))
        assert (report["verdict"], report["place"]["field"]) == ("wrong key", "statement")


def test_a_false_cosignature(tmp_path: Path) -> None:
    with bundle_world(tmp_path) as world:
        witness = new_signer("witness.example")
        key = VerifierKey("witness.example", COSIGNATURE, witness.key.public_key)
        world.publish()
        world.notes[0] = world.notes[0].with_signature(Signature(key.name, key.key_id, bytes(72)))
        world.export(tmp_path / "b.zip")
        path = str(tmp_path / "b.zip")
        assert verify(path)["verdict"] == "ok"  # nobody asked for that witness
        report = verify(path, witnesses=(str(key),))
        assert (report["verdict"], report["place"]["field"]) == ("tampered", "signature")
        right = cosign(world.notes[0].text, key, witness.sign, 1_800_000_000)
        world.publish()
        world.notes[0] = world.notes[0].with_signature(cosign(world.notes[0].text, key, witness.sign, 1_800_000_000))
        world.export(tmp_path / "older.zip")  # a right one on the newest doesn't make up for that on an older one
        assert verify(str(tmp_path / "older.zip"), witnesses=(str(key),))["verdict"] == "tampered"
        world.notes[1] = Note(world.notes[1].text, (world.notes[1].signatures[0], right, world.notes[1].signatures[1]))
        world.export(tmp_path / "second.zip")  # nor does a right one before it
        assert verify(str(tmp_path / "second.zip"), witnesses=(str(key),))["verdict"] == "tampered"


def test_too_many_files(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.ledger.verify_bundle.MAX_MEMBERS", 5)
    assert "more than 5" in scene.check(scene.bundles["full"])["place"]["why"]


@dataclass
class Lossy:
    """A ledger of 38 entries that says, in entry 24, that the entries 15 to 39 of another history are lost."""

    world: World
    folder: Path

    def note(self, size: int) -> bytes:
        """A checkpoint of the other history, signed by the ledger's key."""
        return self.world.lost_note(size).encode()

    def genuine(self, size: int) -> bytes:
        """One of this history."""
        root = self.world.database.read_sync(lambda tx: Tree(tx.ledger, size).root())
        return resigned(self.note(size), root, self.world.signer)

    def path(self, name: str) -> str:
        """A bundle."""
        return str(self.folder / f"{name}.zip")


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[Lossy]:
    with bundle_world(tmp_path) as world:
        for number in range(7):
            world.call(f"call_{number}", "agt_a")
        world.publish()
        world.append("heartbeat")
        assert world.recover(15, 39) == 24
        for number in range(7, 11):
            world.call(f"call_{number}", "agt_a")
        world.publish()
        world.export(tmp_path / "full.zip")
        world.export(tmp_path / "call.zip", Selection(call="call_1"))
        yield Lossy(world, tmp_path)


@pytest.mark.parametrize("kind", ["full", "call"])
def test_a_ledger_that_was_recovered_is_never_ok(lossy: Lossy, kind: str) -> None:
    report = verify(lossy.path(kind), checkpoints=(lossy.note(40), lossy.genuine(23)))
    assert (report["verdict"], report["recovered"]) == ("recovered", [{"from": 15, "to": 39}])
    assert (report["excused_checkpoints"], report["held_checkpoints"]) == ([40], [23])


@pytest.mark.parametrize("size", [16, 23, 24, 25, 37, 38, 39, 40])
def test_a_signed_loss_excuses_the_checkpoints_of_its_range(lossy: Lossy, size: int) -> None:
    report = verify(lossy.path("full"), checkpoints=(lossy.note(size),))
    assert (report["verdict"], report["excused_checkpoints"], report["held_checkpoints"]) == ("recovered", [size], [])
    stranger = resigned(lossy.note(size), b"l" * 32, new_signer())
    assert verify(lossy.path("full"), checkpoints=(stranger,))["verdict"] == "wrong key"


@pytest.mark.parametrize(("size", "verdict"), [(1, "forked"), (14, "forked"), (15, "forked"), (41, "rolled back")])
def test_a_signed_loss_excuses_nothing_else(lossy: Lossy, size: int, verdict: str) -> None:
    report = verify(lossy.path("full"), checkpoints=(lossy.note(size),))
    assert (report["verdict"], report["excused_checkpoints"]) == (verdict, [])


def test_a_kept_checkpoint_of_a_loss_is_set_aside_and_no_other(lossy: Lossy) -> None:
    files, signer = members(Path(lossy.path("full"))), lossy.world.signer
    for size, verdict in ((16, "recovered"), (15, "forked")):
        name = f"checkpoints/{size:016d}.note"
        report = verify(str(pack(lossy.folder / "b.zip", reseal({**files, name: lossy.note(size)}, signer))))
        assert (report["verdict"], report["set_aside"]) == (verdict, [name] if verdict == "recovered" else [])


def test_an_extract_proves_the_tree_that_a_recovery_states(lossy: Lossy) -> None:
    files = members(Path(lossy.path("call")))
    proofs = json.loads(files["consistency.json"])
    assert set(proofs) == {"23", "24"}
    for changes, verdict in (({"24": []}, "forked"), ({"24": proofs["23"]}, "forked")):
        doctored = {**files, "consistency.json": canonical({**proofs, **changes})}
        report = verify(str(pack(lossy.folder / "b.zip", reseal(doctored, lossy.world.signer))))
        assert (report["verdict"], report["place"]["seq"]) == (verdict, 24)
    del proofs["24"]
    doctored = {**files, "consistency.json": canonical(proofs)}
    assert verify(str(pack(lossy.folder / "b.zip", reseal(doctored, lossy.world.signer))))["verdict"] == "malformed"


def test_a_whole_ledger_answers_for_each_of_its_sizes(scene: Scene, tmp_path: Path) -> None:
    files = scene.bundles["full"]
    leaves = [leaf_hash(line) for line in files["entries.jsonl"].splitlines()]
    newest = files[max(name for name in files if name.startswith("checkpoints/"))]
    until = json.loads(files["keys.json"])["keys"][0]["until_size"]
    path = str(pack(tmp_path / "b.zip", files))
    for size in (1, 20, until - 1, until, until + 1, len(leaves) - 1):
        signer = scene.first_key if size <= until else scene.signer
        genuine = resigned(newest, CompactRange(leaves[:size]).root(), signer, size=size)
        report = verify(path, checkpoints=(genuine,))
        assert (report["verdict"], report["held_checkpoints"]) == ("ok", [size])
        other = resigned(newest, b"r" * 32, signer, size=size)
        assert verify(path, checkpoints=(genuine, other))["verdict"] == "forked"
