"""Requests and their ends: asked for, counted, closed, and used once. All of it inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.approvals import content, evidence
from broker.approvals.electorate import Electorate, ballots, voters
from broker.approvals.patience import check_patience
from broker.approvals.quorum import Tally, possible, standing, tally
from broker.approvals.registered import RowCheck
from broker.domain.approval import (
    OPEN_STATES,
    Approval,
    ApprovalKind,
    ApprovalState,
    Vote,
    check_approval_move,
)
from broker.domain.approval_ports import Agreement
from broker.domain.canonical import JsonObject
from broker.domain.ports import OBJECT_COST, Recorder, Transaction, Vault
from broker.domain.quota import check_quota
from broker.domain.requirement import Requirement, weaker
from broker.errors import DataLossError, FailedPreconditionError, NotFoundError, PermissionDeniedError

FOUNDERS = 3
"""People who must have accepted the founding before anything is approved."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; ids and digests only, beside the texts."""

    id: str
    kind: ApprovalKind
    subject: str
    workspace: str
    obj: str
    tier: int
    requester: str
    excluded: frozenset[str]
    requirement: Requirement
    texts: content.Texts
    expires: datetime | None = None
    """When it ends at the latest; the requirement may end it sooner."""
    call_id: str = ""
    tool: JsonObject | None = None
    act: JsonObject | None = None
    """Of an administrative action or a workflow: what its entry will say, in ids, digests and commitments."""
    agent: str = ""
    """Id of the agent on whose own chain the entry goes."""
    kept_until: datetime | None = None
    """As long as the texts are kept: a call's own retention. ``None``: for a while after its end."""


@dataclass(frozen=True, slots=True)
class Used:
    """An approval that has just been used."""

    approval: Approval
    votes: tuple[int, ...]
    """Numbers of the ledger entries of the votes that were counted."""

    def body(self) -> JsonObject:
        """As the entry of what it was used for names it."""
        return {
            "id": self.approval.id,
            "envelope_digest": self.approval.envelope_digest,
            "rendering_digest": self.approval.rendering_digest,
            "votes": list(self.votes),
        }


