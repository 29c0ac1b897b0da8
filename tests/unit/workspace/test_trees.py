"""States of trees against plain dictionaries: whatever is done to both, they say the same."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.domain.canonical import canonical, digest
from broker.domain.paths import matches
from broker.domain.tree import Change, Effect, Entry, TreeFile, TreeLink
from broker.errors import ConflictError, DataLossError, InvalidArgumentError
from broker.workspace import checking, files, nodes
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees, TreeSize

CONTENTS = [b"", b"one", b"two\n", b"\x00\xff" * 40]
NAMES = ["a", "b", "B", ".git", "é", "\U0001f512", "a.txt", "b.txt", "c d", "-"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(
        lambda data, mode: TreeFile(digest(data), len(data), mode),
        st.sampled_from(CONTENTS),
        st.sampled_from([0o644, 0o755, 0]),
    ),
    st.sampled_from(["a", "../x", "/etc/passwd", "b\n"]).map(TreeLink),
)
SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def fits(model: dict[str, Entry]) -> bool:
    """No file is where a folder would be."""
    return not any("/".join(path.split("/")[:end]) in model for path in model for end in range(1, path.count("/") + 1))


MODELS = st.dictionaries(PATHS, ENTRIES, max_size=25).map(
    lambda found: {
        path: entry for path, entry in found.items() if not any(other.startswith(f"{path}/") for other in found)
    }
)


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trees:
    """With nodes so small that a handful of names is split, twice."""
    for module in (nodes, checking):
        monkeypatch.setattr(module, "MOST", 2)
    objects = Objects(tmp_path / "objects")
    with files.Batch(objects.files) as batch:
        for data in CONTENTS:
            batch.put_bytes(data)
    return Trees(objects)


def run_all(trees: Trees, root: str) -> dict[str, Entry]:
    return asyncio.run(trees.select(root, ["**"]))


@SLOW
@given(before=MODELS, after=MODELS)
def test_apply_diff_and_inverse_agree_with_a_dictionary(
    trees: Trees, before: dict[str, Entry], after: dict[str, Entry]
) -> None:
    async def work() -> None:
        first = await trees.of(before)
        assert await trees.select(first, ["**"]) == dict(sorted(before.items()))
        effect = Effect.between(before, after)
        second = await trees.apply(first, effect)
        assert await trees.select(second, ["**"]) == dict(sorted(after.items()))
        assert await trees.diff(first, second) == effect
        assert await trees.apply(second, effect.inverse()) == first
        assert await trees.check(second) == TreeSize(
            len(after), sum(entry.size for entry in after.values() if isinstance(entry, TreeFile))
        )
        for path in {*before, *after, "nowhere", "a/b/c/d"}:
            assert await trees.get(second, path) == after.get(path)
        assert await trees.entries(second, [*before, *after]) == {
            path: after[path] for path in {*before, *after} if path in after
        }

    asyncio.run(work())


@SLOW
@given(steps=st.lists(MODELS, min_size=1, max_size=6))
def test_the_way_to_a_state_leaves_no_trace_in_it(trees: Trees, steps: list[dict[str, Entry]]) -> None:
    async def work() -> None:
        start = await trees.empty()
        root, present = start, dict[str, Entry]()
        for step in steps:
            root, present = await trees.apply(root, Effect.between(present, step)), step
        assert root == await trees.apply(start, Effect.between({}, present))
        await trees.check(root)

    asyncio.run(work())


@SLOW
@given(present=MODELS, base=MODELS, after=MODELS)
def test_an_effect_is_refused_where_the_state_is_another(
    trees: Trees, present: dict[str, Entry], base: dict[str, Entry], after: dict[str, Entry]
) -> None:
    effect = Effect.between(base, after)
    differ = {change.path for change in effect.changes if present.get(change.path) != change.before}
    result = {path: entry for path, entry in present.items() if path not in effect.paths}
    result |= {change.path: change.after for change in effect.changes if change.after is not None}

    async def work() -> None:
        root = await trees.of(present)
        conflicts = await trees.conflicts(root, effect)
        assert differ <= set(conflicts) <= effect.paths
        assert bool(conflicts) == bool(differ or not fits(result))
        if not conflicts:
            assert await trees.select(await trees.apply(root, effect), ["**"]) == dict(sorted(result.items()))
            return
        with pytest.raises(ConflictError) as refused:
            await trees.apply(root, effect)
        assert refused.value.reason == "BASE_MOVED"
        assert refused.value.metadata["conflicts"] == str(len(conflicts))
        assert {item.field: item.description for item in refused.value.violations} == dict(
            itertools.islice(conflicts.items(), 20)
        )

    asyncio.run(work())


PATTERNS = st.lists(st.sampled_from([*NAMES, "*", "**", "?", "[ab]*", "*.txt"]), min_size=1, max_size=4).map("/".join)


@SLOW
@given(model=MODELS, patterns=st.lists(PATTERNS, max_size=3))
def test_select_finds_what_each_path_for_itself_says(
    trees: Trees, model: dict[str, Entry], patterns: list[str]
) -> None:
    async def work() -> None:
        wanted = {path for path in model if any(matches(path.split("/"), pattern.split("/")) for pattern in patterns)}
        assert set(await trees.select(await trees.of(model), patterns)) == wanted

    asyncio.run(work())


FILE = TreeFile(digest(b"one"), 3)


def added(path: str, entry: Entry = FILE) -> Effect:
    return Effect((Change(path, None, entry),))


async def test_files_and_folders_in_each_others_way(trees: Trees) -> None:
    root = await trees.of({"a": FILE, "b/c": FILE, "l": TreeLink("b")})
    for path, conflict, why in (
        ("a/b", "a/b", "a file is where its folder would be"),
        ("l/b", "l/b", "a link is where its folder would be"),
        ("b", "b", "a folder is there"),
        ("a", "a", "something else is there"),
    ):
        assert await trees.conflicts(root, added(path)) == {conflict: why}
    gone = Effect((Change("a", replace(FILE, mode=0o600), None), Change("x", FILE, None)))
    assert await trees.conflicts(root, gone) == {"a": "it has changed", "x": "it isn't there any more"}
    swapped = Effect.of([Change("a", FILE, None), Change("a/b", None, FILE), Change("b", None, FILE)])
    assert await trees.conflicts(root, swapped) == {"b": "a folder is there"}
    whole = Effect.of([*swapped.changes, Change("b/c", FILE, None)])
    assert set(await trees.select(await trees.apply(root, whole), ["**"])) == {"a/b", "b", "l"}


async def test_what_no_state_can_hold_is_refused(trees: Trees) -> None:
    root = await trees.empty()
    bad: list[tuple[str, Entry, str]] = [
        ("../a", FILE, "PATH_INVALID"),
        ("/a", FILE, "PATH_INVALID"),
        ("a\nb", FILE, "PATH_INVALID"),
        ("a\udcff", FILE, "PATH_INVALID"),
        ("a", replace(FILE, mode=0o4755), "ENTRY_INVALID"),
        ("a", replace(FILE, digest="sha256:../x"), "ENTRY_INVALID"),
        ("a", TreeLink(""), "ENTRY_INVALID"),
        ("a", TreeLink("a\udcff"), "ENTRY_INVALID"),
        ("a", TreeLink("x" * 4096), "ENTRY_INVALID"),
    ]
    for path, entry, reason in bad:
        with pytest.raises(InvalidArgumentError) as refused:
            await trees.apply(root, added(path, entry))
        assert refused.value.reason == reason
    for missing in (TreeFile(digest(b"never put"), 9), replace(FILE, size=4)):
        with pytest.raises(DataLossError) as lost:
            await trees.apply(root, added("a", missing))
        assert lost.value.reason == "TREE_DAMAGED"


async def test_two_trees_with_the_same_files_have_different_digests(trees: Trees) -> None:
    roots = {await trees.of({"a": FILE}) for _ in range(3)}
    assert len(roots) == 3
    one, other, _ = roots
    assert await trees.diff(one, other) == Effect(())


async def test_sizes_count_each_path(trees: Trees) -> None:
    root = await trees.of({"a": FILE, "b/c": FILE, "l": TreeLink("b")})
    assert await trees.size(root) == TreeSize(3, 6)
    assert await trees.size(await trees.empty()) == TreeSize(0, 0)


def every_object(trees: Trees) -> list[Path]:
    folder = trees._files.folder
    return [path for path in folder.rglob("*") if path.is_file() and len(path.name) == 64]


async def test_any_damage_is_found(trees: Trees) -> None:
    model: dict[str, Entry] = {f"f/{number}": FILE for number in range(9)} | {"x": TreeLink("y")}
    root = await trees.of(model)
    named = {root}
    await trees.sweep([root], now=2**40)
    assert await trees.check(root) == TreeSize(10, 27)
    for path in every_object(trees):
        named.add(f"sha256:{path.name}")
        data = path.read_bytes()
        for wrong in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data + b" ", b""):
            path.write_bytes(wrong)
            with pytest.raises(DataLossError) as found:
                await trees.check(root)
            assert found.value.reason == "TREE_DAMAGED"
        path.unlink()
        with pytest.raises(DataLossError):
            await trees.check(root)
        path.symlink_to(trees._files.folder / "elsewhere")
        (trees._files.folder / "elsewhere").write_bytes(data)
        with pytest.raises(DataLossError):
            await trees.check(root)
        path.unlink()
        path.write_bytes(data)
    assert len(named) > 6
    await trees.check(root)


async def test_nodes_that_are_what_they_say_but_not_as_they_are_made(trees: Trees) -> None:
    """Whoever writes the objects could hide names from some questions; the check finds it."""
    root = await trees.of({str(number): FILE for number in range(40)})
    body = json.loads(trees._files.load(root, 4096))
    top = json.loads(trees._files.load(body["top"]["folder"], 1 << 20))
    top["parts"][0], top["parts"][1] = top["parts"][1], top["parts"][0]
    with files.Batch(trees._files) as batch:
        body["top"]["folder"] = batch.put_bytes(canonical(top))
        forged = batch.put_bytes(canonical(body))
    with pytest.raises(DataLossError, match="another part"):
        await trees.check(forged)
    top["parts"][0] = None
    with files.Batch(trees._files) as batch:
        body["top"]["folder"] = batch.put_bytes(canonical(top))
        forged = batch.put_bytes(canonical(body))
    with pytest.raises(DataLossError, match="more or less"):
        await trees.select(forged, ["**"])


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format":"broker.tree.v2","salt":"","top":null}', b"\xff"])
async def test_what_is_no_state(trees: Trees, data: bytes) -> None:
    with files.Batch(trees._files) as batch:
        name = batch.put_bytes(data)
    for wrong in (name, digest(b"missing"), "sha256:x", "../../etc/passwd", ""):
        with pytest.raises(DataLossError) as refused:
            await trees.size(wrong)
        assert refused.value.reason == "TREE_DAMAGED"


async def test_a_sweep_removes_what_no_state_holds_and_nothing_else(trees: Trees) -> None:
    kept = await trees.of({f"f/{number}": FILE for number in range(9)})
    gone = await trees.of({"a": TreeFile(digest(b"two\n"), 4), "z": FILE})
    also = digest(CONTENTS[3])
    assert (await trees.sweep([], now=None)).removed == 0
    later = trees._files.folder.stat().st_mtime + 3601
    with pytest.raises(DataLossError):
        await trees.sweep([kept, digest(b"no such state")], now=later)
    await trees.check(gone)
    done = await trees.sweep([kept], [also], now=later)
    assert done.removed >= 3
    await trees.check(kept)
    assert trees._files.size(also) == 80
    with pytest.raises(DataLossError):
        await trees.size(gone)
    assert {f"sha256:{path.name}" for path in every_object(trees)} >= {kept, also, FILE.digest}
    assert len(every_object(trees)) == done.kept
    shutil.rmtree(trees._files.folder / FILE.digest[7:9])
    with pytest.raises(DataLossError):
        await trees.check(kept)
