"""Checks the two-person rule from a ledger's entries alone: every vote's signature, and that enough people agreed to every
act that needed it, before it began. Pure, in bounded memory: keys, open approvals, and those that were used last.

It is fed the entries that concern it, in their order, once the chain over them is known to be sound: what it finds is no
tampering with the ledger, but something that the broker should never have done. It can't see which roles people held, nor
what they were shown: of that the ledger has digests only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType

from broker.domain.approval import ApprovalState, VoteDecision
from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.founding_state import COVERED, FoundingStanding
from broker.domain.statement import parse_acceptance, parse_vote
from broker.domain.tier import APPROVAL_REQUIRED_FROM
from broker.domain.tool_standing import ToolStanding
from broker.errors import InvalidArgumentError
from broker.ledger.verdict import Place
from broker.ledger.votes_acts import CHANGES, InForce, Need, check_bound, check_subject, may_go_on, tier_of
from broker.ledger.votes_founding import FoundingCheck, check_own
from broker.ledger.votes_reading import (
    Asked,
    Ballot,
    FindingError,
    Key,
    check_statement,
    numbers,
    part,
    people_behind,
    read_asked,
    read_key,
    unbase64,
    words,
)
from broker.ledger.votes_report import Alone, Attested, VotesReport
from broker.ledger.votes_undo import ENDS, SelfUndos, agrees, ends
from broker.signing import verify
from broker.tlog.merkle import leaf_hash

ALWAYS = (
    COVERED
    | CHANGES
    | frozenset(
        {
            "approver.accepted",
            "founding.completed",
            "approval.requested",
            "vote",
            "vote.attested",
            "approval.closed",
            "workflow.approved",
            "account.mapped",
            "account.unmapped",
            "unfrozen",
        }
    )
)
"""Types of entries that concern the votes."""
ACTS = frozenset({"intent", "undo.intent"})
"""Types of which those concern them that need people's agreement, or say that they have it."""
TYPES = ALWAYS | ACTS | ENDS

_TOLD = COVERED - CHANGES - {"key.enrolled", "key.revoked"}
"""Types that say what stands, by which the founding is checked, and nothing else."""

_ACTIONS = frozenset({"key.enrolled", "account.mapped", "account.unmapped", "unfrozen"})
"""Entries that name the approval of an administrative action, once the founding is complete."""

_MAX_LISTED = 1000
_USED_KEPT = 1024
"""Approvals that were used last: the act stands in the ledger right behind the use."""
_SLACK = timedelta(seconds=60)
"""Between the broker's look at its clock and the time of the entry that follows from it."""


def concerns(kind: str, entry: JsonObject) -> bool:
    """Is it an entry that the votes are checked by?"""
    if kind in ALWAYS or kind == "undo.intent" or ends(kind, entry):
        return True
    return kind in ACTS and ("approvals" in entry or agrees(entry) or tier_of(entry) >= APPROVAL_REQUIRED_FROM)


