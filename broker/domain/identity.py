"""Agents and humans, their certificates, sessions and delegations, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class IdentityKind(enum.StrEnum):
    """What an identity stands for."""

    AGENT = "agent"
    HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Identity:
    """An agent or a human that the broker knows. Times are UTC."""

    id: str
    kind: IdentityKind
    name: str
    owner: str
    """For an agent: the id of the human who owns it; for a human: empty."""
    registrar: str
    """The id of the human who registered it or last changed its owner."""
    created: datetime
    revoked: datetime | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that the broker issued; ``fingerprint`` is ``sha256:`` of its DER bytes."""

    fingerprint: str
    identity: str
    public_key_der: bytes
    not_before: datetime
    not_after: datetime
    revoked: datetime | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes an RPC: an identity, by the certificate of its connection."""

    identity: Identity
    certificate: Certificate

    @property
    def subject(self) -> str:
        """The policy's name for it: ``agent:<name>`` or ``human:<name>``."""
        return f"{self.identity.kind}:{self.identity.name}"


@dataclass(frozen=True, slots=True)
class Session:
    """A stretch of an agent's work. ``agent`` and ``starter`` are ids; ``schedule`` is empty for a human's start."""

    id: str
    agent: str
    workspace: str
    starter: str
    schedule: str
    created: datetime
    expires: datetime
    ended: datetime | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """When an agent may start sessions by itself, in UTC; ``registrar`` is the starter of each."""

    id: str
    agent: str
    workspace: str
    registrar: str
    weekdays: frozenset[int]
    """1 is Monday, 7 is Sunday; empty is each day."""
    from_minute: int
    until_minute: int
    session_ttl_s: float
    expires: datetime

    def covers(self, moment: datetime) -> bool:
        """May the agent start a session at this moment (UTC)?"""
        minute = moment.hour * 60 + moment.minute
        day_fits = not self.weekdays or moment.isoweekday() in self.weekdays
        return moment < self.expires and day_fits and self.from_minute <= minute < self.until_minute
