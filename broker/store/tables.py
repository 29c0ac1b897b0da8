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
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlmodel import Field, SQLModel

NUMBER = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits on each database. SQLite's INTEGER has them, and only under that name is a primary key the row's own number."""

WORDS = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that sorts by its code points on each database, whatever the server's locale."""


class Base(SQLModel):
    """Ties the tables to metadata of their own, so that nothing else of SQLModel can slip into the schema."""

    metadata = MetaData()


class StoreMeta(Base, table=True):
    """Facts about the database itself; in a SQLite file ``in_use``."""

    __tablename__ = "store_meta"
    key: str = Field(primary_key=True, sa_type=WORDS)
    value: str = Field(sa_type=WORDS)


class LedgerEntry(Base, table=True):
    """Entries, verbatim. Triggers refuse UPDATE, DELETE and any INSERT that isn't the next entry."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        CheckConstraint("length(prev) = 64", name="ledger_entry_prev"),
        CheckConstraint("length(leaf) = 32", name="ledger_entry_leaf"),
        CheckConstraint("length(data) < 65536", name="ledger_entry_data"),
    )
    seq: int = Field(sa_column=Column("seq", NUMBER, primary_key=True, autoincrement=False))
    prev: str = Field(
        sa_type=WORDS
    )  # the trigger lets only the last entry's leaf pass; an index would cost half the speed
    leaf: bytes = Field(sa_type=LargeBinary)
    data: bytes = Field(sa_type=LargeBinary)


class LedgerAgent(Base, table=True):
    """A projection: the last entry of each agent's own chain. ``entry_seq`` is that entry's number in the ledger.

    It has no index: each append would write one, and only checkpoints and exports ask which heads have moved.
    """

    __tablename__ = "ledger_agent"
    agent: str = Field(primary_key=True, sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)
    leaf: bytes = Field(sa_type=LargeBinary)
    entry_seq: int = Field(sa_type=NUMBER)


class LedgerTile(Base, table=True):
    """A projection: tiles of the Merkle tree, up to 256 hashes each."""

    __tablename__ = "ledger_tile"
    __table_args__ = (
        CheckConstraint(
            "length(hashes) > 0 AND length(hashes) <= 8192 AND length(hashes) % 32 = 0", name="ledger_tile_hashes"
        ),
    )
    level: int = Field(sa_column=Column("level", Integer, primary_key=True, autoincrement=False))
    idx: int = Field(sa_column=Column("idx", NUMBER, primary_key=True, autoincrement=False))
    hashes: bytes = Field(sa_type=LargeBinary)


class LedgerIndex(Base, table=True):
    """A projection: by what an entry is found. A member that an entry doesn't have is NULL."""

    __tablename__ = "ledger_index"
    __table_args__ = (Index("ledger_index_type", "type", "seq"), Index("ledger_index_ts", "ts"))
    seq: int = Field(sa_column=Column("seq", NUMBER, primary_key=True, autoincrement=False))
    type: str = Field(sa_type=WORDS)
    ts: str = Field(sa_type=WORDS)
    agent: str | None = Field(default=None, sa_type=WORDS)
    call_id: str | None = Field(default=None, sa_type=WORDS)
    workspace: str | None = Field(default=None, sa_type=WORDS)
    tool: str | None = Field(default=None, sa_type=WORDS)


class WorkspaceKey(Base, table=True):
    """The key of each workspace, wrapped; whoever destroys it erases what was sealed under it."""

    __tablename__ = "workspace_key"
    workspace: str = Field(primary_key=True, sa_type=WORDS)
    wrapped: bytes = Field(sa_type=LargeBinary)
    created: str = Field(sa_type=WORDS)


class VaultObject(Base, table=True):
    """Encrypted objects; their keys, wrapped, are in ``wrapped``."""

    __tablename__ = "vault_object"
    __table_args__ = (Index("vault_object_expires", "expires"),)
    id: str = Field(primary_key=True, sa_type=WORDS)
    owner: str = Field(sa_type=WORDS)
    kind: str = Field(sa_type=WORDS)
    wrapped: bytes = Field(sa_type=LargeBinary)
    created: str = Field(sa_type=WORDS)
    expires: str | None = Field(default=None, sa_type=WORDS)
    size: int = Field(sa_type=NUMBER)
    digest: str = Field(sa_type=WORDS)
    data_classes: str = Field(sa_type=WORDS)
    complete: bool