class Desk:
    """Takes requests and ends them.

    Args:
        recorder: the ledger.
        vault: seals what approvals are about.
        electorate: gives the policy in force.
        origin: of the ledger.
        clock: the time, UTC.
        agreement: what the ledger says, whatever the tables say.
        storage_quota_bytes: most bytes that are kept of one requester; ``None`` where nothing is asked for.
    """

    def __init__(
        self,
        recorder: Recorder,
        vault: Vault,
        electorate: Callable[[], Electorate],
        *,
        origin: str,
        clock: Callable[[], datetime],
        agreement: Agreement,
        storage_quota_bytes: int | None = None,
    ) -> None:
        self.recorder = recorder
        self.vault = vault
        self.electorate = electorate
        self.origin = origin
        self.clock = clock
        self.agreement = agreement
        self._quota = storage_quota_bytes

    def rows(self, tx: Transaction) -> RowCheck:
        """Compares rows about people, agents, certificates and accounts with the ledger."""
        return RowCheck(tx, self.vault, self.agreement)

    def founded(self, tx: Transaction) -> bool:
        """Is the two-person rule in force?

        Raises:
            DataLossError: table and ledger don't agree on it (``FOUNDING_CHANGED``).
        """
        said, known = tx.voters.founding(), self.agreement.founding(tx)
        if said != known:
            raise DataLossError(
                f"the database has the founding {said or 'as incomplete'}, and the ledger {known or 'as incomplete'}",
                reason="FOUNDING_CHANGED",
                hint="Somebody worked on the database: run `broker ledger verify --votes`.",
            )
        return bool(known)

    def check_founded(self, tx: Transaction) -> None:
        """Lets pass once the two-person rule is in force.

        Raises:
            FailedPreconditionError: ``FOUNDING_INCOMPLETE``.
            DataLossError: as ``founded``.
        """
        if not self.founded(tx):
            raise FailedPreconditionError(
                f"nobody can approve anything yet: {FOUNDERS} people must have accepted the founding with keys of their own",
                reason="FOUNDING_INCOMPLETE",
                hint="See how far it is with: broker approvers founding",
            )

    def check(self, tx: Transaction, request: Request, *, patient: bool = True) -> Approval:
        """Lets a request pass that may be made now and could be met; the approval as it would begin.

        Raises:
            FailedPreconditionError: the two-person rule isn't in force yet (``FOUNDING_INCOMPLETE``).
            PermissionDeniedError: too few may vote on it at all (``NOBODY_ELIGIBLE``): says who is missing.
            ResourceExhaustedError: too many of the requester's are open (``TOO_MANY_PENDING``) or were withdrawn
                (``ASKING_TOO_OFTEN``), or one of theirs has been denied just now (``COOLING_DOWN``); with its texts too
                much of theirs would be kept (``STORAGE_QUOTA``).
            DataLossError: the requester's row, or that of somebody kept out, isn't what the ledger says
                (``IDENTITY_CHANGED``).
        """
        self.check_founded(tx)
        rows = self.rows(tx)
        for which in {request.requester, *request.excluded}:
            rows.identity(which)
        now = self.clock()
        if patient:
            asks_call = request.kind is ApprovalKind.CALL
            check_patience(tx, request.requester, request.requirement, asks_call=asks_call, now=now)
            if self._quota is not None:
                check_quota(tx, request.requester, OBJECT_COST + request.texts.size, self._quota)
        lasts = timedelta(seconds=request.requirement.expiry_s)
        expires = now + lasts if request.expires is None else min(request.expires, now + lasts)
        approval = Approval(
            id=request.id,
            kind=request.kind,
            subject=request.subject,
            workspace=request.workspace,
            obj=request.obj,
            tier=request.tier,
            requester=request.requester,
            excluded=tuple(sorted(request.excluded)),
            state=ApprovalState.PENDING,
            requirement=request.requirement,
            envelope_digest=request.texts.envelope_digest,
            rendering_digest=request.texts.rendering_digest,
            created=now,
            expires=expires,
            requested_seq=-1,
        )
        missing = possible(approval.requirement, voters(tx, self.electorate(), approval))
        if missing and patient:
            out = self._kept_out(tx, approval)
            raise PermissionDeniedError(
                f"nobody could approve this: of those who may, there is missing {'; '.join(missing)}"
                + (f"; kept out of it, as it is theirs or concerns them: {', '.join(out)}" if out else ""),
                reason="NOBODY_ELIGIBLE",
                hint="Grant the roles to people outside the request's lineage, and have their keys enrolled: "
                "broker approvers --help",
                metadata={"missing": "; ".join(missing), "workspace": approval.workspace, "object": approval.obj},
            )
        return approval

    def request(self, tx: Transaction, request: Request, *, patient: bool = True) -> Approval:
        """Asks for an approval; only the broker itself asks without patience, for what must not fail.

        Raises:
            BrokerError: as ``check``.
        """
        approval = self.check(tx, request, patient=patient)
        body: JsonObject = {
            "approval": evidence.request_body(approval),
            "workspace": approval.workspace,
            "tier": approval.tier,
        }
        if request.call_id:
            body["call_id"] = request.call_id
        if request.tool is not None:
            body["tool"] = request.tool
        if request.act is not None:
            body["act"] = request.act
        content.keep(tx, self.vault, approval, request.texts, request.kept_until)
        seq = self.recorder.append(tx, "approval.requested", body, agent=request.agent)
        approval = replace(approval, requested_seq=seq)
        tx.approvals.insert(approval)
        return approval

    def _kept_out(self, tx: Transaction, approval: Approval) -> list[str]:
        """Names of those who could vote on it if it weren't theirs, and didn't concern them."""
        found = [tx.identities.get(which) for which, _ in voters(tx, self.electorate(), replace(approval, excluded=()))]
        return [item.name for item in found if item is not None and item.id in approval.excluded]

    def find(self, tx: Transaction, approval_id: str) -> Approval:
        """An approval.

        Raises:
            NotFoundError: ``APPROVAL_NOT_FOUND``.
        """
        found = tx.approvals.get(approval_id)
        if found is None:
            raise not_found(approval_id)
        return found

    def count(self, tx: Transaction, approval: Approval, barred: frozenset[str] = frozenset()) -> Tally:
        """Counts the votes with today's roles, keys and revocations."""
        return tally(
            approval.requirement,
            ballots(tx, self.electorate(), approval, tx.approvals.votes(approval.id), barred),
        )

    def count_with(self, tx: Transaction, approval: Approval, vote: Vote) -> Tally:
        """What the votes would come to with one more."""
        votes = [*tx.approvals.votes(approval.id), vote]
        return tally(approval.requirement, ballots(tx, self.electorate(), approval, votes, frozenset()))

    def close(
        self,
        tx: Transaction,
        approval: Approval,
        state: ApprovalState,
        *,
        why: str,
        votes: tuple[int, ...] = (),
        by: str = "",
    ) -> Approval:
        """Ends an approval, on record; ``why`` is a word for programs."""
        check_approval_move(approval.state, state)
        now = self.clock()
        body: JsonObject = {
            "approval": {
                "id": approval.id,
                "kind": approval.kind.value,
                "subject": approval.subject,
                "state": state.value,
                "envelope_digest": approval.envelope_digest,
                "votes": list(votes),
            },
            "workspace": approval.workspace,
            "tier": approval.tier,
            "why": why,
            "by": by,
            "at": now.isoformat(),
        }
        if approval.kind is ApprovalKind.CALL:
            body["call_id"] = approval.subject
        seq = self.recorder.append(tx, "approval.closed", body)
        closed = replace(approval, state=state, closed=now, closed_seq=seq)
        tx.approvals.close(closed)
        return closed

    def expire(self, tx: Transaction, approval: Approval) -> Approval:
        """Ends an open approval whose time is over; any other is returned as it is."""
        if approval.state in OPEN_STATES and approval.expires <= self.clock():
            return self.close(tx, approval, ApprovalState.EXPIRED, why="expired")
        return approval

    def recount(self, tx: Transaction, approval: Approval) -> tuple[Approval, Tally]:
        """Brings the state of an open approval in line with its votes; on record with the vote that did it."""
        counted = self.count(tx, approval)
        state = ApprovalState.APPROVED if counted.met else ApprovalState.PENDING
        if state is not approval.state:
            check_approval_move(approval.state, state)
            approval = replace(approval, state=state)
            tx.approvals.close(approval)
        return approval, counted

    def use(
        self,
        tx: Transaction,
        approval_id: str,
        *,
        subject: str,
        barred: frozenset[str] = frozenset(),
        needed: Requirement | None = None,
        check: Callable[[JsonObject], None],
    ) -> Used:
        """Uses an approval, once: everything about it is looked at again, as it is now.

        Args:
            tx: the transaction in which what was approved is begun.
            approval_id: the approval.
            subject: what it must be about.
            barred: people who stand in the lineage now, besides those that were excluded when it was asked for.
            needed: what would be asked for now; where that is more than what was asked for, it isn't enough.
            check: given the envelope as it was shown; raises where it isn't what is about to be done.

        Raises:
            FailedPreconditionError: it isn't approved (``APPROVAL_NOT_MET``), has ended (``APPROVAL_CLOSED``), or stricter
                rules are in force now (``REQUIREMENT_STRICTER``).
            DataLossError: rows, sealed texts or signatures aren't what the ledger says (``AGREEMENT_DIFFERS``, ...).
            BrokerError: whatever ``check`` raises.
        """
        self.check_founded(tx)
        approval = self.find(tx, approval_id)
        if approval.subject != subject:
            raise FailedPreconditionError(f"approvals/{approval.id} is about something else", reason="APPROVAL_OTHER")
        check_open(approval, self.clock())
        evidence.check_request(tx, approval)
        envelope = content.read_envelope(tx, self.vault, approval)
        check(envelope)
        if needed is not None:
            check_still_enough(approval, needed)
        rows = self.rows(tx)
        rows.identity(approval.requester)
        for vote in standing(tx.approvals.votes(approval.id)):
            evidence.check_vote(tx, approval, vote, self.origin)
            key = tx.voters.key(vote.key)
            for which in {vote.person, vote.person if key is None else key.holder}:
                rows.identity(which)
        counted = self.count(tx, approval, barred)
        if not counted.met:
            raise FailedPreconditionError(
                f"approvals/{approval.id} isn't met now: there is missing {'; '.join(counted.missing)}",
                reason="APPROVAL_NOT_MET",
                hint="People, roles and keys are counted again at the use. Wait for further votes.",
                metadata={"approval": f"approvals/{approval.id}", "missing": "; ".join(counted.missing)},
            )
        seqs = tuple(vote.seq for vote in counted.counted)
        self.agreement.check_use(tx, approval.id, seqs)
        approval, _ = self.recount(tx, approval)
        return Used(self.close(tx, approval, ApprovalState.USED, why="used", votes=seqs), seqs)


