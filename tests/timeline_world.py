"""A recorded incident, entry by entry: a wrong deletion that people agreed to, its undo, a freeze, and what a crash left open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from broker.domain.canonical import JsonObject, JsonValue, digest
from broker.ledger.encoding import decode
from broker.replay.casebook import Casebook, Mark
from broker.replay.making import extract_casebook
from broker.replay.timeline.making import Limits, make_timeline
from broker.replay.timeline.model import Event, Timeline
from broker.replay.timeline.selecting import Look, Selection
from broker.replay.timeline.texts import NoTexts, Texts
from tests.ledger_world import data_of, row_of
from tests.votes_world import ADA, APPROVAL, BOB, CYD, EVE, POLICY, SCOUT, VERSION, Story, named_approval

SESSION = "ses_01k00000000000000000000001"
DELETE, UNDO, LOST, LATER, PLAIN = (f"call_01k0000000000000000000000{letter}" for letter in "duaep")
GUARD = "agt_01k0000000000000000000000g"
"""Another agent."""
STRICTER = digest(b"a stricter policy")
OK = Mark("ok", "", "brk_test", 0, "", checkpoint_size=10, checkpoint_root="ab" * 32)
NAMES = {ADA: "human:ada", BOB: "human:bob", CYD: "human:cyd", EVE: "human:eve", SCOUT: "agent:scout"}


class Told(Story):
    """A story with agents' entries, in which the broker may be started again."""

    boot = "boot_01"

    def append(self, kind: str, body: JsonObject) -> int:
        """Any entry, by the broker that runs."""
        seq = super().append(kind, body)
        if self.boot != "boot_01":
            entry = {**decode(data_of(self.rows[-1])), "boot_id": self.boot}
            self.rows[-1] = row_of(seq, entry)
        return seq


