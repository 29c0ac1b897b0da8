"""What the ledger alone says of people's agreement, kept up as it grows: the broker asks it before it lets anything happen.

Tables are projections, and whoever has the database may change them: take a denial away, give a revoked key back, say that
the founding is complete. Here every entry about keys, votes and approvals is read and judged as an auditor would judge it,
and what an auditor would find wrong counts for nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence

from broker.domain.canonical import JsonObject
from broker.domain.founding_state import FoundingStanding
from broker.domain.ports import StoredEntry, Transaction
from broker.domain.registered import Registered
from broker.domain.tool_standing import ToolStanding
from broker.errors import DataLossError
from broker.ledger import registrations
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.registrations import Registrations
from broker.ledger.votes import ALWAYS, Votes
from broker.ledger.votes_reading import FindingError

_PAGE = 2000
_MORE = frozenset({"frozen"}) | registrations.TYPES
# Bytes in canonical form have no space here; the same words inside a text stand behind a backslash.
_NAMED = re.compile(rb'"type":"(?:' + b"|".join(re.escape(item.encode()) for item in sorted(ALWAYS | _MORE)) + rb')"')


class LedgerAgreement:
    """Implements ``broker.domain.approval_ports.Agreement``. Any thread may ask.

    It remembers how far it has read; what a writing transaction has added itself is read for that answer alone, since it
    may yet be taken back. What it has come to so far is never changed, but exchanged for another once there is more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._state = _State()

    def read_on(self, tx: Transaction) -> None:
        """Reads what has been added, in a reading transaction: all that it sees is there for good."""
        with self._lock:
            head = tx.ledger.head()
            self._state, self._next = _read(tx, self._state, self._next)
            self._next = max(self._next, 0 if head is None else head.seq + 1)

    def founding(self, tx: Transaction) -> str:
        """Digest of the founding that the ledger has seen completed; empty before."""
        # Once it is complete it is so for good: no further entry changes that.
        return self._state.votes.founding or self._at(tx).votes.founding

    def tools(self, tx: Transaction) -> Mapping[str, ToolStanding]:
        """Name of a tool -> what stands of it, with what the transaction itself has added."""
        return self._at(tx).votes.tools

    def standing(self, tx: Transaction) -> FoundingStanding:
        """How far the founding is, and what stands, with what the transaction itself has added."""
        return self._at(tx).votes.standing()

    def frozen(self) -> frozenset[tuple[str, str]]:
        """(scope, target) of what was frozen, and freed by nobody, as far as has been read; asked at each call."""
        return self._state.frozen

    def check_use(self, tx: Transaction, approval: str, votes: Sequence[int]) -> None:
        """Lets an approval pass that the ledger has as open, not denied, and agreed to by these votes.

        Raises:
            DataLossError: it hasn't (``AGREEMENT_DIFFERS``).
        """
        state = self._at(tx)
        try:
            people = state.votes.check_usable(approval, tuple(votes))
        except FindingError as finding:
            raise _differs(f"{finding.member} {finding}") from finding
        gone = sorted(people & state.revoked)
        if gone:
            raise _differs(f"{', '.join(gone)} had been revoked")
        table = {(item.scope.value, item.target) for item in tx.freezes.all()}
        if state.frozen - table:
            raise _differs("what was frozen has been freed by nobody")

    def check_workflow(self, tx: Transaction, name: str, digest: str) -> None:
        """Lets a version of a workflow pass whose approval stands in the ledger.

        Raises:
            DataLossError: it doesn't (``AGREEMENT_DIFFERS``).
        """
        # Asked at each call that names one: what has been read before is not looked for again.
        if (name, digest) not in self._state.workflows and (name, digest) not in self._at(tx).workflows:
            raise _differs(f"nobody has approved workflow {name} {digest}")

    def registered(self, tx: Transaction) -> Registered:
        """Everybody as the ledger has them at the end of what a transaction sees."""
        return self._at(tx).registrations.registered

    def _at(self, tx: Transaction) -> _State:
        """The state at the end of what a transaction sees; not to be changed."""
        with self._lock:
            known, seen = self._state, self._next
        return _read(tx, known, seen)[0]


def _read(tx: Transaction, known: _State, first: int) -> tuple[_State, int]:
    """A state that has read on from an entry's number, and the number of the next; the very same one where there is nothing."""
    state = known
    for row in _rows(tx, first):
        if state is known:
            state = known.copy()  # others are looking at it
        state.entry(row)
        first = row.seq + 1
    return state, first


class _State:
    """What all entries up to one come to."""

    def __init__(self) -> None:
        self.votes = Votes()
        self.workflows: frozenset[tuple[str, str]] = frozenset()
        self.frozen: frozenset[tuple[str, str]] = frozenset()
        self.revoked: frozenset[str] = frozenset()
        self.registrations = Registrations()

    def copy(self) -> _State:
        made = _State()
        made.votes = self.votes.copy()
        made.workflows, made.frozen, made.revoked = self.workflows, self.frozen, self.revoked
        made.registrations = self.registrations.copy()
        return made

    def entry(self, row: StoredEntry) -> None:
        try:
            entry = decode(row.data)
        except NotCanonicalError as error:
            raise DataLossError(
                f"entry {row.seq} of the ledger can't be read: {error}",
                reason="LEDGER_DAMAGED",
                hint="Run `broker ledger verify`, keep the file and restore a backup.",
            ) from error
        kind, before = entry.get("type"), self.votes.found
        if kind in ALWAYS:
            self.votes.entry(row.seq, row.data, entry)
        if self.votes.found != before:
            return
        self._other(kind, entry)
        if kind in registrations.TYPES:
            self.registrations.entry(row.seq, entry)

    def _other(self, kind: object, entry: JsonObject) -> None:
        match kind:
            case "workflow.approved":
                said = entry.get("workflow")
                if isinstance(said, dict):
                    self.workflows |= {(str(said.get("id")), str(said.get("version")))}
            case "frozen":
                self.frozen |= {_scope(entry)}
            case "unfrozen":
                self.frozen -= {_scope(entry)}
            case "identity.revoked" if entry.get("change") == "revoked":
                self.revoked |= {str(entry.get("identity"))}


def _scope(entry: JsonObject) -> tuple[str, str]:
    return str(entry.get("scope")), str(entry.get("target"))


def _rows(tx: Transaction, first: int) -> Iterator[StoredEntry]:
    """The entries from a number on that may be about people's agreement."""
    while page := tx.ledger.entries(first, _PAGE):
        yield from (row for row in page if _NAMED.search(row.data))
        first = page[-1].seq + 1


def _differs(why: str) -> DataLossError:
    return DataLossError(
        f"the database says that people have agreed, and the ledger doesn't: {why}",
        reason="AGREEMENT_DIFFERS",
        hint="Somebody worked on the database: run `broker ledger verify --votes`, and ask anew.",
        metadata={"why": why[:200]},
    )
