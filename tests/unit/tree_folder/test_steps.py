"""The order in which an effect is put into a folder."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.domain.tree import Effect, TreeFile
from broker.tree_folder.steps import above, steps_of
from tests.folder_effects import AFTER, BEFORE, effect_of

FILE, OTHER = TreeFile("sha256:" + "a" * 64, 1), TreeFile("sha256:" + "b" * 64, 1)


def test_each_change_has_its_place_and_folders_come_when_they_are_needed() -> None:
    effect = effect_of(BEFORE, AFTER)
    steps = steps_of(effect)
    assert [item.change.path for item in steps.removals] == [
        "becomes-file/a",
        "becomes-file/deep/b",
        "becomes-folder",
        "kept/one",
        "old/inner/also",
        "old/only",
    ]
    assert steps.yielding == ("becomes-file/deep", "becomes-file")
    assert steps.making == ("new", "kept", "becomes-folder", "new/folder", "becomes-folder/inner")
    assert steps.emptied == ("old/inner", "old")
    assert {item.place for item in steps.numbered} == {str(number) for number in range(len(effect.changes))}


_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)


def _fits(paths: set[str]) -> bool:
    return not any(folder in paths for path in paths for folder in above(path))


_TREES = st.dictionaries(_PATHS, st.sampled_from([FILE, OTHER])).filter(lambda tree: _fits(set(tree)))


@given(_TREES, _TREES)
def test_taken_in_order_each_step_can_be_taken(before: dict[str, TreeFile], after: dict[str, TreeFile]) -> None:
    steps = steps_of(Effect.between(before, after))
    files, folders = dict(before), {folder for path in before for folder in above(path)}

    def empty(folder: str) -> bool:
        return not any(path.startswith(f"{folder}/") for path in (*files, *folders))

    for item in steps.removals:
        del files[item.change.path]
    for folder in steps.yielding:
        assert empty(folder)
        folders.remove(folder)
    for folder in steps.making:
        assert folder not in files
        assert set(above(folder)) <= folders
        folders.add(folder)
    for item in steps.exchanges:
        assert item.change.path in files
        files[item.change.path] = after[item.change.path]
    for item in steps.additions:
        path = item.change.path
        assert path not in files
        assert path not in folders
        assert set(above(path)) <= folders
        files[path] = after[path]
    for folder in steps.emptied:
        if empty(folder):
            folders.remove(folder)
    assert files == after
    assert folders == {folder for path in after for folder in above(path)}
