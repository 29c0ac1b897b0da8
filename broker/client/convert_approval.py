"""Approvals, votes, keys, the founding and freezes: messages of the wire <-> values."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeVar

from broker.client import approval_models as models
from broker.client.convert import tier
from broker.client.wire import json_object, moment, protocol_error, resource
from broker.domain.approval import ApprovalKind, ApprovalState, FreezeScope, VoteDecision
from broker.domain.requirement import Channel, RoleCount
from broker.domain.statement import key_id
from broker.v1 import approvals_pb2 as pb

_Word = TypeVar("_Word", bound=enum.StrEnum)
_Number = TypeVar("_Number", bound=int)


def approval(message: pb.Approval) -> models.Approval:
    """An approval.

    Raises:
        InternalError: it has no name or holds words that this client doesn't know.
    """
    if not message.name.startswith("approvals/"):
        raise protocol_error("an approval without a name")
    needed = message.requirement
    return models.Approval(
        name=message.name,
        kind=_word(ApprovalKind, pb.ApprovalKind.Name, "APPROVAL_KIND_", message.kind),
        state=_word(ApprovalState, pb.ApprovalState.Name, "APPROVAL_STATE_", message.state),
        subject=message.subject,
        workspace=message.workspace,
        object=message.object,
        tier=tier(message.tier),
        requester=message.requester,
        requester_name=message.requester_name,
        requirement=models.ApprovalRequirement(
            people=needed.people,
            roles=tuple(RoleCount(item.role, item.people) for item in needed.roles),
            channels=tuple(_channel(item) for item in needed.channels),
            min_signed=needed.min_signed,
        ),
        envelope_digest=message.envelope_digest,
        rendering_digest=message.rendering_digest,
        envelope=message.envelope,
        rendering=message.rendering,
        files=tuple(models.ApprovalFile(item.path, item.blob, item.size, item.digest) for item in message.files),
        votes=tuple(_vote(item) for item in message.votes),
        missing=tuple(message.missing),
        may_vote=message.may_vote,
        why_not=message.why_not,
        created=moment(message, "create_time"),
        expires=moment(message, "expire_time"),
        closed=moment(message, "close_time"),
        held=message.held,
        summary=message.summary,
        result=json_object(message.result_json, "result_json") if message.result_json else None,
    )


def filter_message(chosen: models.ApprovalFilter) -> pb.ApprovalFilter:
    """A filter on the wire."""
    return pb.ApprovalFilter(
        states=[pb.ApprovalState.Value(f"APPROVAL_STATE_{item.value}") for item in chosen.states],
        kinds=[pb.ApprovalKind.Value(f"APPROVAL_KIND_{item.value}") for item in chosen.kinds],
        workspace=chosen.workspace,
        requester=chosen.requester,
        votable=chosen.votable,
        call=resource("calls", chosen.call) if chosen.call else "",
    )


def voter_key(message: pb.VoterKey) -> models.VoterKey:
    """A key.

    Raises:
        InternalError: its name is not that of its public key.
    """
    if message.name != f"voterKeys/{key_id(message.public_key)}":
        raise protocol_error("a key whose name is not the digest of its public key")
    return models.VoterKey(
        id=message.name.removeprefix("voterKeys/"),
        holder=message.holder,
        holder_name=message.holder_name,
        bot=message.bot,
        public_key=message.public_key,
        enrolled=moment(message, "enroll_time"),
        revoked=moment(message, "revoke_time"),
    )


def founding(message: pb.Founding) -> models.Founding:
    """The founding, as the broker says it."""
    return models.Founding(
        origin=message.origin,
        genesis_leaf=message.genesis_leaf,
        digest=message.digest,
        founders=tuple(models.Founder(voter_key(item.key), item.accepted) for item in message.founders),
        accepted=message.accepted,
        needed=message.needed,
        complete=message.complete,
        content=message.content,
        texts=dict(message.texts),
        names=dict(message.names),
        voided=tuple(message.voided),
        changes=tuple(models.FoundingChange(item.seq, item.what) for item in message.changes),
    )


def freeze(message: pb.Freeze) -> models.Freeze:
    """A freeze."""
    return models.Freeze(
        scope=_word(FreezeScope, pb.FreezeScope.Name, "FREEZE_SCOPE_", message.scope),
        target=message.target,
        by=message.by,
        created=moment(message, "create_time"),
        cancelled_calls=message.cancelled_calls,
    )


def scope_number(value: FreezeScope) -> pb.FreezeScope.ValueType:
    """A scope on the wire."""
    return pb.FreezeScope.Value(f"FREEZE_SCOPE_{value.name}")


def chat_account(message: pb.ChatAccount) -> models.ChatAccount:
    """A chat account."""
    return models.ChatAccount(
        service=message.service,
        team=message.team,
        user=message.user,
        person=message.person,
        person_name=message.person_name,
    )


def workflow(message: pb.Workflow) -> models.Workflow:
    """A workflow."""
    return models.Workflow(
        name=message.name,
        digest=message.digest,
        tier=tier(message.tier),
        approved=message.approved,
        approval=message.approval,
        text=json_object(message.text_json, "text_json") if message.text_json else {},
    )


def _vote(message: pb.Vote) -> models.Vote:
    return models.Vote(
        number=message.number,
        person=message.person,
        person_name=message.person_name,
        decision=_word(VoteDecision, pb.VoteDecision.Name, "VOTE_DECISION_", message.decision),
        channel=_channel(message.channel),
        key=message.key,
        cast=moment(message, "cast_time"),
        reason=message.reason,
        seq=message.seq,
        counts=message.counts,
        why_not=message.why_not,
    )


def _channel(number: pb.VoteChannel.ValueType) -> Channel:
    return _word(Channel, pb.VoteChannel.Name, "VOTE_CHANNEL_", number)


def _word(words: type[_Word], name: Callable[[_Number], str], prefix: str, number: _Number) -> _Word:
    try:
        return words[name(number).removeprefix(prefix)]
    except (ValueError, KeyError) as error:
        raise protocol_error(f"{number} is no {words.__name__} that this client knows") from error
