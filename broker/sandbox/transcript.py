"""What a runner tells, checked for order, size and sense, and turned into events. Pure."""

from __future__ import annotations

import enum
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from broker.domain.paths import check_path, matches
from broker.domain.run import (
    Exited,
    FileData,
    FileEnd,
    FileStart,
    Output,
    OutputRules,
    Result,
    RunEvent,
    Started,
    StreamSummary,
    TreeFileStart,
)
from broker.errors import InvalidArgumentError
from broker.sandbox.tree_changes import TreeChanges
from broker.sandbox.wire import CONTROL, FILES, STDERR, STDOUT, Frame, FrameKind, ProtocolViolation

MAX_RESULT_BYTES = 4 * 2**20
MAX_WARNINGS = 40
MAX_TEXT = 600
_MAX_SIGNAL = 64
_MAX_EXIT = 255
_MAX_CPU_S = 1e9


class Phase(enum.Enum):
    """How far a run is."""

    HELD = "held"
    """The job is there, and may not start yet."""
    WAITING = "waiting"
    RUNNING = "running"
    COLLECTING = "collecting"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How the tool's main process ended, in the runner's words."""

    exit_code: int | None
    signal: int | None
    detail: str
    cpu_s: float
    disk_full: bool
    inodes_full: bool

    @property
    def failed(self) -> bool:
        """Whether it ended in any way but exit 0."""
        return self.exit_code != 0


class _Tally:
    """Counts and hashes one output stream; keeps no more than its limit."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._total = 0
        self._digest = hashlib.sha256()

    def take(self, data: bytes) -> Iterator[RunEvent]:
        if not data:
            raise ProtocolViolation("output without bytes")
        left = max(0, self._limit - self._total)
        self._total += len(data)
        self._digest.update(data)
        if kept := data[:left]:
            yield Output(self._name, kept)

    def summary(self) -> StreamSummary:
        return StreamSummary(
            total_bytes=self._total,
            kept_bytes=min(self._total, self._limit),
            truncated=self._total > self._limit,
            digest=f"sha256:{self._digest.hexdigest()}",
        )


