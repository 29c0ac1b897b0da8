"""Approvals, votes, keys and freezes on the wire. Nothing is decided here; wrong fields are named."""

from __future__ import annotations

from broker.approvals.desk import FOUNDERS
from broker.approvals.voting import Cast
from broker.domain.approval import (
    ApprovalKind,
    ApprovalState,
    ChatAccount,
    Freeze,
    FreezeScope,
    KeyKind,
    VoteDecision,
    VoterKey,
)
from broker.domain.approval_ports import ApprovalQuery
from broker.domain.canonical import JsonObject
from broker.domain.requirement import Channel, Requirement
from broker.pipeline.approval_sight import Wanted
from broker.pipeline.approval_views import ApprovalView, VoteView
from broker.pipeline.founding_view import FoundingView
from broker.rpc import wire
from broker.v1 import approvals_pb2 as pb
from broker.v1 import tool_pb2

_MAX_TEXT = 4096
_CHANNELS = {Channel.CLI: pb.VOTE_CHANNEL_CLI, Channel.SLACK: pb.VOTE_CHANNEL_SLACK}
_DECISIONS = {
    VoteDecision.APPROVE: pb.VOTE_DECISION_APPROVE,
    VoteDecision.DENY: pb.VOTE_DECISION_DENY,
    VoteDecision.WITHDRAW: pb.VOTE_DECISION_WITHDRAW,
}
_SUBJECTS = {ApprovalKind.CALL: "calls/", ApprovalKind.WORKFLOW: "workflows/", ApprovalKind.REVIEW: "approvals/"}


def approval_message(view: ApprovalView) -> pb.Approval:
    """An approval as the caller sees it."""
    row = view.approval
    return pb.Approval(
        name=f"approvals/{row.id}",
        kind=pb.ApprovalKind.Value(f"APPROVAL_KIND_{row.kind.value}"),
        state=pb.ApprovalState.Value(f"APPROVAL_STATE_{row.state.value}"),
        subject=f"{_SUBJECTS.get(row.kind, '')}{row.subject}",
        workspace=row.workspace,
        object=row.obj,
        tier=tool_pb2.Tier.ValueType(row.tier + 1),
        requester=row.requester,
        requester_name=view.requester_name,
        requirement=_requirement(row.requirement),
        envelope_digest=row.envelope_digest,
        rendering_digest=row.rendering_digest,
        envelope=view.envelope,
        rendering=view.rendering,
        files=[_file(item) for item in view.files],
        votes=[_vote(item) for item in view.votes],
        missing=view.missing,
        may_vote=not view.why_not,
        why_not=view.why_not,
        create_time=wire.timestamp(row.created),
        expire_time=wire.timestamp(row.expires),
        close_time=wire.timestamp(row.closed),
        held=view.held,
        summary=view.summary,
        result_json=view.result_json,
    )


def _requirement(found: Requirement) -> pb.ApprovalRequirement:
    return pb.ApprovalRequirement(
        people=found.people,
        roles=[pb.RoleCount(role=item.role, people=item.people) for item in found.roles],
        channels=[_CHANNELS[item] for item in sorted(found.channels)],
        min_signed=found.min_signed,
    )


def _file(item: JsonObject) -> pb.ApprovalFile:
    size = item.get("size")
    return pb.ApprovalFile(
        path=str(item.get("path", "")), size=size if isinstance(size, int) else 0, digest=str(item.get("digest", ""))
    )


def _vote(item: VoteView) -> pb.Vote:
    vote = item.vote
    return pb.Vote(
        number=vote.number,
        person=vote.person,
        person_name=item.person_name,
        decision=_DECISIONS[vote.decision],
        channel=_CHANNELS[vote.channel],
        key=vote.key,
        cast_time=wire.timestamp(vote.cast),
        reason=item.reason,
        seq=vote.seq,
        counts=not item.why_not,
        why_not=item.why_not,
    )


