"""Sessions and schedules: which human answers for a stretch of an agent's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller, Identity, IdentityKind, Schedule, Session
from broker.domain.ids import new_id
from broker.domain.ports import Recorder, Transaction
from broker.errors import (
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from broker.identity.names import check_name, stamp

DEFAULT_TTL = timedelta(hours=8)
MAX_TTL = timedelta(hours=24)
MAX_SCHEDULE_LIFE = timedelta(days=366)
SCHEDULED_PER_HOUR = 60
"""Sessions that an agent may start by itself within an hour: each is a ledger entry."""
MAX_PAGE = 1000

Oversees: TypeAlias = Callable[[str], bool]
"""Does the policy let the caller reach what belongs to others in this workspace? It isn't asked about agents."""


def nobody_oversees(_: str) -> bool:
    """The answer for a caller who is only let at their own things."""
    return False


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """A schedule as a human asks for it; the fields are those of ``Schedule``, the agent by name."""

    agent: str
    workspace: str
    weekdays: frozenset[int]
    from_minute: int
    until_minute: int
    session_ttl: timedelta
    expires: datetime


@dataclass(frozen=True, slots=True)
class Sessions:
    """Changes to sessions. Whether the caller may ask at all is the policy's business, decided before.

    Whoever starts an agent's work, or lets it start by itself, answers for it: that is its owner or its registrar. Were
    it anybody, any human could lend their name to an agent of somebody else's, and with it the proof that tier 3 wants.
    """

    recorder: Recorder

    def start(
        self,
        tx: Transaction,
        *,
        caller: Caller,
        agent: str,
        workspace: str,
        ttl: timedelta | None,
        schedule: str,
        now: datetime,
    ) -> Session:
        """Starts a session: by a human for an agent (by name), or by the agent under a schedule (by id).

        Args:
            tx: a writing transaction.
            caller: who asks; a human becomes the starter.
            agent: the agent's name; an agent names itself.
            workspace: where the session is valid.
            ttl: how long at most; ``None`` takes eight hours, or the schedule's.
            schedule: the schedule's id; empty for a human.
            now: the time, UTC.

        Raises:
            InvalidArgumentError: a field is wrong (``TTL_INVALID``, ``NAME_INVALID``, ``SCHEDULE_UNEXPECTED``).
            NotFoundError: no such valid agent (``AGENT_UNKNOWN``).
            PermissionDeniedError: a human who neither owns nor registered the agent (``NOT_IN_LINEAGE``); an agent
                without a schedule that fits (``SCHEDULE_INVALID``).
            ResourceExhaustedError: the agent started too many by itself (``SESSION_QUOTA``).
        """
        check_name(workspace, field="workspace")
        if ttl is not None:
            _check_ttl(ttl, "ttl")
        if caller.identity.kind is IdentityKind.HUMAN:
            if schedule:
                raise _wrong("schedule", "is only for agents", "SCHEDULE_UNEXPECTED")
            starter = _human(tx, caller)
            target = _answered_for(_agent(tx, agent), starter)
            expires = now + (ttl or DEFAULT_TTL)
        else:
            target = caller.identity
            plan = self._fitting(tx, agent=agent, caller=caller, workspace=workspace, schedule_id=schedule, now=now)
            longest = timedelta(seconds=plan.session_ttl_s)
            expires = min(now + min(ttl or longest, longest), plan.expires)
            starter = plan.registrar
            _check_rate(tx, target, now)
        session = Session(new_id("ses"), target.id, workspace, starter, schedule, now, expires)
        tx.identities.insert_session(session)
        more: JsonObject = {"created": stamp(now), "expires": stamp(expires)}
        self._record(tx, "session.started", session=session, agent=target, caller=caller, more=more)
        return session

    def end(
        self,
        tx: Transaction,
        *,
        caller: Caller,
        session_id: str,
        now: datetime,
        oversees: Oversees = nobody_oversees,
    ) -> Session:
        """Ends a session; ending it again changes nothing. Whoever may see it may.

        Raises:
            NotFoundError: there is none that the caller may see (``SESSION_UNKNOWN``).
        """
        session = get_session(tx, caller=caller, session_id=session_id, oversees=oversees)
        if session.ended is not None:
            return session
        agent = tx.identities.get(session.agent)
        if agent is None:
            raise _unknown(session_id)
        tx.identities.end_session(session.id, now)
        more: JsonObject = {"ended": stamp(now)}
        self._record(tx, "session.ended", session=session, agent=agent, caller=caller, more=more)
        return replace(session, ended=now)

    def create_schedule(self, tx: Transaction, *, caller: Caller, plan: SchedulePlan, now: datetime) -> Schedule:
        """Registers when an agent may start sessions by itself; the human who asks is the starter of each.

        Raises:
            PermissionDeniedError: the caller is no human (``NOT_A_HUMAN``), or one who neither owns nor registered the
                agent (``NOT_IN_LINEAGE``).
            NotFoundError: ``AGENT_UNKNOWN``.
            InvalidArgumentError: a field is wrong (``SCHEDULE_INVALID``, ``TTL_INVALID``, ``NAME_INVALID``).
        """
        if caller.identity.kind is not IdentityKind.HUMAN:
            raise PermissionDeniedError("only a human registers a schedule", reason="NOT_A_HUMAN")
        registrar = _human(tx, caller)
        check_name(plan.workspace, field="schedule.workspace")
        agent = _answered_for(_agent(tx, plan.agent), registrar)
        _check_ttl(plan.session_ttl, "schedule.session_ttl")
        if not plan.weekdays <= frozenset(range(1, 8)):
            raise _wrong("schedule.weekdays", "must be 1 (Monday) to 7 (Sunday)", "SCHEDULE_INVALID")
        if not 0 <= plan.from_minute < plan.until_minute <= 24 * 60:
            raise _wrong(
                "schedule.from_minute", "and until_minute must hold 0 <= from < until <= 1440", "SCHEDULE_INVALID"
            )
        if not now < plan.expires <= now + MAX_SCHEDULE_LIFE:
            raise _wrong("schedule.expire_time", "must lie within the next 366 days", "SCHEDULE_INVALID")
        seconds = int(plan.session_ttl.total_seconds())
        schedule = Schedule(
            id=new_id("sch"),
            agent=agent.id,
            workspace=plan.workspace,
            registrar=registrar,
            weekdays=plan.weekdays,
            from_minute=plan.from_minute,
            until_minute=plan.until_minute,
            session_ttl_s=float(seconds),
            expires=plan.expires,
        )
        tx.identities.insert_schedule(schedule)
        body: JsonObject = {
            "schedule": schedule.id,
            "workspace": schedule.workspace,
            "lineage": {"owner": agent.owner, "registrar": agent.registrar, "starter": registrar},
            "weekdays": [*sorted(plan.weekdays)],
            "from_minute": plan.from_minute,
            "until_minute": plan.until_minute,
            "session_ttl_s": seconds,
            "expires": stamp(plan.expires),
            "fingerprint": caller.certificate.fingerprint,
        }
        self.recorder.append(tx, "schedule.registered", body, agent=agent.id)
        return schedule

    def _record(
        self,
        tx: Transaction,
        entry_type: str,
        *,
        session: Session,
        agent: Identity,
        caller: Caller,
        more: JsonObject,
    ) -> None:
        body: JsonObject = {
            "session": session.id,
            "workspace": session.workspace,
            "lineage": {"owner": agent.owner, "registrar": agent.registrar, "starter": session.starter},
            "schedule": session.schedule,
            "by": caller.identity.id,
            "fingerprint": caller.certificate.fingerprint,
            **more,
        }
        self.recorder.append(tx, entry_type, body, agent=agent.id)

    @staticmethod
    def _fitting(
        tx: Transaction, *, agent: str, caller: Caller, workspace: str, schedule_id: str, now: datetime
    ) -> Schedule:
        """The schedule, if it lets this agent start now; every way in which it doesn't gives the same reason."""
        me = tx.identities.get(caller.identity.id)
        schedule = tx.identities.schedule(schedule_id) if schedule_id else None
        registrar = tx.identities.get(schedule.registrar) if schedule else None
        if me is None or me.revoked is not None:
            why = "the agent has been revoked"
        elif agent != me.name or schedule is None or registrar is None or schedule.agent != me.id:
            why = "an agent starts a session only for itself, under a schedule that a human registered for it"
        elif schedule.workspace != workspace:
            why = "the schedule is for another workspace"
        elif registrar.revoked is not None:
            why = "the human who registered the schedule has been revoked"
        elif not _answers_for(registrar.id, me):
            why = "the human who registered the schedule no longer owns the agent, nor is its registrar"
        elif not schedule.covers(now):
            why = "the schedule doesn't cover this time"
        else:
            return schedule
        raise PermissionDeniedError(
            why,
            reason="SCHEDULE_INVALID",
            hint=f"A human can start one: broker sessions start --agent {caller.identity.name} --workspace {workspace}",
        )


