"""Sealed objects: AES-256-GCM with a random key per object, wrapped under its workspace's key or the vault's.

    workspace key = random, sealed with the vault's key                    bound to the workspace
    keys    = AES-256-GCM(workspace key, data key || r32)                  bound to id, kind, workspace and call
    chunk   = AES-256-GCM(data key, plain text)                            bound to id, kind, index, workspace and call
    commit  = HMAC-SHA256(r32, kind || 0x00 || text)

What belongs to no workspace (identities, specifications, uploads) has its keys sealed with the vault's key, bound to id
and kind. Without its keys neither an object's chunks can be read nor a commitment be tested against a guess: erasing it
is deleting its row; and without a workspace's key nothing of that workspace can be had.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broker.domain.ports import DESTROYED, Transaction, VaultRow
from broker.domain.secret import Secret
from broker.errors import DataLossError, InternalError, NotFoundError
from broker.vault.keyfile import KEY_BYTES
from broker.vault.sealing import Place, bound, check_words, place_of, seal, unseal, with_place
from broker.vault.workspace_keys import WorkspaceKeys


class SealedVault:
    """Implements ``broker.domain.ports.Vault``.

    Args:
        kek: the vault's key, 32 bytes; see ``broker.vault.keyfile``.

    Raises:
        InternalError: the key has another length.
    """

    def __init__(self, kek: Secret | bytes) -> None:
        key = kek.reveal() if isinstance(kek, Secret) else kek
        if len(key) != KEY_BYTES:
            raise InternalError(f"the vault's key must have {KEY_BYTES} bytes, not {len(key)}", reason="KEY_DAMAGED")
        self._cipher = AESGCM(key)
        self._workspaces = WorkspaceKeys(self._cipher)

    def create(
        self,
        tx: Transaction,
        *,
        object_id: str,
        owner: str,
        kind: str,
        now: datetime,
        expires: datetime | None,
        data_classes: tuple[str, ...] = (),
        workspace: str = "",
        call: str = "",
    ) -> SealedItem:
        """Makes an object with fresh keys.

        Args:
            tx: a writing transaction.
            object_id: unused so far.
            owner: id of the identity whose quota it counts for.
            kind: what it is.
            now: the time, UTC.
            expires: when it is erased; ``None`` keeps it.
            data_classes: its labels.
            workspace: whose key wraps the object's; empty for what belongs to none.
            call: id of the call that it is of; only with a workspace.

        Raises:
            ConflictError: the id is taken.
            DataLossError: the workspace's key doesn't open under the vault's.
        """
        check_words(object_id, kind, *(word for word in (workspace, call) if word))
        if call and not workspace:
            raise InternalError("what is of a call is of a workspace", reason="VAULT_NAME_INVALID")
        place = Place(workspace, call) if workspace else None
        cipher = self._workspaces.made(tx, workspace, now) if workspace else self._cipher
        keys = secrets.token_bytes(2 * KEY_BYTES)
        wrapped = with_place(seal(cipher, keys, bound("keys", object_id, kind, place=place)), place)
        tx.vault.insert(VaultRow(object_id, owner, kind, wrapped, now, expires, data_classes=data_classes))
        return SealedItem(object_id, kind, keys, place)

    def open(self, tx: Transaction, object_id: str) -> SealedItem:
        """Opens an object.

        Raises:
            NotFoundError: there is none, it has been erased, or its workspace has (``CONTENT_ERASED``).
            DataLossError: its keys don't open (``VAULT_KEYS_DAMAGED``).
        """
        row = tx.vault.get(object_id)
        if row is None:
            raise _erased(object_id)
        return self.open_row(tx, row)

    def open_row(self, tx: Transaction, row: VaultRow) -> SealedItem:
        """Opens an object whose row is at hand.

        Raises:
            NotFoundError, DataLossError: as ``open``.
        """
        if row.wrapped == DESTROYED:
            raise _erased(row.id)
        try:
            place, sealed = place_of(row.wrapped)
            cipher = self._cipher if place is None else self._workspaces.present(tx, place.workspace)
            if cipher is None:
                raise _erased(row.id)
            keys = unseal(cipher, sealed, bound("keys", row.id, row.kind, place=place))
        except (InvalidTag, ValueError) as error:
            raise DataLossError(
                f"the keys of the encrypted object {row.id} don't open",
                reason="VAULT_KEYS_DAMAGED",
                hint="Either the key file isn't the one of this database, or the row was changed.",
            ) from error
        return SealedItem(row.id, row.kind, keys, place)


class SealedItem:
    """Implements ``broker.domain.ports.SealedObject``; made by ``SealedVault``."""

    def __init__(self, object_id: str, kind: str, keys: bytes, place: Place | None = None) -> None:
        self._id = object_id
        self._kind = kind
        self._place = place
        self._cipher = AESGCM(keys[:KEY_BYTES])
        self._commitment_key = Secret(keys[KEY_BYTES:])

    def __repr__(self) -> str:
        return f"SealedItem({self._id!r}, {self._kind!r})"

    @property
    def id(self) -> str:
        """Its id."""
        return self._id

    @property
    def place(self) -> Place | None:
        """The workspace and the call that it belongs to, as its keys prove; ``None`` for none."""
        return self._place

    def commit(self, kind: str, plaintext: bytes) -> str:
        """The keyed commitment of a text: hex HMAC-SHA256(r32, kind || 0x00 || text).

        Raises:
            InternalError: ``kind`` holds a NUL, so that it could run into the text.
        """
        if "\x00" in kind:
            raise InternalError("a commitment's kind can't hold a NUL", reason="VAULT_NAME_INVALID")
        message = kind.encode() + b"\x00" + plaintext
        return hmac.new(self._commitment_key.reveal(), message, hashlib.sha256).hexdigest()

    def put(self, tx: Transaction, chunks: Mapping[int, bytes]) -> None:
        """Seals and stores chunks, by index; an index is used once.

        Raises:
            ConflictError: there is a chunk with one of the indexes already.
        """
        tx.vault.insert_chunks(self._id, {index: self.seal(index, text) for index, text in chunks.items()})

    def read(self, tx: Transaction, first: int, limit: int) -> Iterator[tuple[int, bytes]]:
        """Opens up to ``limit`` chunks from index ``first`` on, in order; to be used up inside the transaction.

        A chunk that was taken away at the end is not noticed here: who needs all of them knows their number or digest.

        Raises:
            DataLossError: a chunk was changed, or belongs elsewhere; while iterating.
        """
        for index, sealed in tx.vault.chunks(self._id, first, limit):
            yield index, self.unseal(index, sealed)

    def seal(self, index: int, plaintext: bytes, *, last: bool | None = None) -> bytes:
        """Seals one chunk; ``last`` is bound as well where it is said: whether another one follows."""
        return seal(self._cipher, plaintext, self._chunk(index, last=last))

    def unseal(self, index: int, sealed: bytes, *, last: bool | None = None) -> bytes:
        """Opens one chunk, sealed with the same ``last``.

        Raises:
            DataLossError: it was changed, or belongs elsewhere (``VAULT_CHUNK_DAMAGED``).
        """
        try:
            return unseal(self._cipher, sealed, self._chunk(index, last=last))
        except InvalidTag as error:
            raise DataLossError(
                f"chunk {index} of the encrypted object {self._id} was changed, or belongs elsewhere",
                reason="VAULT_CHUNK_DAMAGED",
                hint="Keep the database file for an investigation, and restore a backup.",
            ) from error

    def _chunk(self, index: int, *, last: bool | None) -> bytes:
        follows = () if last is None else ("last" if last else "more",)
        return bound("chunk", self._id, self._kind, str(index), *follows, place=self._place)


def _erased(object_id: str) -> NotFoundError:
    return NotFoundError(f"there is no encrypted object {object_id}, or it has been erased", reason="CONTENT_ERASED")
