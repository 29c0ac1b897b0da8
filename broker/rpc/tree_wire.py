"""Trees of workspaces: messages of the wire <-> values of the domain. Nothing is decided here; wrong fields are named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType

from broker.domain.tree import Change, Entry, TreeFile, TreeLink
from broker.domain.tree_stream import MAX_PIECE, Announced, Piece, Total
from broker.pipeline.drilling import Drill
from broker.pipeline.taking_back import Preview
from broker.pipeline.trees import Standing
from broker.rollback.back import Difference
from broker.rpc import wire
from broker.v1 import tool_pb2
from broker.v1 import workspaces_pb2 as pb

_ENTRY_BYTES = 128
"""What an entry takes in a message, its texts apart; at the most."""
_MOST_PIECES = 4096
_MOST_LISTED = 1000

_KINDS: Mapping[str, pb.TreeChangeKind.ValueType] = MappingProxyType(
    {
        "added": pb.TREE_CHANGE_KIND_ADDED,
        "removed": pb.TREE_CHANGE_KIND_REMOVED,
        "changed": pb.TREE_CHANGE_KIND_CHANGED,
        "mode": pb.TREE_CHANGE_KIND_MODE,
        "type": pb.TREE_CHANGE_KIND_TYPE,
    }
)


def workspace_message(standing: Standing) -> pb.Workspace:
    """A tree as it stands."""
    return pb.Workspace(
        name=f"workspaces/{standing.workspace}",
        state=standing.state,
        files=standing.files,
        bytes=standing.size,
        change_seq=standing.seq,
        change_time=wire.timestamp(standing.changed),
        change_call=f"calls/{standing.call}" if standing.call else "",
        host_directory=standing.in_place,
    )


def entry_message(path: str, entry: Entry) -> pb.TreeEntry:
    """What lies at a path."""
    if isinstance(entry, TreeLink):
        return pb.TreeEntry(path=path, link=pb.TreeLink(target=entry.target))
    return pb.TreeEntry(path=path, file=pb.TreeFile(size=entry.size, mode=entry.mode, digest=entry.digest))


def announced(message: pb.TreeEntry) -> Announced:
    """What a sender says to lie at a path; ``Intake`` checks the rest.

    Raises:
        InvalidArgumentError: it says neither file nor link.
    """
    match message.WhichOneof("kind"):
        case "file":
            file = message.file
            return Announced(message.path, TreeFile(file.digest, file.size, file.mode))
        case "link":
            return Announced(message.path, TreeLink(message.link.target))
    raise wire.refuse("entry.kind", "must be a file or a link", "ENTRY_INVALID")


def end_message(total: Total) -> pb.TreeEnd:
    """What a tree adds up to."""
    return pb.TreeEnd(files=total.files, bytes=total.size, listing_digest=total.listing)


def total(message: pb.TreeEnd) -> Total:
    """What a sender says that a tree adds up to."""
    return Total(message.files, message.bytes, message.listing_digest)


def pieces(message: pb.TreePieces) -> list[Piece]:
    """Pieces in their order.

    Raises:
        InvalidArgumentError: one is neither an entry nor bytes, or has too many bytes.
    """
    found: list[Piece] = []
    for item in message.pieces:
        match item.WhichOneof("piece"):
            case "entry":
                found.append(announced(item.entry))
            case "data" if len(item.data) <= MAX_PIECE:
                found.append(item.data)
            case "data":
                raise wire.refuse(
                    "pieces.data", f"is {len(item.data)} bytes long; the limit is {MAX_PIECE}", "TOO_LARGE"
                )
            case _:
                raise wire.refuse("pieces.piece", "must be an entry or bytes", "ENTRY_INVALID")
    return found


async def joined(source: AsyncIterator[Piece]) -> AsyncIterator[pb.TreePieces]:
    """Pieces put together, so that small files don't cost a message each; at most ``MAX_PIECE`` bytes go together."""
    message, size = pb.TreePieces(), 0
    async for item in source:
        if isinstance(item, bytes):
            made, more = pb.TreePiece(data=item), len(item)
        else:
            made = pb.TreePiece(entry=entry_message(item.path, item.entry))
            more = made.ByteSize() + _ENTRY_BYTES
        if message.pieces and (size + more > MAX_PIECE or len(message.pieces) >= _MOST_PIECES):
            yield message
            message, size = pb.TreePieces(), 0
        message.pieces.append(made)
        size += more
    if message.pieces:
        yield message


def listings(entries: Mapping[str, Entry]) -> Iterator[pb.TreeListing]:
    """What a tree holds, in as many messages as it takes."""
    message, size = pb.TreeListing(), 0
    for path, entry in entries.items():
        made = entry_message(path, entry)
        size += made.ByteSize() + _ENTRY_BYTES
        message.entries.append(made)
        if size > MAX_PIECE:
            yield message
            message, size = pb.TreeListing(), 0
    if message.entries:
        yield message


def change_message(change: Change, renamed_from: str) -> pb.TreeChange:
    """One path, before and after."""
    return pb.TreeChange(
        kind=_KINDS[change.kind],
        before=None if change.before is None else entry_message(change.path, change.before),
        after=None if change.after is None else entry_message(change.path, change.after),
        renamed_from=renamed_from,
    )


def undo_message(plan: Preview) -> pb.UndoPlan:
    """What taking a call back would do; of long lists the first."""
    renames, requirement = plan.back.renames(), plan.requirement
    return pb.UndoPlan(
        calls=[f"calls/{call}" for call in plan.chain.ids],
        dependents=[f"calls/{call}" for call in plan.chain.left],
        changes=[change_message(item, renames.get(item.path, "")) for item in plan.back.changes[:_MOST_LISTED]],
        total=len(plan.back.changes),
        conflicts=[_conflict(item) for item in plan.conflicts[:_MOST_LISTED]],
        tier=tool_pb2.Tier.ValueType(int(plan.chain.tier) + 1),
        people=0 if requirement is None else requirement.people,
    )


def _conflict(item: Difference) -> pb.UndoConflict:
    return pb.UndoConflict(
        path=item.path,
        expected=None if item.expected is None else entry_message(item.path, item.expected),
        present=None if item.present is None else entry_message(item.path, item.present),
        changed_by=[f"calls/{call}" for call in item.by],
    )


def drill_message(done: Drill) -> pb.DrillUndoResponse:
    """What a drill came to."""
    return pb.DrillUndoResponse(
        live=done.live,
        tried=[
            pb.DrilledArtifact(call=f"calls/{item.call}", artifact=item.artifact, reason=item.reason, detail=item.why)
            for item in done.tried
        ],
        passed=len(done.tried) - len(done.failed),
        seq=done.seq,
    )
