"""Tells what a tool changed of the tree that went in with it: hostile until proved to be files and links.

Every process of the tool has ended by now, so that nothing moves any more. First all of it is looked at, then all of it
is sent: where something is there that a tree can't hold, or more than the limits allow, not even a part is.

Bytes are compared by their digest, not by a file's times: gVisor leaves them alone when a file is written through a map
of memory, and a write within the tick of the clock in which the file went in has its very times.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from runner import frames
from runner.frames import Refusal
from runner.inputs import MAX_DEPTH, split_path
from runner.light import as_json
from runner.outputs import MAX_ENTRIES, Frame, matches, pieces, reach

MAX_TARGET = 4095
_NAMED = 3
_SHOWN = 120
"""Characters of a name in a warning."""
_PERMISSIONS = 0o777
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER = 0o500

Header = dict[str, object]


class _TooMuch(Exception):  # noqa: N818  # it ends the search, and is no error
    """The search needn't go on."""


class Tree:
    """What came in, and what is there now.

    Args:
        rules: ``patterns`` of what may be written, ``max_changes`` and ``max_bytes``.
        came: header of each file and link that came in, by its path; ordinary input files have no ``mode``.
        fetched: patterns of the result files, which are no change of the tree.
    """

    def __init__(self, rules: Header, came: dict[str, Header], fetched: list[str]) -> None:
        self._patterns = [pattern.split("/") for pattern in rules["patterns"]]  # type: ignore[attr-defined]  # the broker made this JSON
        self._fetched = [pattern.split("/") for pattern in fetched]
        self._changes_left: int = rules["max_changes"]  # type: ignore[assignment]  # the same
        self._bytes_left: int = rules["max_bytes"]  # type: ignore[assignment]  # the same
        self._inputs = {path for path, header in came.items() if "mode" not in header and "target" not in header}
        self._came = {path: header for path, header in came.items() if path not in self._inputs}
        self._seen: set[str] = set()
        self._looked_at = 0
        self._changes: list[tuple[int, Header]] = []
        self._problems: list[str] = []
        self._strays: list[str] = []

    def tell(self, work: str) -> Iterator[Frame]:
        """The frames of all changes below ``work``, or of the reasons why they can't be told."""
        try:
            self._search(work)
            self._find_removed()
        except _TooMuch as reason:
            self._problems.insert(0, str(reason))
        for text in self._problems[:_NAMED]:
            yield _warning(f"what the tool changed can't be taken: {text}")
        if len(self._problems) > _NAMED:
            yield _warning(f"{len(self._problems) - _NAMED} more things can't be taken")
        if self._strays:
            names = ", ".join(map(_shown, self._strays[:_NAMED]))
            more = f" and {len(self._strays) - _NAMED} more" if len(self._strays) > _NAMED else ""
            yield _warning(f"changed outside of what may be written, and ignored: {names}{more}")
        if self._problems:
            yield frames.TREE_PARTIAL, frames.CONTROL, b""
            return
        for kind, header in self._changes:
            yield kind, frames.FILES, as_json(header)
            if kind == frames.TREE_FILE:
                yield from _content(work, header)

    def _search(self, work: str) -> None:
        waiting: list[list[str]] = [[]]
        while waiting:
            parts = waiting.pop()
            try:
                folder = _enter_below(work, parts)
            except OSError as error:
                self._not_searched(parts, str(error.strerror))
                continue
            try:
                inner = [[*parts, name] for name in self._names(folder) if self._look(folder, name, [*parts, name])]
            finally:
                os.close(folder)
            waiting.extend(reversed(inner))

    def _names(self, folder: int) -> list[str]:
        names = []
        with os.scandir(folder) as found:
            for entry in found:
                self._looked_at += 1
                if self._looked_at > MAX_ENTRIES:
                    raise _TooMuch(f"the search stopped after {MAX_ENTRIES} entries")
                names.append(entry.name)
        return sorted(names)

    def _look(self, folder: int, name: str, parts: list[str]) -> bool:
        """Takes note of one entry; whether it is a folder to search."""
        path = "/".join(parts)
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            if len(parts) < MAX_DEPTH:
                return True
            self._not_searched(parts, "it lies too deep")
            return False
        self._seen.add(path)
        writable = self._writable(parts)
        if not writable and (path in self._inputs or any(matches(parts, pattern) for pattern in self._fetched)):
            return False
        try:
            split_path(path)
            found = self._difference(folder, name, path, facts)
        except Refusal as refusal:
            self._problem(path, str(refusal), writable=writable)
        except OSError as error:
            self._problem(path, str(error.strerror), writable=writable)
        else:
            if found and writable:
                self._add(*found)
            elif found:
                self._strays.append(path)
        return False

    def _difference(self, folder: int, name: str, path: str, facts: os.stat_result) -> tuple[int, Header] | None:
        """The frame that tells how an entry differs from what came in.

        Raises:
            Refusal: a tree can't hold it.
        """
        came = self._came.get(path, {})
        if stat.S_ISLNK(facts.st_mode):
            target = _target(folder, name)
            return None if came.get("target") == target else (frames.TREE_LINK, {"path": path, "target": target})
        if not stat.S_ISREG(facts.st_mode):
            raise Refusal("it is neither file, symbolic link nor folder")
        mode = facts.st_mode & _PERMISSIONS
        # The size first: a file may claim to be huge.
        if came.get("size") != facts.st_size or came.get("digest") != _digest(folder, name, facts):
            return frames.TREE_FILE, {"path": path, "size": facts.st_size, "mode": mode}
        return None if came["mode"] == mode else (frames.TREE_MODE, {"path": path, "mode": mode})

    def _find_removed(self) -> None:
        for path in self._came:
            if path in self._seen:
                continue
            if self._writable(path.split("/")):
                self._add(frames.TREE_REMOVED, {"path": path})
            else:
                self._strays.append(path)

    def _add(self, kind: int, header: Header) -> None:
        self._changes_left -= 1
        self._bytes_left -= int(header.get("size", 0))  # type: ignore[call-overload]  # it is one
        if self._changes_left < 0:
            raise _TooMuch("it changed more paths than the limit allows")
        if self._bytes_left < 0:
            raise _TooMuch("it changed files of more bytes than the limit allows")
        self._changes.append((kind, header))

    def _writable(self, parts: list[str]) -> bool:
        return any(matches(parts, pattern) for pattern in self._patterns)

    def _problem(self, path: str, why: str, *, writable: bool) -> None:
        if writable:
            self._problems.append(f"{_shown(path)}: {why}")
        else:
            self._strays.append(path)

    def _not_searched(self, parts: list[str], why: str) -> None:
        below = any(any(at < len(pattern) for at in reach(parts, pattern)) for pattern in self._patterns)
        self._problem("/".join(parts), f"the folder can't be searched, {why}", writable=below)