class VaultChunk(Base, table=True):
    """Sealed chunks of encrypted objects."""

    __tablename__ = "vault_chunk"
    object_id: str = Field(primary_key=True, foreign_key="vault_object.id", sa_type=WORDS)
    idx: int = Field(sa_column=Column("idx", Integer, primary_key=True, autoincrement=False))
    sealed: bytes = Field(sa_type=LargeBinary)


class VaultUsage(Base, table=True):
    """How much each owner keeps in sealed chunks; kept beside them, so that a quota costs no sum over all of them."""

    __tablename__ = "vault_usage"
    owner: str = Field(primary_key=True, sa_type=WORDS)
    stored: int = Field(sa_type=BigInteger)


class IdentityRecord(Base, table=True):
    """Agents and humans."""

    __tablename__ = "identity"
    __table_args__ = (UniqueConstraint("kind", "name", name="identity_name"),)
    id: str = Field(primary_key=True, sa_type=WORDS)
    kind: str = Field(sa_type=WORDS)
    name: str = Field(sa_type=WORDS)
    owner: str = Field(sa_type=WORDS)
    registrar: str = Field(sa_type=WORDS)
    created: str = Field(sa_type=WORDS)
    revoked: str | None = Field(default=None, sa_type=WORDS)


class CertificateRecord(Base, table=True):
    """Certificates in the order of their issue."""

    __tablename__ = "certificate"
    number: int | None = Field(default=None, primary_key=True, sa_type=NUMBER)
    fingerprint: str = Field(unique=True, sa_type=WORDS)
    identity: str = Field(foreign_key="identity.id", sa_type=WORDS)
    public_key_der: bytes = Field(sa_type=LargeBinary)
    not_before: str = Field(sa_type=WORDS)
    not_after: str = Field(sa_type=WORDS)
    revoked: str | None = Field(default=None, sa_type=WORDS)


class SessionRecord(Base, table=True):
    """Sessions of agents."""

    __tablename__ = "session"
    __table_args__ = (Index("session_agent", "agent", "id"), Index("session_starter", "starter", "id"))
    id: str = Field(primary_key=True, sa_type=WORDS)
    agent: str = Field(sa_type=WORDS)
    workspace: str = Field(sa_type=WORDS)
    starter: str = Field(sa_type=WORDS)
    schedule: str = Field(sa_type=WORDS)
    created: str = Field(sa_type=WORDS)
    expires: str = Field(sa_type=WORDS)
    ended: str | None = Field(default=None, sa_type=WORDS)


class ScheduleRecord(Base, table=True):
    """Schedules by which agents start sessions themselves."""

    __tablename__ = "schedule"
    id: str = Field(primary_key=True, sa_type=WORDS)
    agent: str = Field(sa_type=WORDS)
    workspace: str = Field(sa_type=WORDS)
    registrar: str = Field(sa_type=WORDS)
    weekdays: str = Field(sa_type=WORDS)
    from_minute: int
    until_minute: int
    session_ttl_s: float
    expires: str = Field(sa_type=WORDS)


class CallRecord(Base, table=True):
    """Calls, without their content."""

    __tablename__ = "call"
    __table_args__ = (
        Index("call_agent_state", "agent", "state"),
        Index("call_state", "state"),
        Index("call_agent_id", "agent", "id"),
    )
    id: str = Field(primary_key=True, sa_type=WORDS)
    agent: str = Field(sa_type=WORDS)
    owner: str = Field(sa_type=WORDS)
    tool: str = Field(sa_type=WORDS)
    tool_version: str = Field(sa_type=WORDS)
    workspace: str = Field(sa_type=WORDS)
    workflow: str = Field(sa_type=WORDS)
    state: str = Field(sa_type=WORDS)
    tier: int
    request_id: str = Field(sa_type=WORDS)
    request_digest: str = Field(sa_type=WORDS)
    created: str = Field(sa_type=WORDS)
    started: str | None = Field(default=None, sa_type=WORDS)
    ended: str | None = Field(default=None, sa_type=WORDS)
    expires: str | None = Field(default=None, sa_type=WORDS)
    decision_seq: int | None = Field(default=None, sa_type=NUMBER)
    intent_seq: int | None = Field(default=None, sa_type=NUMBER)
    outcome_seq: int | None = Field(default=None, sa_type=NUMBER)
    last_event: int = Field(sa_type=NUMBER)
    envelope_digest: str = Field(sa_type=WORDS)


