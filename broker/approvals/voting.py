"""Votes: a signed statement comes in, is checked against what is in force now, and goes on record."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from broker.approvals import content, evidence
from broker.approvals.desk import Desk, check_open
from broker.approvals.electorate import why_not_key, why_not_person
from broker.approvals.quorum import standing
from broker.approvals.registered import RowCheck
from broker.domain.approval import Approval, ApprovalKind, ApprovalState, KeyKind, Vote, VoteDecision
from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ports import Transaction
from broker.domain.statement import (
    MAX_REASON_BYTES,
    SALT_BYTES,
    SIGNATURE_BYTES,
    VoteStatement,
    commitment,
    parse_vote,
)
from broker.errors import (
    ConflictError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    PermissionDeniedError,
)
from broker.signing import verify

MOST_SKEW = timedelta(minutes=10)
"""How far the time in a statement may be from the broker's."""


@dataclass(frozen=True, slots=True)
class Cast:
    """A vote as it comes in: the signed bytes, and what goes beside them."""

    approval: str
    statement: bytes
    signature: bytes
    reason: str
    salt: bytes
    account: tuple[str, str, str] | None = None
    """(service, team, user) of the chat account, in an attested vote only."""


def cast(tx: Transaction, desk: Desk, caller: Caller, given: Cast) -> Approval:
    """Takes a vote that a person signed, or that a bot attests; the approval as it stands afterwards.

    The very same vote again changes nothing and is answered in the same way.

    Raises:
        InvalidArgumentError: ``STATEMENT_INVALID``, ``SIGNATURE_INVALID``, ``REASON_DIFFERS``; names the field.
        PermissionDeniedError: ``NOT_ELIGIBLE``, ``VOTER_IN_LINEAGE``, ``KEY_UNKNOWN``, ``KEY_REVOKED``,
            ``CHANNEL_REFUSED``, ``NOT_A_VOTER``, ``ACCOUNT_UNKNOWN``.
        FailedPreconditionError: ``APPROVAL_CLOSED``, ``DIGEST_DIFFERS``, ``STATEMENT_STALE``, ``NOTHING_TO_WITHDRAW``,
            ``FOUNDING_INCOMPLETE``.
        ConflictError: ``ALREADY_VOTED``.
        NotFoundError: ``APPROVAL_NOT_FOUND``.
        DataLossError: a row that it is decided by isn't what the ledger says (``IDENTITY_CHANGED``,
            ``CERTIFICATE_CHANGED``, ``ACCOUNT_CHANGED``, ``KEY_CHANGED``, ``VOTE_CHANGED``).
    """
    desk.check_founded(tx)
    statement = parse_vote(given.statement)
    _check_kind(caller, statement)
    rows = desk.rows(tx)
    rows.caller(caller.identity.id, caller.certificate.fingerprint)
    approval = desk.find(tx, given.approval)
    _check_signature(tx, caller, statement, given)
    _check_about(desk, approval, statement, given)
    if statement.attested:
        _check_account(tx, rows, statement, given)
    votes = tx.approvals.votes(approval.id)
    if any(_is_same(tx, vote, given) for vote in votes):
        return approval
    check_open(approval, desk.clock())
    evidence.check_request(tx, approval)
    _check_time(desk, statement, votes)
    _check_voter(desk, rows, approval, statement)
    _check_sense(approval, statement, votes)
    return _record(tx, desk, approval, given, statement=statement, number=len(votes) + 1)


def _check_kind(caller: Caller, statement: VoteStatement) -> None:
    kind = caller.identity.kind
    fits = kind is IdentityKind.AGENT if statement.attested else kind is IdentityKind.HUMAN
    if not fits or (not statement.attested and statement.approver != caller.identity.id):
        raise PermissionDeniedError(
            "a vote is cast by the person who signed it; a bot casts what it attests, and nothing of its own",
            reason="NOT_A_VOTER",
            hint="Vote under your own certificate, with your own key.",
        )


