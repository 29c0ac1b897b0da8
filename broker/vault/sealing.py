"""AES-256-GCM as the vault uses it, and what a sealed thing is bound to.

    sealed = nonce || AES-256-GCM(key, plain text, bound)      nonce: 96 random bits

What is bound is never stored beside the sealed bytes as a proof of itself: whoever opens says what it must be, and a thing
that was moved elsewhere doesn't open.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broker.domain.ports import SEAL_OVERHEAD
from broker.errors import InternalError
from broker.vault.keyfile import KEY_BYTES

KEYS_BYTES = 2 * KEY_BYTES + SEAL_OVERHEAD
"""Length of an object's sealed keys: a data key and ``r32``."""

ADDRESS = "artifact.address"
"""Kind of the rows whose id is an artifact's digest; their ``wrapped`` is the id of its object, no secret."""

_NONCE_BYTES = 12
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_VERSION = 2
_HEAD = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object belongs: the workspace whose key wraps its own, and the call that it is of (empty for none)."""

    workspace: str
    call: str = ""


def check_words(*words: str) -> None:
    """Lets words pass that can be bound: none runs into another.

    Raises:
        InternalError: one has another form (``VAULT_NAME_INVALID``).
    """
    for word in words:
        if not _WORD.fullmatch(word):
            raise InternalError(f"{word!r} can't name an encrypted object", reason="VAULT_NAME_INVALID")


def bound(purpose: str, *words: str, place: Place | None = None) -> bytes:
    """What a sealed thing is bound to; the words have been checked, so that two lists never give the same bytes."""
    if place is None:
        return "|".join(("broker.vault.v1", purpose, *words)).encode()
    return "|".join(("broker.vault.v2", purpose, *words, place.workspace, place.call)).encode()


def seal(cipher: AESGCM, plaintext: bytes, what: bytes) -> bytes:
    """Seals a text, bound to ``what``."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, what)


def unseal(cipher: AESGCM, sealed: bytes, what: bytes) -> bytes:
    """Opens what ``seal`` made.

    Raises:
        InvalidTag: it was changed, is bound to something else, or is sealed under another key.
    """
    if len(sealed) < SEAL_OVERHEAD:
        raise InvalidTag
    return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], what)


def with_place(keys: bytes, place: Place | None) -> bytes:
    """An object's sealed keys as its row holds them: ``2 || n || workspace || n || call || keys``, n a byte.

    Without a place they stand alone, as they did before there were keys of workspaces: their length tells.
    """
    if place is None:
        return keys
    workspace, call = place.workspace.encode(), place.call.encode()
    return bytes((_VERSION, len(workspace))) + workspace + bytes((len(call),)) + call + keys


def place_of(wrapped: bytes) -> tuple[Place | None, bytes]:
    """The place that a row claims, and the sealed keys. The claim is proved only when they open.

    Raises:
        ValueError: the bytes have neither form.
    """
    if len(wrapped) == KEYS_BYTES:
        return None, wrapped
    head, keys = wrapped[:-KEYS_BYTES], wrapped[-KEYS_BYTES:]
    if len(wrapped) < KEYS_BYTES or len(head) <= _HEAD or head[0] != _VERSION:
        raise ValueError("not the form of an object's sealed keys")
    middle = _HEAD + head[1]
    workspace, call = head[_HEAD:middle], head[middle + 1 :]
    if len(head) <= middle or head[middle] != len(call) or not workspace:
        raise ValueError("not the form of an object's sealed keys")
    return Place(workspace.decode("ascii"), call.decode("ascii")), keys
