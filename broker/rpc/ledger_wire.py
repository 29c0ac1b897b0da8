"""Messages of the Ledger service <-> values. Nothing is decided here; wrong fields are named."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from datetime import datetime

from broker.domain.ports import EntryQuery
from broker.ledger.entry import timestamp
from broker.ledger.reading import ReadEntry
from broker.rpc import wire
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note
from broker.v1 import ledger_pb2 as pb

LATEST = "latest"
_MAX_TYPES = 64
_MAX_TEXT = 256
_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_TOKEN = re.compile(r"(0|[1-9][0-9]{0,17})-([0-9a-f]{32})")


def entry_message(entry: ReadEntry) -> pb.LedgerEntry:
    """An entry on the wire."""
    keys, row = entry.keys, entry.row
    return pb.LedgerEntry(
        name=f"entries/{row.seq}",
        seq=row.seq,
        leaf_hash=row.leaf,
        data=row.data,
        type=keys.type,
        time=wire.timestamp(_time(keys.ts)),
        agent=keys.agent,
        call=f"calls/{keys.call_id}" if keys.call_id else "",
    )


def _time(text: str) -> datetime | None:
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found
    return None


def checkpoint_message(note: Note, checkpoint: Checkpoint) -> pb.Checkpoint:
    """A checkpoint on the wire."""
    return pb.Checkpoint(
        name=f"checkpoints/{checkpoint.size}", note=note.encode(), size=checkpoint.size, root_hash=checkpoint.root
    )


def entry_seq(name: str, field: str) -> int:
    """The number in ``entries/{seq}``.

    Raises:
        InvalidArgumentError: it is no such name.
    """
    return _number(wire.resource_id(name, "entries", field), field, "entries/{seq}")


def checkpoint_size(name: str, field: str) -> int | None:
    """The size in ``checkpoints/{size}``; ``None`` for ``checkpoints/latest``.

    Raises:
        InvalidArgumentError: it is no such name.
    """
    text = wire.resource_id(name, "checkpoints", field)
    return None if text == LATEST else _number(text, field, "checkpoints/{size}")


def _number(text: str, field: str, form: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise wire.refuse(field, f"must be of the form `{form}`, with a number from 0", "INVALID_RESOURCE_NAME")
    return int(text)


def query(wanted: pb.LedgerEntryFilter, *, newest_first: bool = False) -> EntryQuery:
    """What a filter asks for, but for its agent, which may be a name.

    Raises:
        InvalidArgumentError: names the field.
    """
    if len(wanted.types) > _MAX_TYPES:
        raise wire.refuse("filter.types", f"has {len(wanted.types)} items; the limit is {_MAX_TYPES}")
    for index, name in enumerate(wanted.types):
        if not _TYPE.fullmatch(name):
            raise wire.refuse(f"filter.types[{index}]", "is no type of an entry, such as `intent`")
    for field in ("agent", "workspace"):
        if len(getattr(wanted, field)) > _MAX_TEXT:
            raise wire.refuse(f"filter.{field}", f"is longer than {_MAX_TEXT} characters")
    for field in ("first_seq", "before_seq"):
        if getattr(wanted, field) < 0:
            raise wire.refuse(f"filter.{field}", "must not be negative")
    return EntryQuery(
        first=wanted.first_seq,
        before=wanted.before_seq or None,
        types=frozenset(wanted.types),
        call_id=wire.resource_id(wanted.call, "calls", "filter.call") if wanted.call else "",
        workspace=wanted.workspace,
        tool=wire.resource_id(wanted.tool, "tools", "filter.tool") if wanted.tool else "",
        ts_from=_bound(wanted, "time_from"),
        ts_before=_bound(wanted, "time_before"),
        newest_first=newest_first,
    )


def _bound(wanted: pb.LedgerEntryFilter, field: str) -> str:
    if not wanted.HasField(field):  # type: ignore[arg-type]  # the stub knows the names one by one
        return ""
    return timestamp(wire.moment(getattr(wanted, field), f"filter.{field}"))


def page_token(caller: str, request: pb.ListEntriesRequest, position: int) -> str:
    """The token of a page that begins at a number; it fits this caller's request and no other."""
    return f"{position}-{_fingerprint(caller, request)}"


def page_position(caller: str, request: pb.ListEntriesRequest) -> int | None:
    """Where the page of a request begins; ``None`` for the first.

    Raises:
        InvalidArgumentError: ``INVALID_PAGE_TOKEN``: the token isn't ours, or is another request's.
    """
    if not request.page_token:
        return None
    match = _TOKEN.fullmatch(request.page_token)
    if match is None:
        raise wire.refuse("page_token", "is not one that ListEntries gave", "INVALID_PAGE_TOKEN")
    if match[2] != _fingerprint(caller, request):
        raise wire.refuse(
            "page_token", "belongs to another request: filter and order must stay the same", "INVALID_PAGE_TOKEN"
        )
    return int(match[1])


def _fingerprint(caller: str, request: pb.ListEntriesRequest) -> str:
    # No secret: a token opens nothing, each entry is decided anew. It only keeps a mix-up from going unnoticed.
    same = request.filter.SerializeToString(deterministic=True)
    return hashlib.sha256(f"{caller}\n{request.newest_first}\n".encode() + same).hexdigest()[:32]
