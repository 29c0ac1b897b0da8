"""What a runner tells of a job's tree, checked against what went in and what may be written. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from broker.domain.paths import check_path, matches
from broker.domain.run import Job, JobFile, JobLink, TreeFileStart, TreeLinkMade, TreeMode, TreeRemoved, TreeRules
from broker.domain.tree import PERMISSIONS, bad_target
from broker.errors import InvalidArgumentError
from broker.sandbox.wire import ProtocolViolation


class TreeChanges:
    """Takes the headers in the order in which they come; each method raises ``ProtocolViolation`` for what no runner
    says.

    Args:
        rules: what may be written, and how much of it.
        came: what went in, by its path.
    """

    def __init__(self, rules: TreeRules, came: Mapping[str, JobFile | JobLink]) -> None:
        self.partial = False
        """Whether the runner said that it can't tell all."""
        self._patterns = [pattern.split("/") for pattern in rules.patterns]
        self._came = came
        self._changes_left = rules.max_changes
        self._bytes_left = rules.max_bytes
        self._told: set[str] = set()
        self._made: set[str] = set()
        self._removed: set[str] = set()

    @classmethod
    def of(cls, job: Job) -> TreeChanges | None:
        """For a job; ``None`` where it has no tree."""
        if job.tree is None:
            return None
        files = {item.path: item for item in job.files if item.mode is not None}
        return cls(job.tree, {**files, **{item.path: item for item in job.links}})

    @property
    def begun(self) -> bool:
        """Whether anything has been told."""
        return bool(self._told)

    def file(self, header: Mapping[str, object]) -> TreeFileStart:
        """A file is there that is new or has other bytes."""
        path, mode, size = self._path(header), _mode(header), header.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= self._bytes_left:
            raise ProtocolViolation("a file of the tree with a bad size, or of more bytes than the limit allows")
        self._bytes_left -= size
        self._made.add(path)
        return TreeFileStart(path, size, mode)

    def link(self, header: Mapping[str, object]) -> TreeLinkMade:
        """A symbolic link is there that is new or points elsewhere."""
        path, target = self._path(header), header.get("target")
        if not isinstance(target, str) or bad_target(target):
            raise ProtocolViolation("a symbolic link with a bad target")
        if self._came.get(path) == JobLink(path, target):
            raise ProtocolViolation("a symbolic link that is as it was")
        self._made.add(path)
        return TreeLinkMade(path, target)

    def removed(self, header: Mapping[str, object]) -> TreeRemoved:
        """What went in is there no more."""
        path = self._path(header)
        if path not in self._came:
            raise ProtocolViolation("something is said to be removed that never went in")
        self._removed.add(path)
        return TreeRemoved(path)

    def mode(self, header: Mapping[str, object]) -> TreeMode:
        """A file has other permission bits, and the bytes that went in."""
        path, mode = self._path(header), _mode(header)
        came = self._came.get(path)
        if not isinstance(came, JobFile) or came.mode == mode:
            raise ProtocolViolation("a mode of what is no file that went in, or that is as it was")
        return TreeMode(path, mode)

    def cut(self) -> None:
        """Not all can be told."""
        if self.partial:
            raise ProtocolViolation("a tree that is given up twice")
        self.partial = True

    def end(self) -> None:
        """All has been told: what is there now must be a tree."""
        if self._made:
            there = {*(path for path in self._came if path not in self._removed), *self._made}
            if clash := clashing(there):
                raise ProtocolViolation(f"both {clash[0]!a} and {clash[1]!a} are said to be there")

    def _path(self, header: Mapping[str, object]) -> str:
        path = header.get("path")
        if self.partial or self._changes_left == 0:
            raise ProtocolViolation("more changes of the tree than the limit allows, or after it was given up")
        if not isinstance(path, str):
            raise ProtocolViolation("a change of the tree without a path")
        try:
            parts = check_path(path, "path")
        except InvalidArgumentError as error:
            raise ProtocolViolation(f"a change of the tree at a bad path: {error}") from error
        if path in self._told or not any(matches(parts, pattern) for pattern in self._patterns):
            raise ProtocolViolation("a change of the tree where nothing may be written, or for the second time")
        self._told.add(path)
        self._changes_left -= 1
        return path


def clashing(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two of the paths of which the first would have to be a folder for the second, if there are any."""
    ordered = sorted(paths)
    for path in ordered:
        at = bisect_left(ordered, f"{path}/")
        if at < len(ordered) and ordered[at].startswith(f"{path}/"):
            return path, ordered[at]
    return None


def _mode(header: Mapping[str, object]) -> int:
    mode = header.get("mode")
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= PERMISSIONS:
        raise ProtocolViolation("a file of the tree with a bad mode")
    return mode