def _check_signature(tx: Transaction, caller: Caller, statement: VoteStatement, given: Cast) -> None:
    kind = KeyKind.BOT if statement.attested else KeyKind.APPROVER
    key = evidence.enrolled_key(tx, statement.key)
    why = why_not_key(key, caller.identity.id, kind)
    if key is None or why:
        revoked = key is not None and key.revoked is not None
        raise PermissionDeniedError(
            f"the vote is refused: {why}",
            reason="KEY_REVOKED" if revoked else "KEY_UNKNOWN",
            hint="See which keys count with: broker approvers keys",
            metadata={"key": statement.key},
        )
    if len(given.signature) != SIGNATURE_BYTES or not verify(key.public_key, given.signature, given.statement):
        raise _invalid("signature", "is not the key's signature of the statement", "SIGNATURE_INVALID")
    if len(given.salt) != SALT_BYTES:
        raise _invalid("commit_salt", f"must be {SALT_BYTES} bytes", "STATEMENT_INVALID")
    if len(given.reason.encode()) > MAX_REASON_BYTES:
        raise _invalid("reason", f"is longer than {MAX_REASON_BYTES} bytes", "TOO_LARGE")
    if not hmac.compare_digest(commitment(given.salt, "reason", given.reason), statement.reason_commit):
        raise _invalid("reason", "is not the one that the statement commits to", "REASON_DIFFERS")


def _check_about(desk: Desk, approval: Approval, statement: VoteStatement, given: Cast) -> None:
    if statement.origin != desk.origin or statement.approval != given.approval:
        raise _invalid("statement", "is about another approval, or of another broker", "STATEMENT_INVALID")
    for name, signed, wanted in (
        ("envelope_digest", statement.envelope_digest, approval.envelope_digest),
        ("rendering_digest", statement.rendering_digest, approval.rendering_digest),
    ):
        if not hmac.compare_digest(signed, wanted):
            raise FailedPreconditionError(
                f"the vote is about another {name.replace('_', ' ')} than approvals/{approval.id} has: {signed} instead "
                f"of {wanted}",
                reason="DIGEST_DIFFERS",
                hint="Look at the approval again, and decide on what it shows.",
                metadata={"field": name, "expected": wanted, "found": signed},
            )


def _check_account(tx: Transaction, rows: RowCheck, statement: VoteStatement, given: Cast) -> None:
    account = given.account
    found = None if account is None else tx.voters.account(*account)
    text = "\n".join(account or ())
    if not hmac.compare_digest(commitment(given.salt, "account", text), statement.account_commit):
        raise _invalid("account", "is not the one that the statement commits to", "ACCOUNT_DIFFERS")
    if found is None or found.person != statement.approver or found.service != statement.channel.value:
        raise PermissionDeniedError(
            "the chat account isn't known here as that person's",
            reason="ACCOUNT_UNKNOWN",
            hint="Have it mapped, by service, team and user: broker accounts map --help",
        )
    rows.account(found)


def _check_time(desk: Desk, statement: VoteStatement, votes: Sequence[Vote]) -> None:
    earlier = [vote.cast for vote in votes if vote.person == statement.approver]
    off = abs(desk.clock() - statement.time)
    if off > MOST_SKEW:
        raise FailedPreconditionError(
            f"the time in the statement is {off.total_seconds():.0f} s off the broker's; the most is "
            f"{MOST_SKEW.total_seconds():.0f} s",
            reason="STATEMENT_STALE",
            hint="Set the clock of your machine, and vote again.",
        )
    if earlier and statement.time <= max(earlier) and statement.decision is not VoteDecision.DENY:
        # A denial ends it, so none can be an old one; and no clock, and no bot, shall keep anybody from saying no.
        # Else a vote that was taken back could be played in again by whoever has seen it.
        raise FailedPreconditionError(
            "the statement is not later than this person's last vote: it may be an old one, played in again",
            reason="STATEMENT_STALE",
            hint="Vote again: each vote is signed anew.",
        )


