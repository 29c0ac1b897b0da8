"""Trees of workspaces over real gRPC: folders in and out, lists, comparisons, and what the ledger has of it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.client import Broker, Change, TreeFile, TreeLink
from broker.domain.tree_ports import EffectRow
from broker.errors import BrokerError, ConflictError, NotFoundError
from broker.store.database import Database
from tests.served import OPERATOR, Served, command, command_json, ledger, make_state, serving

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("broker") / "state"
    make_state(state)
    with serving(state) as broker:
        yield broker


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with all that a tree can hold."""
    root = tmp_path / "odd"
    (root / "deep" / "er" / "est").mkdir(parents=True)
    (root / "nothing" / "here").mkdir(parents=True)
    for path, data, mode in (
        ("plain.txt", b"plain\n", 0o644),
        ("run.sh", b"#!/bin/sh\n", 0o755),
        ("secret", b"s", 0o600),
        ("read-only", b"r", 0o444),
        ("empty", b"", 0o640),
        ("binary", bytes(range(256)) * 40, 0o644),
        ("deep/er/est/file", b"deep", 0o644),
        (".git/HEAD", b"ref: refs/heads/main\n", 0o644),
        ("ünï \u202e\U0001f600 - [x] *?", b"unicode", 0o644),
        ("big", os.urandom((3 << 20) + 7), 0o644),
        ("exactly", os.urandom(1 << 20), 0o644),
    ):
        place = root / path
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
        place.chmod(mode)
    (root / "link").symlink_to("plain.txt")
    (root / "deep" / "up").symlink_to("../plain.txt")
    (root / "dangling").symlink_to("nowhere")
    return root


