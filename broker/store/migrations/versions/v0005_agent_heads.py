"""No index over the agents' heads any more: each append wrote it, and few ask: checkpoints and exports."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Drops the index."""
    op.drop_index("ledger_agent_entry", "ledger_agent")
