"""Of which entries an entry came: by what it says itself, and by what was in force when it was written.

A cause always stands before what came of it: a broker writes first and acts then. An entry that names a later one says
something that can't be; that is told, and it is no cause.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

from broker.domain.canonical import parse_json
from broker.errors import BrokerError
from broker.replay.casebook import Casebook, Entry
from broker.replay.members import items, listed, part, text

_MOST_STATEMENT = 2**16


class Causes:
    """Finds them, entry by entry.

    Args:
        casebook: where entries, calls and approvals are found.
    """

    def __init__(self, casebook: Casebook) -> None:
        self._casebook = casebook
        self._known: dict[tuple[int, int], list[int]] = {}
        self._by_type: Mapping[str, Callable[[Entry], set[int]]] = {
            "decision": self._decision,
            "plan.intent": self._begun,
            "plan.outcome": lambda entry: self._last_of_call(entry, "plan.intent"),
            "approval.requested": lambda entry: (
                self._last_of_call(entry, "plan.outcome") or self._last_of_call(entry, "decision")
            ),
            "vote": self._vote,
            "vote.attested": self._vote,
            "approval.closed": self._closed,
            "intent": self._begun,
            "outcome": self._ended,
            "unknown": self._ended,
            "undo.intent": lambda entry: self._last_of_call(entry, "unknown") or self._last_of_call(entry, "outcome"),
            "undo.outcome": lambda entry: self._last_of_call(entry, "undo.intent"),
            "artifact": lambda entry: self._last_of_call(entry, "plan.intent") or self._last_of_call(entry, "intent"),
            "session.ended": lambda entry: self._act("session.started", text(entry.body, "session"), entry.seq),
            "unfrozen": lambda entry: self._act("frozen", text(entry.body, "target"), entry.seq),
            "policy.changed": self._policy_before,
            "erased": self._erased,
        }

    def of(self, entry: Entry) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The numbers of its causes, ascending; and those that it names though they come later."""
        found = self._by_type.get(entry.body.get("type"), lambda _: set())(entry)  # type: ignore[arg-type]  # none is found
        found |= self._agreed(entry)
        return tuple(sorted(seq for seq in found if seq < entry.seq)), tuple(
            sorted(seq for seq in found if seq >= entry.seq)
        )

    def _decision(self, entry: Entry) -> set[int]:
        body, seq = entry.body, entry.seq
        policy, tool, workflow = part(body, "policy"), part(body, "tool"), part(body, "workflow")
        found: set[int] = set()
        for proof in listed(part(body, "lineage"), "proofs"):
            if isinstance(proof, str) and proof.startswith("session:"):
                found |= self._act("session.started", proof.removeprefix("session:"), seq)
        digest = text(policy, "digest")
        found |= self._with("policy.changed", digest, seq) or self._with("heartbeat", digest, seq)
        name, version = text(tool, "name"), text(tool, "version")
        found |= self._act("spec.registered", name, seq, version)
        if text(workflow, "id"):
            found |= self._act("workflow.approved", text(workflow, "id"), seq)
        refused = part(body, "refused")
        if text(refused, "reason") == "FROZEN":
            agent = text(part(body, "agent"), "id")
            for target in (agent, name, text(body, "workspace"), ""):
                found |= self._act("frozen", target, seq)
        return found

    def _begun(self, entry: Entry) -> set[int]:
        found = self._named(entry, "decision_seq") or self._last_of_call(entry, "decision")
        if entry.body.get("type") == "intent":
            found |= self._last_of_call(entry, "plan.outcome")
        return found

    def _ended(self, entry: Entry) -> set[int]:
        found = self._named(entry, "intent_seq") or self._last_of_call(entry, "plan.intent")
        found = found or self._last_of_call(entry, "decision")
        closed = self._last_of_call(entry, "approval.closed")
        if not self._named(entry, "intent_seq"):
            found |= closed  # it never began: as people denied it, or nobody decided in time
        for name in listed(part(entry.body, "effect"), "undoes"):
            row = self._casebook.one("SELECT outcome FROM call WHERE name = ?", name) if isinstance(name, str) else None
            found |= {row[0]} if row and row[0] is not None else set()
        return found | self._restart(entry)

    def _restart(self, entry: Entry) -> set[int]:
        """The start of the broker after which a call was ended that an earlier one had begun."""
        boot = self._casebook.number(text(entry.body, "boot_id"))
        before = self._named(entry, "intent_seq") or self._last_of_call(entry, "decision")
        row = self._casebook.one("SELECT first FROM boot WHERE id = ?", boot)
        if row is None or not before or row[0] <= max(before):
            return set()
        return {row[0]} if row[0] != entry.seq else set()

    def _vote(self, entry: Entry) -> set[int]:
        found = self._requested(text(part(entry.body, "approval"), "id"))
        try:
            said = parse_json(
                text(part(entry.body, "vote"), "statement").encode("utf-8", "replace"),
                field="vote",
                max_bytes=_MOST_STATEMENT,
            )
        except BrokerError:
            return found
        key = text(said, "key") if isinstance(said, dict) else ""
        return found | self._act("key.enrolled", key, entry.seq)

    def _closed(self, entry: Entry) -> set[int]:
        approval = part(entry.body, "approval")
        votes = {seq for seq in listed(approval, "votes") if type(seq) is int and seq >= 0}
        return votes | self._requested(text(approval, "id"))

    def _agreed(self, entry: Entry) -> set[int]:
        """The votes and the end of what people agreed to, where the entry was agreed to."""
        found: set[int] = set()
        named = [text(used, "id") for used in items(entry.body, "approvals")]
        for used in items(entry.body, "approvals"):
            found |= {seq for seq in listed(used, "votes") if type(seq) is int and seq >= 0}
        other = text(entry.body, "approval")
        for name in filter(None, (*named, other)):
            row = self._casebook.one("SELECT requested, closed FROM approval WHERE name = ?", name)
            # A use is written just before, or just after, what it is used for.
            found |= {seq for seq in row or () if seq is not None and seq < entry.seq}
        return found

    def _policy_before(self, entry: Entry) -> set[int]:
        return self._with("policy.changed", text(entry.body, "before"), entry.seq)

    def _erased(self, entry: Entry) -> set[int]:
        return self._last_of_call(entry, "outcome") | self._last_of_call(entry, "decision")

    def _named(self, entry: Entry, member: str) -> set[int]:
        value = entry.body.get(member)
        return {value} if type(value) is int and value >= 0 else set()

    def _requested(self, approval: str) -> set[int]:
        row = self._casebook.one("SELECT requested FROM approval WHERE name = ?", approval)
        return {row[0]} if row and row[0] is not None else set()

    def _last_of_call(self, entry: Entry, kind: str) -> set[int]:
        number = self._casebook.number(kind)
        call = text(entry.body, "call_id")
        if number is None or not call:
            return set()
        row = self._casebook.one(
            "SELECT max(e.seq) FROM call c JOIN entry e ON e.call = c.id AND e.call != 0 "
            "WHERE c.name = ? AND +e.type = ? AND e.seq < ?",
            call,
            number,
            entry.seq,
        )
        return {row[0]} if row and row[0] is not None else set()

    def _act(self, kind: str, subject: str, before: int, what: str = "") -> set[int]:
        """The last act of a type on a subject."""
        number, about, version = (self._casebook.number(word) for word in (kind, subject, what))
        if number is None or about is None or version is None:
            return set()
        row = self._casebook.one(
            "SELECT max(seq) FROM act WHERE subject = ? AND type = ? AND seq < ? AND (? = 0 OR object = ?)",
            about,
            number,
            before,
            version,
            version,
        )
        return {row[0]} if row and row[0] is not None else set()

    def _with(self, kind: str, what: str, before: int) -> set[int]:
        """The last act of a type that brought something into force."""
        number, thing = self._casebook.number(kind), self._casebook.number(what)
        if number is None or not thing:
            return set()
        known = self._known.get((number, thing))
        if known is None:
            rows = self._casebook.rows(
                "SELECT a.seq FROM entry e JOIN act a ON a.seq = e.seq WHERE e.type = ? AND a.object = ? ORDER BY a.seq",
                number,
                thing,
            )
            known = self._known[number, thing] = [row[0] for row in rows]
        place = bisect_left(known, before)
        return {known[place - 1]} if place else set()
