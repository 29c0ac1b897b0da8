"""Keys of voters, the founding, approvals, votes, freezes, chat accounts and approved workflows: all of them empty."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables. A broker that had none of this has nothing to fill them with."""
    op.create_table(
        "voter_key",
        _key("id"),
        *_words("holder", "kind"),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        *_words("enrolled"),
        _number("enrolled_seq"),
        _maybe("revoked"),
        sa.CheckConstraint("length(public_key) = 32", name="voter_key_public_key"),
    )
    op.create_index("ix_voter_key_holder", "voter_key", ["holder"])
    op.create_table("acceptance", _key("founding_digest"), _key("person"), *_words("key"), _number("seq"))
    op.create_table(
        "founding", sa.Column("seq", _NUMBER, primary_key=True, autoincrement=False, nullable=False), *_words("digest")
    )
    op.create_table(
        "approval",
        _key("id"),
        *_words("kind", "subject", "workspace", "obj"),
        sa.Column("tier", sa.Integer(), nullable=False),
        *_words("requester", "excluded", "state", "requirement", "envelope_digest", "rendering_digest"),
        *_words("created", "expires"),
        _number("requested_seq"),
        _maybe("closed"),
        sa.Column("closed_seq", _NUMBER, nullable=True),
    )
    op.create_index("approval_state", "approval", ["state", "expires"])
    op.create_index("approval_subject", "approval", ["subject"])
    op.create_index("approval_requester", "approval", ["requester", "state"])
    op.create_table(
        "vote",
        _key("approval"),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False, nullable=False),
        *_words("person", "key", "decision", "channel", "cast"),
        _number("seq"),
    )
    op.create_table("freeze", _key("scope"), _key("target"), *_words("by", "since"), _number("seq"))
    op.create_table(
        "chat_account",
        *(_key(name) for name in ("service", "team", "user")),
        *_words("person"),
        _number("seq"),
        sa.UniqueConstraint("service", "team", "person", name="chat_account_person"),
    )
    op.create_table(
        "approved_workflow",
        *(_key(name) for name in ("name", "digest")),
        sa.Column("tier", sa.Integer(), nullable=False),
        *_words("approval", "approved"),
        _number("seq"),
    )


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _WORDS, primary_key=True, nullable=False)


def _words(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, _WORDS, nullable=False) for name in names]


def _maybe(name: str) -> sa.Column[str]:
    return sa.Column(name, _WORDS, nullable=True)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _NUMBER, nullable=False)
