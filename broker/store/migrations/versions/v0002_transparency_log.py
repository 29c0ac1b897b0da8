"""Tiles of the Merkle tree, an index for reading, where each agent's last entry is, and keys of workspaces.

``ledger_entry`` loses its index over ``prev``: the trigger lets only the last entry's hash pass, and entries' numbers are
unique, so no ``prev`` comes twice; the index cost as much as the entry itself. Entries stay as they are, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from broker.errors import DataLossError
from broker.store.migrations.versions.v0001_first import SQLITE_TRIGGERS

revision = "0002"
down_revision = "0001"

_WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BYTES = sa.LargeBinary()
_WIDTH = 256
_PAGE = 4096

_ENTRY = sa.table("ledger_entry", sa.column("seq"), sa.column("leaf"))
_AGENT = sa.table("ledger_agent", *map(sa.column, ("agent", "seq", "leaf", "entry_seq")))
_TILE = sa.table("ledger_tile", *map(sa.column, ("level", "idx", "hashes")))


def upgrade() -> None:
    """Makes the tables, and computes from the entries what they hold. The index fills itself as the broker runs."""
    heads = op.get_bind().execute(sa.select(*(_AGENT.c[name] for name in ("agent", "seq", "leaf")))).all()
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("ledger_entry_prev_key", "ledger_entry")
    else:
        _copy_entries()
    _make_tables()
    where = _fill_tiles({bytes(row.leaf) for row in heads})
    if lost := [row.agent for row in heads if bytes(row.leaf) not in where]:
        raise DataLossError(
            f"the ledger lacks the last entry of agent {lost[0]}: the database is damaged",
            reason="LEDGER_DAMAGED",
            hint="Run `broker ledger verify`, keep the file and restore a backup.",
        )
    rows = [
        {"agent": row.agent, "seq": row.seq, "leaf": row.leaf, "entry_seq": where[bytes(row.leaf)]} for row in heads
    ]
    if rows:
        op.get_bind().execute(sa.insert(_AGENT), rows)
    op.execute("DELETE FROM store_meta WHERE key = 'schema_version'")
    if op.get_bind().dialect.name == "postgresql":
        for table in ("vault_object", "vault_chunk", "workspace_key", "identity", "refusal"):
            soon = "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0"
            op.execute(f"ALTER TABLE {table} SET ({soon})")


def _copy_entries() -> None:
    # SQLite takes no constraint off a table that is there.
    op.create_table(
        "ledger_entry_new",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("prev", _WORDS, nullable=False),
        sa.Column("leaf", _BYTES, nullable=False),
        sa.Column("data", _BYTES, nullable=False),
        sa.CheckConstraint("length(prev) = 64", name="ledger_entry_prev"),
        sa.CheckConstraint("length(leaf) = 32", name="ledger_entry_leaf"),
        sa.CheckConstraint("length(data) < 65536", name="ledger_entry_data"),
    )
    op.execute(
        "INSERT INTO ledger_entry_new (seq, prev, leaf, data) SELECT seq, prev, leaf, data FROM ledger_entry ORDER BY seq"
    )
    op.drop_table("ledger_entry")  # its triggers go with it, and are made anew on the copy
    op.rename_table("ledger_entry_new", "ledger_entry")
    for statement in SQLITE_TRIGGERS:
        op.execute(statement)


def _make_tables() -> None:
    op.drop_table("ledger_agent")
    op.create_table(
        "ledger_agent",
        sa.Column("agent", _WORDS, primary_key=True, nullable=False),
        sa.Column("seq", _NUMBER, nullable=False),
        sa.Column("leaf", _BYTES, nullable=False),
        sa.Column("entry_seq", _NUMBER, nullable=False),
    )
    op.create_index("ledger_agent_entry", "ledger_agent", ["entry_seq"])
    op.create_table(
        "ledger_tile",
        sa.Column("level", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("idx", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("hashes", _BYTES, nullable=False),
        sa.CheckConstraint(
            "length(hashes) > 0 AND length(hashes) <= 8192 AND length(hashes) % 32 = 0", name="ledger_tile_hashes"
        ),
    )
    op.create_table(
        "ledger_index",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("type", _WORDS, nullable=False),
        sa.Column("ts", _WORDS, nullable=False),
        *(sa.Column(name, _WORDS, nullable=True) for name in ("agent", "call_id", "workspace", "tool")),
    )
    op.create_index("ledger_index_type", "ledger_index", ["type", "seq"])
    op.create_index("ledger_index_ts", "ledger_index", ["ts"])
    for name in ("agent", "call_id", "tool"):
        has = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"ledger_index_{name}", "ledger_index", [name, "seq"], sqlite_where=has, postgresql_where=has)
    op.create_table(
        "workspace_key",
        sa.Column("workspace", _WORDS, primary_key=True, nullable=False),
        sa.Column("wrapped", _BYTES, nullable=False),
        sa.Column("created", _WORDS, nullable=False),
    )


def _fill_tiles(wanted: set[bytes]) -> dict[bytes, int]:
    """Keeps all tiles; returns the numbers of the entries with the wanted leaf hashes."""
    where: dict[bytes, int] = {}
    row: list[bytes] = []
    above: list[bytes] = []
    for seq, leaf in _leaves():
        if leaf in wanted:
            where[leaf] = seq
        row.append(leaf)
        if len(row) == _WIDTH:
            _keep(0, len(above), row)
            above.append(_root(row))
            row = []
    level = 1
    while above:
        # Tiles above the leaves are kept while they grow.
        tiles = [above[at : at + _WIDTH] for at in range(0, len(above), _WIDTH)]
        for index, tile in enumerate(tiles):
            _keep(level, index, tile)
        above = [_root(tile) for tile in tiles if len(tile) == _WIDTH]
        level += 1
    return where


def _leaves() -> Iterator[tuple[int, bytes]]:
    first = 0
    query = sa.select(_ENTRY.c.seq, _ENTRY.c.leaf).order_by(_ENTRY.c.seq).limit(_PAGE)
    while page := op.get_bind().execute(query.where(_ENTRY.c.seq >= first)).all():
        yield from ((row.seq, bytes(row.leaf)) for row in page)
        first = page[-1].seq + 1


def _keep(level: int, index: int, hashes: list[bytes]) -> None:
    op.get_bind().execute(sa.insert(_TILE), [{"level": level, "idx": index, "hashes": b"".join(hashes)}])


def _root(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row = [hashlib.sha256(b"\x01" + row[at] + row[at + 1]).digest() for at in range(0, len(row), 2)]
    return row[0]
