"""The benchmark of undo: its trees, what it times, and what it holds the figures to."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from benchmarks.trees import CHANGED, changed_paths, copied, make_tree, stashed, stashing
from benchmarks.undo import SIZES, TARGET_RATIO, judged
from benchmarks.undo_steps import Steps, watching
from broker.pipeline import planning
from broker.pipeline.execution import Execution

STEPS = ("plan", "capture", "rehearse", "apply", "change", "undo", "undo_apply")


def figures(apply: float, undo: float) -> dict[int, dict[str, float]]:
    small, large = SIZES
    base = dict.fromkeys(STEPS, 10.0)
    return {small: base, large: {**base, "apply": apply, "undo": undo}}


def test_a_tree_is_as_described(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", SIZES[0])
    files = [path for path in (tmp_path / "tree").rglob("*") if path.is_file()]
    assert len(files) == SIZES[0]
    assert len({path.read_bytes() for path in files}) == SIZES[0]
    paths = changed_paths()
    assert len({path.partition("/")[0] for path in paths}) == len(paths) == CHANGED
    assert all((tmp_path / "tree" / path).is_file() for path in paths)


def test_the_peers_work_on_the_tree_and_leave_it_as_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree, SIZES[0])
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert copied(tree, tmp_path / "copy") > 0
    assert not (tmp_path / "copy").exists()
    with stashing(tree):
        assert stashed(tree, "one ") > 0
        status = subprocess.run(["git", "-C", str(tree), "status", "--porcelain"], capture_output=True, check=True)
        assert status.stdout == b""
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("large", "met"), [(TARGET_RATIO * 10, True), (TARGET_RATIO * 10 + 0.1, False)])
def test_cost_follows_the_change_or_the_target_is_missed(*, large: float, met: bool) -> None:
    peers = dict.fromkeys(SIZES, 1.0)
    for step, taken in (("apply", figures(large, 10)), ("undo", figures(10, large))):
        found = {item.key: item for item in judged(taken, copies=peers, stashes=peers, send_mib_per_s=1)}
        assert found[f"{step}_{SIZES[1]}_{CHANGED}_ms"].met is met
        assert found[f"{step}_ratio"].met is met
        assert [key for key, item in found.items() if not item.met] == (
            [] if met else [f"{step}_{SIZES[1]}_{CHANGED}_ms", f"{step}_ratio"]
        )


def test_every_figure_that_is_promised_is_there() -> None:
    peers = dict.fromkeys(SIZES, 1.0)
    keys = {item.key for item in judged(figures(10, 10), copies=peers, stashes=peers, send_mib_per_s=1)}
    assert keys >= {
        f"{step}_{size}_10_ms" for step in ("plan", "capture", "rehearse", "apply", "undo") for size in (1000, 50_000)
    }
    assert keys >= {"cp_a_1000_ms", "cp_a_50000_ms", "git_stash_1000_10_ms", "git_stash_50000_10_ms", "send_mib_per_s"}


async def test_steps_are_timed_and_their_work_is_done() -> None:
    steps, gate = Steps(), asyncio.Event()

    async def work(value: int) -> int:
        await gate.wait()
        return value + 1

    steps.begin()
    running = asyncio.ensure_future(steps.timed("work", work)(1))
    await asyncio.sleep(0)
    assert "work" not in steps.taken
    gate.set()
    assert await running == 2
    assert steps.taken["work"] > 0
    assert await steps.reached("there", work)(2) == 3
    assert steps.taken["there"] > 0
    steps.begin()
    assert steps.taken == {}


def test_the_broker_is_as_it_was_after_watching() -> None:
    apply, rehearse = Execution.apply, vars(planning)["rehearse"]
    with watching():
        assert Execution.apply is not apply
        assert vars(planning)["rehearse"] is not rehearse
    assert Execution.apply is apply
    assert vars(planning)["rehearse"] is rehearse