class VoterKeyRecord(Base, table=True):
    """Keys that votes and attestations are taken of."""

    __tablename__ = "voter_key"
    __table_args__ = (CheckConstraint("length(public_key) = 32", name="voter_key_public_key"),)
    id: str = Field(primary_key=True, sa_type=WORDS)
    holder: str = Field(index=True, sa_type=WORDS)
    kind: str = Field(sa_type=WORDS)
    public_key: bytes = Field(sa_type=LargeBinary)
    enrolled: str = Field(sa_type=WORDS)
    enrolled_seq: int = Field(sa_type=NUMBER)
    revoked: str | None = Field(default=None, sa_type=WORDS)


class AcceptanceRecord(Base, table=True):
    """Signed acceptances of the founding."""

    __tablename__ = "acceptance"
    founding_digest: str = Field(primary_key=True, sa_type=WORDS)
    person: str = Field(primary_key=True, sa_type=WORDS)
    key: str = Field(sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)


class FoundingRecord(Base, table=True):
    """The entry that completed the founding; no row before that."""

    __tablename__ = "founding"
    seq: int = Field(sa_column=Column("seq", NUMBER, primary_key=True, autoincrement=False))
    digest: str = Field(sa_type=WORDS)


class ApprovalRecord(Base, table=True):
    """Approvals, without their texts."""

    __tablename__ = "approval"
    __table_args__ = (
        Index("approval_state", "state", "expires"),
        Index("approval_subject", "subject"),
        Index("approval_requester", "requester", "state"),
    )
    id: str = Field(primary_key=True, sa_type=WORDS)
    kind: str = Field(sa_type=WORDS)
    subject: str = Field(sa_type=WORDS)
    workspace: str = Field(sa_type=WORDS)
    obj: str = Field(sa_type=WORDS)
    tier: int
    requester: str = Field(sa_type=WORDS)
    excluded: str = Field(sa_type=WORDS)
    state: str = Field(sa_type=WORDS)
    requirement: str = Field(sa_type=WORDS)
    envelope_digest: str = Field(sa_type=WORDS)
    rendering_digest: str = Field(sa_type=WORDS)
    created: str = Field(sa_type=WORDS)
    expires: str = Field(sa_type=WORDS)
    requested_seq: int = Field(sa_type=NUMBER)
    closed: str | None = Field(default=None, sa_type=WORDS)
    closed_seq: int | None = Field(default=None, sa_type=NUMBER)


class VoteRecord(Base, table=True):
    """Votes, each as it was cast."""

    __tablename__ = "vote"
    approval: str = Field(primary_key=True, sa_type=WORDS)
    number: int = Field(sa_column=Column("number", Integer, primary_key=True, autoincrement=False))
    person: str = Field(sa_type=WORDS)
    key: str = Field(sa_type=WORDS)
    decision: str = Field(sa_type=WORDS)
    channel: str = Field(sa_type=WORDS)
    cast: str = Field(sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)


class FreezeRecord(Base, table=True):
    """What is frozen."""

    __tablename__ = "freeze"
    scope: str = Field(primary_key=True, sa_type=WORDS)
    target: str = Field(primary_key=True, sa_type=WORDS)
    by: str = Field(sa_type=WORDS)
    since: str = Field(sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)


class ChatAccountRecord(Base, table=True):
    """People's accounts in chat services. A person has one in each team, and an account is one person's."""

    __tablename__ = "chat_account"
    __table_args__ = (UniqueConstraint("service", "team", "person", name="chat_account_person"),)
    service: str = Field(primary_key=True, sa_type=WORDS)
    team: str = Field(primary_key=True, sa_type=WORDS)
    user: str = Field(primary_key=True, sa_type=WORDS)
    person: str = Field(sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)