class Transcript:
    """Takes frames in the order in which they come; ``phase``, ``exit`` and the rest say what is known so far.

    The tool may not start before ``let_start``: until then a runner can only refuse the job.
    """

    def __init__(
        self, rules: OutputRules, *, output_limit: int, wants_result: bool, tree: TreeChanges | None = None
    ) -> None:
        self.phase = Phase.HELD
        self.exit: ExitReport | None = None
        self.over = False
        """Whether a limit on results struck."""
        self.refusal = ""
        self.warnings: list[str] = []
        self._tree = tree
        self._patterns = [pattern.split("/") for pattern in rules.patterns]
        self._files_left = rules.max_files
        self._bytes_left = rules.max_bytes
        self._wants_result = wants_result
        self._result: bytearray | None = None
        self._stdout = _Tally("stdout", output_limit)
        self._stderr = _Tally("stderr", output_limit)
        self._seen: set[str] = set()
        self._file_left: int | None = None
        collecting = {
            (Phase.COLLECTING, FrameKind.RESULT, FILES): self._on_result,
            (Phase.COLLECTING, FrameKind.OUT_BEGIN, FILES): self._on_file,
            (Phase.COLLECTING, FrameKind.OUT_DATA, FILES): self._on_file_data,
            (Phase.COLLECTING, FrameKind.OUT_END, FILES): self._on_file_end,
            (Phase.COLLECTING, FrameKind.WARNING, CONTROL): self._on_warning,
            (Phase.COLLECTING, FrameKind.OVER, CONTROL): self._on_over,
            (Phase.COLLECTING, FrameKind.DATA, STDOUT): self._stdout.take,
            (Phase.COLLECTING, FrameKind.DATA, STDERR): self._stderr.take,
            (Phase.COLLECTING, FrameKind.END, CONTROL): self._on_end,
        }
        if tree:
            collecting |= {
                (Phase.COLLECTING, FrameKind.TREE_FILE, FILES): self._on_change(tree.file),
                (Phase.COLLECTING, FrameKind.TREE_LINK, FILES): self._on_change(tree.link),
                (Phase.COLLECTING, FrameKind.TREE_REMOVED, FILES): self._on_change(tree.removed),
                (Phase.COLLECTING, FrameKind.TREE_MODE, FILES): self._on_change(tree.mode),
                (Phase.COLLECTING, FrameKind.TREE_PARTIAL, CONTROL): self._on_tree_partial(tree),
            }
        self._handlers: Mapping[tuple[Phase, FrameKind, int], Callable[[bytes], Iterator[RunEvent]]] = {
            (Phase.HELD, FrameKind.REFUSED, CONTROL): self._on_refused,
            (Phase.WAITING, FrameKind.STARTED, CONTROL): self._on_started,
            (Phase.WAITING, FrameKind.REFUSED, CONTROL): self._on_refused,
            (Phase.RUNNING, FrameKind.DATA, STDOUT): self._stdout.take,
            (Phase.RUNNING, FrameKind.DATA, STDERR): self._stderr.take,
            (Phase.RUNNING, FrameKind.EXIT, CONTROL): self._on_exit,
            **collecting,
        }

    def let_start(self) -> None:
        """From now on the tool may start, where the job wasn't refused."""
        if self.phase is Phase.HELD:
            self.phase = Phase.WAITING

    def take(self, frame: Frame) -> Iterator[RunEvent]:
        """The events that a frame stands for, one at most; must be exhausted.

        Raises:
            ProtocolViolation: no runner sends this frame here.
        """
        handler = self._handlers.get((self.phase, frame.kind, frame.channel))
        if handler is None:
            raise ProtocolViolation(f"a frame {frame.kind.name} while {self.phase.value}")
        return handler(frame.payload)

    @property
    def tree_partial(self) -> bool:
        """Whether the runner said that it can't tell all that the tool changed of its tree."""
        return self._tree is not None and self._tree.partial

    @property
    def tree_complete(self) -> bool:
        """Whether there is a tree, and all that changed there has been told."""
        return self._tree is not None and not self._tree.partial and self.phase is Phase.DONE

    def stdout(self) -> StreamSummary:
        """Standard output so far."""
        return self._stdout.summary()

    def stderr(self) -> StreamSummary:
        """Standard error so far."""
        return self._stderr.summary()

    def _on_started(self, _: bytes) -> Iterator[RunEvent]:
        self.phase = Phase.RUNNING
        yield Started()

    def _on_refused(self, payload: bytes) -> Iterator[RunEvent]:
        self.phase = Phase.REFUSED
        self.refusal = visible(payload)
        return iter(())

    def _on_exit(self, payload: bytes) -> Iterator[RunEvent]:
        self.exit = _exit_report(_object(payload))
        self.phase = Phase.COLLECTING
        yield Exited()

    def _on_result(self, payload: bytes) -> Iterator[RunEvent]:
        if not self._wants_result or self._seen or (self._tree and self._tree.begun):
            raise ProtocolViolation("a result that nobody asked for, or not before the files")
        if not payload:
            raise ProtocolViolation("a piece of a result without bytes")
        self._result = self._result if self._result is not None else bytearray()
        self._result += payload
        if len(self._result) > MAX_RESULT_BYTES:
            raise ProtocolViolation("a result over its limit")
        return iter(())

    def _on_file(self, payload: bytes) -> Iterator[RunEvent]:
        if self._file_left is not None:
            raise ProtocolViolation("a file in the middle of a file")
        header = _object(payload)
        path, size = header.get("path"), header.get("size")
        if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ProtocolViolation("a file without a path or size")
        try:
            parts = check_path(path, "path")
        except InvalidArgumentError as error:
            raise ProtocolViolation(f"a file with a bad path: {error}") from error
        if path in self._seen or not any(matches(parts, pattern) for pattern in self._patterns):
            raise ProtocolViolation("a file that nobody asked for")
        if self._files_left == 0 or size > self._bytes_left:
            raise ProtocolViolation("more files than the limits allow")
        self._seen.add(path)
        self._files_left -= 1
        self._bytes_left -= size
        self._file_left = size
        yield FileStart(path, size)

    def _on_change(self, read: Callable[[Mapping[str, object]], RunEvent]) -> Callable[[bytes], Iterator[RunEvent]]:
        """What takes a frame of the tree that stands for itself; a file's bytes follow it."""

        def take(payload: bytes) -> Iterator[RunEvent]:
            if self._file_left is not None:
                raise ProtocolViolation("a change of the tree in the middle of a file")
            event = read(_object(payload))
            if isinstance(event, TreeFileStart):
                self._file_left = event.size
            yield event

        return take

    def _on_tree_partial(self, tree: TreeChanges) -> Callable[[bytes], Iterator[RunEvent]]:
        def take(_: bytes) -> Iterator[RunEvent]:
            if self._file_left is not None:
                raise ProtocolViolation("a tree that is given up in the middle of a file")
            tree.cut()
            return iter(())

        return take

    def _on_file_data(self, payload: bytes) -> Iterator[RunEvent]:
        if self._file_left is None or not payload or len(payload) > self._file_left:
            raise ProtocolViolation("file data that was not announced")
        self._file_left -= len(payload)
        yield FileData(payload)

    def _on_file_end(self, _: bytes) -> Iterator[RunEvent]:
        if self._file_left != 0:
            raise ProtocolViolation("a file that ends before its size, or none at all")
        self._file_left = None
        yield FileEnd()

    def _on_warning(self, payload: bytes) -> Iterator[RunEvent]:
        if len(self.warnings) >= MAX_WARNINGS:
            raise ProtocolViolation("too many warnings")
        self.warnings.append(visible(payload))
        return iter(())

    def _on_over(self, _: bytes) -> Iterator[RunEvent]:
        if self.over:
            raise ProtocolViolation("a limit that struck twice")
        self.over = True
        return iter(())

    def _on_end(self, _: bytes) -> Iterator[RunEvent]:
        if self._file_left is not None:
            raise ProtocolViolation("an end in the middle of a file")
        if self._tree:
            self._tree.end()
        self.phase = Phase.DONE
        if self._result is not None:
            yield Result(bytes(self._result))


