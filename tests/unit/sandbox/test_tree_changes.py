"""What a runner may tell of a tree: only what was let in, only where it may be written, only what makes a tree."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from broker.domain.run import (
    Exited,
    FileData,
    FileEnd,
    FileStart,
    Job,
    JobLink,
    OutputRules,
    RunEvent,
    Started,
    TreeFileStart,
    TreeLinkMade,
    TreeMode,
    TreeRemoved,
)
from broker.sandbox.transcript import Transcript
from broker.sandbox.tree_changes import TreeChanges, clashing
from broker.sandbox.wire import CONTROL, FILES, ON_FILES, Frame, FrameKind, ProtocolViolation
from tests.puppet_runner import EXIT
from tests.sandbox_support import given, in_tree, python, written

JOB = python(
    "",
    files=(in_tree("d/a", b"a"), in_tree("d/b", b"b", 0o755), in_tree("read", b"r"), given("in.csv", b"i")),
    links=(JobLink("d/l", "a"), JobLink("up", "..")),
    tree=written("d/**", "new", "new/**", max_changes=4, max_bytes=100),
    outputs=OutputRules(("*.out",), 1, 10),
    wants_result=True,
)

Said = tuple[FrameKind, bytes | dict[str, object]]
BEGUN: list[Said] = [(FrameKind.STARTED, b""), (FrameKind.EXIT, dict(EXIT))]
END: Said = (FrameKind.END, b"")
DATA: Said = (FrameKind.OUT_DATA, b"xy")
FILE_END: Said = (FrameKind.OUT_END, b"")
PARTIAL: Said = (FrameKind.TREE_PARTIAL, b"")


def file(path: object = "d/a", size: object = 2, mode: object = 0o644) -> Said:
    return FrameKind.TREE_FILE, {"path": path, "size": size, "mode": mode}


def link(path: object = "d/l", target: object = "b") -> Said:
    return FrameKind.TREE_LINK, {"path": path, "target": target}


def removed(path: object = "d/a") -> Said:
    return FrameKind.TREE_REMOVED, {"path": path}


def mode(path: object = "d/b", bits: object = 0o700) -> Said:
    return FrameKind.TREE_MODE, {"path": path, "mode": bits}


def hear(*frames: Said, job: Job = JOB) -> tuple[Transcript, list[RunEvent]]:
    run = Transcript(job.outputs, output_limit=10, wants_result=True, tree=TreeChanges.of(job))
    run.let_start()
    events: list[RunEvent] = []
    for kind, payload in frames:
        data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
        events.extend(run.take(Frame(kind, data, FILES if kind in ON_FILES else CONTROL)))
    return run, events


def test_a_whole_effect_becomes_events() -> None:
    run, events = hear(*BEGUN, file(), DATA, FILE_END, link("new", "\x01 ü"), removed("d/l"), mode(), END)
    assert events == [
        Started(),
        Exited(),
        TreeFileStart("d/a", 2, 0o644),
        FileData(b"xy"),
        FileEnd(),
        TreeLinkMade("new", "\x01 ü"),
        TreeRemoved("d/l"),
        TreeMode("d/b", 0o700),
    ]
    assert run.tree_complete


def test_a_file_may_be_a_result_and_a_change() -> None:
    job = replace(JOB, outputs=OutputRules(("d/*",), 1, 10))
    result: Said = (FrameKind.OUT_BEGIN, {"path": "d/a", "size": 2})
    _, events = hear(*BEGUN, result, DATA, FILE_END, file(), DATA, FILE_END, END, job=job)
    assert [type(event) for event in events].count(FileStart) == 1


def test_a_tree_is_complete_only_at_the_end_and_when_it_is_not_given_up() -> None:
    assert not hear(*BEGUN, removed())[0].tree_complete
    for frames in ([PARTIAL], [removed(), PARTIAL]):
        run, _ = hear(*BEGUN, *frames, END)
        assert (run.tree_complete, run.tree_partial) == (False, True)
    plain = replace(JOB, tree=None, files=(), links=())
    run, _ = hear(*BEGUN, END, job=plain)
    assert (run.tree_complete, run.tree_partial) == (False, False)


LIES: dict[str, list[Said]] = {
    "before the exit": [BEGUN[0], removed()],
    "before the start": [removed()],
    "after the end": [*BEGUN, END, removed()],
    "a removal of what never went in": [*BEGUN, removed("d/x")],
    "a removal of an input file": [*BEGUN, removed("in.csv")],
    "a removal where nothing may be written": [*BEGUN, removed("read")],
    "a link where nothing may be written": [*BEGUN, link("up", "/")],
    "a file where nothing may be written": [*BEGUN, file("other")],
    "a mode where nothing may be written": [*BEGUN, mode("read")],
    "twice": [*BEGUN, removed(), removed()],
    "made and removed": [*BEGUN, file(), DATA, FILE_END, removed()],
    "a mode of what was made": [*BEGUN, mode("new")],
    "a mode of a link": [*BEGUN, mode("d/l")],
    "a mode as it was": [*BEGUN, mode("d/b", 0o755)],
    "a link as it was": [*BEGUN, link("d/l", "a")],
    "a file below a file": [*BEGUN, file("d/a/x"), DATA, FILE_END, END],
    "a file below a link": [*BEGUN, file("d/l/x"), DATA, FILE_END, END],
    "a file in a folder's place": [*BEGUN, file("d"), DATA, FILE_END, END],
    "a link in a folder's place": [*BEGUN, link("d", "/etc"), END],
    "new below new": [*BEGUN, link("new", "x"), link("new/x", "y"), END],
    "more paths than may change": [*BEGUN, *[link(f"d/{n}", "x") for n in range(5)]],
    "more bytes than may change": [*BEGUN, file(size=101)],
    "a second file over what is left": [*BEGUN, file(size=2), DATA, FILE_END, file("new", 99)],
    "a removal in the middle of a file": [*BEGUN, file(), removed("d/b")],
    "a file in the middle of a file": [*BEGUN, file(), file("new")],
    "a result file in the middle of a file": [*BEGUN, file(), (FrameKind.OUT_BEGIN, {"path": "a.out", "size": 1})],
    "given up in the middle of a file": [*BEGUN, file(), PARTIAL],
    "an end in the middle of a file": [*BEGUN, file(), END],
    "a file that ends early": [*BEGUN, file(), FILE_END],
    "a file that goes on": [*BEGUN, file(), DATA, DATA],
    "a result after a change": [*BEGUN, removed(), (FrameKind.RESULT, b"{}")],
    "given up twice": [*BEGUN, PARTIAL, PARTIAL],
    "a change after it was given up": [*BEGUN, PARTIAL, removed()],
    "no path": [*BEGUN, (FrameKind.TREE_REMOVED, {})],
    "no object": [*BEGUN, (FrameKind.TREE_REMOVED, b"[]")],
    "no JSON": [*BEGUN, (FrameKind.TREE_MODE, b"{")],
}
BAD_PATHS = [
    "",
    "/d/a",
    "d/../a",
    "d//a",
    "d/.",
    "d/a\0",
    "d/\n",
    "d/\udc80",
    "d/" + "x" * 256,
    "d/" * 32 + "a",
    7,
    ["d/a"],
]
BAD_MODES = [-1, 0o1000, 0o4755, True, "644", None, 1.0]
BAD_SIZES = [-1, True, "1", None, 1.5, 2**64]
BAD_TARGETS = ["", "a\0b", "\udc80", "x" * 4096, "ü" * 2048, 7, None]


@pytest.mark.parametrize("frames", LIES.values(), ids=LIES)
def test_what_no_runner_says_is_a_violation(frames: list[Said]) -> None:
    with pytest.raises(ProtocolViolation):
        hear(*frames)


def test_an_input_file_is_no_part_of_the_tree() -> None:
    job = replace(JOB, files=(given("d/in.csv", b"i"),), links=())
    for said in (removed("d/in.csv"), mode("d/in.csv")):
        with pytest.raises(ProtocolViolation):
            hear(*BEGUN, said, job=job)


@pytest.mark.parametrize(
    "said",
    [
        *(make(path) for path in BAD_PATHS for make in (file, link, removed, mode)),
        *(file(mode=bits) for bits in BAD_MODES),
        *(mode(bits=bits) for bits in BAD_MODES),
        *(file(size=size) for size in BAD_SIZES),
        *(link(target=target) for target in BAD_TARGETS),
    ],
)
def test_a_header_out_of_range_is_a_violation(said: Said) -> None:
    with pytest.raises(ProtocolViolation):
        hear(*BEGUN, said)


@pytest.mark.parametrize("said", [file(), link(), removed(), mode(), PARTIAL])
def test_a_job_without_a_tree_hears_nothing_of_one(said: Said) -> None:
    with pytest.raises(ProtocolViolation):
        hear(*BEGUN, said, job=replace(JOB, tree=None, files=(), links=()))


def test_a_folder_may_give_way_to_a_file_and_a_file_to_a_folder() -> None:
    gone = [removed("d/a"), removed("d/b"), removed("d/l")]
    assert hear(*BEGUN, *gone, link("d", "/etc"), END)[0].tree_complete
    assert hear(*BEGUN, removed("d/a"), file("d/a/x"), DATA, FILE_END, END)[0].tree_complete


paths = st.lists(st.sampled_from(["a", "a!", "a0", "b", "é"]), min_size=1, max_size=3).map("/".join)


@given_any(st.sets(paths, max_size=12))
def test_two_paths_clash_where_one_is_a_folder_of_the_other(found: set[str]) -> None:
    pairs = {(one, two) for one in found for two in found if two.startswith(f"{one}/")}
    clash = clashing(found)
    assert clash in pairs if pairs else clash is None


heads = st.dictionaries(
    st.sampled_from(["path", "size", "mode", "target"]),
    st.sampled_from(["d/a", "d/b", "d/l", "d", "d/a/x", "new", "read", "a", 0, 2, 0o644, -1, None]),
)
steps = st.tuples(
    st.sampled_from(
        [FrameKind.TREE_FILE, FrameKind.TREE_LINK, FrameKind.TREE_REMOVED, FrameKind.TREE_MODE, FrameKind.OUT_DATA]
    ),
    heads,
) | st.sampled_from([file(), DATA, FILE_END, link(), removed(), mode(), PARTIAL, END])


@given_any(st.lists(steps, max_size=12))
def test_any_frames_are_an_effect_within_the_rules_or_a_violation(frames: list[Said]) -> None:
    try:
        run, events = hear(*BEGUN, *frames)
    except ProtocolViolation:
        return
    changes = [event for event in events if isinstance(event, TreeFileStart | TreeLinkMade | TreeRemoved | TreeMode)]
    told = [event.path for event in changes]
    assert len(told) == len(set(told)) <= 4
    assert all(path in {"d", "new"} or path.startswith(("d/", "new/")) for path in told)
    assert sum(event.size for event in changes if isinstance(event, TreeFileStart)) <= 100
    if run.tree_complete:
        before = {"d/a", "d/b", "d/l", "read", "up"}
        gone = {event.path for event in changes if isinstance(event, TreeRemoved)}
        made = {event.path for event in changes if isinstance(event, TreeFileStart | TreeLinkMade)}
        assert gone <= before
        assert clashing((before - gone) | made) is None
