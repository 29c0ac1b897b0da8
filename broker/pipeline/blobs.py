"""Files on their way in and out: encrypted in chunks, counted against their owner's quota, never whole in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import OBJECT_COST, SealedObject, Transaction, VaultRow
from broker.domain.quota import check_quota
from broker.errors import (
    DataLossError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
)
from broker.pipeline.parts import Parts
from broker.vault.destruction import destroy, drop_all

CHUNK = 1 << 20
"""Bytes of plain content in every chunk of a blob but the last."""
_READ_AHEAD = 4
KIND = "blob"
UNFINISHED_TTL = timedelta(hours=1)
"""An upload that is not completed within it is erased."""


class BlobWriter:
    """Writes one blob: ``write`` pieces of any size, then ``finish`` or ``discard``. Left alone it is erased after a
    while. What a call puts out belongs to its workspace; an upload to none.
    """

    def __init__(
        self,
        parts: Parts,
        owner: str,
        *,
        data_classes: tuple[str, ...] = (),
        quota: bool = True,
        workspace: str = "",
        call: str = "",
    ) -> None:
        self._parts = parts
        self._workspace = workspace
        self._call = call
        self._owner = owner
        self._data_classes = data_classes
        self._quota = quota
        self.id = new_id("blob")
        self.size = 0
        self._sealed: SealedObject | None = None
        self._buffer = bytearray()
        self._index = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """``sha256:`` digest of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    async def write(self, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            ResourceExhaustedError: the blob or its owner's quota is exceeded.
        """
        bounds = self._parts.bounds
        self.size += len(data)
        if self._quota and self.size > bounds.blob_max_bytes:
            raise InvalidArgumentError(
                f"the blob is longer than {bounds.blob_max_bytes} bytes",
                reason="BLOB_TOO_LARGE",
                hint="Split it, or ask the operator for a higher `blob_max_bytes`.",
                metadata={"limit_bytes": str(bounds.blob_max_bytes)},
            )
        self._hash.update(data)
        self._buffer += data
        while len(self._buffer) >= CHUNK:
            piece = bytes(self._buffer[:CHUNK])
            del self._buffer[:CHUNK]
            await self._store(piece)

    async def _store(self, piece: bytes) -> None:
        index = self._index
        self._index += 1

        def work(tx: Transaction) -> None:
            self._object(tx, len(piece)).put(tx, {index: piece})

        await self._parts.store.write(work)

    def _object(self, tx: Transaction, more: int) -> SealedObject:
        if self._quota:
            fixed = OBJECT_COST if self._sealed is None else 0
            check_storage(tx, self._owner, fixed + more, quota=self._parts.bounds.storage_quota_bytes)
        if self._sealed is None:
            now = self._parts.clock()
            self._sealed = self._parts.vault.create(
                tx,
                object_id=self.id,
                owner=self._owner,
                kind=KIND,
                now=now,
                expires=now + UNFINISHED_TTL,
                data_classes=self._data_classes,
                workspace=self._workspace,
                call=self._call,
            )
        return self._sealed

    async def discard(self) -> None:
        """Erases what was written."""
        now = self._parts.clock()
        gone = await self._parts.store.write(lambda tx: destroy(tx, [self.id], now))
        await drop_all(self._parts.store, gone.ids)

    async def finish(self, expires: datetime) -> VaultRow:
        """Stores the rest and makes the blob readable until ``expires``."""
        rest, index = bytes(self._buffer), self._index

        def work(tx: Transaction) -> VaultRow:
            sealed = self._object(tx, len(rest))
            if rest:
                sealed.put(tx, {index: rest})
            tx.vault.complete(self.id, size=self.size, digest=self.digest, expires=expires)
            row = tx.vault.get(self.id)
            if row is None:
                raise NotFoundError(f"blobs/{self.id} is gone", reason="BLOB_NOT_FOUND")
            return row

        return await self._parts.store.write(work)


def check_storage(tx: Transaction, owner: str, more: int, *, quota: int) -> None:
    """Keeps one caller from filling the disk with files, requests, events and output.

    Raises:
        ResourceExhaustedError: with ``more`` bytes the caller would be over its quota.
    """
    check_quota(tx, owner, more, quota)


class Blobs:
    """Uploads and downloads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def upload(
        self,
        caller: Caller,
        pieces: AsyncIterator[bytes],
        *,
        size: int,
        digest: str,
        data_classes: tuple[str, ...],
    ) -> VaultRow:
        """Keeps a file for its caller. ``size`` -1 and an empty ``digest`` are not known beforehand.

        Raises:
            InvalidArgumentError: size or digest isn't what was announced; nothing is kept.
            ResourceExhaustedError: a limit or quota.
        """
        writer = BlobWriter(self._parts, caller.identity.id, data_classes=data_classes)
        try:
            async for piece in pieces:
                await writer.write(piece)
                if 0 <= size < writer.size:
                    break
            _check_announced(writer, size, digest)
            return await writer.finish(self._parts.clock() + timedelta(seconds=self._parts.bounds.blob_ttl_s))
        except BaseException:
            await asyncio.shield(writer.discard())
            raise

    def visible(self, tx: Transaction, caller: Caller, blob_id: str) -> VaultRow:
        """A complete blob that the caller may read: its own, or for a human one of their agents'.

        Raises:
            NotFoundError: there is none, or it is none of the caller's business.
        """
        row = tx.vault.get(blob_id)
        if row is not None and row.kind == KIND and row.complete:
            owner = tx.identities.get(row.owner)
            is_human = caller.identity.kind is IdentityKind.HUMAN
            owns_agent = is_human and owner is not None and owner.owner == caller.identity.id
            if row.owner == caller.identity.id or owns_agent:
                return row
        raise NotFoundError(
            f"blobs/{blob_id[:64]} doesn't exist, is not yours, or has expired",
            reason="BLOB_NOT_FOUND",
            hint="Upload it again with UploadBlob.",
        )

    async def download(self, caller: Caller, blob_id: str, offset: int) -> AsyncIterator[tuple[int, bytes]]:
        """Pieces of a blob from an offset on, each with its own offset.

        Raises:
            NotFoundError: as ``visible``.
            OutOfRangeError: the offset lies beyond the end.
            DataLossError: what is kept isn't the whole blob.
        """
        row = await self._parts.store.read(lambda tx: self.visible(tx, caller, blob_id))
        if offset < 0 or offset > row.size:
            raise OutOfRangeError(
                f"blobs/{blob_id} has {row.size} bytes; offset {offset} is outside",
                reason="OFFSET_OUT_OF_RANGE",
                metadata={"size": str(row.size)},
            )
        position = offset - offset % CHUNK
        async for piece in self.content(row, first_chunk=position // CHUNK):
            skip = max(0, offset - position)
            if piece[skip:]:
                yield position + skip, piece[skip:]
            position += len(piece)

    async def content(self, row: VaultRow, *, first_chunk: int = 0) -> AsyncIterator[bytes]:
        """The chunks of a complete blob in order, from a chunk on.

        Raises:
            NotFoundError: the blob was erased in the meantime.
            DataLossError: before the end, where the chunks don't add up to the blob's size; from chunk 0 on, also where
                they don't have its digest.
        """
        found, index, position = hashlib.sha256(), first_chunk, first_chunk * CHUNK
        async for number, piece in self._chunks(row, first_chunk):
            position += len(piece)
            if number != index or position > row.size:
                raise _corrupt(row)
            index += 1
            found.update(piece)
            yield piece
        if position != row.size or (not first_chunk and f"sha256:{found.hexdigest()}" != row.digest):
            raise _corrupt(row)

    async def unchecked(self, row: VaultRow) -> AsyncIterator[bytes]:
        """Whatever is kept of a blob, in order: for who holds it to a size and a digest by himself.

        Raises:
            NotFoundError: the blob was erased in the meantime.
            DataLossError: a chunk isn't what the vault put there.
        """
        async for _, piece in self._chunks(row, 0):
            yield piece

    async def _chunks(self, row: VaultRow, first: int) -> AsyncIterator[tuple[int, bytes]]:
        while True:

            def work(tx: Transaction, start: int = first) -> list[tuple[int, bytes]]:
                return list(self._parts.vault.open(tx, row.id).read(tx, start, _READ_AHEAD))

            pieces = await self._parts.store.read(work)
            for item in pieces:
                yield item
            first += len(pieces)
            if len(pieces) < _READ_AHEAD:
                break


def _corrupt(row: VaultRow) -> DataLossError:
    return DataLossError(
        f"what is kept of blobs/{row.id} is not the {row.size} bytes with {row.digest} that were put there",
        reason="BLOB_CORRUPT",
        hint="Upload it again; keep the database file for an investigation.",
    )


def _check_announced(writer: BlobWriter, size: int, digest: str) -> None:
    if size >= 0 and writer.size != size:
        raise _mismatch("size", f"announced {size} bytes, and {writer.size} or more came")
    if digest and writer.digest != digest:
        raise _mismatch("digest", f"announced {digest}, and what came has {writer.digest}")


def _mismatch(field: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the upload {why}; nothing is kept",
        reason="BLOB_MISMATCH",
        violations=(FieldViolation(f"header.{field}", why),),
        hint="Upload it again.",
    )
