"""Files quickly what is like what was filed before: nearly all of a large ledger.

What comes of it is what ``broker.replay.filing`` makes of the same entries, to the last row; tests compare the two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from broker.replay.filing import Decided, Filer, Item
from broker.replay.members import microseconds
from broker.replay.pending import CallRow
from broker.replay.skimming import Form, Skimmed, skim

_MOST_FORMS = 50_000
"""Most forms that are remembered, of some hundred bytes each."""


class QuickFiler(Filer):
    """A filer that reads a decision as a whole only where it hasn't read one like it, and beginnings and ends at a glance."""

    def __init__(self, connection: sqlite3.Connection, *, bodies: bool) -> None:
        super().__init__(connection, bodies=bodies)
        self._known: dict[Form, Decided] = {}
        self._form: Form | None = None
        self._last_boot = ""
        self._quick: Mapping[str, Callable[[Skimmed, CallRow, int, int], None]] = {
            "intent": self._begun,
            "outcome": self._ended,
        }

    def take(self, seq: int, leaf: bytes, data: bytes) -> None:
        """Files an entry."""
        self._form = None
        skimmed = skim(data)
        if skimmed is None or not self._take_skimmed(skimmed, seq, leaf):
            super().take(seq, leaf, data)
        elif self._bodies:
            self._rows["body"].append((seq, data))

    def _take_skimmed(self, skimmed: Skimmed, seq: int, leaf: bytes) -> bool:
        """Files an entry by what was skimmed of it; ``False``, and nothing done, where it has to be read."""
        kind, ts = skimmed.type, microseconds(skimmed.ts)
        if kind == "decision":
            self._form = skimmed.form
            said = self._known.get(self._form)
            if said is None:
                return False
            call = self._pending.call(skimmed.call_id, seq, ts) if skimmed.call_id else None
            self._enter(skimmed, seq, ts, leaf, call)
            self._put(said, seq, ts, call)
            return True
        file = self._quick.get(kind)
        if file is None or not skimmed.call_id:
            return False
        call = self._pending.call(skimmed.call_id, seq, ts)
        if not call.path:  # what the entry itself says of its call may be all that is known of it
            return False
        self._enter(skimmed, seq, ts, leaf, call)
        file(skimmed, call, seq, ts)
        return True

    def _enter(self, skimmed: Skimmed, seq: int, ts: int, leaf: bytes, call: CallRow | None) -> None:
        agent = self.word(skimmed.agent.id)
        row = (seq, self.word(skimmed.type), ts, bytearray(leaf), agent, call.id if call else 0, 0)
        self._rows["entry"].append(row)
        if skimmed.boot_id != self._last_boot:
            self._last_boot = skimmed.boot_id
            self._boot(skimmed.boot_id, seq, ts)

    def _begun(self, _: Skimmed, call: CallRow, seq: int, __: int) -> None:
        call.intent = seq
        call.state = self.word("RUNNING")

    def _ended(self, skimmed: Skimmed, call: CallRow, seq: int, ts: int) -> None:
        self._end(call, seq, ts, skimmed.outcome)

    def _decided(self, item: Item) -> Decided:
        found = super()._decided(item)
        if self._form is not None:
            if len(self._known) >= _MOST_FORMS:
                self._known.clear()
            self._known[self._form] = found
        return found
