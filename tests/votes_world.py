"""Ledgers in which people found the two-person rule, vote, and calls begin: as the broker writes it, and as it never would."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from broker.domain.approval import VoteDecision
from broker.domain.canonical import JsonObject, digest
from broker.domain.requirement import Channel, Requirement, RoleCount
from broker.domain.statement import (
    AcceptanceStatement,
    SeenCheckpoint,
    VoteStatement,
    commitment,
    founding_digest,
    key_id,
)
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
APPROVAL, CALL = "apv_01k00000000000000000000001", "call_01k00000000000000000000001"
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


class Story:
    """A ledger that is written as it goes. Each method appends an entry and returns its number."""

    origin = ORIGIN

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.keys: list[tuple[str, str]] = []
        self.numbers: dict[str, int] = {}
        self.begun()

    def begun(self) -> None:
        """Appends the first entry."""
        self.append("genesis", {"checkpoint_key": str(LOG_KEY.key)})

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
        if kind == "approver":
            self.keys.append((holder, key_id(public_key)))
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
        """The digest of the keys that were enrolled."""
        return founding_digest(leaf_hash(data_of(self.rows[0])), self.keys)

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
        """The whole founding, by three of four people, with a bot's key."""
        for person in (ADA, BOB, CYD, DAN):
            self.enrol(person)
        self.enrol(BOT, "bot")
        for person in (ADA, BOB, CYD):
            self.accept(person)
        self.complete(ADA, BOB, CYD)
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
    ) -> int:
        """A request."""
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
        return self.append(
            "approval.requested", {"approval": said, "workspace": "ops", "tier": tier, "call_id": subject}
        )

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
        **named: str,
    ) -> int:
        """The intent of a call that names its approval; ``named`` changes members of that."""
        said: JsonObject = {
            "id": approval,
            "envelope_digest": envelope_of(approval),
            "rendering_digest": rendering_of(approval),
            "votes": list(votes),
            **named,
        }
        body: JsonObject = {
            "call_id": call,
            "workspace": "ops",
            "lineage": LINEAGE if lineage is None else lineage or None,
            "tier": tier,
            "approvals": [said],
            "workflow": workflow,
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
