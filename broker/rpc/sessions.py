"""The Sessions service: thin, from wire to the identity room and back."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from broker.domain.call import PolicyRequest
from broker.domain.identity import Caller, IdentityKind, Session
from broker.domain.ports import Transaction
from broker.domain.tier import Tier
from broker.identity.sessions import Oversees, SchedulePlan, Sessions, get_session, list_sessions
from broker.pipeline.parts import Parts
from broker.rpc import wire
from broker.rpc.dispatch import Context
from broker.rpc.methods import SESSIONS
from broker.v1 import sessions_pb2


class SessionsService:
    """Answers the methods of ``broker.v1.Sessions`` for callers that the gate let in."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sessions = Sessions(parts.ledger)

    async def StartSession(  # noqa: N802 - the wire's name
        self, caller: Caller, request: sessions_pb2.StartSessionRequest, _: Context
    ) -> sessions_pb2.Session:
        """Starts a session."""
        schedule = wire.resource_id(request.schedule, "schedules", "schedule") if request.schedule else ""
        ttl = _span(request.ttl) if request.HasField("ttl") else None

        def work(tx: Transaction) -> sessions_pb2.Session:
            session = self._sessions.start(
                tx,
                caller=caller,
                agent=request.agent,
                workspace=request.workspace,
                ttl=ttl,
                schedule=schedule,
                now=self._parts.clock(),
            )
            return _message(tx, session)

        return await self._parts.store.write(work)

    async def EndSession(  # noqa: N802 - the wire's name
        self, caller: Caller, request: sessions_pb2.EndSessionRequest, _: Context
    ) -> sessions_pb2.Session:
        """Ends a session."""
        session_id = wire.resource_id(request.name, "sessions")
        oversees = self._oversees(caller, "EndSession")

        def work(tx: Transaction) -> sessions_pb2.Session:
            now = self._parts.clock()
            ended = self._sessions.end(tx, caller=caller, session_id=session_id, now=now, oversees=oversees)
            return _message(tx, ended)

        return await self._parts.store.write(work)

    async def GetSession(  # noqa: N802 - the wire's name
        self, caller: Caller, request: sessions_pb2.GetSessionRequest, _: Context
    ) -> sessions_pb2.Session:
        """One session."""
        session_id = wire.resource_id(request.name, "sessions")
        oversees = self._oversees(caller, "GetSession")
        return await self._parts.store.read(
            lambda tx: _message(tx, get_session(tx, caller=caller, session_id=session_id, oversees=oversees))
        )

    def _oversees(self, caller: Caller, method: str) -> Oversees:
        # What belongs to others is asked of the policy in the workspace that it lies in, not in the caller's own `-`.
        def oversees(workspace: str) -> bool:
            if caller.identity.kind is not IdentityKind.HUMAN:
                return False
            request = PolicyRequest(caller.subject, workspace, f"{SESSIONS.full_name}/{method}", "rpc", Tier.INTERNAL)
            return self._parts.policy.snapshot.decide(request).allowed

        return oversees

    def _anywhere(self, oversees: Oversees) -> bool:
        named = self._parts.policy.snapshot.workspaces
        # A workspace that the policy doesn't name stands for all the others: in them the rules about `*` decide.
        other = "other"
        while other in named:
            other += "-"
        return oversees(other) or any(oversees(workspace) for workspace in named)

    async def ListSessions(  # noqa: N802 - the wire's name
        self, caller: Caller, request: sessions_pb2.ListSessionsRequest, _: Context
    ) -> sessions_pb2.ListSessionsResponse:
        """Sessions that the caller may see, newest first."""
        size = wire.page_size(request.page_size)
        oversees = self._oversees(caller, "ListSessions")

        def work(tx: Transaction) -> sessions_pb2.ListSessionsResponse:
            sessions, token = list_sessions(
                tx,
                caller=caller,
                agent=request.agent,
                limit=size,
                before=request.page_token,
                oversees=oversees if self._anywhere(oversees) else None,
            )
            return sessions_pb2.ListSessionsResponse(
                sessions=[_message(tx, session) for session in sessions], next_page_token=token
            )

        return await self._parts.store.read(work)

    async def CreateSchedule(  # noqa: N802 - the wire's name
        self, caller: Caller, request: sessions_pb2.CreateScheduleRequest, _: Context
    ) -> sessions_pb2.Schedule:
        """Registers a schedule."""
        asked = request.schedule
        plan = SchedulePlan(
            agent=asked.agent,
            workspace=asked.workspace,
            weekdays=frozenset(asked.weekdays),
            from_minute=asked.from_minute,
            until_minute=asked.until_minute,
            session_ttl=_span(asked.session_ttl),
            expires=wire.moment(asked.expire_time, "schedule.expire_time"),
        )

        def work(tx: Transaction) -> sessions_pb2.Schedule:
            schedule = self._sessions.create_schedule(tx, caller=caller, plan=plan, now=self._parts.clock())
            return wire.schedule_message(schedule, _name(tx, schedule.agent))

        return await self._parts.store.write(work)


def _span(value: Duration) -> timedelta:
    try:
        return value.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise wire.refuse("ttl", "is no valid duration") from error


def _message(tx: Transaction, session: Session) -> sessions_pb2.Session:
    return wire.session_message(session, _name(tx, session.agent))


def _name(tx: Transaction, agent_id: str) -> str:
    agent = tx.identities.get(agent_id)
    return agent.name if agent else agent_id
