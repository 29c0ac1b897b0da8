"""Ledgers in which people found the two-person rule, vote, and calls begin: as the broker writes it, and as it never would."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from broker.domain.approval import VoteDecision
from broker.domain.canonical import JsonObject, JsonValue, digest
from broker.domain.founding_state import COVERED, FoundingState
from broker.domain.requirement import Channel, Requirement, RoleCount
from broker.domain.statement import (
    AcceptanceStatement,
    SeenCheckpoint,
    VoteStatement,
    commitment,
    key_id,
)
from broker.domain.tool_standing import Registered, ToolStanding, tools_digest
from broker.ledger.encoding import decode
from broker.ledger.entry import timestamp
from broker.ledger.source import Row
from broker.ledger.verdict import Report
from broker.ledger.verifier import verify
from broker.tlog.merkle import leaf_hash
from tests.ledger_world import data_of, row_of
from tests.signing_support import ORIGIN, NumberedSigner

START = datetime(2026, 1, 1, tzinfo=UTC)
ADA, BOB, CYD, DAN, EVE = (f"hum_01k0000000000000000000000{letter}" for letter in "abcde")
BOT = "agt_01k0000000000000000000000b"
SCOUT = "agt_01k0000000000000000000000s"
SETTINGS, POLICY = digest(b"settings"), digest(b"policy")
TOOLS = tools_digest({})
"""That no tool is registered."""
BY_BOT = "apv_01k0000000000000000000000y"
"""The approval by which the bot's key is enrolled."""
APPROVAL, CALL = "apv_01k00000000000000000000001", "call_01k00000000000000000000001"
TOOL, VERSION, SURFACE = "files.write", digest(b"its specification"), digest(b"what it may do")
SIGNERS = {person: NumberedSigner(100 + number) for number, person in enumerate((ADA, BOB, CYD, DAN, EVE, BOT))}
LOG_KEY = NumberedSigner(1)

REQUIREMENT = Requirement(
    people=2,
    roles=(RoleCount("approver", 2),),
    channels=frozenset({Channel.CLI}),
    min_signed=2,
    expiry_s=3600.0,
    cooldown_s=0.0,
    max_pending=5,
    exclude_tool_owner=False,
)
BY_CHAT = replace(REQUIREMENT, channels=frozenset({Channel.CLI, Channel.SLACK}), min_signed=1)
SALT = b"s" * 32
ACCOUNT = ("slack", "T1", "U1")
LINEAGE: JsonObject = {"owner": EVE, "registrar": EVE, "starter": EVE, "on_behalf_of": "", "proofs": []}


def signer_of(holder: str) -> NumberedSigner:
    """A person's, or the bot's, key."""
    return SIGNERS[holder]


def id_of(signer: NumberedSigner) -> str:
    """The id of a key."""
    return key_id(signer.key.public_key)


def reason_of(person: str) -> str:
    """What a person gives as the reason of a vote."""
    return f"because {person} has looked at it"


def envelope_of(approval: str) -> str:
    """Stands for the digest of an approval's envelope."""
    return digest(f"envelope of {approval}".encode())


def rendering_of(approval: str) -> str:
    """Stands for the digest of an approval's text."""
    return digest(f"rendering of {approval}".encode())


def named_approval(approval: str, *votes: int) -> JsonObject:
    """An approval as the entry of what it was used for names it."""
    return {
        "id": approval,
        "envelope_digest": envelope_of(approval),
        "rendering_digest": rendering_of(approval),
        "votes": list(votes),
    }


def key_act(holder: str, kind: str = "approver") -> JsonObject:
    """What the request says of the entry that enrols a holder's key."""
    return {"type": "key.enrolled", "key.id": id_of(signer_of(holder)), "key.kind": kind, "person": holder}


