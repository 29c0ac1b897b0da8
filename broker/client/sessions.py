"""The part of the asynchronous client that starts, ends and lists sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from broker.client import convert_service as convert
from broker.client import models
from broker.client.base import Client
from broker.client.wire import duration, resource, timestamp
from broker.v1 import sessions_pb2


class SessionMethods(Client):
    """Sessions and schedules."""

    async def start_session(
        self,
        agent: str,
        workspace: str = "",
        *,
        ttl_s: float | None = None,
        schedule: str = "",
        timeout_s: float | None = None,
    ) -> models.Session:
        """Starts a session for an agent: by a human, or by the agent itself under a schedule. Never tried again."""
        request = sessions_pb2.StartSessionRequest(
            agent=agent,
            workspace=self._workspace(workspace),
            ttl=None if ttl_s is None else duration(ttl_s),
            schedule=resource("schedules", schedule) if schedule else "",
        )
        reply = await self._rpc.ask(self._rpc.sessions.StartSession, request, timeout_s=timeout_s, repeatable=False)
        return convert.session(reply)

    async def end_session(self, name: str, *, timeout_s: float | None = None) -> models.Session:
        """Ends a session: calls that name it are refused from then on."""
        request = sessions_pb2.EndSessionRequest(name=resource("sessions", name))
        reply = await self._rpc.ask(self._rpc.sessions.EndSession, request, timeout_s=timeout_s, repeatable=False)
        return convert.session(reply)

    async def get_session(self, name: str, *, timeout_s: float | None = None) -> models.Session:
        """A session."""
        request = sessions_pb2.GetSessionRequest(name=resource("sessions", name))
        return convert.session(await self._rpc.ask(self._rpc.sessions.GetSession, request, timeout_s=timeout_s))

    async def list_sessions(
        self, agent: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[models.Session]:
        """Sessions, newest first: an agent's own, or those that a human started; pages by itself."""

        async def ask(token: str) -> sessions_pb2.ListSessionsResponse:
            request = sessions_pb2.ListSessionsRequest(agent=agent, page_size=page_size, page_token=token)
            return await self._rpc.ask(self._rpc.sessions.ListSessions, request, timeout_s=timeout_s)

        async for session in self._rpc.pages(ask, lambda page: page.sessions):
            yield convert.session(session)

    async def create_schedule(
        self,
        agent: str,
        workspace: str = "",
        *,
        session_ttl_s: float,
        expires: datetime,
        weekdays: Sequence[int] = (),
        from_minute: int = 0,
        until_minute: int = 1440,
        timeout_s: float | None = None,
    ) -> models.Schedule:
        """Registers when an agent may start sessions by itself (UTC); the caller, a human, is the starter of each."""
        request = sessions_pb2.CreateScheduleRequest(
            schedule=sessions_pb2.Schedule(
                agent=agent,
                workspace=self._workspace(workspace),
                weekdays=weekdays,
                from_minute=from_minute,
                until_minute=until_minute,
                session_ttl=duration(session_ttl_s),
                expire_time=timestamp(expires),
            )
        )
        reply = await self._rpc.ask(self._rpc.sessions.CreateSchedule, request, timeout_s=timeout_s, repeatable=False)
        return convert.schedule(reply)
