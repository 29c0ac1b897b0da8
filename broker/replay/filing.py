"""Files entries in a casebook: what each one says of calls, decisions, hosts, approvals and acts, as rows.

An entry may come from a ledger that doesn't verify, or from another version of the broker. So each member is taken only if
it is what it should be, and nothing that an entry holds makes filing fail.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from broker.replay.filing_questions import Questions
from broker.replay.members import as_json, items, listed, microseconds, number, part, text
from broker.replay.pending import UNSET, ApprovalRow, CallRow, Pending
from broker.replay.skimming import Ended

_PATH_MEMBERS = ("workspace", "model", "prompt_version", "feature", "team")
_WITH_HOSTS = frozenset({"outcome", "plan.outcome", "undo.outcome"})
_VOTES = frozenset({"vote", "vote.attested"})
_USES_NONE = _VOTES | {"approval.requested", "approval.closed"}
_SUBJECTS = (("subject", "id"), ("workflow", "id"), ("tool", "name"), ("key", "id"))


@dataclass(frozen=True, slots=True)
class Item:
    """An entry on its way into the tables, with the rows of the call and the approval that it is about."""

    entry: dict[str, Any]
    kind: str
    seq: int
    ts: int
    agent: int
    call: CallRow | None
    approval: ApprovalRow | None

    @property
    def call_number(self) -> int:
        """Of its call; 0 for none."""
        return self.call.id if self.call else 0


class Decided(NamedTuple):
    """What an entry says of a decision, and of the call that came of it: the numbers of words, a path and a question."""

    question: int
    allowed: int
    rule: int
    policy: int
    reason: int
    agent: int
    tool: int
    times: int
    path: int
    """0 where no call came of it."""
    session: int | None
    """``None`` where it says nothing of one."""


class Filer:
    """Takes entries in their order and writes their rows, some thousand at a time.

    Args:
        connection: a casebook, in a transaction of the caller's.
        bodies: whether the bytes of each entry are kept too.
    """

    def __init__(self, connection: sqlite3.Connection, *, bodies: bool) -> None:
        self._bodies = bodies
        self._pending = Pending(connection)
        self._rows = self._pending.rows
        self._words = dict(connection.execute("SELECT text, id FROM word"))
        self._next_word = max(self._words.values(), default=-1) + 1
        self.word("")
        self._boots = {row[0] for row in connection.execute("SELECT id FROM boot")}
        columns = "workspace, workflow, version, model, prompt, feature, team, agent, owner, starter, on_behalf, tool"
        self._paths = {
            row[1:]: row[0]
            for row in connection.execute(f"SELECT id, {columns}, tool_version, image, tier, classes FROM path")  # noqa: S608 - ours
        }
        questions = {row[1:]: row[0] for row in connection.execute("SELECT * FROM question")}
        self._questions = Questions(questions, self.word, self._rows["question"])
        self._by_type: Mapping[str, Callable[[Item], None] | None] = {
            "decision": self._decision,
            "plan.intent": self._intent,
            "plan.outcome": self._planned,
            "intent": self._intent,
            "outcome": self._outcome,
            "unknown": self._outcome,
            "vote": self._vote,
            "vote.attested": self._vote,
            "approval.requested": None,
            "approval.closed": self._closed,
            "heads": None,
        }

    def word(self, text: str) -> int:
        """The number of a word, which is kept if it is new."""
        found = self._words.get(text)
        if found is None:
            found = self._words[text] = self._next_word
            self._next_word += 1
            self._rows["word"].append((found, text))
        return found

    def take(self, seq: int, leaf: bytes, data: bytes) -> None:
        """Files an entry."""
        try:
            entry = orjson.loads(data)
        except ValueError:
            entry = {}
        if not isinstance(entry, dict):
            entry = {}
        kind, ts = text(entry, "type"), microseconds(entry.get("ts"))
        call_id = text(entry, "call_id")
        call = self._pending.call(call_id, seq, ts) if call_id else None
        approval = self._approval_of(entry, seq, ts, call)
        agent = self.word(text(part(entry, "agent"), "id"))
        item = Item(entry, kind, seq, ts, agent, call, approval)
        row = (seq, self.word(kind), ts, bytearray(leaf), agent, item.call_number, approval.id if approval else 0)
        self._rows["entry"].append(row)
        if self._bodies:
            self._rows["body"].append((seq, data))
        self._boot(text(entry, "boot_id"), seq, ts)
        self._file(item)

    def flush(self) -> None:
        """Writes the rows of all that was taken."""
        self._pending.write()

    def _boot(self, name: str, seq: int, ts: int) -> None:
        boot = self.word(name)
        if boot and boot not in self._boots:
            self._boots.add(boot)
            self._rows["boot"].append((boot, seq, ts))

    def _file(self, item: Item) -> None:
        file = self._by_type.get(item.kind, self._act)
        if file is not None:
            file(item)
        if item.kind in _WITH_HOSTS:
            self._egress(item)
        for used in _used(item):
            found = self._pending.approval(text(used, "id"), item.ts)
            self._rows["used"].append((found.id, item.seq, item.call_number))
            votes = [vote for vote in listed(used, "votes") if type(vote) is int and 0 <= vote < item.seq]
            self._rows["counted"].extend((item.seq, vote, found.id, item.call_number) for vote in votes)
            if item.call is not None:
                item.call.approval = found.id

    def _planned(self, item: Item) -> None:
        if item.call is not None:
            item.call.reversibility = self.word(text(item.entry, "reversibility"))

    def _closed(self, item: Item) -> None:
        if item.approval is not None:
            item.approval.state = self.word(text(part(item.entry, "approval"), "state"))
            item.approval.closed, item.approval.closed_ts = item.seq, item.ts

    def _approval_of(self, entry: dict[str, Any], seq: int, ts: int, call: CallRow | None) -> ApprovalRow | None:
        said = part(entry, "approval")
        name = text(said, "id") or text(entry, "approval")
        if not name:
            return None
        found = self._pending.approval(name, ts)
        if text(entry, "type") == "approval.requested":
            found.kind = self.word(text(said, "kind"))
            found.subject = self.word(text(said, "subject"))
            found.workspace = self.word(text(entry, "workspace"))
            found.object = self.word(text(said, "obj"))
            found.requester = self.word(text(said, "requester"))
            found.tier = number(entry, "tier")
            found.requested, found.ts = seq, ts
            found.state = self.word("PENDING")
            found.requirement, found.excluded = as_json(said.get("requirement")), as_json(said.get("excluded"))
        if call is not None:
            found.call = call.id
            call.approval = call.approval or found.id
        return found

    def _decision(self, item: Item) -> None:
        self._put(self._decided(item), item.seq, item.ts, item.call)

    def _put(self, said: Decided, seq: int, ts: int, call: CallRow | None) -> None:
        *facts, times, path, session = said
        self._rows["decision"].append((seq, ts, *facts, call.id if call else 0, times))
        if call is not None:
            call.decision = seq
            call.path = path
            if session is not None:
                call.session = session

    def _decided(self, item: Item) -> Decided:
        """What an entry says of a decision."""
        entry = item.entry
        refused, policy = part(entry, "refused"), part(entry, "policy")
        inputs = part(policy, "inputs")
        allowed = 0 if refused else int(text(policy, "decision") == "allow")
        facts = (
            # What another check refused is no answer of the policy's to hold another policy's against.
            self._questions.number(inputs) if inputs and not (refused and text(policy, "decision") == "allow") else 0,
            allowed,
            self.word(text(refused, "rule") or text(policy, "rule")),
            self.word(text(policy, "digest")),
            self.word(text(refused, "reason")),
            item.agent,
            self.word(text(part(entry, "tool"), "name")),
            number(part(entry, "repeated"), "count") or 1,
        )
        path, session = self._about(entry, item.agent) if item.call is not None else (0, None)
        return Decided(*facts, path, session)

    def _about(self, entry: dict[str, Any], agent: int) -> tuple[int, int | None]:
        """What an entry says of its call: the path, and the session."""
        lineage, tool, workflow = part(entry, "lineage"), part(entry, "tool"), part(entry, "workflow")
        said = {name: self.word(text(entry, name)) for name in _PATH_MEMBERS}
        classes = sorted(item for item in listed(entry, "data_classes") if isinstance(item, str))
        values = (
            said["workspace"],
            self.word(text(workflow, "id")),
            self.word(text(workflow, "version")),
            said["model"],
            said["prompt_version"],
            said["feature"],
            said["team"],
            agent,
            self.word(text(lineage, "owner")),
            self.word(text(lineage, "starter")),
            self.word(text(lineage, "on_behalf_of")),
            self.word(text(tool, "name")),
            self.word(text(tool, "version")),
            self.word(text(tool, "image_digest")),
            number(entry, "tier"),
            self.word(" ".join(classes)),
        )
        path = self._paths.get(values)
        if path is None:
            path = self._paths[values] = len(self._paths) + 1
            self._rows["path"].append((path, *values))
            self._rows["touches"].extend((path, self.word(item)) for item in classes)
        session = None
        for proof in listed(lineage, "proofs"):
            if isinstance(proof, str) and proof.startswith("session:"):
                session = self.word(proof.removeprefix("session:"))
        return path, session

    def _intent(self, item: Item) -> None:
        call, planned = item.call, item.kind == "plan.intent"
        if call is None:
            return
        if planned:
            call.plan = item.seq
        else:
            call.intent = item.seq
        call.state = self.word("PLANNING" if planned else "RUNNING")
        # Beginning is refused where anything of it differs from the decision; an extract may lack that.
        if not call.path and "lineage" in item.entry:
            call.path, session = self._about(item.entry, item.agent)
            call.session = call.session if session is None else session

    def _outcome(self, item: Item) -> None:
        call = item.call
        if call is None:
            return
        outcome, effect = part(item.entry, "outcome"), part(item.entry, "effect")
        state = text(outcome, "state") or ("UNKNOWN" if item.kind == "unknown" else "")
        code = number(outcome, "exit_code") if type(outcome.get("exit_code")) is int else None
        self._end(call, item.seq, item.ts, Ended(state, text(outcome, "cause"), code))
        if effect:
            call.effect = 1
            call.added, call.changed, call.removed = (number(effect, name) for name in ("added", "changed", "removed"))
            for name in listed(effect, "undoes"):
                if isinstance(name, str):
                    target = self._pending.call(name, item.seq, item.ts)
                    self._rows["undo"].append((call.id, target.id, item.seq))

    def _end(self, call: CallRow, seq: int, ts: int, how: Ended) -> None:
        call.outcome, call.ended = seq, ts
        call.state, call.cause = self.word(how.state), self.word(how.cause)
        call.exit_code = UNSET if how.exit_code is None else how.exit_code

    def _egress(self, item: Item) -> None:
        for host in items(item.entry, "egress"):
            row = (
                item.seq,
                item.ts,
                item.call_number,
                self.word(text(host, "host")),
                number(host, "port"),
                self.word(text(host, "kind")),
                self.word(text(host, "verdict")),
                number(host, "count"),
                number(host, "sent"),
                number(host, "received"),
            )
            self._rows["egress"].append(row)

    def _vote(self, item: Item) -> None:
        if item.approval is None:
            return
        try:
            statement = orjson.loads(text(part(item.entry, "vote"), "statement"))
        except ValueError:
            statement = {}
        statement = statement if isinstance(statement, dict) else {}
        row = (
            item.seq,
            item.ts,
            item.approval.id,
            self.word(text(item.entry, "person")),
            self.word(text(statement, "decision")),
            self.word(text(item.entry, "channel")),
            self.word(text(statement, "key")),
        )
        self._rows["vote"].append(row)
        item.approval.state = self.word(text(part(item.entry, "approval"), "state"))

    def _act(self, item: Item) -> None:
        entry = item.entry
        if item.kind in {"undo.intent", "undo.outcome"} and item.call is not None:
            item.call.state = self.word(text(part(entry, "undo"), "state"))
        by = text(entry, "by") or text(entry, "person") or text(part(entry, "lineage"), "starter")
        named = (text(entry, name) for name in ("identity", "session", "target"))
        within = (text(part(entry, name), inner) for name, inner in _SUBJECTS)
        others = (text(entry, name) for name in ("call_id", "workspace"))
        subject = next(filter(None, (*named, *within, *others)), "")
        in_force = part(entry, "in_force")
        versions = (text(part(entry, name), "version") for name in ("tool", "workflow"))
        digests = (text(in_force, name) for name in ("tiers", "settings", "tools"))
        what = next(filter(None, (text(entry, "policy_digest"), *versions, *digests, text(entry, "person"))), "")
        workspace = self.word(text(entry, "workspace"))
        row = (item.seq, item.ts, self.word(item.kind), self.word(by), self.word(subject), self.word(what), workspace)
        self._rows["act"].append(row)
        if item.kind == "erased":
            self._rows["gone"].extend(
                (self.word(name), item.seq) for name in listed(entry, "ids") if isinstance(name, str)
            )


def _used(item: Item) -> list[dict[str, Any]]:
    """The approvals that an entry says it was agreed to by."""
    return [] if item.kind in _USES_NONE else [used for used in items(item.entry, "approvals") if text(used, "id")]