def _check_voter(desk: Desk, rows: RowCheck, approval: Approval, statement: VoteStatement) -> None:
    person, behind = rows.identity(statement.approver), rows.behind(approval)
    why = why_not_person(desk.electorate(), approval, person, behind)
    if why:
        inside = statement.approver in behind.union(approval.excluded)
        raise PermissionDeniedError(
            f"the vote is refused: {why}",
            reason="VOTER_IN_LINEAGE" if inside else "NOT_ELIGIBLE",
            hint="Somebody outside the request's lineage, with one of the roles, has to decide.",
            metadata={"approval": f"approvals/{approval.id}"},
        )
    if statement.decision is VoteDecision.APPROVE and statement.channel not in approval.requirement.channels:
        raise PermissionDeniedError(
            f"this can't be approved by {statement.channel.value}, only denied",
            reason="CHANNEL_REFUSED",
            hint=f"Approve it with your own key: broker approvals approve {approval.id}",
            metadata={"channel": statement.channel.value},
        )


def _check_sense(approval: Approval, statement: VoteStatement, votes: Sequence[Vote]) -> None:
    mine = [vote for vote in standing(votes) if vote.person == statement.approver]
    if statement.decision is VoteDecision.WITHDRAW:
        if not mine:
            raise FailedPreconditionError("there is no vote to withdraw", reason="NOTHING_TO_WITHDRAW")
        return
    if mine and mine[0].decision is statement.decision:
        raise ConflictError(
            f"this person has voted on approvals/{approval.id} already: {mine[0].decision.value}",
            reason="ALREADY_VOTED",
            hint="A vote can be withdrawn: broker approvals withdraw --help",
            metadata={"approval": f"approvals/{approval.id}"},
        )


def _is_same(tx: Transaction, vote: Vote, given: Cast) -> bool:
    rows = tx.ledger.entries(vote.seq, 1)
    wanted = evidence.vote_body(vote.number, given.statement, given.signature)
    return bool(rows) and evidence.holds_vote(rows[0].data, wanted)


def _record(
    tx: Transaction, desk: Desk, approval: Approval, given: Cast, *, statement: VoteStatement, number: int
) -> Approval:
    vote = Vote(
        approval=approval.id,
        number=number,
        person=statement.approver,
        key=statement.key,
        decision=statement.decision,
        channel=statement.channel,
        cast=statement.time,
        seq=-1,
    )
    after = _state_after(tx, desk, approval, vote)
    body: JsonObject = {
        "approval": {"id": approval.id, "kind": approval.kind.value, "state": after.value},
        "person": statement.approver,
        "channel": statement.channel.value,
        "workspace": approval.workspace,
        "vote": evidence.vote_body(number, given.statement, given.signature),
    }
    if approval.kind is ApprovalKind.CALL:
        body["call_id"] = approval.subject
    seq = desk.recorder.append(tx, "vote.attested" if statement.attested else "vote", body)
    tx.approvals.insert_vote(replace(vote, seq=seq))
    text: JsonObject = {"reason": given.reason, "salt": given.salt.hex()}
    if given.account is not None:
        text["account"] = list(given.account)
    content.keep_vote(tx, desk.vault, approval.id, number, text)
    if statement.decision is VoteDecision.DENY:
        return desk.close(tx, approval, ApprovalState.DENIED, why="denied", votes=(seq,), by=statement.approver)
    return desk.recount(tx, approval)[0]


def _state_after(tx: Transaction, desk: Desk, approval: Approval, vote: Vote) -> ApprovalState:
    if vote.decision is VoteDecision.DENY:
        return approval.state
    counted = desk.count_with(tx, approval, vote)
    return ApprovalState.APPROVED if counted.met else ApprovalState.PENDING


def _invalid(field: str, why: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field} {why}",
        reason=reason,
        violations=(FieldViolation(field, why),),
        hint="Sign with the broker's own client, of the same version as the broker.",
    )