class Story:
    """A ledger that is written as it goes. Each method appends an entry and returns its number."""

    origin = ORIGIN

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.numbers: dict[str, int] = {}
        self.begun()

    def begun(self) -> None:
        """Appends the first entry, and what stands before anybody has a key."""
        self.append("genesis", {"checkpoint_key": str(LOG_KEY.key)})
        self.stand()

    def stand(self) -> None:
        """People and agents, the policy, and what starts bring into force."""
        for person in (ADA, BOB, CYD, DAN, EVE):
            self.register(person)
            self.certify(person)
        self.register(SCOUT, owner=EVE)
        self.register(BOT, owner=EVE)
        self.append("settings.changed", {"in_force": {"tools": TOOLS}, "before": ""})
        self.append("settings.changed", {"in_force": {"settings": SETTINGS}, "before": ""})
        self.append("policy.changed", {"policy_digest": POLICY, "rules": 3})
        self.start()

    def start(self, *, policy: str = POLICY, settings: str = SETTINGS, tools: str = TOOLS) -> int:
        """A start of the broker, and what it brings into force."""
        return self.append("heartbeat", {"policy_digest": policy, "in_force": {"settings": settings, "tools": tools}})

    def register(self, which: str, *, owner: str = "", registrar: str = EVE, change: str = "registered") -> int:
        """Somebody new; with another ``change`` what became of them."""
        return self.append("identity.issued", _identity(which, owner, registrar, change=change))

    def give(self, agent: str, owner: str) -> int:
        """Another owner for an agent, whose certificates end."""
        body = _identity(agent, owner, owner, change="owner")
        return self.append("identity.issued", {**body, "revoked_certificates": [digest(f"of {agent}".encode())]})

    def certify(self, which: str, key: str = "") -> int:
        """A certificate."""
        text = key or f"of {which}"
        parts: JsonObject = {"fingerprint": digest(text.encode()), "key_digest": digest(f"key {text}".encode())}
        return self.append("identity.issued", {**_identity(which, "", EVE, change="certificate"), **parts})

    @property
    def now(self) -> datetime:
        """The time of the next entry."""
        return START + timedelta(seconds=len(self.rows))

    def report(self) -> Report:
        """What the verifier says of it."""
        return verify(self.rows, votes=True)

    def append(self, kind: str, body: JsonObject) -> int:
        """Any entry."""
        seq = len(self.rows)
        prev = leaf_hash(data_of(self.rows[-1])).hex() if seq else "0" * 64
        own: JsonObject = {
            "v": 1,
            "origin": ORIGIN,
            "seq": seq,
            "prev": prev,
            "type": kind,
            "ts": timestamp(self.now),
            "boot_id": "boot_01",
        }
        self.rows.append(row_of(seq, {**body, **own}))
        return seq

    def enrol(
        self, holder: str, kind: str = "approver", *, approval: str = "", signer: NumberedSigner | None = None
    ) -> int:
        """A key."""
        public_key = (signer or signer_of(holder)).key.public_key
        key: JsonObject = {
            "id": key_id(public_key),
            "kind": kind,
            "public_key": base64.b64encode(public_key).decode(),
        }
        return self.append("key.enrolled", {"key": key, "person": holder, "by": EVE, "approval": approval})

    def revoke(self, holder: str) -> int:
        """The end of a person's key."""
        return self.append("key.revoked", {"key": {"id": id_of(signer_of(holder))}, "person": holder, "by": holder})

    @property
    def founding(self) -> str:
        """The digest of what stands."""
        state = FoundingState()
        for row in self.rows:
            entry = decode(data_of(row))
            if entry["type"] in COVERED:
                state.entry(row.seq, leaf_hash(data_of(row)), entry)
        return state.content().digest

    def accept(self, person: str, *, signer: NumberedSigner | None = None, founding: str = "") -> int:
        """A founder's acceptance."""
        used = signer or signer_of(person)
        which = founding or self.founding
        statement = AcceptanceStatement(self.origin, which, person, id_of(used), self.now, None).encode()
        body: JsonObject = {
            "person": person,
            "key": {"id": id_of(used)},
            "founding_digest": which,
            "statement": statement.decode(),
            "signature": base64.b64encode(used.sign(statement)).decode(),
        }
        return self.append("approver.accepted", body)

    def complete(self, *people: str) -> int:
        """The end of the founding."""
        return self.append("founding.completed", {"founding_digest": self.founding, "people": sorted(people)})

    def found(self) -> Story:
        """The whole founding, by three of four people."""
        for person in (ADA, BOB, CYD, DAN):
            self.enrol(person)
        for person in (ADA, BOB, CYD):
            self.accept(person)
        self.complete(ADA, BOB, CYD)
        return self

    def with_bot(self) -> Story:
        """A bot's key, as two people agree to it."""
        self.ask(BY_BOT, kind="ADMINISTRATION", subject="key.enroll", act=key_act(BOT, "bot"))
        votes = [self.vote(person, BY_BOT) for person in (ADA, BOB)]
        self.enrol(BOT, "bot", approval=BY_BOT)
        self.close(*votes, approval=BY_BOT)
        return self

    def ask(
        self,
        approval: str = APPROVAL,
        *,
        kind: str = "CALL",
        subject: str = CALL,
        requirement: Requirement = REQUIREMENT,
        tier: int = 4,
        excluded: tuple[str, ...] = (EVE,),
        expires: datetime | None = None,
        act: JsonObject | None = None,
    ) -> int:
        """A request; ``act`` is what it says beforehand of an administrative action's entry."""
        said: JsonObject = {
            "id": approval,
            "kind": kind,
            "subject": subject,
            "obj": "files.write",
            "requester": SCOUT,
            "envelope_digest": envelope_of(approval),
            "rendering_digest": rendering_of(approval),
            "requirement": requirement.json(),
            "excluded": list(excluded),
            "created": self.now.isoformat(),
            "expires": (expires or self.now + timedelta(hours=1)).isoformat(),
        }
        told: JsonObject = {} if act is None else {"act": act}
        return self.append(
            "approval.requested", {"approval": said, "workspace": "ops", "tier": tier, "call_id": subject, **told}
        )

    def register_tool(self, tier: int, *, surface: str = SURFACE, version: str = VERSION, **body: JsonValue) -> int:
        """A tool's registration, which asks for the tier that it runs at."""
        tool: JsonObject = {"name": TOOL, "version": version}
        return self.append(
            "spec.registered", {"tool": tool, "tier": tier, "declared": tier, "surface": surface, **body}
        )

    def tools(self, *registered: Registered) -> int:
        """That these tools, and no others, are registered."""
        which = tools_digest({item.name: ToolStanding(item, None) for item in registered})
        return self.append("settings.changed", {"in_force": {"tools": which}, "before": ""})

    def ran(self, tier: int, version: str = VERSION, kind: str = "intent") -> int:
        """A call of the tool that nobody had to agree to."""
        return self.append(kind, {"call_id": CALL, "tier": tier, "tool": {"name": TOOL, "version": version}})

    def agree(self, subject: str, act: JsonObject, *people: str, approval: str = APPROVAL) -> list[int]:
        """An administrative action's request, and the votes for it."""
        self.ask(approval, kind="ADMINISTRATION", subject=subject, act=act)
        return [self.vote(person, approval) for person in people]

    def use(
        self, kind: str, subject: str, body: JsonObject, act: JsonObject | None = None, approval: str = APPROVAL
    ) -> int:
        """An entry that two people agreed to, after the use of their approval; ``act`` is what the request said of it."""
        votes = self.agree(subject, {"type": kind, **(act or {})}, ADA, BOB, approval=approval)
        self.close(*votes, approval=approval)
        return self.append(kind, {**body, "approvals": [named_approval(approval, *votes)]})

    def statement(
        self, person: str, approval: str = APPROVAL, decision: str = "approve", *, bot: bool = False
    ) -> VoteStatement:
        """What somebody signs."""
        return VoteStatement(
            origin=self.origin,
            approval=approval,
            envelope_digest=envelope_of(approval),
            rendering_digest=rendering_of(approval),
            decision=VoteDecision(decision),
            reason_commit=commitment(SALT, "reason", reason_of(person)),
            approver=person,
            key=id_of(signer_of(BOT if bot else person)),
            time=self.now,
            checkpoint=SeenCheckpoint(1, base64.b64encode(bytes(32)).decode()),
            channel=Channel.SLACK if bot else Channel.CLI,
            account_commit=commitment(SALT, "account", "\n".join(ACCOUNT)) if bot else "",
        )

    def cast(self, statement: VoteStatement, *, signer: NumberedSigner | None = None, **body: JsonObject | str) -> int:
        """A vote by its statement."""
        data = statement.encode()
        holder = BOT if statement.attested else statement.approver
        number = self.numbers[statement.approval] = self.numbers.get(statement.approval, 0) + 1
        whole: JsonObject = {
            "approval": {"id": statement.approval, "kind": "CALL", "state": "PENDING"},
            "person": statement.approver,
            "channel": statement.channel.value,
            "workspace": "ops",
            "call_id": CALL,
            "vote": {
                "number": number,
                "statement": data.decode(),
                "signature": base64.b64encode((signer or signer_of(holder)).sign(data)).decode(),
            },
            **body,
        }
        return self.append("vote.attested" if statement.attested else "vote", whole)

    def vote(self, person: str, approval: str = APPROVAL, decision: str = "approve", *, bot: bool = False) -> int:
        """A vote."""
        return self.cast(self.statement(person, approval, decision, bot=bot))

    def close(self, *votes: int, approval: str = APPROVAL, state: str = "USED", envelope: str = "") -> int:
        """An end."""
        said: JsonObject = {
            "id": approval,
            "kind": "CALL",
            "subject": CALL,
            "state": state,
            "envelope_digest": envelope or envelope_of(approval),
            "votes": list(votes),
        }
        return self.append("approval.closed", {"approval": said, "workspace": "ops", "tier": 4, "call_id": CALL})

    def begin(
        self,
        *votes: int,
        approval: str = APPROVAL,
        kind: str = "intent",
        call: str = CALL,
        tier: int = 4,
        lineage: JsonObject | None = None,
        workflow: JsonObject | None = None,
        effect: JsonObject | None = None,
        **named: str,
    ) -> int:
        """The intent of a call that names its approval; ``named`` changes members of that."""
        said = {**named_approval(approval, *votes), **named}
        body: JsonObject = {
            "call_id": call,
            "workspace": "ops",
            "lineage": LINEAGE if lineage is None else lineage or None,
            "tier": tier,
            "approvals": [said],
            "workflow": workflow,
            **({} if effect is None else {"effect": effect}),
        }
        return self.append(kind, body)

    def run(self, *people: str, approval: str = APPROVAL, call: str = CALL) -> Story:
        """A whole call: request, votes, use, intent and outcome."""
        self.ask(approval, subject=call)
        votes = [self.vote(person, approval) for person in people]
        self.close(*votes, approval=approval)
        intent = self.begin(*votes, approval=approval, call=call)
        self.append("outcome", {"call_id": call, "intent_seq": intent, "outcome": {"state": "SUCCEEDED"}})
        return self


def _identity(which: str, owner: str, registrar: str, *, change: str) -> JsonObject:
    return {
        "identity": which,
        "kind": "agent" if which.startswith("agt") else "human",
        "change": change,
        "by": registrar,
        "lineage": {"owner": owner, "registrar": registrar},
        "name_commit": digest(which.encode())[7:],
    }
