"""What is remembered of a folder of the host, so that looking at it again reads only what has changed. Pure.

A file is known by its inode, size, times and mode. Two changes within the clock's tick leave the same times: what was read
so soon after its last change is *racy*, and is read again until its times are old (git does the same).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from broker.domain.canonical import JsonValue
from broker.domain.tree import Change, Effect, Entry, entry_body, read_entry
from broker.errors import DataLossError
from broker.tree_folder.scanning import Facts, Scan

FORMAT = "broker.folder-memory.v1"
"""First member of what is kept; another set of members gets another name."""

TICK_NS = 2_000_000_000
"""Times this close to the moment of reading prove nothing: no file system's clock is coarser."""


@dataclass(slots=True)
class Memory:
    """What was seen of a folder, and by which state the workspace is known that it was brought into."""

    root: tuple[int, int]
    """Device and inode of the folder."""
    state: str = ""
    """The state from which ``pending`` leads to ``entries``; empty for none."""
    entries: dict[str, Entry] = field(default_factory=dict)
    seen: dict[str, Facts] = field(default_factory=dict)
    """Facts of files and links as they were read."""
    folders: dict[str, Facts] = field(default_factory=dict)
    racy: set[str] = field(default_factory=set)
    pending: dict[str, Entry | None] = field(default_factory=dict)
    """Paths that aren't as in ``state``, with what that has there."""

    def suspects(self, scan: Scan) -> list[str]:
        """Paths that have to be read, sorted: they are new, have other facts, or are racy."""
        changed = {path for path, facts in scan.found.items() if self.seen.get(path) != facts}
        return sorted(changed | (self.racy & scan.found.keys()), key=str.encode)

    def take(self, scan: Scan, read: Mapping[str, Entry | None], now_ns: int) -> bool:
        """Takes what was found.

        Args:
            scan: what the folder holds.
            read: what lay at each suspect; ``None`` where it was changed while it was read.
            now_ns: the time before the scan.

        Returns:
            Whether all was as it had been seen the time before. Then all of it was there at one moment: after the look
            before, and before this one.
        """
        steady = scan.folders == self.folders and scan.found == self.seen
        self.folders = scan.folders
        for path in [path for path in self.entries if path not in scan.found]:
            self._now(path, None)
        for path, entry in read.items():
            facts = scan.found[path]
            steady = steady and entry is not None and entry == self.entries.get(path)
            if entry is None:
                self.forget((path,))
                continue
            self._now(path, entry)
            self.seen[path] = facts
            if max(facts[2], facts[3]) + TICK_NS > now_ns:
                self.racy.add(path)
            else:
                self.racy.discard(path)
        return steady

    def forget(self, paths: Iterable[str]) -> None:
        """These have to be read again."""
        for path in paths:
            self.seen.pop(path, None)

    @property
    def changes(self) -> Effect:
        """What makes of ``state`` what is there."""
        found = (Change(path, before, self.entries.get(path)) for path, before in self.pending.items())
        return Effect.of(change for change in found if change.before != change.after)

    def settled(self, state: str) -> None:
        """What is there has this state."""
        self.state = state
        self.pending.clear()

    def rebase(self, state: str, entries: Mapping[str, Entry]) -> None:
        """What is there is compared with another state from now on."""
        self.state = state
        paths = {*entries, *self.entries}
        self.pending = {path: entries.get(path) for path in paths if entries.get(path) != self.entries.get(path)}

    def applied(self, state: str, effect: Effect) -> None:
        """The broker itself has put an effect there, which made another state."""
        for change in effect.changes:
            self._now(change.path, change.after)
            self.pending.pop(change.path, None)
        self.forget(effect.paths)
        self.state = state

    def _now(self, path: str, entry: Entry | None) -> None:
        old = self.entries.get(path)
        if old != entry:
            self.pending.setdefault(path, old)
        if entry is None:
            self.entries.pop(path, None)
            self.seen.pop(path, None)
            self.racy.discard(path)
        else:
            self.entries[path] = entry


def encode(memory: Memory) -> bytes:
    """As it is kept in a file: a line with the digest of what follows, then JSON. What is racy keeps no facts."""
    body = {
        "format": FORMAT,
        "root": list(memory.root),
        "state": memory.state,
        "files": list(_lines(memory)),
        "pending": [[path, entry_body(entry)] for path, entry in memory.pending.items()],
    }
    data = orjson.dumps(body)
    return f"{hashlib.sha256(data).hexdigest()}\n".encode() + data


def decode(data: bytes) -> Memory | None:
    """Reads what ``encode`` wrote; ``None`` for anything else: all is read again then."""
    head, _, body = data.partition(b"\n")
    try:
        if head.decode() != hashlib.sha256(body).hexdigest():
            return None
        match orjson.loads(body):
            case {
                "format": str(name),
                "root": [int(device), int(inode)],
                "state": str(state),
                "files": list(files),
                "pending": list(pending),
            } if name == FORMAT:
                memory = Memory((device, inode), state)
                for path, entry, facts in files:
                    found = read_entry(entry)
                    if found is not None:
                        memory.entries[path] = found
                    if facts is not None:
                        memory.seen[path] = tuple(facts)
                memory.pending = {path: read_entry(entry) for path, entry in pending}
                return memory
    except (ValueError, TypeError, DataLossError):
        return None
    return None


def _lines(memory: Memory) -> Iterator[list[JsonValue]]:
    for path, entry in memory.entries.items():
        facts = None if path in memory.racy else memory.seen.get(path)
        yield [path, entry_body(entry), None if facts is None else list(facts)]
