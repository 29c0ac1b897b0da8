"""What an erasure needs of the database besides the other tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, func, select, update

from broker.domain.ports import DESTROYED
from broker.errors import NotFoundError
from broker.store.columns import time_text
from broker.store.tables import IDENTITY, VAULT_CHUNK, VAULT_OBJECT, VAULT_USAGE

_O, _C, _U = VAULT_OBJECT.c, VAULT_CHUNK.c, VAULT_USAGE.c
_OBJECTS = select(_O.id).where(_O.id > bindparam("after")).order_by(_O.id).limit(bindparam("most"))
_STORED = select(func.coalesce(func.sum(func.length(_C.sealed)), 0)).where(_C.object_id == bindparam("which"))
_DESTROY = (
    update(VAULT_OBJECT)
    .where(_O.id == bindparam("which"))
    .values(wrapped=DESTROYED, expires=bindparam("moment"), digest="", size=0, complete=False)
)
_LENGTHS = (
    select(_C.idx, func.length(_C.sealed))
    .where(_C.object_id == bindparam("which"))
    .order_by(_C.idx)
    .limit(bindparam("most"))
)
_DROP = delete(VAULT_CHUNK).where(_C.object_id == bindparam("which"), _C.idx <= bindparam("last"))
_FREE = (
    update(VAULT_USAGE)
    .where(_U.owner == select(_O.owner).where(_O.id == bindparam("which")).scalar_subquery())
    .values(stored=_U.stored - bindparam("freed"))
)
_FORGET = update(IDENTITY).where(IDENTITY.c.id == bindparam("which")).values(name=IDENTITY.c.id)
_AT_ONCE = 1024
"""Chunks that are looked at to find how many one step may drop."""


class SqlErasureTable:
    """Implements ``broker.domain.ports.ErasureTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.deletions = 0
        """Erasures through this table since it was made, those of transactions rolled back included."""

    def objects(self, after: str, limit: int) -> Sequence[str]:
        """Ids of up to ``limit`` encrypted objects that sort after one, in order."""
        return list(self._connection.execute(_OBJECTS, {"after": after, "most": limit}).scalars())

    def stored(self, object_id: str) -> int:
        """Bytes of an object's sealed chunks."""
        return int(self._connection.execute(_STORED, {"which": object_id}).scalar_one())

    def destroy_keys(self, object_id: str, moment: datetime) -> None:
        """Destroys an object's keys, size and digest, and lets its time be over; its chunks wait to be dropped.

        Raises:
            NotFoundError: there is no such object.
        """
        self.deletions += 1
        values = {"which": object_id, "moment": time_text(moment)}
        if self._connection.execute(_DESTROY, values).rowcount == 0:
            raise NotFoundError(f"there is no encrypted object {object_id}, or it has been erased")

    def drop_chunks(self, object_id: str, most_bytes: int) -> bool:
        """Deletes an object's first chunks, at least one and about ``most_bytes`` of them; whether any is left."""
        last, freed, left = None, 0, False
        for index, length in self._connection.execute(_LENGTHS, {"which": object_id, "most": _AT_ONCE}).all():
            if last is not None and freed + length > most_bytes:
                left = True
                break
            last, freed = index, freed + length
        if last is None:
            return False
        self.deletions += 1
        self._connection.execute(_FREE, {"which": object_id, "freed": freed})
        dropped = self._connection.execute(_DROP, {"which": object_id, "last": last}).rowcount
        return left or dropped == _AT_ONCE

    def forget_name(self, identity_id: str) -> None:
        """Puts an identity's id in the place of its name.

        Raises:
            NotFoundError: there is no such identity.
        """
        self.deletions += 1
        if self._connection.execute(_FORGET, {"which": identity_id}).rowcount == 0:
            raise NotFoundError(f"there is no identity {identity_id}")