def check_open(approval: Approval, now: datetime) -> None:
    """Lets an approval pass that may still be voted on or used.

    Raises:
        FailedPreconditionError: ``APPROVAL_CLOSED``.
    """
    state = approval.state
    if state in OPEN_STATES and now >= approval.expires:
        state = ApprovalState.EXPIRED
    if state not in OPEN_STATES:
        raise FailedPreconditionError(
            f"approvals/{approval.id} is {state.value}: nothing comes of it any more",
            reason="APPROVAL_CLOSED",
            hint="Ask anew.",
            metadata={"state": state.value, "approval": f"approvals/{approval.id}"},
        )


def check_still_enough(approval: Approval, needed: Requirement) -> None:
    """Lets an approval pass whose requirement is at least what would be asked for now.

    Raises:
        FailedPreconditionError: ``REQUIREMENT_STRICTER``, with the respects.
    """
    respects = weaker(needed, approval.requirement)
    if respects:
        raise FailedPreconditionError(
            f"stricter rules are in force than those under which approvals/{approval.id} was asked for: "
            f"{'; '.join(respects)}",
            reason="REQUIREMENT_STRICTER",
            hint="Ask anew.",
            metadata={"approval": f"approvals/{approval.id}"},
        )


def not_found(approval_id: str) -> NotFoundError:
    """The error for an approval that doesn't exist, or that the caller may not see."""
    return NotFoundError(
        f"approvals/{approval_id[:64]} doesn't exist, or is not yours to see",
        reason="APPROVAL_NOT_FOUND",
        hint="ListApprovals shows those that you may see.",
    )
