"""Approvals as those see them who may: names, votes with whether they count now, what is missing, and the content."""

from __future__ import annotations

from dataclasses import dataclass

from broker.approvals import content
from broker.approvals.desk import Desk
from broker.approvals.electorate import ballots, why_not_person
from broker.approvals.freezing import frozen, in_words
from broker.domain.approval import OPEN_STATES, Approval, ApprovalKind, Vote
from broker.domain.canonical import JsonObject, parse_object
from broker.domain.identity import Identity, IdentityKind
from broker.domain.ports import Transaction
from broker.errors import NotFoundError

_MOST = 32 << 20


@dataclass(frozen=True, slots=True)
class VoteView:
    """A vote, who cast it, and whether it counts now."""

    vote: Vote
    person_name: str
    reason: str
    """Why they voted so; empty too for whoever that isn't shown to."""
    why_not: str
    """Empty where it counts."""


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval as one caller sees it; the content is there only where it was asked for and may be seen."""

    approval: Approval
    requester_name: str
    votes: tuple[VoteView, ...]
    missing: tuple[str, ...]
    why_not: str
    """Why the caller may not vote; empty where they may."""
    held: str
    summary: str
    envelope: bytes = b""
    rendering: str = ""
    files: tuple[JsonObject, ...] = ()
    result_json: str = ""


class ApprovalViews:
    """Makes views, inside one transaction each.

    Args:
        desk: counts votes.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def view(
        self,
        tx: Transaction,
        approval: Approval,
        voter: Identity | None,
        *,
        with_content: bool,
        reader: Identity | None = None,
    ) -> ApprovalView:
        """An approval as a person sees it who might vote; ``voter`` is ``None`` for whoever doesn't.

        Why people voted as they did is shown to a ``reader`` alone who may vote on it, or answers for who asked.
        """
        open_now = approval.state in OPEN_STATES and approval.expires > self._desk.clock()
        envelope, rendering, line = b"", "", self._line(approval)
        files: tuple[JsonObject, ...] = ()
        try:
            line = content.read_summary(tx, self._desk.vault, approval.id)
            if with_content:
                texts = content.read_texts(tx, self._desk.vault, approval)
                shown = parse_object(texts.envelope, field="envelope", max_bytes=_MOST)
                envelope, rendering, files = texts.envelope, texts.rendering, _files(shown)
        except NotFoundError:
            pass  # erased: what remains is who was asked about which digests, and who agreed
        counted = self._desk.count(tx, approval)
        return ApprovalView(
            approval=approval,
            requester_name=_name(tx.identities.get(approval.requester), approval.requester),
            votes=tuple(self._votes(tx, approval, reasons=self._may_read(tx, approval, reader))),
            missing=counted.missing if open_now else (),
            why_not=self.why_not(approval, voter) if open_now else f"it is {approval.state.value}",
            held=self._held(tx, approval) if open_now else "",
            summary=line,
            envelope=envelope,
            rendering=rendering,
            files=files,
            result_json=content.read_result(tx, self._desk.vault, approval.id),
        )

    def why_not(self, approval: Approval, voter: Identity | None) -> str:
        """Why somebody may not vote on it; empty where they may."""
        return why_not_person(self._desk.electorate(), approval, voter, frozenset())

    def _may_read(self, tx: Transaction, approval: Approval, reader: Identity | None) -> bool:
        if reader is None or reader.kind is not IdentityKind.HUMAN:
            return False
        asked = tx.identities.get(approval.requester)
        answers = asked is not None and reader.id in {asked.id, asked.owner}
        return answers or not self.why_not(approval, reader)

    def _votes(self, tx: Transaction, approval: Approval, *, reasons: bool) -> list[VoteView]:
        votes = tx.approvals.votes(approval.id)
        why = {
            item.vote.number: item.why_not
            for item in ballots(tx, self._desk.electorate(), approval, votes, frozenset())
        }
        return [
            VoteView(
                vote=vote,
                person_name=_plain_name(tx, vote.person),
                reason=self._reason(tx, vote) if reasons else "",
                why_not=why.get(vote.number, "a later vote of the same person took its place"),
            )
            for vote in votes
        ]

    def _reason(self, tx: Transaction, vote: Vote) -> str:
        return str(content.read_vote(tx, self._desk.vault, vote.approval, vote.number).get("reason", ""))

    def _held(self, tx: Transaction, approval: Approval) -> str:
        agent, known = approval.requester, self._desk.agreement.frozen()
        found = frozen(tx, agent=agent, tool=approval.obj, workspace=approval.workspace, known=known)
        # Administration goes on: an unfreezing is one.
        return "" if found is None or approval.kind is ApprovalKind.ADMINISTRATION else in_words(found)

    @staticmethod
    def _line(approval: Approval) -> str:
        return f"{approval.kind.value} {approval.obj} in {approval.workspace}, tier {approval.tier}"


def _files(shown: JsonObject) -> tuple[JsonObject, ...]:
    files = shown.get("files")
    return tuple(item for item in files if isinstance(item, dict)) if isinstance(files, list) else ()


def _name(identity: Identity | None, which: str) -> str:
    return which if identity is None else f"{identity.kind}:{identity.name}"


def _plain_name(tx: Transaction, which: str) -> str:
    found = tx.identities.get(which)
    return which if found is None else found.name
