"""The trees of workspaces as the client gives them, and how they come from messages and become them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from broker.client.convert import tier
from broker.client.wire import moment, protocol_error
from broker.domain.tier import Tier
from broker.domain.tree import Change, Entry, TreeFile, TreeLink
from broker.domain.tree_stream import MAX_PIECE, Announced, Piece, Total
from broker.v1 import workspaces_pb2

Progress: TypeAlias = Callable[[int, int], None]
"""Is told now and then how many files and links, and how many bytes, have gone over."""

_MOST_PIECES = 4096
_OVERHEAD = 128


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace's tree as it stands."""

    name: str
    """Of the workspace."""
    state: str
    """``sha256:`` digest of its present state."""
    files: int
    """Files and links."""
    bytes: int
    """Of all files together."""
    change_seq: int
    """Number of the ledger entry of its last change."""
    changed: datetime | None
    change_call: str
    """``calls/...`` that changed it last; empty where it was brought in, or found changed in its directory."""
    host_directory: bool
    """Is it a directory of the broker's host? Then others may change it."""


@dataclass(frozen=True, slots=True)
class WorkspaceDiff:
    """What makes the state ``after`` of the state ``before``."""

    before: str
    after: str
    changes: tuple[Change, ...]
    """In the order of the paths' bytes."""
    renames: Mapping[str, str]
    """New path -> old path, where a file went and one of the same bytes came."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was put into a workspace."""

    tree: Workspace
    """As it stands then."""
    empty_folders: tuple[str, ...]
    """Folders with nothing in them; no tree keeps such a one."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written into a folder."""

    state: str
    """The state that it is of."""
    files: int
    """Files and links."""
    bytes: int


@dataclass(frozen=True, slots=True)
class UndoConflict:
    """A path that is not as a call left it; ``None`` where nothing was left or is there."""

    path: str
    expected: Entry | None
    present: Entry | None
    changed_by: tuple[str, ...]
    """Names of the later calls that changed it, oldest first; empty where no call did."""


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """What taking a call back would do now, and what is in its way."""

    calls: tuple[str, ...]
    """The calls that would be taken back together, ``calls/...``, oldest first."""
    dependents: tuple[str, ...]
    """Calls that built on them and would stay: where there are any, the undo is refused without ``cascade``."""
    changes: tuple[Change, ...]
    """In the order of the paths' bytes; the first thousand."""
    renames: Mapping[str, str]
    """New path -> old path, where a file goes and one of the same bytes comes."""
    total: int
    """How many paths would be changed."""
    conflicts: tuple[UndoConflict, ...]
    """Where there are any, the undo is refused; the first thousand."""
    tier: Tier | None
    people: int
    """How many people would have to agree; 0 for nobody."""


@dataclass(frozen=True, slots=True)
class DrilledArtifact:
    """One artifact of a drill; ``reason`` and ``detail`` are empty where it was good."""

    call: str
    artifact: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class UndoDrill:
    """What a drill came to."""

    live: int
    """Artifacts that there were to choose from."""
    tried: tuple[DrilledArtifact, ...]
    passed: int
    seq: int
    """Number of the ledger's entry."""


def undo_drill(message: workspaces_pb2.DrillUndoResponse) -> UndoDrill:
    """What a drill came to."""
    tried = tuple(DrilledArtifact(item.call, item.artifact, item.reason, item.detail) for item in message.tried)
    return UndoDrill(message.live, tried, message.passed, message.seq)


def undo_plan(message: workspaces_pb2.UndoPlan) -> UndoPlan:
    """What taking a call back would do.

    Raises:
        InternalError: it can't be read.
    """
    return UndoPlan(
        calls=tuple(message.calls),
        dependents=tuple(message.dependents),
        changes=tuple(change(item) for item in message.changes),
        renames={
            (item.after.path or item.before.path): item.renamed_from for item in message.changes if item.renamed_from
        },
        total=message.total,
        conflicts=tuple(
            UndoConflict(
                item.path,
                entry(item.expected) if item.HasField("expected") else None,
                entry(item.present) if item.HasField("present") else None,
                tuple(item.changed_by),
            )
            for item in message.conflicts
        ),
        tier=tier(message.tier),
        people=message.people,
    )