class ApprovedWorkflowRecord(Base, table=True):
    """Versions of workflows that their people have agreed to."""

    __tablename__ = "approved_workflow"
    name: str = Field(primary_key=True, sa_type=WORDS)
    digest: str = Field(primary_key=True, sa_type=WORDS)
    tier: int
    approval: str = Field(sa_type=WORDS)
    approved: str = Field(sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)


class WorkspaceTreeRecord(Base, table=True):
    """The state of a workspace's tree."""

    __tablename__ = "workspace_tree"
    workspace: str = Field(primary_key=True, sa_type=WORDS)
    state: str = Field(sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)
    changed: str = Field(sa_type=WORDS)


class EffectRecord(Base, table=True):
    """What a call did to a workspace; ``undoes`` are ids with spaces between."""

    __tablename__ = "effect"
    __table_args__ = (Index("effect_workspace", "workspace", "seq"),)
    call_id: str = Field(primary_key=True, sa_type=WORDS)
    workspace: str = Field(sa_type=WORDS)
    base: str = Field(sa_type=WORDS)
    after: str = Field(sa_type=WORDS)
    digest: str = Field(sa_type=WORDS)
    artifact: str = Field(sa_type=WORDS)
    undoes: str = Field(sa_type=WORDS)
    undone_by: str = Field(sa_type=WORDS)
    seq: int = Field(sa_type=NUMBER)
    at: str = Field(sa_type=WORDS)


class RefusalRecord(Base, table=True):
    """Repeated refusals that wait for their counted entry."""

    __tablename__ = "refusal"
    agent: str = Field(primary_key=True, sa_type=WORDS)
    key: str = Field(primary_key=True, sa_type=WORDS)
    first: str = Field(index=True, sa_type=WORDS)
    last: str = Field(sa_type=WORDS)
    count: int = Field(sa_type=NUMBER)
    body: bytes = Field(sa_type=LargeBinary)


# Alembic's own table, as it would make it; apart from the others, which Alembic compares with what is there.
ALEMBIC_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

META = Base.metadata.tables["store_meta"]
LEDGER_ENTRY = Base.metadata.tables["ledger_entry"]
LEDGER_AGENT = Base.metadata.tables["ledger_agent"]
LEDGER_TILE = Base.metadata.tables["ledger_tile"]
LEDGER_INDEX = Base.metadata.tables["ledger_index"]
WORKSPACE_KEY = Base.metadata.tables["workspace_key"]
VAULT_OBJECT = Base.metadata.tables["vault_object"]
VAULT_CHUNK = Base.metadata.tables["vault_chunk"]
VAULT_USAGE = Base.metadata.tables["vault_usage"]
IDENTITY = Base.metadata.tables["identity"]
CERTIFICATE = Base.metadata.tables["certificate"]
SESSION = Base.metadata.tables["session"]
SCHEDULE = Base.metadata.tables["schedule"]
CALL = Base.metadata.tables["call"]
REFUSAL = Base.metadata.tables["refusal"]
VOTER_KEY = Base.metadata.tables["voter_key"]
ACCEPTANCE = Base.metadata.tables["acceptance"]
FOUNDING = Base.metadata.tables["founding"]
APPROVAL = Base.metadata.tables["approval"]
VOTE = Base.metadata.tables["vote"]
FREEZE = Base.metadata.tables["freeze"]
CHAT_ACCOUNT = Base.metadata.tables["chat_account"]
APPROVED_WORKFLOW = Base.metadata.tables["approved_workflow"]
WORKSPACE_TREE = Base.metadata.tables["workspace_tree"]
EFFECT = Base.metadata.tables["effect"]

# Each holds only the entries that have such a member; the others cost it nothing.
for _member in (LEDGER_INDEX.c.agent, LEDGER_INDEX.c.call_id, LEDGER_INDEX.c.tool):
    _has = _member.is_not(None)
    Index(f"ledger_index_{_member.name}", _member, LEDGER_INDEX.c.seq, sqlite_where=_has, postgresql_where=_has)

# An agent's own request id stands for one call; calls without one don't get in each other's way.
Index(
    "call_request",
    CALL.c.agent,
    CALL.c.request_id,
    unique=True,
    sqlite_where=CALL.c.request_id != "",
    postgresql_where=CALL.c.request_id != "",
)
