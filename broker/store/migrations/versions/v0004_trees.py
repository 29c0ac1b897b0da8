"""States of workspaces' trees, and effects of calls on them: both empty. Chat accounts are vacuumed soon, as what is erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables. A broker that had no trees has nothing to fill them with."""
    op.create_table(
        "workspace_tree",
        sa.Column("workspace", _WORDS, primary_key=True, nullable=False),
        *_words("state"),
        sa.Column("seq", _NUMBER, nullable=False),
        *_words("changed"),
    )
    op.create_table(
        "effect",
        sa.Column("call_id", _WORDS, primary_key=True, nullable=False),
        *_words("workspace", "base", "after", "digest", "artifact", "undoes", "undone_by"),
        sa.Column("seq", _NUMBER, nullable=False),
        *_words("at"),
    )
    op.create_index("effect_workspace", "effect", ["workspace", "seq"])
    if op.get_bind().dialect.name == "postgresql":
        # An erasure touches these too: nothing of them may outlive it in free pages or the planner's samples.
        op.execute("ALTER TABLE chat_account SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)")
        for column in ("team", "user"):
            op.execute(f'ALTER TABLE chat_account ALTER COLUMN "{column}" SET STATISTICS 0')


def _words(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, _WORDS, nullable=False) for name in names]
