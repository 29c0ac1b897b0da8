"""Voters' keys, the founding and chat accounts in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from broker.domain.approval import Acceptance, ChatAccount, KeyKind, VoterKey
from broker.errors import ConflictError, NotFoundError
from broker.store.columns import optional_time_text, read_optional_time, read_time, time_text
from broker.store.tables import ACCEPTANCE, CHAT_ACCOUNT, FOUNDING, VOTER_KEY

_K, _A, _F, _C = VOTER_KEY.c, ACCEPTANCE.c, FOUNDING.c, CHAT_ACCOUNT.c
_KEYS = select(*VOTER_KEY.columns).order_by(_K.enrolled_seq, _K.id)
_KEY = select(*VOTER_KEY.columns).where(_K.id == bindparam("which"))
_REVOKE = update(VOTER_KEY).where(_K.id == bindparam("which"), _K.revoked.is_(None)).values(revoked=bindparam("moment"))
_ACCEPTED = select(_A.seq).where(_A.founding_digest == bindparam("which"), _A.person == bindparam("whose"))
_FOUNDING = select(_F.digest).order_by(_F.seq).limit(1)
_ACCOUNTS = select(_C.service, _C.team, _C.user, _C.person, _C.seq).order_by(_C.seq)
_IS = (_C.service == bindparam("service"), _C.team == bindparam("team"), _C.user == bindparam("user"))


class SqlVoterTable:
    """Implements ``broker.domain.approval_ports.VoterTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert_key(self, key: VoterKey) -> None:
        """Adds a key.

        Raises:
            ConflictError: it is enrolled already (``KEY_IN_USE``).
        """
        values = {
            "id": key.id,
            "holder": key.holder,
            "kind": key.kind.value,
            "public_key": key.public_key,
            "enrolled": time_text(key.enrolled),
            "enrolled_seq": key.enrolled_seq,
            "revoked": optional_time_text(key.revoked),
        }
        try:
            self._connection.execute(insert(VOTER_KEY), values)
        except IntegrityError as error:
            raise ConflictError(f"the key {key.id} is enrolled already", reason="KEY_IN_USE") from error

    def key(self, key_id: str) -> VoterKey | None:
        """By id, revoked or not."""
        row = self._connection.execute(_KEY, {"which": key_id}).first()
        return None if row is None else _key(row)

    def all_keys(self) -> Sequence[VoterKey]:
        """All, oldest first."""
        return [_key(row) for row in self._connection.execute(_KEYS)]

    def revoke_key(self, key_id: str, moment: datetime) -> None:
        """Revokes a key; one that is revoked stays as it is.

        Raises:
            NotFoundError: there is none.
        """
        if self.key(key_id) is None:
            raise NotFoundError(f"there is no key {key_id}")
        self._connection.execute(_REVOKE, {"which": key_id, "moment": time_text(moment)})

    def accept(self, acceptance: Acceptance) -> None:
        """Adds an acceptance; one person's again changes nothing."""
        which = {"which": acceptance.founding_digest, "whose": acceptance.person}
        if self._connection.execute(_ACCEPTED, which).first() is None:
            values = {
                "founding_digest": acceptance.founding_digest,
                "person": acceptance.person,
                "key": acceptance.key,
                "seq": acceptance.seq,
            }
            self._connection.execute(insert(ACCEPTANCE), values)

    def complete_founding(self, founding_digest: str, seq: int) -> None:
        """Says that the founding is complete, for good."""
        self._connection.execute(insert(FOUNDING), {"seq": seq, "digest": founding_digest})

    def founding(self) -> str:
        """Digest of the founding that is complete; empty before."""
        return str(self._connection.execute(_FOUNDING).scalar() or "")

    def map_account(self, account: ChatAccount, seq: int) -> None:
        """Gives an account to a person.

        Raises:
            ConflictError: the account is somebody's, or the person has another in that team (``ACCOUNT_IN_USE``).
        """
        values = {
            "service": account.service,
            "team": account.team,
            "user": account.user,
            "person": account.person,
            "seq": seq,
        }
        try:
            self._connection.execute(insert(CHAT_ACCOUNT), values)
        except IntegrityError as error:
            raise ConflictError(
                "the account is somebody's already, or the person has another in that team",
                reason="ACCOUNT_IN_USE",
                hint="Take the old one away first.",
            ) from error

    def unmap_account(self, service: str, team: str, user: str) -> None:
        """Takes an account away; nothing happens where there is none."""
        self._connection.execute(delete(CHAT_ACCOUNT).where(*_IS), {"service": service, "team": team, "user": user})

    def account(self, service: str, team: str, user: str) -> ChatAccount | None:
        """By the service's own ids."""
        row = self._connection.execute(_ACCOUNTS.where(*_IS), {"service": service, "team": team, "user": user}).first()
        return None if row is None else ChatAccount(*row)

    def accounts(self, service: str = "", team: str = "", person: str = "") -> Sequence[ChatAccount]:
        """Accounts; empty texts don't filter."""
        statement = _ACCOUNTS
        for column, wanted in ((_C.service, service), (_C.team, team), (_C.person, person)):
            if wanted:
                statement = statement.where(column == wanted)
        return [ChatAccount(*row) for row in self._connection.execute(statement)]


def _key(row: Any) -> VoterKey:  # noqa: ANN401 - a row of the table's columns
    return VoterKey(
        id=row.id,
        holder=row.holder,
        kind=KeyKind(row.kind),
        public_key=bytes(row.public_key),
        enrolled=read_time(row.enrolled),
        enrolled_seq=row.enrolled_seq,
        revoked=read_optional_time(row.revoked),
    )
