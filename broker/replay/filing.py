"""Files entries in a casebook: what each one says of calls, decisions, hosts, approvals and acts, as rows.

An entry may come from a ledger that doesn't verify, or from another version of the broker. So each member is taken only if
it is what it should be, and nothing that an entry holds makes filing fail.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.replay.already import Seen
from broker.replay.filing_questions import Questions, Row
from broker.replay.members import as_json, items, listed, microseconds, number, part, text

_PATH_MEMBERS = ("workspace", "model", "prompt_version", "feature", "team")
_WITH_HOSTS = frozenset({"outcome", "plan.outcome", "undo.outcome"})
_VOTES = frozenset({"vote", "vote.attested"})
_USES_NONE = _VOTES | {"approval.requested", "approval.closed"}
_SUBJECTS = (("subject", "id"), ("workflow", "id"), ("tool", "name"), ("key", "id"))
_INSERTS: Mapping[str, str] = {
    "word": "INSERT INTO word VALUES (?, ?)",
    "entry": "INSERT OR IGNORE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)",
    "body": "INSERT OR IGNORE INTO body VALUES (?, ?)",
    "boot": "INSERT INTO boot VALUES (?, ?, ?)",
    "path": f"INSERT INTO path VALUES ({', '.join('?' * 17)})",  # noqa: S608 - ours
    "touches": "INSERT OR IGNORE INTO touches VALUES (?, ?)",
    "undo": "INSERT OR IGNORE INTO undo VALUES (?, ?, ?)",
    "question": "INSERT INTO question VALUES (?, ?, ?, ?, ?, ?, ?)",
    "decision": f"INSERT INTO decision VALUES ({', '.join('?' * 11)})",  # noqa: S608 - ours
    "egress": f"INSERT INTO egress VALUES ({', '.join('?' * 10)})",  # noqa: S608 - ours
    "vote": "INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?, ?)",
    "used": "INSERT OR IGNORE INTO used VALUES (?, ?, ?)",
    "counted": "INSERT OR IGNORE INTO counted VALUES (?, ?, ?, ?)",
    "act": "INSERT INTO act VALUES (?, ?, ?, ?, ?, ?, ?)",
    "gone": "INSERT OR IGNORE INTO gone VALUES (?, ?)",
}
_CALL = f"INSERT OR REPLACE INTO call VALUES ({', '.join('?' * 20)})"  # noqa: S608 - ours
_APPROVAL = f"INSERT OR REPLACE INTO approval VALUES ({', '.join('?' * 16)})"  # noqa: S608 - ours
_CALL_COLUMNS = (
    "id", "name", "path", "session", "ts", "first", "decision", "plan", "intent", "outcome", "ended", "state", "cause",
    "exit_code", "approval", "reversibility", "effect", "added", "changed", "removed",
)  # fmt: skip
_APPROVAL_COLUMNS = (
    "id", "name", "kind", "subject", "workspace", "object", "requester", "tier", "call", "requested", "ts", "closed",
    "closed_ts", "state", "requirement", "excluded",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Item:
    """An entry on its way into the tables, with the rows of the call and the approval that it is about."""

    entry: dict[str, Any]
    kind: str
    seq: int
    ts: int
    agent: int
    call: dict[str, Any] | None
    approval: dict[str, Any] | None

    @property
    def call_number(self) -> int:
        """Of its call; 0 for none."""
        return self.call["id"] if self.call else 0


class Filer:
    """Takes entries in their order and writes their rows, some thousand at a time.

    Args:
        connection: a casebook, in a transaction of the caller's.
        bodies: whether the bytes of each entry are kept too.
    """

    def __init__(self, connection: sqlite3.Connection, *, bodies: bool) -> None:
        self._connection = connection
        self._bodies = bodies
        self._rows: dict[str, list[Row]] = {name: [] for name in _INSERTS}
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
        self._seen, self._seen_all = Seen(), not connection.execute("SELECT 1 FROM call LIMIT 1").fetchone()
        self._calls: dict[str, dict[str, Any]] = {}
        self._approvals: dict[str, dict[str, Any]] = {}
        self._next_call = _next(connection, "call")
        self._next_approval = _next(connection, "approval")
        self._by_type: Mapping[str, Callable[[_Item], None] | None] = {
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
        call = self._call(call_id, seq, ts) if call_id else None
        approval = self._approval_of(entry, seq, ts, call)
        agent = self.word(text(part(entry, "agent"), "id"))
        item = _Item(entry, kind, seq, ts, agent, call, approval)
        row = (seq, self.word(kind), ts, leaf, agent, item.call_number, approval["id"] if approval else 0)
        self._rows["entry"].append(row)
        if self._bodies:
            self._rows["body"].append((seq, data))
        boot = self.word(text(entry, "boot_id"))
        if boot and boot not in self._boots:
            self._boots.add(boot)
            self._rows["boot"].append((boot, seq, ts))
        self._file(item)

    def flush(self) -> None:
        """Writes the rows of all that was taken."""
        for table, rows in self._rows.items():
            if rows:
                self._connection.executemany(_INSERTS[table], rows)
                rows.clear()
        changed = [tuple(call[name] for name in _CALL_COLUMNS) for call in self._calls.values()]
        self._connection.executemany(_CALL, changed)
        self._calls.clear()
        closed = [tuple(item[name] for name in _APPROVAL_COLUMNS) for item in self._approvals.values()]
        self._connection.executemany(_APPROVAL, closed)
        self._approvals.clear()

    def _file(self, item: _Item) -> None:
        file = self._by_type.get(item.kind, self._act)
        if file is not None:
            file(item)
        if item.kind in _WITH_HOSTS:
            self._egress(item)
        for used in _used(item):
            found = self._approval(text(used, "id"), item.ts)
            self._rows["used"].append((found["id"], item.seq, item.call_number))
            votes = [vote for vote in listed(used, "votes") if type(vote) is int and 0 <= vote < item.seq]
            self._rows["counted"].extend((item.seq, vote, found["id"], item.call_number) for vote in votes)
            if item.call is not None:
                item.call["approval"] = found["id"]

    def _planned(self, item: _Item) -> None:
        if item.call is not None:
            item.call["reversibility"] = self.word(text(item.entry, "reversibility"))

    def _closed(self, item: _Item) -> None:
        if item.approval is not None:
            state = self.word(text(part(item.entry, "approval"), "state"))
            item.approval.update({"closed": item.seq, "closed_ts": item.ts, "state": state})

    def _call(self, name: str, seq: int, ts: int) -> dict[str, Any]:
        known = self._calls.get(name)
        if known is None:
            # To look for what can't be there costs more than all else that is done with the entry.
            new = not self._seen.add(name) and self._seen_all
            row = None if new else self._connection.execute("SELECT * FROM call WHERE name = ?", (name,)).fetchone()
            if row is not None:
                known = dict(zip(_CALL_COLUMNS, row, strict=True))
            else:
                known = dict.fromkeys(_CALL_COLUMNS, 0) | dict.fromkeys(
                    ("decision", "plan", "intent", "outcome", "ended", "exit_code")
                )
                known |= {"id": self._next_call, "name": name, "ts": ts, "first": seq}
                self._next_call += 1
            self._calls[name] = known
        return known

    def _approval(self, name: str, ts: int) -> dict[str, Any]:
        known = self._approvals.get(name)
        if known is None:
            row = self._connection.execute("SELECT * FROM approval WHERE name = ?", (name,)).fetchone()
            if row is not None:
                known = dict(zip(_APPROVAL_COLUMNS, row, strict=True))
            else:
                known = dict.fromkeys(_APPROVAL_COLUMNS, 0) | dict.fromkeys(("requested", "closed", "closed_ts"))
                known |= {"id": self._next_approval, "name": name, "ts": ts, "requirement": "", "excluded": ""}
                self._next_approval += 1
            self._approvals[name] = known
        return known

    def _approval_of(self, entry: dict[str, Any], seq: int, ts: int, call: dict[str, Any] | None) -> Any:  # noqa: ANN401 - a row
        said = part(entry, "approval")
        name = text(said, "id") or text(entry, "approval")
        if not name:
            return None
        found = self._approval(name, ts)
        if text(entry, "type") == "approval.requested":
            found |= {
                "kind": self.word(text(said, "kind")),
                "subject": self.word(text(said, "subject")),
                "workspace": self.word(text(entry, "workspace")),
                "object": self.word(text(said, "obj")),
                "requester": self.word(text(said, "requester")),
                "tier": number(entry, "tier"),
                "requested": seq,
                "ts": ts,
                "state": self.word("PENDING"),
                "requirement": as_json(said.get("requirement")),
                "excluded": as_json(said.get("excluded")),
            }
        if call is not None:
            found["call"] = call["id"]
            call["approval"] = call["approval"] or found["id"]
        return found

    def _decision(self, item: _Item) -> None:
        entry, call = item.entry, item.call
        refused, policy = part(entry, "refused"), part(entry, "policy")
        inputs = part(policy, "inputs")
        allowed = 0 if refused else int(text(policy, "decision") == "allow")
        row = (
            item.seq,
            item.ts,
            # What another check refused is no answer of the policy's to hold another policy's against.
            self._questions.number(inputs) if inputs and not (refused and text(policy, "decision") == "allow") else 0,
            allowed,
            self.word(text(refused, "rule") or text(policy, "rule")),
            self.word(text(policy, "digest")),
            self.word(text(refused, "reason")),
            item.agent,
            self.word(text(part(entry, "tool"), "name")),
            item.call_number,
            number(part(entry, "repeated"), "count") or 1,
        )
        self._rows["decision"].append(row)
        if call is not None:
            call["decision"] = item.seq
            self._about(entry, call, item.agent)

    def _about(self, entry: dict[str, Any], call: dict[str, Any], agent: int) -> None:
        """What an entry says of its call."""
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
        call["path"] = path
        for proof in listed(lineage, "proofs"):
            if isinstance(proof, str) and proof.startswith("session:"):
                call["session"] = self.word(proof.removeprefix("session:"))

    def _intent(self, item: _Item) -> None:
        call, planned = item.call, item.kind == "plan.intent"
        if call is None:
            return
        call["plan" if planned else "intent"] = item.seq
        call["state"] = self.word("PLANNING" if planned else "RUNNING")
        # Beginning is refused where anything of it differs from the decision; an extract may lack that.
        if not call["path"] and "lineage" in item.entry:
            self._about(item.entry, call, item.agent)

    def _outcome(self, item: _Item) -> None:
        call = item.call
        if call is None:
            return
        outcome, effect = part(item.entry, "outcome"), part(item.entry, "effect")
        state = text(outcome, "state") or ("UNKNOWN" if item.kind == "unknown" else "")
        call |= {
            "outcome": item.seq,
            "ended": item.ts,
            "state": self.word(state),
            "cause": self.word(text(outcome, "cause")),
            "exit_code": number(outcome, "exit_code") if type(outcome.get("exit_code")) is int else None,
        }
        if effect:
            call |= {name: number(effect, name) for name in ("added", "changed", "removed")} | {"effect": 1}
            for name in listed(effect, "undoes"):
                if isinstance(name, str):
                    target = self._call(name, item.seq, item.ts)
                    self._rows["undo"].append((call["id"], target["id"], item.seq))

    def _egress(self, item: _Item) -> None:
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

    def _vote(self, item: _Item) -> None:
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
            item.approval["id"],
            self.word(text(item.entry, "person")),
            self.word(text(statement, "decision")),
            self.word(text(item.entry, "channel")),
            self.word(text(statement, "key")),
        )
        self._rows["vote"].append(row)
        item.approval["state"] = self.word(text(part(item.entry, "approval"), "state"))

    def _act(self, item: _Item) -> None:
        entry = item.entry
        if item.kind in {"undo.intent", "undo.outcome"} and item.call is not None:
            item.call["state"] = self.word(text(part(entry, "undo"), "state"))
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


def _used(item: _Item) -> list[dict[str, Any]]:
    """The approvals that an entry says it was agreed to by."""
    return [] if item.kind in _USES_NONE else [used for used in items(item.entry, "approvals") if text(used, "id")]


def _next(connection: sqlite3.Connection, table: str) -> int:
    found = connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608 - ours
    return (found or 0) + 1
