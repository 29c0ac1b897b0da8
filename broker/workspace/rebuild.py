"""What the tables of workspaces' trees and of effects on them must hold, from the ledger's entries."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.ports import StoredEntry
from broker.domain.projection import Cell, Expected, UnexpectedEntryError, listed, words
from broker.domain.taken_back import marks


class TreeRows:
    """Hears every entry of the ledger in order, and knows then what the table must hold."""

    def __init__(self) -> None:
        self._trees: dict[str, dict[str, Cell | datetime]] = {}
        self._effects: dict[str, dict[str, Cell | datetime]] = {}

    def entry(self, row: StoredEntry, entry: JsonObject) -> None:
        """Takes the next entry.

        Raises:
            UnexpectedEntryError: it isn't one that this version writes, or doesn't follow from those before it.
        """
        if entry.get("type") == "workspace.imported":
            base, after = words(entry, "base"), words(entry, "after")
            self._move(row.seq, entry, base=base, after=after, at=_moment(entry, "at"))
        elif entry.get("type") in {"outcome", "unknown"} and "effect" in entry:
            base, after = words(entry, "effect", "before"), words(entry, "effect", "after")
            at = _moment(entry, "outcome", "ended")
            if after:  # what was changed elsewhere leaves the workspace's files as they are
                self._move(row.seq, entry, base=base, after=after, at=at)
            self._happened(row.seq, entry, at)
        elif entry.get("type") == "undo.outcome" and words(entry, "undo", "state") == CallState.UNDONE.value:
            self._known(entry)["undone_by"] = words(entry, "call_id")

    def rows(self) -> Iterator[Expected]:
        """Rows of ``workspace_tree``, by their keys."""
        return (self._trees[key] for key in sorted(self._trees))

    def effects(self) -> Iterator[Expected]:
        """Rows of ``effect``, by their keys."""
        return (self._effects[key] for key in sorted(self._effects))

    def _happened(self, seq: int, entry: JsonObject, at: datetime) -> None:
        call, undoes = words(entry, "call_id"), listed(entry, "effect", "undoes")
        self._effects[call] = {
            "call_id": call,
            "workspace": words(entry, "workspace"),
            "base": words(entry, "effect", "before"),
            "after": words(entry, "effect", "after"),
            "digest": words(entry, "effect", "digest"),
            "artifact": words(entry, "effect", "artifact"),
            "undoes": " ".join(undoes),
            "undone_by": "",
            "seq": seq,
            "at": at,
        }
        for which in undoes if entry.get("type") == "outcome" else ():
            if which not in self._effects:
                raise UnexpectedEntryError(f"entry {seq} takes back {which}, which had changed nothing")
            for other, by in marks(which, call, self._undoes):
                self._effects[other]["undone_by"] = by

    def _known(self, entry: JsonObject) -> dict[str, Cell | datetime]:
        found = self._effects.get(words(entry, "call_id"))
        if found is None:
            raise UnexpectedEntryError(f"entry {entry.get('seq')} takes back what had changed nothing")
        return found

    def _undoes(self, call: str) -> list[str]:
        return str(self._effects[call]["undoes"]).split()

    def _move(self, seq: int, entry: JsonObject, *, base: str, after: str, at: datetime) -> None:
        workspace = words(entry, "workspace")
        before = self._trees.get(workspace)
        if base != ("" if before is None else before["state"]):
            raise UnexpectedEntryError(f"entry {entry.get('seq')} starts from a state that {workspace} didn't have")
        self._trees[workspace] = {"workspace": workspace, "state": after, "seq": seq, "changed": at}


def _moment(entry: JsonObject, *path: str) -> datetime:
    name = ".".join(path)
    try:
        moment = datetime.fromisoformat(words(entry, *path))
    except ValueError as error:
        raise UnexpectedEntryError(f"the member {name} of entry {entry.get('seq')} is no time") from error
    if moment.tzinfo is None:
        raise UnexpectedEntryError(f"the member {name} of entry {entry.get('seq')} has no time zone")
    return moment
