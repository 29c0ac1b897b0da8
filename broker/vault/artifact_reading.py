"""Artifacts read: found by the digest of their ciphertext, each chunk proved before it is given out."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from broker.domain.ports import Transaction, VaultRow
from broker.errors import DataLossError, NotFoundError
from broker.vault.sealing import ADDRESS
from broker.vault.vault import SealedItem, SealedVault

CHUNK = 1 << 20
"""Bytes of plain content in every chunk but the last, each stored in a transaction of its own."""
PREFIX = "artifact."
"""An artifact's kind in the vault is this and its own."""

_READ_AHEAD = 4
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
T = TypeVar("T")


class Reads(Protocol):
    """A store that is read."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` on a consistent snapshot."""


class ArtifactReader:
    """Opens artifacts.

    Args:
        store: the broker's database.
        vault: has the keys.
    """

    def __init__(self, store: Reads, vault: SealedVault) -> None:
        self._store = store
        self._vault = vault

    async def open(self, digest: str) -> AsyncIterator[bytes]:
        """The content in order, chunk by chunk, each proved before it is given; the last only if the digest holds.

        Raises:
            NotFoundError: there is none with that digest, it is not complete, or it has been erased.
            DataLossError: a chunk was changed, is missing, or belongs elsewhere; or all of them aren't what the digest
                says (``ARTIFACT_DAMAGED``).
        """
        reading, index = _Reading(digest), 0
        while True:
            page = await self._store.read(lambda tx, first=index: self._page(tx, digest, first))  # type: ignore[misc]  # bound now
            for number, sealed in page.chunks:
                if number != index:
                    break
                plaintext = await asyncio.to_thread(reading.chunk, page, index, sealed)
                if plaintext:
                    yield plaintext
                if index == page.last:
                    return
                index += 1
            else:
                if page.chunks:
                    continue
            raise _damaged(digest, f"chunk {index} is missing")

    async def exists(self, digest: str) -> bool:
        """Whether a complete artifact has this digest."""
        return await self._store.read(lambda tx: object_row(tx, digest) is not None)

    def _page(self, tx: Transaction, digest: str, first: int) -> _Page:
        row = object_row(tx, digest)
        if row is None:
            raise missing(digest)
        chunks = tx.vault.chunks(row.id, first, _READ_AHEAD)
        last = max(0, -(-row.size // CHUNK) - 1)
        more = bool(tx.vault.chunks(row.id, last + 1, 1))
        return _Page(self._vault.open_row(tx, row), chunks, row.size, last, more)


@dataclass(frozen=True, slots=True)
class _Page:
    """Chunks as they lie in the store, and what is needed to open them."""

    item: SealedItem
    chunks: Sequence[tuple[int, bytes]]
    size: int
    last: int
    """Index of the artifact's last chunk."""
    more: bool
    """Is there a chunk after the last?"""


class _Reading:
    """Proves what is read of one artifact."""

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._found = hashlib.sha256()

    def chunk(self, page: _Page, index: int, sealed: bytes) -> bytes:
        """Opens the next chunk; the last one only where the whole has its digest and size.

        Raises:
            DataLossError: it may not be given out.
        """
        self._found.update(sealed)
        plaintext = page.item.unseal(index, sealed, last=index == page.last)
        if index == page.last:
            if f"sha256:{self._found.hexdigest()}" != self._digest:
                raise _damaged(self._digest, "its bytes have another digest")
            if page.more or page.size != index * CHUNK + len(plaintext):
                raise _damaged(self._digest, "it is longer or shorter than it was")
        return plaintext


def object_row(tx: Transaction, digest: str) -> VaultRow | None:
    """The row of a complete artifact."""
    address = tx.vault.get(digest) if _DIGEST.fullmatch(digest) else None
    if address is None or address.kind != ADDRESS:
        return None
    row = tx.vault.get(address.wrapped.decode("ascii", "replace"))
    if row is None or not row.complete:
        return None
    if row.digest != digest or not row.kind.startswith(PREFIX):
        raise _damaged(digest, "its address leads elsewhere")
    return row


def missing(digest: str) -> NotFoundError:
    """The refusal of an artifact that can't be had."""
    return NotFoundError(
        f"there is no artifact {digest[:80]!a}, or it has been erased",
        reason="CONTENT_ERASED",
        hint="The ledger says when it was put there, until when it was to be kept, and whether it was erased.",
    )


def _damaged(digest: str, why: str) -> DataLossError:
    return DataLossError(
        f"the artifact {digest} is damaged: {why}",
        reason="ARTIFACT_DAMAGED",
        hint="Keep the database for an investigation, and restore a backup.",
    )