def visible(payload: bytes) -> str:
    """Text from a container, cut short, with everything that a terminal might act on written as an escape."""
    text = payload.decode("utf-8", errors="backslashreplace")
    cut = f"{text[:MAX_TEXT]}..." if len(text) > MAX_TEXT else text
    return "".join(
        char if unicodedata.category(char)[0] != "C" else char.encode("unicode_escape").decode() for char in cut
    )


def _object(payload: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("a header that is no JSON") from error
    if not isinstance(value, dict):
        raise ProtocolViolation("a header that is no object")
    return value


def _exit_report(header: Mapping[str, object]) -> ExitReport:
    code, signal, cpu, detail = (header.get(key) for key in ("exit", "signal", "cpu_s", "detail"))
    if (code is None) == (signal is None):
        raise ProtocolViolation("an end with neither or both of exit code and signal")
    full = header.get("full")
    disk, inodes = (
        isinstance(full, dict) and any(isinstance(item, dict) and item.get(key) is True for item in full.values())
        for key in ("blocks", "inodes")
    )
    if not isinstance(cpu, int | float) or isinstance(cpu, bool) or not 0 <= cpu < _MAX_CPU_S:
        raise ProtocolViolation("an end with a bad CPU time")
    return ExitReport(
        exit_code=None if code is None else _number(code, _MAX_EXIT),
        signal=None if signal is None else _number(signal, _MAX_SIGNAL),
        detail=visible(detail.encode(errors="backslashreplace")) if isinstance(detail, str) else "",
        cpu_s=float(cpu),
        disk_full=disk,
        inodes_full=inodes,
    )


def _number(value: object, highest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise ProtocolViolation("an end with a bad exit code or signal")
    return value
