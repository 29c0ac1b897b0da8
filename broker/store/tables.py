"""All tables, as SQLModel classes. Gateways use their ``Table`` objects: no object mapping on the way of a call."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlmodel import Field, SQLModel

SCHEMA_VERSION = "1"
"""Kept in ``store_meta``; another version is refused at opening."""


class Base(SQLModel):
    """Ties the tables to metadata of their own, so that nothing else of SQLModel can slip into the schema."""

    metadata = MetaData()


class StoreMeta(Base, table=True):
    """Facts about the file itself: ``schema_version``, ``in_use``."""

    __tablename__ = "store_meta"
    key: str = Field(primary_key=True, sa_type=Text)
    value: str = Field(sa_type=Text)


class LedgerEntry(Base, table=True):
    """Entries, verbatim. Triggers refuse UPDATE, DELETE and any INSERT that isn't the next entry."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        CheckConstraint("length(prev) = 64", name="ledger_entry_prev"),
        CheckConstraint("length(leaf) = 32", name="ledger_entry_leaf"),
        CheckConstraint("length(data) < 65536", name="ledger_entry_data"),
    )
    seq: int = Field(sa_column=Column("seq", Integer, primary_key=True, autoincrement=False))
    prev: str = Field(unique=True, sa_type=Text)
    leaf: bytes = Field(sa_type=LargeBinary)
    data: bytes = Field(sa_type=LargeBinary)


class LedgerAgent(Base, table=True):
    """A projection: the last entry of each agent's own chain."""

    __tablename__ = "ledger_agent"
    agent: str = Field(primary_key=True, sa_type=Text)
    seq: int
    leaf: bytes = Field(sa_type=LargeBinary)


class VaultObject(Base, table=True):
    """Encrypted objects; their keys, wrapped, are in ``wrapped``."""

    __tablename__ = "vault_object"
    __table_args__ = (Index("vault_object_expires", "expires"),)
    id: str = Field(primary_key=True, sa_type=Text)
    owner: str = Field(sa_type=Text)
    kind: str = Field(sa_type=Text)
    wrapped: bytes = Field(sa_type=LargeBinary)
    created: str = Field(sa_type=Text)
    expires: str | None = Field(default=None, sa_type=Text)
    size: int
    digest: str = Field(sa_type=Text)
    data_classes: str = Field(sa_type=Text)
    complete: bool


class VaultChunk(Base, table=True):
    """Sealed chunks of encrypted objects."""

    __tablename__ = "vault_chunk"
    object_id: str = Field(primary_key=True, foreign_key="vault_object.id", sa_type=Text)
    idx: int = Field(sa_column=Column("idx", Integer, primary_key=True, autoincrement=False))
    sealed: bytes = Field(sa_type=LargeBinary)


class VaultUsage(Base, table=True):
    """How much each owner keeps in sealed chunks; kept beside them, so that a quota costs no sum over all of them."""

    __tablename__ = "vault_usage"
    owner: str = Field(primary_key=True, sa_type=Text)
    stored: int = Field(sa_type=BigInteger)


class IdentityRecord(Base, table=True):
    """Agents and humans."""

    __tablename__ = "identity"
    __table_args__ = (UniqueConstraint("kind", "name", name="identity_name"),)
    id: str = Field(primary_key=True, sa_type=Text)
    kind: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    owner: str = Field(sa_type=Text)
    registrar: str = Field(sa_type=Text)
    created: str = Field(sa_type=Text)
    revoked: str | None = Field(default=None, sa_type=Text)


class CertificateRecord(Base, table=True):
    """Certificates in the order of their issue."""

    __tablename__ = "certificate"
    number: int | None = Field(default=None, primary_key=True)
    fingerprint: str = Field(unique=True, sa_type=Text)
    identity: str = Field(foreign_key="identity.id", sa_type=Text)
    public_key_der: bytes = Field(sa_type=LargeBinary)
    not_before: str = Field(sa_type=Text)
    not_after: str = Field(sa_type=Text)
    revoked: str | None = Field(default=None, sa_type=Text)


class SessionRecord(Base, table=True):
    """Sessions of agents."""

    __tablename__ = "session"
    __table_args__ = (Index("session_agent", "agent", "id"), Index("session_starter", "starter", "id"))
    id: str = Field(primary_key=True, sa_type=Text)
    agent: str = Field(sa_type=Text)
    workspace: str = Field(sa_type=Text)
    starter: str = Field(sa_type=Text)
    schedule: str = Field(sa_type=Text)
    created: str = Field(sa_type=Text)
    expires: str = Field(sa_type=Text)
    ended: str | None = Field(default=None, sa_type=Text)


class ScheduleRecord(Base, table=True):
    """Schedules by which agents start sessions themselves."""

    __tablename__ = "schedule"
    id: str = Field(primary_key=True, sa_type=Text)
    agent: str = Field(sa_type=Text)
    workspace: str = Field(sa_type=Text)
    registrar: str = Field(sa_type=Text)
    weekdays: str = Field(sa_type=Text)
    from_minute: int
    until_minute: int
    session_ttl_s: float
    expires: str = Field(sa_type=Text)


class CallRecord(Base, table=True):
    """Calls, without their content."""

    __tablename__ = "call"
    __table_args__ = (
        Index("call_agent_state", "agent", "state"),
        Index("call_state", "state"),
        Index("call_agent_id", "agent", "id"),
    )
    id: str = Field(primary_key=True, sa_type=Text)
    agent: str = Field(sa_type=Text)
    owner: str = Field(sa_type=Text)
    tool: str = Field(sa_type=Text)
    tool_version: str = Field(sa_type=Text)
    workspace: str = Field(sa_type=Text)
    workflow: str = Field(sa_type=Text)
    state: str = Field(sa_type=Text)
    tier: int
    request_id: str = Field(sa_type=Text)
    request_digest: str = Field(sa_type=Text)
    created: str = Field(sa_type=Text)
    started: str | None = Field(default=None, sa_type=Text)
    ended: str | None = Field(default=None, sa_type=Text)
    expires: str | None = Field(default=None, sa_type=Text)
    decision_seq: int | None = None
    intent_seq: int | None = None
    outcome_seq: int | None = None
    last_event: int
    envelope_digest: str = Field(sa_type=Text)


class RefusalRecord(Base, table=True):
    """Repeated refusals that wait for their counted entry."""

    __tablename__ = "refusal"
    agent: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    first: str = Field(index=True, sa_type=Text)
    last: str = Field(sa_type=Text)
    count: int
    body: bytes = Field(sa_type=LargeBinary)


META = Base.metadata.tables["store_meta"]
LEDGER_ENTRY = Base.metadata.tables["ledger_entry"]
LEDGER_AGENT = Base.metadata.tables["ledger_agent"]
VAULT_OBJECT = Base.metadata.tables["vault_object"]
VAULT_CHUNK = Base.metadata.tables["vault_chunk"]
VAULT_USAGE = Base.metadata.tables["vault_usage"]
IDENTITY = Base.metadata.tables["identity"]
CERTIFICATE = Base.metadata.tables["certificate"]
SESSION = Base.metadata.tables["session"]
SCHEDULE = Base.metadata.tables["schedule"]
CALL = Base.metadata.tables["call"]
REFUSAL = Base.metadata.tables["refusal"]

# An agent's own request id stands for one call; calls without one don't get in each other's way.
Index(
    "call_request",
    CALL.c.agent,
    CALL.c.request_id,
    unique=True,
    sqlite_where=CALL.c.request_id != "",
    postgresql_where=CALL.c.request_id != "",
)