def wanted(message: pb.ApprovalFilter, *, before: str = "", limit: int = 100) -> Wanted:
    """A filter of the wire.

    Raises:
        InvalidArgumentError: names the field.
    """
    query = ApprovalQuery(
        states=frozenset(
            ApprovalState(_name(pb.ApprovalState.Name, item, "APPROVAL_STATE_", "filter.states"))
            for item in message.states
        ),
        kinds=frozenset(
            ApprovalKind(_name(pb.ApprovalKind.Name, item, "APPROVAL_KIND_", "filter.kinds")) for item in message.kinds
        ),
        workspace=message.workspace,
        requester=message.requester,
        subject=wire.resource_id(message.call, "calls", "filter.call") if message.call else "",
        before=before,
        limit=limit,
    )
    return Wanted(query, votable=message.votable)


def _name(name: object, number: int, prefix: str, field: str) -> str:
    try:
        found = name(number)  # type: ignore[operator]  # an enum's own ``Name``
    except ValueError as error:
        raise wire.refuse(field, "holds a number that is no such value") from error
    text = str(found).removeprefix(prefix)
    if text == "UNSPECIFIED":
        raise wire.refuse(field, "holds an unspecified value")
    return text


def scope_of(number: int) -> FreezeScope:
    """What a freeze covers.

    Raises:
        InvalidArgumentError: it says none.
    """
    return FreezeScope(_name(pb.FreezeScope.Name, number, "FREEZE_SCOPE_", "scope").lower())


def cast_of(request: pb.CastVoteRequest | pb.CastAttestedVoteRequest) -> Cast:
    """A vote as it comes in.

    Raises:
        InvalidArgumentError: the approval's name is none.
    """
    account = request.account if isinstance(request, pb.CastAttestedVoteRequest) else None
    return Cast(
        approval=wire.resource_id(request.name, "approvals"),
        statement=request.statement,
        signature=request.signature,
        reason=request.reason,
        salt=request.commit_salt,
        account=None if account is None else (account.service, account.team, account.user),
    )


def text(value: str, field: str) -> str:
    """A person's words, bounded.

    Raises:
        InvalidArgumentError: longer than 4096 bytes.
    """
    if len(value.encode()) > _MAX_TEXT:
        raise wire.refuse(field, f"is longer than {_MAX_TEXT} bytes", "TOO_LARGE")
    return value


def key_message(key: VoterKey, holder: str) -> pb.VoterKey:
    """A key and its holder's name."""
    return pb.VoterKey(
        name=f"voterKeys/{key.id}",
        holder=key.holder,
        holder_name=holder,
        bot=key.kind is KeyKind.BOT,
        public_key=key.public_key,
        enroll_time=wire.timestamp(key.enrolled),
        revoke_time=wire.timestamp(key.revoked),
    )


def founding_message(view: FoundingView, origin: str) -> pb.Founding:
    """How far the founding is, and what it covers."""
    found, standing = view.found, view.found.standing
    return pb.Founding(
        origin=origin,
        genesis_leaf=bytes.fromhex(standing.content.genesis),
        digest=found.digest,
        founders=[
            pb.Founder(key=key_message(key, view.names[key.holder]), accepted=key.holder in found.accepted)
            for key in found.keys
        ],
        accepted=len(found.accepted),
        needed=FOUNDERS,
        complete=found.complete,
        content=view.content,
        texts=view.texts,
        names=view.names,
        voided=sorted(view.names[person] for person in standing.voided),
        changes=[pb.FoundingChange(seq=item.seq, what=item.what) for item in standing.changes],
    )


def freeze_message(made: Freeze, target: str, cancelled: int = 0) -> pb.Freeze:
    """A freeze; ``target`` by name."""
    return pb.Freeze(
        scope=pb.FreezeScope.Value(f"FREEZE_SCOPE_{made.scope.value.upper()}"),
        target=target,
        by=made.by,
        create_time=wire.timestamp(made.since),
        cancelled_calls=cancelled,
    )


def account_message(account: ChatAccount, person: str) -> pb.ChatAccount:
    """An account and its person's name."""
    return pb.ChatAccount(
        service=account.service, team=account.team, user=account.user, person=account.person, person_name=person
    )