def get_session(tx: Transaction, *, caller: Caller, session_id: str, oversees: Oversees = nobody_oversees) -> Session:
    """A session that the caller may see: an agent its own; a human those that they started, those of agents that they
    own, and whatever lies in a workspace that they oversee.

    Raises:
        NotFoundError: there is none, or none that this caller may see (``SESSION_UNKNOWN``).
    """
    session = tx.identities.session(session_id)
    if session is None or not _visible(tx, caller, session, oversees):
        raise _unknown(session_id)
    return session


def list_sessions(
    tx: Transaction, *, caller: Caller, agent: str, limit: int, before: str = "", oversees: Oversees | None = None
) -> tuple[Sequence[Session], str]:
    """Sessions that the caller may see, newest first, and the token of the next page (empty on the last).

    Args:
        tx: a transaction.
        caller: who asks.
        agent: an agent's name, or empty for all; one that the caller may not see gives an empty list.
        limit: most sessions in the answer, 1 to 1000.
        before: token of the page.
        oversees: where the caller oversees others; ``None``: nowhere, which spares looking at the sessions of others.
    """
    limit = max(1, min(limit, MAX_PAGE))
    if oversees is None or caller.identity.kind is not IdentityKind.HUMAN:
        ordered = _own(tx, caller, agent, limit, before)
    else:
        ordered = _overseen(tx, caller, agent, oversees, limit=limit, before=before)
    shown = ordered[:limit]
    return shown, shown[-1].id if len(ordered) > limit else ""


