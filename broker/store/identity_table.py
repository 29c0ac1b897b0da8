"""Identities, certificates, sessions and schedules in the database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from broker.domain.identity import Certificate, Identity, IdentityKind, Schedule, Session
from broker.errors import ConflictError, NotFoundError
from broker.store.columns import list_text, optional_time_text, read_optional_time, read_time, time_text
from broker.store.prepared import Prepared, driver_of
from broker.store.tables import CERTIFICATE, IDENTITY, SCHEDULE, SESSION

_I, _C, _S = IDENTITY.c, CERTIFICATE.c, SESSION.c
_IDENTITIES = select(_I.id, _I.kind, _I.name, _I.owner, _I.registrar, _I.created, _I.revoked)
_GET = Prepared(_IDENTITIES.where(_I.id == bindparam("which")))
_BY_NAME = _IDENTITIES.where(_I.kind == bindparam("kind"), _I.name == bindparam("name"))
_ALL = _IDENTITIES.order_by(_I.created, _I.id)
_UPDATE = (
    update(IDENTITY)
    .where(_I.id == bindparam("which"))
    .values(owner=bindparam("new_owner"), registrar=bindparam("new_registrar"), revoked=bindparam("new_revoked"))
)
_CERTIFICATES = select(
    _C.fingerprint, _C.identity, _C.public_key_der, _C.not_before, _C.not_after, _C.revoked
).order_by(_C.number)
_CERTIFICATE = Prepared(_CERTIFICATES.where(_C.fingerprint == bindparam("which")))
_REVOKE = update(CERTIFICATE).where(_C.fingerprint == bindparam("which")).values(revoked=bindparam("moment"))
_SESSIONS = select(_S.id, _S.agent, _S.workspace, _S.starter, _S.schedule, _S.created, _S.expires, _S.ended)
_SESSION = _SESSIONS.where(_S.id == bindparam("which"))
_SESSION_PAGE = (
    _SESSIONS.where(
        or_(bindparam("agent") == "", _S.agent == bindparam("agent")),
        or_(bindparam("starter") == "", _S.starter == bindparam("starter")),
        or_(bindparam("before") == "", _S.id < bindparam("before")),
    )
    .order_by(_S.id.desc())
    .limit(bindparam("most"))
)
_END = update(SESSION).where(_S.id == bindparam("which"), _S.ended.is_(None)).values(ended=bindparam("moment"))
_SCHEDULE = select(SCHEDULE).where(SCHEDULE.c.id == bindparam("which"))


class SqlIdentityTable:
    """Implements ``broker.domain.ports.IdentityTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)

    def insert(self, identity: Identity) -> None:
        """Adds an identity.

        Raises:
            ConflictError: the name is taken among identities of that kind.
        """
        values = {
            "id": identity.id,
            "kind": identity.kind.value,
            "name": identity.name,
            "owner": identity.owner,
            "registrar": identity.registrar,
            "created": time_text(identity.created),
            "revoked": optional_time_text(identity.revoked),
        }
        try:
            self._connection.execute(insert(IDENTITY), values)
        except IntegrityError as error:
            raise ConflictError(f"there is a {identity.kind} named {identity.name!r} already") from error

    def get(self, identity_id: str) -> Identity | None:
        """By id."""
        row = _GET.run(self._driver, {"which": identity_id}).fetchone()
        return None if row is None else _identity(row)

    def by_name(self, kind: IdentityKind, name: str) -> Identity | None:
        """By kind and name."""
        row = self._connection.execute(_BY_NAME, {"kind": kind.value, "name": name}).first()
        return None if row is None else _identity(row)

    def all(self) -> Sequence[Identity]:
        """All, oldest first."""
        return [_identity(row) for row in self._connection.execute(_ALL)]

    def update(self, identity: Identity) -> None:
        """Replaces owner, registrar and revocation of an identity.

        Raises:
            NotFoundError: there is no such identity.
        """
        values = {
            "which": identity.id,
            "new_owner": identity.owner,
            "new_registrar": identity.registrar,
            "new_revoked": optional_time_text(identity.revoked),
        }
        if self._connection.execute(_UPDATE, values).rowcount == 0:
            raise NotFoundError(f"there is no identity {identity.id}")

    def insert_certificate(self, certificate: Certificate) -> None:
        """Adds a certificate.

        Raises:
            ConflictError: its fingerprint is known already, or its identity isn't.
        """
        values = {
            "fingerprint": certificate.fingerprint,
            "identity": certificate.identity,
            "public_key_der": certificate.public_key_der,
            "not_before": time_text(certificate.not_before),
            "not_after": time_text(certificate.not_after),
            "revoked": optional_time_text(certificate.revoked),
        }
        try:
            self._connection.execute(insert(CERTIFICATE), values)
        except IntegrityError as error:
            message = f"certificate {certificate.fingerprint} is known already, or its identity isn't"
            raise ConflictError(message) from error

    def certificate(self, fingerprint: str) -> Certificate | None:
        """By fingerprint."""
        row = _CERTIFICATE.run(self._driver, {"which": fingerprint}).fetchone()
        return None if row is None else _certificate(row)

    def certificates(self) -> Sequence[Certificate]:
        """All, oldest first."""
        return [_certificate(row) for row in self._connection.execute(_CERTIFICATES)]

    def revoke_certificate(self, fingerprint: str, moment: datetime) -> None:
        """Revokes one certificate.

        Raises:
            NotFoundError: there is no such certificate.
        """
        if self._connection.execute(_REVOKE, {"which": fingerprint, "moment": time_text(moment)}).rowcount == 0:
            raise NotFoundError(f"there is no certificate {fingerprint}")

    def insert_session(self, session: Session) -> None:
        """Adds a session.

        Raises:
            ConflictError: the id is taken.
        """
        values = {
            "id": session.id,
            "agent": session.agent,
            "workspace": session.workspace,
            "starter": session.starter,
            "schedule": session.schedule,
            "created": time_text(session.created),
            "expires": time_text(session.expires),
            "ended": optional_time_text(session.ended),
        }
        try:
            self._connection.execute(insert(SESSION), values)
        except IntegrityError as error:
            raise ConflictError(f"there is a session {session.id} already") from error

    def session(self, session_id: str) -> Session | None:
        """By id."""
        row = self._connection.execute(_SESSION, {"which": session_id}).first()
        return None if row is None else _session(row)

    def sessions(self, *, agent: str, starter: str, before: str, limit: int) -> Sequence[Session]:
        """Newest first; empty strings don't filter; only ids that sort before ``before``."""
        values = {"agent": agent, "starter": starter, "before": before, "most": limit}
        return [_session(row) for row in self._connection.execute(_SESSION_PAGE, values)]

    def end_session(self, session_id: str, moment: datetime) -> None:
        """Ends a session; one that has ended keeps its first end.

        Raises:
            NotFoundError: there is no such session.
        """
        changed = self._connection.execute(_END, {"which": session_id, "moment": time_text(moment)}).rowcount
        if changed == 0 and self.session(session_id) is None:
            raise NotFoundError(f"there is no session {session_id}")

    def insert_schedule(self, schedule: Schedule) -> None:
        """Adds a schedule.

        Raises:
            ConflictError: the id is taken.
        """
        values = {
            "id": schedule.id,
            "agent": schedule.agent,
            "workspace": schedule.workspace,
            "registrar": schedule.registrar,
            "weekdays": list_text(sorted(schedule.weekdays)),
            "from_minute": schedule.from_minute,
            "until_minute": schedule.until_minute,
            "session_ttl_s": schedule.session_ttl_s,
            "expires": time_text(schedule.expires),
        }
        try:
            self._connection.execute(insert(SCHEDULE), values)
        except IntegrityError as error:
            raise ConflictError(f"there is a schedule {schedule.id} already") from error

    def schedule(self, schedule_id: str) -> Schedule | None:
        """By id."""
        row = self._connection.execute(_SCHEDULE, {"which": schedule_id}).first()
        if row is None:
            return None
        return Schedule(
            id=row.id,
            agent=row.agent,
            workspace=row.workspace,
            registrar=row.registrar,
            weekdays=frozenset(json.loads(row.weekdays)),
            from_minute=row.from_minute,
            until_minute=row.until_minute,
            session_ttl_s=row.session_ttl_s,
            expires=read_time(row.expires),
        )


def _identity(row: Sequence[Any]) -> Identity:
    return Identity(row[0], IdentityKind(row[1]), row[2], row[3], row[4], read_time(row[5]), read_optional_time(row[6]))


def _session(row: Sequence[Any]) -> Session:
    return Session(
        row[0], row[1], row[2], row[3], row[4], read_time(row[5]), read_time(row[6]), read_optional_time(row[7])
    )


def _certificate(row: Sequence[Any]) -> Certificate:
    return Certificate(row[0], row[1], row[2], read_time(row[3]), read_time(row[4]), read_optional_time(row[5]))