def listing(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """Path -> kind, mode, bytes of what a folder holds, folders apart."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*files, *folders):
            place = Path(folder) / name
            path = str(place.relative_to(root))
            if place.is_symlink():
                found[path] = ("link", 0, os.fsencode(place.readlink()))
            elif place.is_file():
                found[path] = ("file", stat.S_IMODE(place.stat().st_mode), place.read_bytes())
    return found


async def test_an_odd_tree_comes_back_as_it_went(served: Served, odd: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    async with served.human() as client:
        done = (await client.workspaces.import_folder("odd", odd, progress=lambda *far: told.append(far))).tree
        assert await client.workspaces.get("odd") == done
        out = await client.workspaces.export_folder("odd", tmp_path / "out")
        files = dict([item async for item in client.workspaces.files("odd")])
    wanted = listing(odd)
    assert listing(tmp_path / "out") == wanted
    assert (done.files, out.files, out.state) == (len(wanted), len(wanted), done.state)
    assert done.bytes == out.bytes == sum(len(data) for kind, _, data in wanted.values() if kind == "file")
    assert files.keys() == wanted.keys()
    assert list(files) == sorted(files, key=str.encode)
    assert files["link"] == TreeLink("plain.txt")
    assert isinstance(files["run.sh"], TreeFile)
    assert files["run.sh"].mode == 0o755
    assert told[-1] == (done.files, done.bytes)


async def test_five_thousand_files_come_back_in_pages(served: Served, tmp_path: Path) -> None:
    root = tmp_path / "many"
    for folder in range(10):
        (root / f"f{folder}").mkdir(parents=True)
        for number in range(500):
            (root / f"f{folder}" / f"{number}.txt").write_text(f"{folder} {number}")
    async with served.human() as client:
        done = (await client.workspaces.import_folder("many", root)).tree
        assert done.files == 5000
        names = [path async for path, _ in client.workspaces.files("many")]
        some = [path async for path, _ in client.workspaces.files("many", ["f3/1?.txt", "**/7.txt"])]
        await client.workspaces.export_folder("many", tmp_path / "out", patterns=["f4/**"])
    assert names == sorted(listing(root))
    assert some == sorted([*(f"f3/{number}.txt" for number in range(10, 20)), *(f"f{n}/7.txt" for n in range(10))])
    assert listing(tmp_path / "out") == {key: value for key, value in listing(root).items() if key.startswith("f4/")}


async def test_an_import_replaces_the_state_that_was_seen_and_no_other(
    served: Served, odd: Path, tmp_path: Path
) -> None:
    async with served.human() as client:
        first = (await client.workspaces.import_folder("moving", odd)).tree
        (odd / "plain.txt").write_text("changed\n")
        (odd / "run.sh").chmod(0o700)
        (odd / "secret").rename(odd / "moved")
        with pytest.raises(ConflictError) as caught:
            await client.workspaces.import_folder("moving", odd)
        assert (caught.value.reason, caught.value.metadata["present"]) == ("STATE_MOVED", first.state)
        second = (await client.workspaces.import_folder("moving", odd, expected_state=first.state)).tree
        assert second.state != first.state
        with pytest.raises(ConflictError) as again:
            await client.workspaces.import_folder("moving", odd, expected_state=first.state)
        assert again.value.metadata == {"expected": first.state, "present": second.state}
        same = (await client.workspaces.import_folder("moving", odd, expected_state=second.state)).tree
        assert same == second
        await client.workspaces.export_folder("moving", tmp_path / "out")
    assert listing(tmp_path / "out") == listing(odd)
    entries = [entry for entry in ledger(served.state) if entry.get("workspace") == "moving"]
    assert [(entry["type"], entry["base"], entry["after"]) for entry in entries] == [
        ("workspace.imported", "", first.state),
        ("workspace.imported", first.state, second.state),
    ]
    assert {entry["by"] for entry in entries} == {entries[0]["by"]}
    assert (entries[1]["files"], entries[1]["bytes"]) == (second.files, second.bytes)


async def test_a_comparison_of_a_state_with_itself_is_empty(served: Served, odd: Path) -> None:
    async with served.human() as client:
        done = (await client.workspaces.import_folder("same", odd)).tree
        found = await client.workspaces.diff("same", done.state)
    assert (found.before, found.after, found.changes) == (done.state, done.state, ())


async def test_the_same_files_have_another_state_in_another_workspace(served: Served, odd: Path) -> None:
    async with served.human() as client:
        states = {(await client.workspaces.import_folder(name, odd)).tree.state for name in ("one", "two")}
    assert len(states) == 2


async def test_an_empty_folder_is_a_tree_too(served: Served, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    async with served.human() as client:
        done = (await client.workspaces.import_folder("hollow", tmp_path / "none")).tree
        out = await client.workspaces.export_folder("hollow", tmp_path / "out")
    assert (done.files, done.bytes, out.files) == (0, 0, 0)


async def test_what_isnt_there_is_said(served: Served, odd: Path, tmp_path: Path) -> None:
    async with served.human() as client:
        await client.workspaces.import_folder("there", odd)
        for asked, reason in (
            (client.workspaces.get("nowhere"), "TREE_UNKNOWN"),
            (client.workspaces.diff("there", "sha256:" + "0" * 64), "STATE_UNKNOWN"),
            (client.workspaces.export_folder("there", tmp_path / "out", state="sha256:" + "0" * 64), "STATE_UNKNOWN"),
        ):
            with pytest.raises(NotFoundError) as caught:
                await asked
            assert caught.value.reason == reason
        with pytest.raises(BrokerError) as odd_pattern:
            await client.workspaces.export_folder("there", tmp_path / "out", patterns=["../*"])
        assert odd_pattern.value.reason == "PATH_INVALID"


async def test_states_that_an_effect_names_are_compared_and_taken_out(tmp_path: Path) -> None:
    state, root = tmp_path / "state", tmp_path / "tree"
    make_state(state)
    root.mkdir()
    for number in range(1100):
        (root / f"{number:04}").write_text(str(number))
    (root / "link").symlink_to("0000")
    with serving(state) as broker:
        async with broker.human() as client:
            first = (await client.workspaces.import_folder("demo", root)).tree
            before = listing(root)
            for number in range(1100):
                (root / f"{number:04}").write_text(f"{number} changed")
            (root / "0000").write_text("0")
            (root / "0000").chmod(0o755)
            (root / "0001").write_text("1")
            (root / "0001").rename(root / "moved")
            (root / "link").unlink()
            (root / "link").write_text("a file")
            second = (await client.workspaces.import_folder("demo", root, expected_state=first.state)).tree
            with pytest.raises(NotFoundError):
                await client.workspaces.diff("demo", first.state)
    # What a call's effect would be; the rest of the row is of no interest here.
    row = EffectRow("call_1", "demo", first.state, second.state, "", "", (), "", second.change_seq, datetime.now(UTC))
    with Database.open_sync(state / "broker.db") as database:
        database.write_sync(lambda tx: tx.trees.insert(row))
    with serving(state) as broker:
        async with broker.human() as client:
            found = await client.workspaces.diff("demo", first.state)
            back = await client.workspaces.diff("demo", second.state, first.state)
            old = [path async for path, _ in client.workspaces.files("demo", state=first.state)]
            out = await client.workspaces.export_folder("demo", tmp_path / "out", state=first.state)
            assert (await client.workspaces.get("demo")).change_call == "calls/call_1"
    kinds = {change.path: change.kind for change in found.changes}
    assert (found.before, found.after, out.state) == (first.state, second.state, first.state)
    assert list(kinds) == sorted(kinds, key=str.encode)
    assert kinds == {
        "0000": "mode",
        "0001": "removed",
        **{f"{number:04}": "changed" for number in range(2, 1100)},
        "link": "type",
        "moved": "added",
    }
    assert found.renames == {"moved": "0001"}
    assert back.changes == tuple(Change(item.path, item.after, item.before) for item in found.changes)
    assert old == sorted(before)
    assert listing(tmp_path / "out") == before


def test_the_synchronous_client_does_the_same(served: Served, odd: Path, tmp_path: Path) -> None:
    with Broker.connect(
        served.address, identity=served.identity("human", OPERATOR), ca=served.state / "ca" / "ca.pem"
    ) as broker:
        done = broker.workspaces.import_folder("sync", odd).tree
        assert broker.workspaces.get("sync") == done
        assert done in list(broker.workspaces.list(page_size=1))
        assert [path for path, _ in broker.workspaces.files("sync", ["*.txt"])] == ["plain.txt"]
        assert broker.workspaces.diff("sync", done.state).changes == ()
        assert broker.workspaces.export_folder("sync", tmp_path / "out").files == done.files
    assert listing(tmp_path / "out") == listing(odd)


def test_the_commands(served: Served, odd: Path, tmp_path: Path) -> None:
    who = ("--identity", f"human/{OPERATOR}")

    def run(*arguments: str) -> dict[str, object]:
        return command_json(served.state, "workspaces", *arguments, *who)

    brought = run("import", "cli", str(odd))
    assert brought["empty_folders"] == ["nothing/here"]
    done: dict[str, object] = brought["tree"]  # type: ignore[assignment]  # an object
    assert run("show", "cli") == done
    assert done in run("list")["items"]  # type: ignore[operator]  # a list
    files = run("files", "cli", "--path", "deep/**")
    assert [item["path"] for item in files["items"]] == ["deep/er/est/file", "deep/up"]  # type: ignore[attr-defined]
    assert run("files", "cli", "--limit", "1")["more"] is True
    assert run("diff", "cli", str(done["state"]))["changes"] == []
    out = run("export", "cli", str(tmp_path / "out"), "--path", "*.txt", "--path", "deep/**")
    assert out["files"] == 3
    assert listing(tmp_path / "out").keys() == {"plain.txt", "deep/er/est/file", "deep/up"}
    refused = command(served.state, "workspaces", "import", "cli", str(odd), *who, "--json", check=False)
    assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (2, "STATE_MOVED")
    (odd / "plain.txt").write_text("other")
    again = run("import", "cli", str(odd), "--over", str(done["state"]))["tree"]
    assert again["files"] == done["files"]  # type: ignore[index]  # an object
    shown = command(served.state, "workspaces", "show", "cli", *who).stdout
    assert "by            an import" in shown
    lines = command(served.state, "ledger", "show", "--type", "workspace.imported").stdout
    assert f"in place of {str(done['state']).removeprefix('sha256:')[:12]}" in lines
