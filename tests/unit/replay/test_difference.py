"""What counts as a difference between two runs, and how it is told."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from broker.domain.call import CallState
from broker.domain.events import Outcome, OutputFile
from broker.domain.run import EndCause, EvidenceSource, StreamSummary
from broker.domain.tree import Change, Effect, TreeFile
from broker.replay.difference import MAX_DIFF_LINES, MAX_TEXT, Contents, between, compare
from broker.replay.recording import Ended


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def summary(data: bytes, kept: int | None = None) -> StreamSummary:
    count = len(data) if kept is None else kept
    return StreamSummary(len(data), count, count < len(data), digest(data))


def ended(stdout: bytes = b"out\n", *, kept: int | None = None, effect: Effect | None = None) -> Ended:
    outcome = Outcome(
        EndCause.TOOL,
        EvidenceSource.SANDBOX,
        "ended",
        exit_code=0,
        stdout=summary(stdout, kept),
        stderr=summary(b""),
        wall_s=1.0,
    )
    return Ended(outcome, CallState.SUCCEEDED, effect, {"stdout": stdout[:kept], "stderr": b""})


def parts(recorded: Ended, again: Ended, contents: Contents | None = None) -> list[str]:
    return [item.part for item in compare(recorded, again, contents or Contents())]


def test_time_is_no_difference() -> None:
    again = ended()
    assert parts(ended(), replace(again, outcome=replace(again.outcome, wall_s=99.0, detail="else", cpu_s=1.0))) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [({"exit_code": 1}, "exit_code"), ({"signal": 9}, "signal"), ({"cause": EndCause.TIME}, "cause")],
)
def test_the_end_is_compared(change: dict[str, object], part: str) -> None:
    again = ended()
    assert parts(ended(), replace(again, outcome=replace(again.outcome, **change))) == [part]  # type: ignore[arg-type]


def test_who_was_cut_short_is_not_blamed_for_it() -> None:
    cut = ended()
    cut = replace(cut, outcome=replace(cut.outcome, cause=EndCause.CLIENT), state=CallState.CANCELLED)
    assert parts(cut, ended()) == []
    assert parts(ended(), replace(ended(), state=CallState.FAILED)) == ["state"]
    assert parts(replace(ended(), state=CallState.UNDONE), ended()) == []
    assert parts(replace(ended(), state=None), replace(ended(), state=CallState.FAILED)) == []


def test_output_that_was_cut_is_compared_whole() -> None:
    assert parts(ended(b"abcdef", kept=3), ended(b"abcdef", kept=3)) == []
    (item,) = compare(ended(b"abcdef", kept=3), ended(b"abcdeF", kept=3), Contents())
    assert (item.part, item.diff, item.offset) == ("stdout", (), None)
    assert "of which 3 were kept" in item.recorded


def test_files_are_compared_by_digest_and_told_as_far_as_they_are_kept() -> None:
    def with_file(name: str, data: bytes) -> Ended:
        found = ended()
        return replace(found, outcome=replace(found.outcome, files=(OutputFile(name, "", len(data), digest(data)),)))

    old, new = with_file("out/a", b"one\n"), with_file("out/a", b"two\n")
    contents = Contents({digest(b"one\n"): b"one\n"}, {digest(b"two\n"): b"two\n"})
    (item,) = compare(old, new, contents)
    assert (item.part, item.offset) == ("files[out/a]", 0)
    assert item.diff == ("--- recorded", "+++ rerun", "@@ -1 +1 @@", "-one", "+two")
    (item,) = compare(old, new, Contents())
    assert (item.diff, item.offset) == ((), None)
    assert parts(old, with_file("out/b", b"one\n")) == ["files[out/a]", "files[out/b]"]


def test_an_effect_is_compared_path_by_path() -> None:
    def effect(mode: int, *more: Change) -> Effect:
        return Effect.of((Change("a", None, TreeFile(digest(b"x"), 1, mode)), *more))

    gone = Change("b", TreeFile(digest(b"y"), 1), None)
    assert parts(ended(effect=effect(0o644)), ended(effect=effect(0o644))) == []
    assert parts(ended(effect=effect(0o644)), ended(effect=effect(0o600, gone))) == ["effect[a]", "effect[b]"]
    assert parts(ended(effect=effect(0o644)), ended(effect=None)) == ["effect[a]"]
    assert parts(ended(effect=None), ended(effect=effect(0o644))) == []


def test_a_result_is_told_line_by_line() -> None:
    again = ended()
    (item,) = compare(ended(), replace(again, outcome=replace(again.outcome, result_json='{"a": 1}')), Contents())
    assert (item.part, item.diff[-1], item.offset) == ("result", '+{"a": 1}', 0)


def test_bytes_that_are_no_text_have_an_offset() -> None:
    assert between(b"\0\1\2", b"\0\1\3") == ((), 2)
    assert between(b"\xff\xfe", b"\xff") == ((), 1)
    assert between(b"same", b"same") == ((), None)


def test_what_is_long_is_cut_and_said_so() -> None:
    assert between(b"x" * (MAX_TEXT + 1), b"y") == ((), 0)
    old, new = (b"".join(b"%c%d\n" % (letter, line) for line in range(2000)) for letter in b"ab")
    diff, offset = between(old, new)
    assert (len(diff), offset) == (MAX_DIFF_LINES + 1, 0)
    assert diff[-1].startswith("... and ")


def test_output_of_which_only_one_run_knows_is_a_difference() -> None:
    again = ended()
    unknown = replace(again, outcome=replace(again.outcome, stdout=None))
    assert parts(ended(), unknown) == parts(unknown, ended()) == ["stdout"]
    cut = replace(unknown, outcome=replace(unknown.outcome, cause=EndCause.ENGINE))
    assert parts(cut, ended()) == []
