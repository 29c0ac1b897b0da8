"""A call: its states, the moves between them, and what it consists of."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broker.domain.canonical import JsonObject
from broker.domain.tier import APPROVAL_REQUIRED_FROM, Tier
from broker.errors import InternalError


class CallState(enum.StrEnum):
    """Where a call stands; the words are those of the wire, without their prefix."""

    QUEUED = "QUEUED"
    PLANNING = "PLANNING"
    PENDING_APPROVAL = "PENDING_APPROVAL"
    APPROVED = "APPROVED"
    RUNNING = "RUNNING"
    APPLYING = "APPLYING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    UNDOING = "UNDOING"
    UNDONE = "UNDONE"


_S = CallState

LEGAL_MOVES: Mapping[CallState, frozenset[CallState]] = MappingProxyType(
    {
        _S.QUEUED: frozenset({_S.PLANNING, _S.PENDING_APPROVAL, _S.RUNNING, _S.DENIED, _S.EXPIRED, _S.CANCELLED}),
        _S.PLANNING: frozenset(
            {_S.PENDING_APPROVAL, _S.APPLYING, _S.SUCCEEDED, _S.FAILED, _S.DENIED, _S.CANCELLED, _S.UNKNOWN}
        ),
        _S.PENDING_APPROVAL: frozenset({_S.APPROVED, _S.DENIED, _S.EXPIRED, _S.CANCELLED}),
        _S.APPROVED: frozenset({_S.PENDING_APPROVAL, _S.RUNNING, _S.APPLYING, _S.DENIED, _S.EXPIRED, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.UNKNOWN}),
        _S.APPLYING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.UNKNOWN}),
        _S.SUCCEEDED: frozenset({_S.UNDOING}),
        _S.FAILED: frozenset({_S.UNDOING}),
        _S.DENIED: frozenset(),
        _S.EXPIRED: frozenset(),
        _S.CANCELLED: frozenset({_S.UNDOING}),
        _S.UNKNOWN: frozenset({_S.UNDOING}),
        _S.UNDOING: frozenset({_S.UNDONE, _S.FAILED, _S.UNKNOWN}),
        _S.UNDONE: frozenset({_S.SUCCEEDED}),  # what took it back was taken back
    },
)
"""State -> the states that may follow it. No other move exists."""

RESTING_STATES = frozenset({_S.SUCCEEDED, _S.FAILED, _S.DENIED, _S.EXPIRED, _S.CANCELLED, _S.UNKNOWN, _S.UNDONE})
"""States in which nothing of the call goes on: its events end there."""


UNASKED_MOVES = frozenset({(_S.QUEUED, _S.RUNNING), (_S.PLANNING, _S.APPLYING)})
"""Moves to an effect that nobody was asked about; none at a tier whose every call people agree to."""


def check_move(old: CallState, new: CallState, tier: Tier = Tier.INTERNAL) -> None:
    """Lets a legal move pass.

    Raises:
        InternalError: ``new`` may not follow ``old``, or not at this tier.
    """
    if new not in LEGAL_MOVES[old] or (tier >= APPROVAL_REQUIRED_FROM and (old, new) in UNASKED_MOVES):
        message = f"a call of tier {int(tier)} can't go from {old} to {new}"
        raise InternalError(message, reason="ILLEGAL_STATE_MOVE")


@dataclass(frozen=True, slots=True)
class Source:
    """What a request is based on: a URI, and the digest of what was read there if known."""

    uri: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What the caller says about its call: claims, recorded as such."""

    workspace: str
    workflow: str = ""
    purpose: str = ""
    session: str = ""
    delegation: str = ""
    model: str = ""
    prompt_version: str = ""
    sources: tuple[Source, ...] = ()
    feature: str = ""
    team: str = ""
    data_classes: tuple[str, ...] = ()
    runbook: str = ""
    """Id of the runbook that it uses; empty for none."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that goes in: relative path, blob id, executable or not."""

    path: str
    blob: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class CallRequest:
    """One request to run one tool, read from the wire and not yet decided."""

    tool: str
    tool_version: str
    arguments: JsonObject
    arguments_bytes: bytes
    """RFC 8785 bytes of ``arguments``: what is stored, hashed and handed to the tool."""
    files: tuple[InputFile, ...]
    context: CallContext
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Who stands behind a call, by id. ``starter`` and ``on_behalf_of`` are empty where nothing proves them."""

    agent: str
    owner: str
    registrar: str
    starter: str = ""
    on_behalf_of: str = ""
    proofs: tuple[str, ...] = ()
    """What proves each: ``session:<id>``, ``schedule:<id>``, ``delegation:<digest>``."""

    @property
    def of_human(self) -> bool:
        """Does a person act under their own certificate? No agent owns itself."""
        return self.agent == self.owner

    @property
    def proven(self) -> bool:
        """Is it known who started the agent's work?"""
        return bool(self.starter)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of one request.

    ``rule`` is the id of the row that decided, or ``default-deny``; ``reason`` is for a person; ``inputs`` is every
    attribute that the decision read.
    """

    allowed: bool
    rule: str
    reason: str
    policy_digest: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """A question to the policy: may ``subject`` do ``action`` to ``obj`` in ``workspace``?

    ``subject`` is ``agent:<name>`` or ``human:<name>``; ``action`` is ``call``, ``rpc`` or ``approve``.

    ``call``: ``obj`` is a tool (``data.query``), ``tier`` that of the call.

    ``rpc``: ``obj`` is a full method (``broker.v1.ToolBroker/ListTools``), ``tier`` is 0, and ``workspace`` is ``-`` for
    one that has none.

    ``approve``: may this human vote on it? ``obj`` is the tool whose call waits, or one of ``domain.reserved``:
    ``broker.workflow``, ``broker.runbook`` or ``broker.admin``; ``tier`` is that of what waits. ``workspace`` is where
    it is to happen; for ``broker.admin``, and for nothing else, it is ``-``.
    """

    subject: str
    workspace: str
    obj: str
    action: str
    tier: Tier
