"""Sealed objects: AES-256-GCM with a random key per object, which lies wrapped under the vault's key beside it.

    wrapped = nonce || AES-256-GCM(vault key, data key || r32)     bound to id and kind
    sealed  = nonce || AES-256-GCM(data key, plain text)                   bound to id, kind and index
    commit  = HMAC-SHA256(r32, kind || 0x00 || text)

Nonces are 96 random bits. Without ``wrapped`` neither the chunks can be read nor a commitment be tested against a
guess: erasing an object is deleting its row.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broker.domain.ports import SEAL_OVERHEAD, Transaction, VaultRow
from broker.domain.secret import Secret
from broker.errors import DataLossError, InternalError, NotFoundError
from broker.vault.keyfile import KEY_BYTES

_NONCE_BYTES = 12
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


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
    ) -> SealedItem:
        """Makes an object with fresh keys.

        Raises:
            ConflictError: the id is taken.
        """
        for word in (object_id, kind):
            if not _WORD.fullmatch(word):
                raise InternalError(f"{word!r} can't name an encrypted object", reason="VAULT_NAME_INVALID")
        keys = secrets.token_bytes(2 * KEY_BYTES)
        wrapped = _seal(self._cipher, keys, _bound("keys", object_id, kind))
        row = VaultRow(object_id, owner, kind, wrapped, now, expires, data_classes=data_classes)
        tx.vault.insert(row)
        return SealedItem(object_id, kind, keys)

    def open(self, tx: Transaction, object_id: str) -> SealedItem:
        """Opens an object.

        Raises:
            NotFoundError: there is none, or it has been erased.
            DataLossError: its keys don't open under the vault's key.
        """
        row = tx.vault.get(object_id)
        if row is None:
            raise NotFoundError(
                f"there is no encrypted object {object_id}, or it has been erased", reason="CONTENT_ERASED"
            )
        try:
            keys = _unseal(self._cipher, row.wrapped, _bound("keys", object_id, row.kind))
        except InvalidTag as error:
            raise DataLossError(
                f"the keys of the encrypted object {object_id} don't open under the vault's key",
                reason="VAULT_KEYS_DAMAGED",
                hint="Either the key file isn't the one of this database, or the row was changed.",
            ) from error
        return SealedItem(object_id, row.kind, keys)


class SealedItem:
    """Implements ``broker.domain.ports.SealedObject``; made by ``SealedVault``."""

    def __init__(self, object_id: str, kind: str, keys: bytes) -> None:
        self._id = object_id
        self._kind = kind
        self._cipher = AESGCM(keys[:KEY_BYTES])
        self._commitment_key = Secret(keys[KEY_BYTES:])

    def __repr__(self) -> str:
        return f"SealedItem({self._id!r}, {self._kind!r})"

    @property
    def id(self) -> str:
        """Its id."""
        return self._id

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
        sealed = {
            index: _seal(self._cipher, plaintext, _bound("chunk", self._id, self._kind, str(index)))
            for index, plaintext in chunks.items()
        }
        tx.vault.insert_chunks(self._id, sealed)

    def read(self, tx: Transaction, first: int, limit: int) -> Iterator[tuple[int, bytes]]:
        """Opens up to ``limit`` chunks from index ``first`` on, in order; to be used up inside the transaction.

        A chunk that was taken away at the end is not noticed here: who needs all of them knows their number or digest.

        Raises:
            DataLossError: a chunk was changed, or belongs elsewhere; while iterating.
        """
        for index, sealed in tx.vault.chunks(self._id, first, limit):
            yield index, self._open(index, sealed)

    def _open(self, index: int, sealed: bytes) -> bytes:
        try:
            return _unseal(self._cipher, sealed, _bound("chunk", self._id, self._kind, str(index)))
        except InvalidTag as error:
            raise DataLossError(
                f"chunk {index} of the encrypted object {self._id} was changed, or belongs elsewhere",
                reason="VAULT_CHUNK_DAMAGED",
                hint="Keep the database file for an investigation, and restore a backup.",
            ) from error


def _seal(cipher: AESGCM, plaintext: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, bound)


def _unseal(cipher: AESGCM, sealed: bytes, bound: bytes) -> bytes:
    if len(sealed) < SEAL_OVERHEAD:
        raise InvalidTag
    return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound)


def _bound(purpose: str, *words: str) -> bytes:
    # The words hold no "|" (see _WORD), so two different lists never give the same bytes.
    return "|".join(("broker.vault.v1", purpose, *words)).encode()