def workspace(message: workspaces_pb2.Workspace) -> Workspace:
    """A tree as it stands."""
    return Workspace(
        name=message.name.removeprefix("workspaces/"),
        state=message.state,
        files=message.files,
        bytes=message.bytes,
        change_seq=message.change_seq,
        changed=moment(message, "change_time"),
        change_call=message.change_call,
        host_directory=message.host_directory,
    )


def entry(message: workspaces_pb2.TreeEntry) -> Entry:
    """What lies at a path.

    Raises:
        InternalError: it is neither file nor link.
    """
    match message.WhichOneof("kind"):
        case "file":
            return TreeFile(message.file.digest, message.file.size, message.file.mode)
        case "link":
            return TreeLink(message.link.target)
    raise protocol_error("an entry of a tree is neither file nor link")


def change(message: workspaces_pb2.TreeChange) -> Change:
    """One path, before and after.

    Raises:
        InternalError: it is none, or is of two paths.
    """
    before = entry(message.before) if message.HasField("before") else None
    after = entry(message.after) if message.HasField("after") else None
    paths = {item.path for item in (message.before, message.after) if item.path}
    if len(paths) != 1 or before == after:
        raise protocol_error("a change of a tree can't be read")
    return Change(paths.pop(), before, after)


def pieces(message: workspaces_pb2.TreePieces) -> Iterator[Piece]:
    """Pieces in their order.

    Raises:
        InternalError: one is neither entry nor bytes.
    """
    for item in message.pieces:
        match item.WhichOneof("piece"):
            case "entry":
                yield Announced(item.entry.path, entry(item.entry))
            case "data":
                yield item.data
            case _:
                raise protocol_error("a piece of a tree is neither entry nor bytes")


def total(message: workspaces_pb2.TreeEnd) -> Total:
    """What a tree adds up to."""
    return Total(message.files, message.bytes, message.listing_digest)


def end(whole: Total) -> workspaces_pb2.TreeEnd:
    """What a tree adds up to, as a message."""
    return workspaces_pb2.TreeEnd(files=whole.files, bytes=whole.size, listing_digest=whole.listing)


class Joining:
    """Puts pieces together, so that small files don't cost a message each."""

    def __init__(self) -> None:
        self._message = workspaces_pb2.TreePieces()
        self._size = 0

    def add(self, item: Piece) -> workspaces_pb2.TreePieces | None:
        """Takes a piece; gives those before it, once they are enough for a message."""
        made = workspaces_pb2.TreePiece()
        if isinstance(item, bytes):
            made.data, size = item, len(item)
        else:
            made.entry.CopyFrom(_entry_message(item))
            size = made.ByteSize() + _OVERHEAD
        full = None
        if self._message.pieces and (self._size + size > MAX_PIECE or len(self._message.pieces) >= _MOST_PIECES):
            full = self.rest()
        self._message.pieces.append(made)
        self._size += size
        return full

    def rest(self) -> workspaces_pb2.TreePieces:
        """What hasn't been given yet."""
        message, self._message, self._size = self._message, workspaces_pb2.TreePieces(), 0
        return message


def _entry_message(item: Announced) -> workspaces_pb2.TreeEntry:
    if isinstance(item.entry, TreeLink):
        return workspaces_pb2.TreeEntry(path=item.path, link=workspaces_pb2.TreeLink(target=item.entry.target))
    file = workspaces_pb2.TreeFile(size=item.entry.size, mode=item.entry.mode, digest=item.entry.digest)
    return workspaces_pb2.TreeEntry(path=item.path, file=file)
