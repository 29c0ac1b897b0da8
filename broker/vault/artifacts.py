"""Artifacts: large contents of calls, encrypted, found by the digest of their ciphertext, streamed in and out.

    digest = SHA-256(chunk 0 || chunk 1 || ...)        as they are stored: the ledger's name for the artifact
    chunk  = AES-256-GCM(data key, 1 MiB)              bound to id, kind, index, last or more, workspace and call

The object lies in the vault under an id of its own; a second row, whose id is the digest, says which. Both become so, with
the ledger's entry, in the transaction that stores the last chunk: before it there is nothing to be opened. A digest of
ciphertext tells nothing of the content, and the same content twice is two artifacts, so that one can be erased alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from broker.domain.canonical import JsonObject
from broker.domain.ids import new_id
from broker.domain.ports import OBJECT_COST, Recorder, Store, Transaction, VaultRow
from broker.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)
from broker.vault.artifact_reading import CHUNK, PREFIX, ArtifactReader, missing, object_row
from broker.vault.destruction import destroy, drop_all
from broker.vault.sealing import ADDRESS
from broker.vault.vault import SealedItem, SealedVault

MAX_BYTES = 1 << 30
"""Longest artifact."""
UNFINISHED_TTL = timedelta(hours=1)
"""An upload to which nothing was added for so long is erased."""

_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_RESERVED = ADDRESS.removeprefix(PREFIX)


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """An artifact that is kept: its address (``sha256:`` over the ciphertext), plain bytes, and whose it is."""

    digest: str
    size: int
    kind: str
    workspace: str
    call: str
    expires: datetime


class Artifacts(ArtifactReader):
    """Stores and opens artifacts.

    Args:
        store: the broker's database.
        vault: seals.
        recorder: the ledger.
        clock: the time, UTC.
        check: raises where the owner that it is given can't keep so many bytes more; asked in each transaction that adds.
    """

    def __init__(
        self,
        store: Store,
        vault: SealedVault,
        recorder: Recorder,
        clock: Callable[[], datetime],
        check: Callable[[Transaction, str, int], None],
    ) -> None:
        super().__init__(store, vault)
        self._writes = store
        self._recorder = recorder
        self._clock = clock
        self._check = check

    async def put(
        self, stream: AsyncIterable[bytes], *, workspace: str, call: str, kind: str, retention: timedelta
    ) -> ArtifactRef:
        """Stores what the stream gives, in pieces of any size; complete and on record when this returns.

        Args:
            stream: the content, at most ``MAX_BYTES``; a few MiB of it are in memory at one time.
            workspace: the call's workspace.
            call: id of a call that is on record.
            kind: what it is, such as ``before``: lower-case letters, digits and hyphens.
            retention: how long it is kept, as the tool's specification says.

        Raises:
            InvalidArgumentError: it is longer than ``MAX_BYTES`` (``ARTIFACT_TOO_LARGE``).
            NotFoundError: there is no such call (``CALL_NOT_FOUND``), or it was erased in the meantime.
            InternalError: the kind has another form, or the call lies in another workspace.
            ResourceExhaustedError: the call's agent would be over its storage quota.
            BrokerError: whatever stream and store raise. Nothing is kept then.

        Cancelled while the last chunk is being stored, it may be kept all the same: then it is on record, and stays.
        """
        if not _KIND.fullmatch(kind) or kind == _RESERVED:
            raise InternalError(f"{kind!r} can't name a kind of artifact", reason="VAULT_NAME_INVALID")
        upload = _Upload(new_id("art"), kind, workspace, call, retention)
        try:
            upload.sealed = await self._writes.write(lambda tx: self._begin(tx, upload))
            async for piece in stream:
                for start in range(0, len(piece), CHUNK):
                    upload.take(piece[start : start + CHUNK])
                    while upload.full:
                        data = await asyncio.to_thread(upload.seal_next)
                        await self._writes.write(lambda tx, data=data: self._add(tx, upload, data))  # type: ignore[misc]  # bound now
            data = await asyncio.to_thread(upload.seal_last)
            return await self._writes.write(lambda tx: self._finish(tx, upload, data))
        except BaseException:
            await asyncio.shield(self._discard(upload.id))
            raise

    async def erase(self, digest: str, *, by: str, reason: str) -> None:
        """Destroys an artifact's key and chunks, and puts that on record.

        Args:
            digest: its address.
            by: id of the identity that does it.
            reason: a constant for a program, such as ``undone``; it stands in the ledger.

        Raises:
            NotFoundError: there is none.
        """

        def work(tx: Transaction) -> tuple[str, ...]:
            row = object_row(tx, digest)
            if row is None:
                raise missing(digest)
            gone = destroy(tx, [row.id], self._clock())
            body: JsonObject = {
                "subject": {"kind": "artifact", "id": digest},
                "reason": reason,
                "by": by,
                "objects": len(gone.ids),
                "bytes": gone.size,
                "ids": [*gone.ids],
            }
            self._recorder.append(tx, "erased", body)
            return gone.ids

        await drop_all(self._writes, await self._writes.write(work))

    async def _discard(self, object_id: str) -> None:
        def work(tx: Transaction) -> tuple[str, ...]:
            row = tx.vault.get(object_id)
            if row is not None and row.complete:
                # Whoever waited was cancelled while this was stored. The ledger names it now, so that it goes as all
                # others do: when its time is over or somebody erases it, with an entry.
                return ()
            return destroy(tx, [object_id], self._clock()).ids

        await drop_all(self._writes, await self._writes.write(work))

    def _begin(self, tx: Transaction, upload: _Upload) -> SealedItem:
        call, now = tx.calls.get(upload.call), self._clock()
        if call is None:
            raise NotFoundError(f"there is no call {upload.call[:64]!a}", reason="CALL_NOT_FOUND")
        if call.workspace != upload.workspace:
            raise InternalError(
                "an artifact lies in the workspace of its call, and another was named", reason="ARTIFACT_MISPLACED"
            )
        upload.owner = call.agent
        self._check(tx, upload.owner, OBJECT_COST)
        return self._vault.create(
            tx,
            object_id=upload.id,
            owner=call.agent,
            kind=PREFIX + upload.kind,
            now=now,
            expires=now + UNFINISHED_TTL,
            workspace=upload.workspace,
            call=upload.call,
        )

    def _add(self, tx: Transaction, upload: _Upload, chunk: _Chunk) -> None:
        tx.vault.extend(upload.id, self._clock() + UNFINISHED_TTL)  # fails where it has been swept
        self._check(tx, upload.owner, len(chunk.sealed))
        tx.vault.insert_chunks(upload.id, {chunk.index: chunk.sealed})

    def _finish(self, tx: Transaction, upload: _Upload, last: _Chunk) -> ArtifactRef:
        call, row, now = tx.calls.get(upload.call), tx.vault.get(upload.id), self._clock()
        if call is None or row is None:
            raise NotFoundError("the artifact was erased while it was written", reason="CONTENT_ERASED")
        digest, expires = upload.digest, now + upload.retention
        self._check(tx, upload.owner, len(last.sealed) + OBJECT_COST)  # its address is a row of its own
        tx.vault.insert_chunks(upload.id, {last.index: last.sealed})
        tx.vault.complete(upload.id, size=upload.size, digest=digest, expires=expires)
        address = upload.id.encode()
        tx.vault.insert(VaultRow(digest, row.owner, ADDRESS, address, now, expires, digest=digest, complete=True))
        body: JsonObject = {
            "call_id": upload.call,
            "workspace": upload.workspace,
            "kind": upload.kind,
            "digest": digest,
            "bytes": upload.size,
            "commit": upload.commit(),
            "kept_until": expires.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        self._recorder.append(tx, "artifact", body, agent=call.agent)
        return ArtifactRef(digest, upload.size, upload.kind, upload.workspace, upload.call, expires)


@dataclass(frozen=True, slots=True)
class _Chunk:
    index: int
    sealed: bytes


class _Upload:
    """What comes in, until it is sealed; never more than two chunks of it."""

    def __init__(self, object_id: str, kind: str, workspace: str, call: str, retention: timedelta) -> None:
        self.id = object_id
        self.kind = kind
        self.workspace = workspace
        self.call = call
        self.retention = retention
        self.owner = ""
        self.size = 0
        self.sealed: SealedItem | None = None
        self._index = 0
        self._pending = bytearray()
        self._plain = hashlib.sha256()
        self._cipher = hashlib.sha256()

    def take(self, piece: bytes) -> None:
        """Takes the next bytes, at most a chunk of them.

        Raises:
            InvalidArgumentError: the artifact is too long.
        """
        self.size += len(piece)
        if self.size > MAX_BYTES:
            raise InvalidArgumentError(
                f"an artifact has at most {MAX_BYTES} bytes",
                reason="ARTIFACT_TOO_LARGE",
                metadata={"limit_bytes": str(MAX_BYTES)},
            )
        self._pending += piece

    @property
    def full(self) -> bool:
        """Is there a whole chunk, and something after it?"""
        return len(self._pending) > CHUNK

    @property
    def digest(self) -> str:
        """``sha256:`` over all that was sealed."""
        return f"sha256:{self._cipher.hexdigest()}"

    def commit(self) -> str:
        """The keyed commitment of the content's digest."""
        return self._object().commit("artifact", f"sha256:{self._plain.hexdigest()}".encode())

    def seal_next(self) -> _Chunk:
        """Seals a chunk that another one follows."""
        piece = bytes(self._pending[:CHUNK])
        del self._pending[:CHUNK]
        return self._seal(piece, last=False)

    def seal_last(self) -> _Chunk:
        """Seals what is left."""
        return self._seal(bytes(self._pending), last=True)

    def _seal(self, piece: bytes, *, last: bool) -> _Chunk:
        chunk = _Chunk(self._index, self._object().seal(self._index, piece, last=last))
        self._index += 1
        self._plain.update(piece)
        self._cipher.update(chunk.sealed)
        return chunk

    def _object(self) -> SealedItem:
        if self.sealed is None:
            raise InternalError("an artifact is sealed before it was begun")
        return self.sealed
