"""Lines that say through whose hands a bundle went since it was made, in a file beside it; the bundle itself stays as it is.

line n     = RFC 8785 form of the members below, and a newline
after      = SHA-256 of line n-1 without its newline, hexadecimal; the first has 64 zeros
bundle     = SHA-256 of the bundle's file, hexadecimal
signature  = over the DSSE message of the line without its member ``signature``, by the key of a certificate
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from broker.domain.canonical import JsonObject, canonical
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError
from broker.ledger.dsse import pae
from broker.ledger.entry import timestamp
from broker.ledger.verify_bundle import Fault, custody_line
from broker.tlog.note import encode_base64

FORMAT = "broker.custody-line.v1"
PAYLOAD_TYPE = "application/vnd.broker.custody-line.v1+json"
MAX_WORDS = 1000
"""Most characters of whom it goes to, and of a note."""
_FIRST = "0" * 64
_PIECE = 2**20


@dataclass(frozen=True, slots=True)
class HandOver:
    """Who gives a bundle to whom. ``key`` is the public key of the giver's certificate (SubjectPublicKeyInfo, DER)."""

    person: str
    fingerprint: str
    key: bytes
    to: str
    note: str = ""


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal.

    Raises:
        InvalidArgumentError: it can't be read (``LEDGER_MISSING``).
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise InvalidArgumentError(
            f"{path} can't be read: {error.strerror}", reason="LEDGER_MISSING", hint="Name the bundle's ZIP file."
        ) from error
    return digest.hexdigest()


def next_line(
    before: bytes, bundle: str, what: HandOver, *, at: datetime, sign: Callable[[bytes], bytes]
) -> tuple[int, bytes]:
    """The number and the bytes of the line that goes on from those that are there.

    Args:
        before: the custody file so far; empty for none.
        bundle: the bundle's digest.
        what: who gives it to whom.
        at: the time, UTC.
        sign: gives the signature of a message by the giver's key.

    Raises:
        InvalidArgumentError: a text is too long, or more than a line (``CUSTODY_INVALID``).
        DataLossError: the lines so far are not whole, or of another bundle (``CUSTODY_BROKEN``).
    """
    for option, words in (("--to", what.to), ("--note", what.note)):
        if len(words) > MAX_WORDS or not all(char.isprintable() for char in words) or (option == "--to" and not words):
            why = f"must be one line of at most {MAX_WORDS} characters" + (
                ", and not empty" if option == "--to" else ""
            )
            raise InvalidArgumentError(
                f"{option} {why}",
                reason="CUSTODY_INVALID",
                violations=(FieldViolation(option, why),),
                hint="Say it shorter.",
            )
    number, after = _end(before, bundle)
    line: JsonObject = {
        "format": FORMAT,
        "number": number,
        "after": after,
        "bundle": bundle,
        "at": timestamp(at),
        "person": what.person,
        "fingerprint": what.fingerprint,
        "key": encode_base64(what.key),
        "to": what.to,
        "note": what.note,
    }
    signature = sign(pae(PAYLOAD_TYPE, canonical(line)))
    return number, canonical({**line, "signature": encode_base64(signature)}) + b"\n"


def _end(before: bytes, bundle: str) -> tuple[int, str]:
    """The number of the next line, and the digest of the last."""
    *lines, rest = before.split(b"\n")
    after = _FIRST
    try:
        if rest:
            raise _broken("it ends within a line")
        for number, data in enumerate(lines, 1):
            custody_line(data, number, after, bundle)
            after = hashlib.sha256(data).hexdigest()
    except Fault as fault:
        raise _broken(f"line {fault.place['seq']} {fault}") from fault
    return len(lines) + 1, after


def _broken(why: str) -> DataLossError:
    return DataLossError(
        f"the custody file doesn't hold: {why}",
        reason="CUSTODY_BROKEN",
        hint="Keep it as it is, and get the file again from who gave you the bundle.",
    )
