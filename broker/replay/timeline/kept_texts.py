"""Texts of calls and votes from a state directory's vault, as far as they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from broker.approvals.content import read_vote
from broker.domain.events import Outcome, StoredRequest
from broker.domain.planned import PLANNED, decode_planned
from broker.domain.ports import SealedObject, Transaction, Vault
from broker.domain.tree import Change
from broker.errors import BrokerError, NotFoundError
from broker.pipeline.kept import read_outcome, read_request
from broker.replay.timeline.model import CallTexts, Kept
from broker.replay.timeline.selecting import Looked

T = TypeVar("T")

MOST_CHANGES = 1_000
"""Changed paths that are told of one call."""


class Reading(Protocol):
    """Runs a function on a consistent snapshot of the broker's database."""

    def __call__(self, work: Callable[[Transaction], T], /) -> T:
        """Runs it, and gives what it gives."""


class KeptTexts:
    """Opens what is kept. Nothing is written.

    Args:
        read: runs a function on a snapshot.
        vault: opens what is sealed.
    """

    def __init__(self, read: Reading, vault: Vault) -> None:
        self._read = read
        self._vault = vault

    def calls(self, calls: Iterable[str]) -> Mapping[str, CallTexts]:
        """What is kept of calls, or that it is erased or damaged."""
        wanted = list(calls)
        return self._read(lambda tx: {call: self._call(tx, call) for call in wanted})

    def votes(self, votes: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], str]:
        """Why people voted as they did."""
        wanted = list(votes)
        found = self._read(lambda tx: {vote: self._vote(tx, *vote) for vote in wanted})
        return {vote: reason for vote, reason in found.items() if reason}

    def look(self, calls: Sequence[str], file: str) -> Looked:
        """Which calls were given a file, brought one out, or changed one, by its path; ``*`` and ``?`` stand for more."""
        found, erased = set[str](), 0
        kept = self.calls(calls)
        for call, texts in kept.items():
            paths = (*texts.files, *texts.results, *(item.partition(" ")[2] for item in texts.changes))
            if any(fnmatchcase(path, file) for path in paths):
                found.add(call)
            erased += texts.kept is not Kept.KEPT
        return Looked(frozenset(found), erased)

    def _call(self, tx: Transaction, call: str) -> CallTexts:
        try:
            sealed = self._vault.open(tx, call)
            request = read_request(tx, sealed)
            return _told(request, _outcome(tx, sealed, call), _changes(tx, sealed))
        except NotFoundError:
            return CallTexts(Kept.ERASED)
        except BrokerError:
            return CallTexts(Kept.DAMAGED)

    def _vote(self, tx: Transaction, approval: str, number: int) -> str:
        try:
            reason = read_vote(tx, self._vault, approval, number).get("reason")
        except BrokerError:
            return ""
        return reason if isinstance(reason, str) else ""


def _outcome(tx: Transaction, sealed: SealedObject, call: str) -> Outcome | None:
    row = tx.calls.get(call)
    return None if row is None else read_outcome(tx, sealed, row)


def _told(request: StoredRequest, outcome: Outcome | None, changes: tuple[str, ...]) -> CallTexts:
    return CallTexts(
        kept=Kept.KEPT,
        purpose=request.context.purpose,
        arguments=request.arguments_json,
        reason=request.decision.reason,
        detail="" if outcome is None else outcome.detail,
        files=tuple(item.path for item in request.files),
        results=() if outcome is None else tuple(item.path for item in outcome.files),
        changes=changes,
    )


def _changes(tx: Transaction, sealed: SealedObject) -> tuple[str, ...]:
    planned = dict(sealed.read(tx, PLANNED, 1)).get(PLANNED)
    if planned is None:
        return ()
    return tuple(map(_change, decode_planned(planned).effect.changes[:MOST_CHANGES]))


def _change(change: Change) -> str:
    what = "added" if change.before is None else "removed" if change.after is None else "changed"
    return f"{what} {change.path}"