@dataclass
class Incident:
    """The story, and the numbers of its entries by what they are."""

    story: Told = field(default_factory=Told)
    at: dict[str, int] = field(default_factory=dict)

    def tell(self) -> Incident:
        """Writes all of it."""
        story, at = self.story, self.at
        story.found()
        at["spec"] = story.append("spec.registered", {"tool": {"name": "files.write", "version": VERSION}, "tier": 4})
        at["session"] = story.append("session.started", self._session())
        self._deletion()
        at["stricter"] = story.append("policy.changed", {"policy_digest": STRICTER, "before": POLICY, "rules": 4})
        self._undo()
        at["frozen"] = story.append("frozen", {"scope": "tool", "target": "files.write", "by": CYD})
        refused: JsonObject = {"refused": {"reason": "FROZEN", "rule": "frozen"}, "workspace": "ops"}
        at["refused"] = story.append("decision", {**self._of("files.write"), **refused})
        at["plain"] = self._decision(PLAIN, agent=GUARD, tool="files.read", workspace="lab", session=False, classes=[])
        self._ended(PLAIN, self._begun(PLAIN, GUARD), agent=GUARD, egress=[_host("api.example.org", "ALLOWED")])
        at["open"] = self._decision(LOST)
        at["open intent"] = self._begun(LOST)
        story.boot = "boot_02"
        at["restart"] = story.start()
        at["later"] = self._decision(LATER)
        gone: JsonObject = {"subject": {"kind": "call", "id": LATER}, "reason": "subject", "by": ADA, "ids": [LATER]}
        at["later end"] = self._ended(LATER, self._begun(LATER))
        at["erased"] = story.append("erased", {**gone, "call_id": LATER, "objects": 1, "bytes": 9})
        at["session end"] = story.append("session.ended", self._session())
        return self

    def _deletion(self) -> None:
        story, at = self.story, self.at
        at["decision"] = self._decision(DELETE, classes=["personal"])
        at["plan"] = story.append("plan.intent", {**self._of("files.write", DELETE), "decision_seq": at["decision"]})
        at["artifact"] = story.append(
            "artifact", {**self._of("", DELETE), "kind": "rollback", "bytes": 7, "digest": "d"}
        )
        at["planned"] = story.append("plan.outcome", {**self._of("files.write", DELETE), "rehearsed": True})
        at["asked"] = story.ask(subject=DELETE)
        at["ada"] = story.cast(story.statement(ADA), call_id=DELETE)
        at["bob"] = story.cast(story.statement(BOB), call_id=DELETE)
        said: JsonObject = {"id": APPROVAL, "kind": "CALL", "state": "USED", "votes": [at["ada"], at["bob"]]}
        at["closed"] = story.append("approval.closed", {"approval": said, "call_id": DELETE})
        approval = named_approval(APPROVAL, at["ada"], at["bob"])
        at["intent"] = self._begun(DELETE, approvals=[approval])
        effect: JsonObject = {"before": "s1", "after": "s2", "digest": "e1", "artifact": "d", "removed": 3, "added": 0}
        at["outcome"] = self._ended(DELETE, at["intent"], effect=effect)

    def _undo(self) -> None:
        self._decision(UNDO, tool="workspace.undo")
        begun = self._begun(UNDO)
        effect: JsonObject = {"before": "s2", "after": "s1", "digest": "e2", "added": 3, "undoes": [DELETE]}
        self.at["undone"] = self._ended(UNDO, begun, effect=effect)

    def _session(self) -> JsonObject:
        return {"session": SESSION, "workspace": "ops", "lineage": {"starter": BOB}, "by": BOB, "agent": {"id": SCOUT}}

    def _of(self, tool: str, call: str = "", *, agent: str = SCOUT) -> JsonObject:
        about: JsonObject = {"agent": {"id": agent}, "tool": {"name": tool, "version": VERSION}}
        return {**about, "call_id": call} if call else about

    def _decision(
        self,
        call: str,
        *,
        agent: str = SCOUT,
        tool: str = "files.write",
        workspace: str = "ops",
        session: bool = True,
        classes: list[JsonValue] | None = None,
    ) -> int:
        proofs: list[JsonValue] = [f"session:{SESSION}"] if session else []
        policy: JsonObject = {"digest": POLICY, "rule": "rule-1", "decision": "allow", "inputs": {"subject": agent}}
        return self.story.append(
            "decision",
            {
                **self._of(tool, call, agent=agent),
                "workspace": workspace,
                "workflow": {"id": "clean-up", "version": VERSION} if session else {},
                "lineage": {"owner": EVE, "starter": BOB if session else EVE, "on_behalf_of": "", "proofs": proofs},
                "tier": 4,
                "data_classes": classes or [],
                "policy": policy,
            },
        )

    def _begun(self, call: str, agent: str = SCOUT, **body: JsonValue) -> int:
        decided = len(self.story.rows) - 1
        named: JsonObject = {} if "approvals" in body else {"decision_seq": decided}
        return self.story.append("intent", {**self._of("", call, agent=agent), **named, **body})

    def _ended(self, call: str, intent: int, *, agent: str = SCOUT, **body: JsonValue) -> int:
        outcome: JsonObject = {"state": "SUCCEEDED", "cause": "TOOL", "exit_code": 0}
        return self.story.append(
            "outcome", {**self._of("", call, agent=agent), "intent_seq": intent, "outcome": outcome, **body}
        )


def _host(name: str, verdict: str) -> JsonValue:
    return {"host": name, "port": 443, "kind": "HTTPS", "verdict": verdict, "count": 1, "sent": 10, "received": 20}


@contextmanager
def casebook_of(story: Story, mark: Mark = OK) -> Iterator[Casebook]:
    """The casebook of a story's entries, as somebody else has verified them."""
    with extract_casebook([(row.seq, data_of(row)) for row in story.rows], mark) as casebook:
        yield casebook


def name(identity: str) -> str:
    """How somebody is called."""
    return NAMES.get(identity, identity)


def timeline_of(
    story: Story,
    *,
    mark: Mark = OK,
    texts: Texts | None = None,
    look: Look | None = None,
    limits: Limits | None = None,
    **wanted: str | int,
) -> Timeline:
    """The timeline of a story."""
    with casebook_of(story, mark) as casebook:
        selection = Selection(**wanted)  # type: ignore[arg-type]  # each by its name
        return make_timeline(casebook, selection, name=name, texts=texts or NoTexts(), look=look, limits=limits)


def calls_of(timeline: Timeline) -> set[str]:
    """The calls that were selected."""
    return {group.name for group in timeline.groups if group.call is not None and group.call.selected}


def events_of(timeline: Timeline) -> Mapping[int, Event]:
    """Events by number."""
    return {event.seq: event for event in timeline.events}