def _own(tx: Transaction, caller: Caller, agent: str, limit: int, before: str) -> list[Session]:
    found: dict[str, Session] = {}
    for agent_id, starter_id in _queries(tx, caller, agent):
        page = tx.identities.sessions(agent=agent_id, starter=starter_id, before=before, limit=limit + 1)
        found.update((session.id, session) for session in page)
    # Ids sort by the time of their birth, so the merged pages are one list, newest first.
    return [found[key] for key in sorted(found, reverse=True)]


def _overseen(
    tx: Transaction, caller: Caller, agent: str, oversees: Oversees, *, limit: int, before: str
) -> list[Session]:
    named = tx.identities.by_name(IdentityKind.AGENT, agent) if agent else None
    if agent and named is None:
        return []
    answers: dict[str, bool] = {}

    def remembered(workspace: str) -> bool:
        if workspace not in answers:
            answers[workspace] = oversees(workspace)
        return answers[workspace]

    found: list[Session] = []
    while True:
        page = tx.identities.sessions(agent=named.id if named else "", starter="", before=before, limit=MAX_PAGE)
        found += [session for session in page if _visible(tx, caller, session, remembered)]
        if len(page) < MAX_PAGE or len(found) > limit:
            return found
        before = page[-1].id


def _queries(tx: Transaction, caller: Caller, agent: str) -> list[tuple[str, str]]:
    """(agent id, starter id) filters whose results together are what the caller may see."""
    me = caller.identity
    if me.kind is IdentityKind.AGENT:
        return [(me.id, "")] if agent in {"", me.name} else []
    if agent:
        named = tx.identities.by_name(IdentityKind.AGENT, agent)
        if named is None:
            return []
        return [(named.id, "" if named.owner == me.id else me.id)]
    owned = [(item.id, "") for item in tx.identities.all() if item.owner == me.id]
    return [("", me.id), *owned]


def _visible(tx: Transaction, caller: Caller, session: Session, oversees: Oversees) -> bool:
    me = caller.identity
    if me.kind is IdentityKind.AGENT:
        return session.agent == me.id
    agent = tx.identities.get(session.agent)
    if session.starter == me.id or (agent is not None and agent.owner == me.id):
        return True
    return oversees(session.workspace)


def _human(tx: Transaction, caller: Caller) -> str:
    # Asked again inside the transaction: a revocation may have been committed since the caller was authenticated.
    human = tx.identities.get(caller.identity.id)
    if human is None or human.revoked is not None:
        raise PermissionDeniedError("the caller has been revoked", reason="IDENTITY_REVOKED")
    return human.id


def _agent(tx: Transaction, name: str) -> Identity:
    agent = tx.identities.by_name(IdentityKind.AGENT, name)
    if agent is None or agent.revoked is not None:
        raise NotFoundError(
            f"there is no valid agent {name[:80]!a}",
            reason="AGENT_UNKNOWN",
            hint="Register it with: broker identity issue agent NAME --owner HUMAN",
        )
    return agent


def _answers_for(human: str, agent: Identity) -> bool:
    return human in {agent.owner, agent.registrar}


def _answered_for(agent: Identity, human: str) -> Identity:
    if _answers_for(human, agent):
        return agent
    raise PermissionDeniedError(
        f"you neither own agent {agent.name} nor registered it, so you can't answer for its work",
        reason="NOT_IN_LINEAGE",
        hint="Ask its owner or its registrar; `broker identity list` shows who they are.",
    )


def _check_ttl(ttl: timedelta, field: str) -> None:
    if not timedelta(seconds=1) <= ttl <= MAX_TTL:
        raise _wrong(field, "must be from 1 second to 24 hours", "TTL_INVALID")


def _check_rate(tx: Transaction, agent: Identity, now: datetime) -> None:
    recent = tx.identities.sessions(agent=agent.id, starter="", before="", limit=SCHEDULED_PER_HOUR)
    if len(recent) < SCHEDULED_PER_HOUR:
        return
    wait = timedelta(hours=1) - (now - recent[-1].created)
    if wait > timedelta(0):
        raise ResourceExhaustedError(
            f"the agent has started {SCHEDULED_PER_HOUR} sessions within an hour",
            reason="SESSION_QUOTA",
            hint="Use the session that is open.",
            retry_after_s=wait.total_seconds(),
        )


def _wrong(field: str, why: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {why}", reason=reason, violations=(FieldViolation(field, why),))


def _unknown(session_id: str) -> NotFoundError:
    return NotFoundError(f"there is no session {session_id[:80]!a} that you may see", reason="SESSION_UNKNOWN")
