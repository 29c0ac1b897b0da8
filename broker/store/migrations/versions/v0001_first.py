"""The schema of the first broker: one SQLite file, without Alembic. No PostgreSQL ever had it but on the way to the next.

Databases of that broker are taken as being here already.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None

_WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BYTES = sa.LargeBinary()

SQLITE_TRIGGERS = (
    (
        "CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry BEGIN"
        " SELECT RAISE(ABORT, 'the ledger is append-only: no entry is changed'); END"
    ),
    (
        "CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry BEGIN"
        " SELECT RAISE(ABORT, 'the ledger is append-only: no entry is deleted'); END"
    ),
    (
        "CREATE TRIGGER ledger_entry_only_next BEFORE INSERT ON ledger_entry"
        " WHEN typeof(NEW.leaf) <> 'blob' OR typeof(NEW.data) <> 'blob' OR typeof(NEW.prev) <> 'text'"
        " OR NEW.seq IS NOT (SELECT coalesce(max(seq) + 1, 0) FROM ledger_entry)"
        " OR NEW.prev IS NOT coalesce((SELECT lower(hex(leaf)) FROM ledger_entry ORDER BY seq DESC LIMIT 1),"
        " '0000000000000000000000000000000000000000000000000000000000000000')"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: only the next entry is added'); END"
    ),
)
_REFUSE = """
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: no entry is changed or deleted'
        USING ERRCODE = 'integrity_constraint_violation';
END
"""
_ONLY_NEXT = """
DECLARE
    last_seq bigint;
    last_leaf bytea;
BEGIN
    SELECT seq, leaf INTO last_seq, last_leaf FROM broker.ledger_entry ORDER BY seq DESC LIMIT 1;
    IF NEW.seq IS DISTINCT FROM coalesce(last_seq + 1, 0)
        OR NEW.prev IS DISTINCT FROM coalesce(encode(last_leaf, 'hex'), repeat('0', 64)) THEN
        RAISE EXCEPTION 'the ledger is append-only: only the next entry is added'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
