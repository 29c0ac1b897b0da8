"""Destroying sealed objects without holding up other writers: keys at once, chunks in steps.

With its keys gone nothing of an object can be read, however long its chunks still lie there. Whoever destroys keys says so
in the ledger, in the same transaction. The steps after it may be left to housekeeping: the object's time is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.domain.ports import DESTROYED, Store, Transaction
from broker.errors import InternalError
from broker.vault.sealing import ADDRESS

STEP_BYTES = 4 << 20
"""Sealed bytes that one transaction deletes: overwriting them takes some 40 ms."""


@dataclass(frozen=True, slots=True)
class Destroyed:
    """Objects whose keys are gone, in the order in which they were named, and the bytes of their sealed chunks."""

    ids: tuple[str, ...]
    size: int


def is_destroyed(tx: Transaction, object_id: str) -> bool:
    """Are an object's keys gone, and only its chunks left?"""
    row = tx.vault.get(object_id)
    return row is not None and row.wrapped == DESTROYED


def destroy(tx: Transaction, object_ids: Sequence[str], now: datetime) -> Destroyed:
    """Destroys the keys of objects; those that are gone already, or aren't there, are left out.

    The address of an artifact goes with it.
    """
    ids, size = [], 0
    for object_id in object_ids:
        row = tx.vault.get(object_id)
        if row is None or row.wrapped == DESTROYED:
            continue
        if row.kind == ADDRESS:
            tx.vault.delete(object_id)
            continue
        if row.digest and (address := tx.vault.get(row.digest)) is not None and address.kind == ADDRESS:
            tx.vault.delete(address.id)
        size += tx.erasure.stored(object_id)
        tx.erasure.destroy_keys(object_id, now)
        ids.append(object_id)
    return Destroyed(tuple(ids), size)


def drop(tx: Transaction, object_id: str) -> bool:
    """One step: deletes some of an object's chunks, and the object with the last of them; whether it is gone now.

    Raises:
        InternalError: its keys are there: nothing of it is dropped (``VAULT_NOT_DESTROYED``).
    """
    row = tx.vault.get(object_id)
    if row is None:
        return True  # somebody else was faster
    if row.wrapped != DESTROYED:
        raise InternalError(f"the encrypted object {object_id} has its keys", reason="VAULT_NOT_DESTROYED")
    if tx.erasure.drop_chunks(object_id, STEP_BYTES):
        return False
    tx.vault.delete(object_id)
    return True


async def drop_all(store: Store, object_ids: Sequence[str]) -> None:
    """Deletes what is left of destroyed objects, each step in a transaction of its own."""
    for object_id in object_ids:
        while not await store.write(lambda tx, which=object_id: drop(tx, which)):  # type: ignore[misc]  # bound now
            pass
