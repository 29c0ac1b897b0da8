"""Votes as the ledger has them: the tables are projections, and a row alone never lets anything happen.

Each vote that is counted at the use is read from its entry again: its statement, its signature, and the key by the entry
that enrolled it.
"""

from __future__ import annotations

import base64
import binascii

from broker.domain.approval import Approval, KeyKind, Vote, VoteDecision, VoterKey
from broker.domain.canonical import JsonObject, JsonValue, parse_object
from broker.domain.ports import Transaction
from broker.domain.requirement import Channel
from broker.domain.statement import VoteStatement, key_id, parse_vote
from broker.errors import BrokerError, DataLossError, InvalidArgumentError
from broker.signing import verify

_MOST_ENTRY = 64 * 1024


def request_body(approval: Approval) -> JsonObject:
    """What the entry ``approval.requested`` says of an approval."""
    return {
        "id": approval.id,
        "kind": approval.kind.value,
        "subject": approval.subject,
        "obj": approval.obj,
        "requester": approval.requester,
        "envelope_digest": approval.envelope_digest,
        "rendering_digest": approval.rendering_digest,
        "requirement": approval.requirement.json(),
        "excluded": list(approval.excluded),
        "created": approval.created.isoformat(),
        "expires": approval.expires.isoformat(),
    }


def vote_body(number: int, statement: bytes, signature: bytes) -> JsonObject:
    """The signed bytes as they stand in an entry."""
    return {
        "number": number,
        "statement": statement.decode(),
        "signature": base64.b64encode(signature).decode(),
    }


def holds_vote(data: bytes, wanted: JsonObject) -> bool:
    """Is it the entry of this very vote?"""
    return parse_object(data, field="entry", max_bytes=_MOST_ENTRY).get("vote") == wanted


def check_request(tx: Transaction, approval: Approval) -> None:
    """Compares an approval's row with the entry that asked for it.

    Raises:
        DataLossError: they differ (``APPROVAL_CHANGED``).
    """
    entry = _entry(tx, approval.requested_seq, "approval.requested")
    said = entry.get("approval")
    if said != request_body(approval) or entry.get("workspace") != approval.workspace:
        raise _changed(f"approvals/{approval.id} is not what its ledger entry {approval.requested_seq} says")
    if entry.get("tier") != approval.tier:
        raise _changed(f"the tier of approvals/{approval.id} is not that of its ledger entry {approval.requested_seq}")


def check_vote(tx: Transaction, approval: Approval, vote: Vote, origin: str) -> VoteStatement:
    """Reads a vote from its entry, and verifies it.

    Raises:
        DataLossError: row and entry differ, or the signature isn't its key's (``VOTE_CHANGED``).
    """
    entry_type = "vote" if vote.channel is Channel.CLI else "vote.attested"
    entry = _entry(tx, vote.seq, entry_type)
    said = entry.get("vote")
    where = f"vote {vote.number} on approvals/{approval.id}, entry {vote.seq}"
    try:
        if not isinstance(said, dict):
            raise _changed(f"{where} holds no vote")
        data = _words(said.get("statement")).encode()
        signature = base64.b64decode(_words(said.get("signature")), validate=True)
        statement = parse_vote(data)
    except (BrokerError, binascii.Error, ValueError) as error:
        raise _changed(f"{where} can't be read") from error
    key = enrolled_key(tx, statement.key)
    if key is None or not verify(key.public_key, signature, data):
        raise _changed(f"{where} is not signed by the key that it names")
    if not says(statement, vote, approval, origin, key):
        raise _changed(f"{where} says something else than its row")
    return statement


def says(statement: VoteStatement, vote: Vote, approval: Approval, origin: str, key: VoterKey) -> bool:
    """Is the statement this very vote on this very approval, by a key of the right kind?"""
    kind = KeyKind.BOT if statement.attested else KeyKind.APPROVER
    return (
        statement.origin == origin
        and statement.approval == approval.id == vote.approval
        and statement.envelope_digest == approval.envelope_digest
        and statement.rendering_digest == approval.rendering_digest
        and statement.decision is vote.decision
        and statement.decision in set(VoteDecision)
        and statement.approver == vote.person
        and statement.key == vote.key == key.id
        and statement.channel is vote.channel
        and key.kind is kind
        and (kind is KeyKind.BOT or key.holder == vote.person)
    )


def enrolled_key(tx: Transaction, which: str) -> VoterKey | None:
    """A key as the entry that enrolled it has it; ``None`` where there is none.

    Raises:
        DataLossError: row and entry differ (``KEY_CHANGED``).
    """
    row = tx.voters.key(which)
    if row is None:
        return None
    entry = _entry(tx, row.enrolled_seq, "key.enrolled")
    said = entry.get("key")
    encoded = base64.b64encode(row.public_key).decode()
    wanted = {"id": row.id, "kind": row.kind.value, "public_key": encoded}
    if said != wanted or entry.get("person") != row.holder or key_id(row.public_key) != row.id:
        raise DataLossError(
            f"the key {row.id} is not the one that ledger entry {row.enrolled_seq} enrolled",
            reason="KEY_CHANGED",
            hint="Somebody worked on the database: run `broker ledger verify` and `broker ledger rebuild`.",
        )
    return row


def _entry(tx: Transaction, seq: int, entry_type: str) -> JsonObject:
    rows = tx.ledger.entries(seq, 1)
    if not rows or rows[0].seq != seq:
        raise _changed(f"the ledger has no entry {seq}")
    try:
        entry = parse_object(rows[0].data, field="entry", max_bytes=_MOST_ENTRY)
    except InvalidArgumentError as error:
        raise _changed(f"ledger entry {seq} can't be read") from error
    if entry.get("type") != entry_type:
        raise _changed(f"ledger entry {seq} is no {entry_type}")
    return entry


def _words(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004 - told apart from nothing else that can be wrong here
    return value


def _changed(what: str) -> DataLossError:
    return DataLossError(
        f"{what}: it counts for nothing",
        reason="VOTE_CHANGED",
        hint="Somebody worked on the database: run `broker ledger verify` and `broker ledger rebuild`.",
    )