"""
_FUNCTION = "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $body${}$body$"
_POSTGRES_TRIGGERS = (
    ("ledger_entry_no_update", "BEFORE UPDATE ON ledger_entry FOR EACH ROW", "ledger_entry_refuse"),
    ("ledger_entry_no_delete", "BEFORE DELETE ON ledger_entry FOR EACH ROW", "ledger_entry_refuse"),
    ("ledger_entry_no_truncate", "BEFORE TRUNCATE ON ledger_entry FOR EACH STATEMENT", "ledger_entry_refuse"),
    ("ledger_entry_only_next", "BEFORE INSERT ON ledger_entry FOR EACH ROW", "ledger_entry_only_next"),
)


def upgrade() -> None:
    """Makes all tables and triggers."""
    _ledger()
    _vault()
    _identities()
    _calls()
    _triggers()


def _words(name: str, *, nullable: bool = False, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _WORDS, nullable=nullable, primary_key=primary_key)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, _NUMBER, nullable=nullable)


def _ledger() -> None:
    op.create_table("store_meta", _words("key", primary_key=True), _words("value"))
    op.create_table(
        "ledger_entry",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        _words("prev"),
        sa.Column("leaf", _BYTES, nullable=False),
        sa.Column("data", _BYTES, nullable=False),
        sa.CheckConstraint("length(prev) = 64", name="ledger_entry_prev"),
        sa.CheckConstraint("length(leaf) = 32", name="ledger_entry_leaf"),
        sa.CheckConstraint("length(data) < 65536", name="ledger_entry_data"),
        sa.UniqueConstraint("prev"),
    )
    op.create_table(
        "ledger_agent", _words("agent", primary_key=True), _number("seq"), sa.Column("leaf", _BYTES, nullable=False)
    )


def _vault() -> None:
    op.create_table(
        "vault_object",
        _words("id", primary_key=True),
        _words("owner"),
        _words("kind"),
        sa.Column("wrapped", _BYTES, nullable=False),
        _words("created"),
        _words("expires", nullable=True),
        _number("size"),
        _words("digest"),
        _words("data_classes"),
        sa.Column("complete", sa.Boolean(), nullable=False),
    )
    op.create_index("vault_object_expires", "vault_object", ["expires"])
    op.create_table(
        "vault_chunk",
        sa.Column("object_id", _WORDS, sa.ForeignKey("vault_object.id"), primary_key=True),
        sa.Column("idx", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("sealed", _BYTES, nullable=False),
    )
    op.create_table(
        "vault_usage", _words("owner", primary_key=True), sa.Column("stored", sa.BigInteger(), nullable=False)
    )


def _identities() -> None:
    op.create_table(
        "identity",
        _words("id", primary_key=True),
        _words("kind"),
        _words("name"),
        _words("owner"),
        _words("registrar"),
        _words("created"),
        _words("revoked", nullable=True),
        sa.UniqueConstraint("kind", "name", name="identity_name"),
    )
    op.create_table(
        "certificate",
        sa.Column("number", _NUMBER, primary_key=True),
        _words("fingerprint"),
        sa.Column("identity", _WORDS, sa.ForeignKey("identity.id"), nullable=False),
        sa.Column("public_key_der", _BYTES, nullable=False),
        _words("not_before"),
        _words("not_after"),
        _words("revoked", nullable=True),
        sa.UniqueConstraint("fingerprint"),
    )
    op.create_table(
        "session",
        _words("id", primary_key=True),
        _words("agent"),
        _words("workspace"),
        _words("starter"),
        _words("schedule"),
        _words("created"),
        _words("expires"),
        _words("ended", nullable=True),
    )
    op.create_index("session_agent", "session", ["agent", "id"])
    op.create_index("session_starter", "session", ["starter", "id"])
    op.create_table(
        "schedule",
        _words("id", primary_key=True),
        _words("agent"),
        _words("workspace"),
        _words("registrar"),
        _words("weekdays"),
        sa.Column("from_minute", sa.Integer(), nullable=False),
        sa.Column("until_minute", sa.Integer(), nullable=False),
        sa.Column("session_ttl_s", sa.Float(), nullable=False),
        _words("expires"),
    )


def _calls() -> None:
    op.create_table(
        "call",
        _words("id", primary_key=True),
        *(_words(name) for name in ("agent", "owner", "tool", "tool_version", "workspace", "workflow", "state")),
        sa.Column("tier", sa.Integer(), nullable=False),
        *(_words(name) for name in ("request_id", "request_digest", "created")),
        *(_words(name, nullable=True) for name in ("started", "ended", "expires")),
        *(_number(name, nullable=True) for name in ("decision_seq", "intent_seq", "outcome_seq")),
        _number("last_event"),
        _words("envelope_digest"),
    )
    op.create_index("call_agent_state", "call", ["agent", "state"])
    op.create_index("call_state", "call", ["state"])
    op.create_index("call_agent_id", "call", ["agent", "id"])
    asked = sa.text("request_id != ''")
    op.create_index(
        "call_request", "call", ["agent", "request_id"], unique=True, sqlite_where=asked, postgresql_where=asked
    )
    op.create_table(
        "refusal",
        _words("agent", primary_key=True),
        _words("key", primary_key=True),
        _words("first"),
        _words("last"),
        _number("count"),
        sa.Column("body", _BYTES, nullable=False),
    )
    op.create_index("ix_refusal_first", "refusal", ["first"])


def _triggers() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for statement in SQLITE_TRIGGERS:
            op.execute(statement)
        op.execute("INSERT INTO store_meta (key, value) VALUES ('schema_version', '1'), ('in_use', '0')")
        return
    op.execute(_FUNCTION.format("ledger_entry_refuse", _REFUSE))
    op.execute(_FUNCTION.format("ledger_entry_only_next", _ONLY_NEXT))
    for name, fires, function in _POSTGRES_TRIGGERS:
        op.execute(f"CREATE TRIGGER {name} {fires} EXECUTE FUNCTION {function}()")
        op.execute(f"ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER {name}")
