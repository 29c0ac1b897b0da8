"""In what two runs of the same job differ. Pure: what has to be read has been read.

Time is told and never a reason. What chance or the clock decides in a tool shows as a difference, as it should.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from broker.domain.call import CallState
from broker.domain.canonical import canonical
from broker.domain.events import OutputFile
from broker.domain.run import EndCause, StreamSummary
from broker.domain.tree import Change, Effect, Entry, TreeFile, entry_body
from broker.replay.recording import STREAMS, Ended

MAX_TEXT = 256 * 1024
"""Bytes of a text, each side, that a line-by-line difference is made of; beyond it the first differing byte is named."""
MAX_LINES = 4000
"""Lines of a text, each side, likewise."""
MAX_DIFF_LINES = 400
"""Lines of a difference; how many more there are is said."""
_CONTEXT = 3
NOT_THE_TOOLS = frozenset({EndCause.POLICY, EndCause.OPERATOR, EndCause.CLIENT, EndCause.ENGINE})
"""Ends that somebody beside the tool brought about."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Bytes of result files and of changed files, by digest, as far as they are kept and short enough to be compared."""

    recorded: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    rerun: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was otherwise."""

    part: str
    """``exit_code``, ``signal``, ``cause``, ``state``, ``stdout``, ``stderr``, ``result``, ``files[PATH]``, ``effect[PATH]``, ..."""
    recorded: str
    """In words; empty where there was nothing."""
    rerun: str
    diff: tuple[str, ...] = ()
    """A unified difference of two texts, without line ends; empty where it isn't one of texts."""
    offset: int | None = None
    """The first byte that differs, where both are at hand."""


def compare(recorded: Ended, again: Ended, contents: Contents) -> tuple[Difference, ...]:
    """All in which a rerun differs from what was recorded, in the order in which a person asks.

    Args:
        recorded: how the recorded run ended.
        again: how the rerun ended, and the state to which it would have led.
        contents: of files.
    """
    outcome = again.outcome
    return tuple(
        itertools.chain(
            _end(recorded, again),
            *(_stream(name, recorded, again) for name in STREAMS),
            _result(recorded.outcome.result_json, outcome.result_json),
            _files(recorded.outcome.files, outcome.files, contents),
            () if recorded.effect is None else _effect(recorded.effect, again.effect or Effect(()), contents),
        )
    )


def _end(recorded: Ended, again: Ended) -> Iterator[Difference]:
    before, outcome = recorded.outcome, again.outcome
    pairs: list[tuple[str, object, object]] = [
        ("exit_code", before.exit_code, outcome.exit_code),
        ("signal", before.signal, outcome.signal),
    ]
    if before.cause not in NOT_THE_TOOLS:
        pairs.append(("cause", before.cause.value, outcome.cause.value))
        if recorded.state is not None and again.state is not None:
            then = CallState.SUCCEEDED if recorded.state in {CallState.UNDONE, CallState.UNDOING} else recorded.state
            pairs.append(("state", then.value, again.state.value))
    for part, old, new in pairs:
        if old != new:
            yield Difference(part, _word(old), _word(new))


def _word(value: object) -> str:
    return "" if value is None else str(value)


def _stream(name: str, recorded: Ended, again: Ended) -> Iterator[Difference]:
    old: StreamSummary | None = getattr(recorded.outcome, name)
    new: StreamSummary | None = getattr(again.outcome, name)
    if old is None or new is None:
        # Of a run that was cut off from outside nobody counted the bytes.
        if (old is None) != (new is None) and recorded.outcome.cause not in NOT_THE_TOOLS:
            yield Difference(
                name, "not known" if old is None else _told(old), "not known" if new is None else _told(new)
            )
        return
    if (old.total_bytes, old.digest) == (new.total_bytes, new.digest):
        return
    diff, offset = between(recorded.output[name], again.output[name])
    yield Difference(name, _told(old), _told(new), diff, offset)


def _told(summary: StreamSummary) -> str:
    cut = f", of which {summary.kept_bytes} were kept" if summary.truncated else ""
    return f"{summary.total_bytes} bytes{cut}, {summary.digest}"


def _result(old: str, new: str) -> Iterator[Difference]:
    if old != new:
        diff, offset = between(old.encode(), new.encode())
        yield Difference("result", f"{len(old.encode())} bytes", f"{len(new.encode())} bytes", diff, offset)


def _files(old: Sequence[OutputFile], new: Sequence[OutputFile], contents: Contents) -> Iterator[Difference]:
    before, after = {item.path: item for item in old}, {item.path: item for item in new}
    for path in sorted({*before, *after}):
        one, two = before.get(path), after.get(path)
        digests = ("" if one is None else one.digest, "" if two is None else two.digest)
        if digests[0] != digests[1]:
            words = tuple("" if item is None else f"{item.size} bytes, {item.digest}" for item in (one, two))
            yield _content(f"files[{path}]", words, digests, contents)


def _effect(old: Effect, new: Effect, contents: Contents) -> Iterator[Difference]:
    before, after = {item.path: item for item in old.changes}, {item.path: item for item in new.changes}
    for path in sorted({*before, *after}):
        one, two = before.get(path), after.get(path)
        if one == two:
            continue
        words = _change(one), _change(two)
        yield _content(f"effect[{path}]", words, (_digest(one), _digest(two)), contents)


def _change(change: Change | None) -> str:
    if change is None:
        return ""
    return f"{change.kind}: {_entry(change.before)} -> {_entry(change.after)}"


def _entry(entry: Entry | None) -> str:
    match entry:
        case None:
            return "nothing"
        case TreeFile(content, size, mode):
            return f"{size} bytes, mode {mode:04o}, {content}"
        case _:
            return f"a link, {canonical(entry_body(entry)).decode()}"


def _digest(change: Change | None) -> str:
    return change.after.digest if change is not None and isinstance(change.after, TreeFile) else ""


def _content(part: str, words: Sequence[str], digests: Sequence[str], contents: Contents) -> Difference:
    old, new = contents.recorded.get(digests[0]), contents.rerun.get(digests[1])
    if old is None or new is None or old == new:
        return Difference(part, words[0], words[1])
    diff, offset = between(old, new)
    return Difference(part, words[0], words[1], diff, offset)


def between(old: bytes, new: bytes) -> tuple[tuple[str, ...], int | None]:
    """A unified difference of two texts, and the first byte at which they differ (``None`` where they are the same)."""
    if old == new:
        return (), None
    offset = next((at for at, (one, two) in enumerate(zip(old, new, strict=False)) if one != two), None)
    offset = min(len(old), len(new)) if offset is None else offset
    lines = _lines(old), _lines(new)
    if lines[0] is None or lines[1] is None:
        return (), offset
    found = difflib.unified_diff(lines[0], lines[1], "recorded", "rerun", n=_CONTEXT, lineterm="")
    diff = tuple(itertools.islice(found, MAX_DIFF_LINES))
    more = sum(1 for _ in found)
    return (*diff, *([f"... and {more} more line(s) of differences"] if more else [])), offset


def _lines(data: bytes) -> list[str] | None:
    """The lines of a text; ``None`` where it is none, or too long to be compared line by line."""
    if len(data) > MAX_TEXT or b"\0" in data:
        return None
    try:
        lines = data.decode("utf-8").removesuffix("\n").split("\n") if data else []
    except UnicodeDecodeError:
        return None
    return lines if len(lines) <= MAX_LINES else None