def _warning(text: str) -> Frame:
    return frames.WARNING, frames.CONTROL, frames.as_text(text)


def _shown(path: str) -> str:
    return repr(path if len(path) <= _SHOWN else f"{path[:_SHOWN]}...")


def _target(folder: int, name: str) -> str:
    target = os.fsencode(os.readlink(name, dir_fd=folder))
    try:
        text = target.decode()
    except UnicodeDecodeError:
        raise Refusal("its target is not valid UTF-8") from None
    if len(target) > MAX_TARGET:
        raise Refusal(f"its target has more than {MAX_TARGET} bytes")
    return text


def _digest(folder: int, name: str, facts: os.stat_result) -> str:
    found = hashlib.sha256()
    for piece in _read(folder, name, facts):
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


def _content(work: str, header: Header) -> Iterator[Frame]:
    parts = str(header["path"]).split("/")
    folder = _enter_below(work, parts[:-1])
    try:
        facts = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        for piece in _read(folder, parts[-1], facts):
            yield frames.OUT_DATA, frames.FILES, piece
        yield frames.OUT_END, frames.FILES, b""
    finally:
        os.close(folder)


def _read(folder: int, name: str, facts: os.stat_result) -> Iterator[bytes]:
    """The bytes of a plain file of ours, also of one that its mode doesn't let us read."""
    try:
        handle = os.open(name, _FILE, dir_fd=folder)
    except PermissionError:
        mode = facts.st_mode & _PERMISSIONS
        os.chmod(name, mode | stat.S_IRUSR, dir_fd=folder)  # below a descriptor; it is no link
        try:
            handle = os.open(name, _FILE, dir_fd=folder)
        finally:
            os.chmod(name, mode, dir_fd=folder)  # it may have another name, which is yet to be looked at
    try:
        yield from pieces(handle, facts.st_size)
    finally:
        os.close(handle)


def _enter_below(work: str, parts: list[str]) -> int:
    """Opens a folder to search, following no link; the modes of folders are no part of a tree, and give way.

    Raises:
        OSError: it can't be opened.
    """
    handle = _enter(work, None)
    for part in parts:
        try:
            inner = _enter(part, handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def _enter(name: str, folder: int | None) -> int:
    try:
        handle = os.open(name, _FOLDER, dir_fd=folder)
    except PermissionError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        os.chmod(name, _ENTER, dir_fd=folder)  # below a descriptor
        handle = os.open(name, _FOLDER, dir_fd=folder)
    if os.fstat(handle).st_mode & _ENTER != _ENTER:
        os.fchmod(handle, _ENTER)
    return handle
