"""Encrypted objects in the database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from broker.domain.ports import OBJECT_COST, VaultRow
from broker.errors import ConflictError, NotFoundError
from broker.store.columns import list_text, optional_time_text, read_optional_time, read_time, time_text
from broker.store.prepared import Prepared, driver_of, integrity_errors
from broker.store.tables import VAULT_CHUNK, VAULT_OBJECT, VAULT_USAGE

_O = VAULT_OBJECT.c
_INSERT = Prepared(insert(VAULT_OBJECT))
_GET = Prepared(
    select(
        _O.id, _O.owner, _O.kind, _O.wrapped, _O.created, _O.expires, _O.size, _O.digest, _O.data_classes, _O.complete
    ).where(_O.id == bindparam("which"))
)
_COMPLETE = (
    update(VAULT_OBJECT)
    .where(_O.id == bindparam("which"))
    .values(size=bindparam("new_size"), digest=bindparam("new_digest"), expires=bindparam("moment"), complete=True)
)
_EXTEND = (
    update(VAULT_OBJECT)
    .where(_O.id == bindparam("which"), _O.expires < bindparam("moment"))
    .values(expires=bindparam("moment"))
)
_KEEP = update(VAULT_OBJECT).where(_O.id == bindparam("which")).values(expires=None)
_INSERT_CHUNK = Prepared(insert(VAULT_CHUNK))
_CHUNKS = Prepared(
    select(VAULT_CHUNK.c.idx, VAULT_CHUNK.c.sealed)
    .where(VAULT_CHUNK.c.object_id == bindparam("which"), VAULT_CHUNK.c.idx >= bindparam("first"))
    .order_by(VAULT_CHUNK.c.idx)
    .limit(bindparam("most"))
)
_DELETE_CHUNKS = delete(VAULT_CHUNK).where(VAULT_CHUNK.c.object_id == bindparam("which"))
_DELETE = delete(VAULT_OBJECT).where(_O.id == bindparam("which"))
_EXPIRED = select(_O.id).where(_O.expires <= bindparam("now")).order_by(_O.expires, _O.id).limit(bindparam("most"))
_U = VAULT_USAGE.c
_OWNER = Prepared(select(_O.owner).where(_O.id == bindparam("which")))
_LABELS = select(_O.data_classes).where(_O.id == bindparam("which"))
_STORED = select(func.coalesce(func.sum(func.length(VAULT_CHUNK.c.sealed)), 0)).where(
    VAULT_CHUNK.c.object_id == bindparam("which")
)
_ADD_USAGE = Prepared(
    update(VAULT_USAGE).where(_U.owner == bindparam("whose")).values(stored=_U.stored + bindparam("more"))
)
_NEW_USAGE = Prepared(insert(VAULT_USAGE))
_USAGE = Prepared(select(_U.stored).where(_U.owner == bindparam("whose")))


class SqlVaultTable:
    """Implements ``broker.domain.ports.VaultTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)
        self.deletions = 0
        """Objects deleted through this table since it was made, those of transactions rolled back included."""

    def insert(self, row: VaultRow) -> None:
        """Adds an object.

        Raises:
            ConflictError: the id is taken.
        """
        values = {
            "id": row.id,
            "owner": row.owner,
            "kind": row.kind,
            "wrapped": row.wrapped,
            "created": time_text(row.created),
            "expires": optional_time_text(row.expires),
            "size": row.size,
            "digest": row.digest,
            "data_classes": list_text(row.data_classes),
            "complete": row.complete,
        }
        try:
            _INSERT.run(self._driver, values)
        except integrity_errors() as error:
            raise ConflictError(f"there is an encrypted object {row.id} already") from error
        self._count(row.id, _fixed_cost(list_text(row.data_classes)))

    def get(self, object_id: str) -> VaultRow | None:
        """An object, complete or not."""
        row = _GET.run(self._driver, {"which": object_id}).fetchone()
        return None if row is None else _read(row)

    def complete(self, object_id: str, *, size: int, digest: str, expires: datetime | None) -> None:
        """Marks an upload complete, with its size, digest and expiry.

        Raises:
            NotFoundError: there is no such object.
        """
        moment = optional_time_text(expires)
        values = {"which": object_id, "new_size": size, "new_digest": digest, "moment": moment}
        if self._connection.execute(_COMPLETE, values).rowcount == 0:
            raise _missing(object_id)

    def extend(self, object_id: str, expires: datetime | None) -> None:
        """Keeps an object at least until then; ``None`` is for ever. Never shortens.

        Raises:
            NotFoundError: there is no such object.
        """
        if expires is None:
            changed = self._connection.execute(_KEEP, {"which": object_id}).rowcount
        else:
            values = {"which": object_id, "moment": time_text(expires)}
            changed = self._connection.execute(_EXTEND, values).rowcount
        if changed == 0 and self.get(object_id) is None:
            raise _missing(object_id)

    def insert_chunks(self, object_id: str, chunks: Mapping[int, bytes]) -> None:
        """Adds sealed chunks, by index.

        Raises:
            ConflictError: the object has one of them already, or isn't there.
        """
        rows = [{"object_id": object_id, "idx": index, "sealed": sealed} for index, sealed in chunks.items()]
        try:
            _INSERT_CHUNK.run_many(self._driver, rows)
        except integrity_errors() as error:
            which = ", ".join(map(str, chunks))
            message = f"chunk {which} of the encrypted object {object_id} is there already, or the object isn't"
            raise ConflictError(message) from error
        self._count(object_id, sum(map(len, chunks.values())))

    def chunks(self, object_id: str, first: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Up to ``limit`` chunks (index, sealed) from index ``first`` on, in order."""
        rows = _CHUNKS.run(self._driver, {"which": object_id, "first": first, "most": limit})
        return [(row[0], row[1]) for row in rows]

    def delete(self, object_id: str) -> None:
        """Destroys an object's keys and chunks; nothing happens where there is none."""
        labels = self._connection.execute(_LABELS, {"which": object_id}).scalar()
        if labels is None:
            return
        self.deletions += 1
        stored = self._connection.execute(_STORED, {"which": object_id}).scalar_one()
        self._count(object_id, -stored - _fixed_cost(labels))
        self._connection.execute(_DELETE_CHUNKS, {"which": object_id})
        self._connection.execute(_DELETE, {"which": object_id})

    def expired(self, now: datetime, limit: int) -> Sequence[str]:
        """Ids of objects whose time is over, the oldest first."""
        return list(self._connection.execute(_EXPIRED, {"now": time_text(now), "most": limit}).scalars())

    def usage(self, owner: str) -> int:
        """Bytes that an owner keeps, with ``OBJECT_COST`` and labels of each object; unfinished ones count."""
        row = _USAGE.run(self._driver, {"whose": owner}).fetchone()
        return 0 if row is None else int(row[0])

    def _count(self, object_id: str, more: int) -> None:
        found = _OWNER.run(self._driver, {"which": object_id}).fetchone()
        if found is None or not more:
            return
        if not _ADD_USAGE.run(self._driver, {"whose": found[0], "more": more}).rowcount:
            _NEW_USAGE.run(self._driver, {"owner": found[0], "stored": more})


def _fixed_cost(labels: str) -> int:
    return OBJECT_COST + len(labels.encode())


def _read(row: Sequence[Any]) -> VaultRow:
    return VaultRow(
        id=row[0],
        owner=row[1],
        kind=row[2],
        wrapped=row[3],
        created=read_time(row[4]),
        expires=read_optional_time(row[5]),
        size=row[6],
        digest=row[7],
        data_classes=tuple(json.loads(row[8])),
        complete=bool(row[9]),
    )


def _missing(object_id: str) -> NotFoundError:
    return NotFoundError(f"there is no encrypted object {object_id}, or it has been erased")