class Votes:
    """Everything that is known of keys, approvals and votes so far."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._founders = FoundingCheck()
        self._open: dict[str, Asked] = {}
        self._used: OrderedDict[str, Asked] = OrderedDict()
        self._acts = self._signatures = self._votes = 0
        self._attested: list[Attested] = []
        self._attested_count = 0
        self._alone: list[Alone] = []
        self._alone_count = 0
        self._force = InForce()
        self._self_undos = SelfUndos()
        self._findings: list[Place] = []
        self._found = 0

    def entry(self, seq: int, data: bytes, entry: JsonObject) -> None:
        """Takes in an entry of which ``concerns`` is true; ``data`` are its bytes."""
        kind = entry["type"]
        try:
            self._take(seq, str(kind), entry)
            if kind in COVERED and not self._founders.complete:
                self._founders.entry(seq, leaf_hash(data), entry)
        except FindingError as finding:
            self._find(seq, finding.member, str(finding))

    def ran(self, seq: int, name: str, version: str, tier: int) -> None:
        """Takes in that a call of a version of a tool began at a tier below 4, after ``entry`` where both are of one entry."""
        least = self._force.least(name, version, founded=bool(self._founders.complete))
        if tier < least:
            why = f"is {tier}, and what is registered of {name[:80] or 'no tool'} {version[:80]} runs at {least}"
            self._find(seq, "tier", why)

    def _find(self, seq: int, member: str, why: str) -> None:
        self._found += 1
        if len(self._findings) < _MAX_LISTED:
            self._findings.append(Place(seq, member, why))

    def _take(self, seq: int, kind: str, entry: JsonObject) -> None:
        match kind:
            case "approval.requested":
                self._requested(entry)
            case "vote" | "vote.attested":
                self._vote(seq, entry, attested=kind == "vote.attested")
            case "approval.closed":
                self._closed(entry)
            case "key.revoked":
                self._key(words(part(entry, "key"), "id", "key.id"), "key.id").revoked = True
            case "approver.accepted":
                self._acceptance(seq, entry)
            case "founding.completed":
                self._completed(entry)
            case _ if kind in ACTS or kind in ENDS:
                self._of_call(seq, kind, entry)
            case _ if kind in CHANGES:
                self._change(seq, kind, entry)
            case _ if kind not in _TOLD:
                self._act(kind, entry)

    def _completed(self, entry: JsonObject) -> None:
        if not self._founders.complete:
            self._force.check_founding(self._founders.standing().content.tools)
        self._founders.completed(entry)

    def _of_call(self, seq: int, kind: str, entry: JsonObject) -> None:
        if kind == "undo.intent":
            self._acts += 1
            self._self_undos.taken_back(entry)
        elif kind in ENDS:
            self._self_undos.ended(kind, entry)
        else:
            if "approvals" in entry or tier_of(entry) >= APPROVAL_REQUIRED_FROM:
                self._act(kind, entry)
            self._self_undos.began(seq, entry)

    def report(self) -> VotesReport:
        """What was found."""
        return VotesReport(
            acts=self._acts,
            signatures=self._signatures,
            votes=self._votes,
            attested=tuple(self._attested),
            attested_count=self._attested_count,
            alone=tuple(self._alone),
            alone_count=self._alone_count,
            findings=tuple(self._findings),
            found=self._found,
        )

    @property
    def found(self) -> int:
        """How many findings there are so far."""
        return self._found

    @property
    def founding(self) -> str:
        """Digest of the founding that is complete; empty before."""
        return self._founders.complete

    def standing(self) -> FoundingStanding:
        """How far the founding is, and what stands, or stood when it was completed."""
        return self._founders.standing()

    @property
    def tools(self) -> Mapping[str, ToolStanding]:
        """Name of a tool -> what stands of it, by the entries that were found right."""
        return MappingProxyType(self._force.tools)

    def check_usable(self, which: str, counted: tuple[int, ...]) -> frozenset[str]:
        """Lets an approval pass that could be used now by these votes, entries' numbers; returns whose they are.

        Raises:
            FindingError: it is not open, was denied or has been acted on, or the votes aren't enough or don't stand.
        """
        self._check_founded()
        asked = self._opened(which)
        self._check_enough(asked, counted, frozenset(), "approval.votes")
        return frozenset(person for person, ballot in asked.ballots.items() if ballot.seq in counted)

    def copy(self) -> Votes:
        """The same, to go on from without changing this one."""
        made = Votes()
        made._founders = self._founders.copy()
        made._keys = {which: replace(key) for which, key in self._keys.items()}
        made._open = {which: replace(asked, ballots=dict(asked.ballots)) for which, asked in self._open.items()}
        used = ((which, replace(asked, ballots=dict(asked.ballots))) for which, asked in self._used.items())
        made._used = OrderedDict(used)
        made._acts, made._signatures, made._votes = self._acts, self._signatures, self._votes
        made._attested, made._attested_count = list(self._attested), self._attested_count
        made._alone, made._alone_count = list(self._alone), self._alone_count
        made._force = self._force.copy()
        made._self_undos = self._self_undos.copy()
        made._findings, made._found = list(self._findings), self._found
        return made

    # keys and the founding

    def _key(self, which: str, member: str) -> Key:
        key = self._keys.get(which)
        if key is None:
            raise FindingError(member, f"names the key {which[:80]}, which no entry before this one enrolled")
        return key

    def _valid_key(self, which: str, member: str) -> Key:
        key = self._key(which, member)
        if key.revoked:
            raise FindingError(member, f"is by the key {which}, which was revoked before")
        return key

    def _check_signature(self, key: Key, signature: bytes, statement: str, member: str) -> None:
        self._signatures += 1
        if not verify(key.public_key, signature, statement.encode()):
            raise FindingError(member, f"is not the signature of this statement by the key {key.id}")

    def _acceptance(self, seq: int, entry: JsonObject) -> None:
        text = words(entry, "statement")
        try:
            statement = parse_acceptance(text.encode())
        except InvalidArgumentError as error:
            raise FindingError("statement", error.message) from error
        key = self._valid_key(statement.key, "statement")
        check_own(entry, key, statement)
        self._check_signature(key, unbase64(entry, "signature", "signature"), text, "signature")
        self._founders.accept(seq, key, statement)

    def _check_founded(self) -> None:
        self._founders.check_founded()

    # approvals and votes

    def _requested(self, entry: JsonObject) -> None:
        self._check_founded()
        asked = read_asked(entry)
        if asked.id in self._open or asked.id in self._used:
            raise FindingError("approval.id", f"{asked.id} was asked for before")
        self._open[asked.id] = asked

    def _opened(self, which: str) -> Asked:
        asked = self._open.get(which)
        if asked is None:
            why = "was closed before" if which in self._used else "is not open: never asked for, or closed before"
            raise FindingError("approval.id", f"{which[:80]} {why}")
        return asked

    def _vote(self, seq: int, entry: JsonObject, *, attested: bool) -> None:
        self._votes += 1
        asked = self._opened(words(part(entry, "approval"), "id", "approval.id"))
        said = part(entry, "vote")
        text = words(said, "statement", "vote.statement")
        try:
            statement = parse_vote(text.encode())
        except InvalidArgumentError as error:
            raise FindingError("vote.statement", error.message) from error
        key = self._valid_key(statement.key, "vote.statement")
        self._check_signature(key, unbase64(said, "signature", "vote.signature"), text, "vote.signature")
        check_statement(entry, asked, statement, key, attested=attested)
        self._check_timely(entry, asked)
        person, before = statement.approver, asked.ballots.get(statement.approver)
        if person in asked.excluded:
            raise FindingError("person", f"{person} is in the request's lineage, or it is about them")
        replayed = before is not None and statement.time <= before.time
        if replayed and statement.decision is not VoteDecision.DENY:
            raise FindingError("vote.statement", "is not later than the person's vote before: it was played in again")
        if statement.decision is VoteDecision.APPROVE and statement.channel not in asked.requirement.channels:
            raise FindingError(
                "channel", f"approves by {statement.channel.value}, which the requirement doesn't let count"
            )
        asked.votes += 1
        asked.denied = asked.denied or statement.decision is VoteDecision.DENY
        asked.ballots[person] = Ballot(
            seq, statement.decision, key.id, attested, statement.channel.value, statement.time
        )
        if attested:
            self._attested_count += 1
            if len(self._attested) < _MAX_LISTED:
                self._attested.append(Attested(seq, key.id, person))

    def _check_timely(self, entry: JsonObject, asked: Asked) -> None:
        if datetime.fromisoformat(words(entry, "ts")) > asked.expires + _SLACK:
            raise FindingError("ts", f"is after {asked.id} had expired")

    def _closed(self, entry: JsonObject) -> None:
        said = part(entry, "approval")
        asked = self._opened(words(said, "id", "approval.id"))
        del self._open[asked.id]
        try:
            state = ApprovalState(words(said, "state", "approval.state"))
        except ValueError as error:
            raise FindingError("approval.state", "is no state") from error
        if said.get("envelope_digest") != asked.envelope_digest:
            raise FindingError("approval.envelope_digest", "is not that of the request")
        if state is not ApprovalState.USED:
            if asked.acted:
                raise FindingError("approval.state", "ends as not used what has been acted on")
            return
        self._check_timely(entry, asked)
        asked.counted = numbers(said.get("votes"), "approval.votes")
        self._check_enough(asked, asked.counted, frozenset(), "approval.votes")
        self._used[asked.id] = asked
        if len(self._used) > _USED_KEPT:
            self._used.popitem(last=False)

    def _check_enough(self, asked: Asked, counted: tuple[int, ...], barred: frozenset[str], member: str) -> None:
        """Lets an approval pass whose counted votes stand, are of enough people, and by keys that count now."""
        if asked.denied:
            raise FindingError(member, f"{asked.id} was denied")
        standing = {ballot.seq: (person, ballot) for person, ballot in asked.ballots.items()}
        signed = 0
        people: set[str] = set()
        for seq in counted:
            person, ballot = standing.get(seq, ("", None))
            if ballot is None or ballot.decision is not VoteDecision.APPROVE:
                raise FindingError(member, f"entry {seq} is no vote for {asked.id} that stands")
            if person in barred:
                raise FindingError(member, f"entry {seq} is the vote of {person}, who is in the lineage")
            if self._keys[ballot.key].revoked:
                raise FindingError(member, f"entry {seq} is by the key {ballot.key}, which was revoked before")
            people.add(person)
            signed += not ballot.attested
        if len(people) < asked.needed or len(people) != len(counted):
            raise FindingError(member, f"{len(people)} people have agreed to {asked.id}; it takes {asked.needed}")
        if signed < asked.requirement.min_signed:
            why = f"{signed} people have signed {asked.id} themselves; it takes {asked.requirement.min_signed}"
            raise FindingError(member, why)

    # what people agreed to

    def _act(self, kind: str, entry: JsonObject) -> None:
        if kind in _ACTIONS:
            self._action(kind, entry)
            return
        self._acts += 1
        named = entry.get("approvals")
        needed = kind == "workflow.approved" or tier_of(entry) >= APPROVAL_REQUIRED_FROM
        if not isinstance(named, list) or (needed and not named):
            raise FindingError("approvals", "nobody's agreement is named, and it needs that of people")
        self._check_founded()
        for item in named:
            self._named(kind, entry, item)

    def _named(self, kind: str, entry: JsonObject, item: JsonValue) -> None:
        said: JsonObject = item if isinstance(item, dict) else {}
        which = words(said, "id", "approvals.id")
        asked = self._used.get(which)
        if asked is None or (asked.acted and not may_go_on(kind, entry, asked)):
            why = "was used for something else before" if asked else "was not used for this"
            raise FindingError("approvals.id", f"{which[:80]} {why}")
        asked.acted = True
        for member, wanted in (
            ("envelope_digest", asked.envelope_digest),
            ("rendering_digest", asked.rendering_digest),
        ):
            if said.get(member) != wanted:
                raise FindingError(f"approvals.{member}", f"is not the one of {which}: {wanted}")
        if numbers(said.get("votes"), "approvals.votes") != asked.counted:
            raise FindingError("approvals.votes", f"are not those by which {which} was used: {list(asked.counted)}")
        check_subject(kind, entry, asked)
        self._check_timely(entry, asked)
        behind = people_behind(entry) if kind in ACTS else frozenset[str]()
        self._check_enough(asked, asked.counted, behind, "approvals.votes")

    def _action(self, kind: str, entry: JsonObject) -> None:
        key = read_key(entry) if kind == "key.enrolled" else None
        which = entry.get("approval")
        if not isinstance(which, str):
            raise FindingError("approval", "is missing, or no text")
        if self._founders.complete:
            self._acts += 1
            self._check_action(kind, entry, which, "approval")
        else:
            self._founders.check_allowed(kind, entry, key)
        if key is not None:
            if key.id in self._keys:
                raise FindingError("key.id", "was enrolled before")
            self._keys[key.id] = key

    def _check_action(self, kind: str, entry: JsonObject, which: str, member: str) -> None:
        # The broker writes such an entry and then the use of its approval, in one transaction.
        asked = self._open.get(which)
        if asked is None or asked.acted:
            raise FindingError(member, "the founding is complete, and no open approval of this act is named")
        check_bound(kind, entry, asked, member)
        asked.acted = True
        standing = tuple(
            item.seq
            for item in asked.ballots.values()
            if item.decision is VoteDecision.APPROVE and not self._keys[item.key].revoked
        )
        self._check_enough(asked, standing, frozenset(), member)

    def _change(self, seq: int, kind: str, entry: JsonObject) -> None:
        founded = bool(self._founders.complete)
        need = self._force.need(kind, entry, founded=founded)
        named = entry.get("approvals")
        if named is None and need is Need.WORD:
            self._alone_count += 1
            if len(self._alone) < _MAX_LISTED:
                self._alone.append(Alone(seq, kind))
        elif named is not None or need is Need.PEOPLE:
            self._acts += 1
            if not isinstance(named, list) or len(named) != 1:
                raise FindingError("approvals", "nobody's agreement is named, and it needs that of people")
            self._check_founded()
            if kind == "identity.issued" and entry.get("change") == "owner":
                said: JsonObject = named[0] if isinstance(named[0], dict) else {}
                self._check_action(kind, entry, words(said, "id", "approvals.id"), "approvals.id")
            else:
                self._named(kind, entry, named[0])
        self._force.take(kind, entry, founded=founded)
