"""DSSE envelopes (github.com/secure-systems-lab/dsse, version 1): what is signed says of which type it is.

    signature over  "DSSEv1" SP len(type) SP type SP len(payload) SP payload

The lengths are decimal numbers of bytes, so no two pairs of type and payload give the same message, and none gives the
text of a signed note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.domain.canonical import JsonObject, canonical
from broker.ledger.encoding import NotCanonicalError, decode
from broker.tlog.note import NoteError, VerifierKey, decode_base64, encode_base64


class DsseError(ValueError):
    """An envelope is not what its format or its keys demand; the text says why."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """The message that is signed (the format's pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: VerifierKey, sign: Callable[[bytes], bytes]) -> bytes:
    """An envelope with one signature, in RFC 8785 form.

    Args:
        payload_type: what the payload is, as a media type.
        payload: the bytes themselves.
        key: the public half; its text becomes the signature's ``keyid``.
        sign: gives the 64 bytes of the Ed25519 signature of a message.

    Raises:
        DsseError: what ``sign`` gives is no signature by that key.
    """
    message = pae(payload_type, payload)
    signature = sign(message)
    if not _signed(key, message, signature):
        raise DsseError(f"the signer's signature is not one by {key}")
    envelope: JsonObject = {
        "payload": encode_base64(payload),
        "payloadType": payload_type,
        "signatures": [{"keyid": str(key), "sig": encode_base64(signature)}],
    }
    return canonical(envelope)


def unseal(envelope: bytes, payload_type: str, keys: Iterable[VerifierKey]) -> tuple[bytes, tuple[VerifierKey, ...]]:
    """The payload of an envelope, and which of the keys signed it.

    Signatures by keys that aren't given are ignored. The ``keyid`` only says which key to try.

    Raises:
        DsseError: it is no such envelope, holds another type, none of the keys signed it, or a signature in the name of
            one is false.
    """
    try:
        found = decode(envelope)
        payload = decode_base64(_text(found, "payload"), "the payload")
        signatures = found.get("signatures")
        if not isinstance(signatures, list):
            raise DsseError("the envelope has no list of signatures")
        signed = [(_text(item, "keyid"), decode_base64(_text(item, "sig"), "a signature")) for item in signatures]
    except (NotCanonicalError, NoteError) as error:
        raise DsseError(f"this is no envelope: {error}") from error
    if _text(found, "payloadType") != payload_type:
        raise DsseError("the envelope holds another type of payload")
    message = pae(payload_type, payload)
    known = {str(key): key for key in keys}
    verified: list[VerifierKey] = []
    for keyid, signature in signed:
        key = known.get(keyid)
        if key is None:
            continue
        if not _signed(key, message, signature):
            raise DsseError(f"the signature by {keyid} is false")
        verified.append(key)
    if not verified:
        raise DsseError("the envelope is not signed by a known key")
    return payload, tuple(verified)


def _text(value: object, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise DsseError(f"the envelope has no text {name}")
    return found


def _signed(key: VerifierKey, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
