"""A client of witnesses, as c2sp.org/tlog-witness has them: they check that the ledger only grows, and cosign."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Final

from broker.domain.urls import Url
from broker.errors import DataLossError, FailedPreconditionError, UnavailableError
from broker.ledger.posting import Answer, Poster, Trust
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import MAX_SIZE
from broker.tlog.note import (
    COSIGNATURE,
    Note,
    NoteError,
    Signature,
    VerifierKey,
    cosignature_time,
    encode_base64,
    parse_decimal,
    verify_note,
)

CLOCKS_DIFFER_S: Final = 600
"""How far a witness's clock may be off ours, either way."""
_MAX_LINES = 64

Proofs = Callable[[int], Awaitable[Sequence[bytes]]]
"""Number of leaves of an older tree -> the proof that the checkpoint's tree extends it."""


class Witness:
    """One witness.

    Args:
        url: its submission prefix.
        key: by which it cosigns, of type 0x04.
        trust: how its host is trusted.
        clock: the time now, with a zone.

    Raises:
        FailedPreconditionError: ``WITNESS_KEY``: the key is of another type.
    """

    def __init__(self, url: Url, key: VerifierKey, trust: Trust, clock: Callable[[], datetime]) -> None:
        if key.algorithm != COSIGNATURE:
            raise FailedPreconditionError(f"the key of witness {key.name} is not of type 0x04", reason="WITNESS_KEY")
        self._key = key
        self._poster = Poster(url, trust)
        path, _, query = url.target.partition("?")
        self._target = f"{path.rstrip('/')}/add-checkpoint" + (f"?{query}" if query else "")
        self._clock = clock
        self._size = 0
        """Of the last checkpoint that the witness cosigned, as far as we know."""

    @property
    def key(self) -> VerifierKey:
        """By which it cosigns."""
        return self._key

    @property
    def name(self) -> str:
        """How it is called in status and logs."""
        return f"witness {self._key.name}"

    async def cosign(self, note: Note, proofs: Proofs) -> Signature:
        """Asks for a cosignature of a checkpoint; what it gives is verified.

        Raises:
            UnavailableError: ``HOLDER_UNREACHABLE``, ``HOLDER_REFUSED``.
            FailedPreconditionError: ``WITNESS_REFUSED``: it doesn't know the ledger or its key, or finds no proof in
                what it was sent; ``WITNESS_AHEAD``: it has cosigned a larger checkpoint; ``COSIGNATURE_WRONG``: what it
                gave is no cosignature of this checkpoint.
            DataLossError: ``WITNESS_CONFLICT``: it has cosigned another checkpoint of this size.
        """
        size = Checkpoint.parse(note.text).size
        if self._size > size:
            self._size = 0  # ask it anew
        answer = await self._ask(note, proofs, self._size)
        if answer.status == HTTPStatus.CONFLICT:
            self._size = self._size_in(answer, self._size, size)
            answer = await self._ask(note, proofs, self._size)
        if answer.status == HTTPStatus.CONFLICT:
            self._size_in(answer, self._size, size)
            raise UnavailableError(f"{self.name} moved on while it was asked", reason="HOLDER_REFUSED")
        self._check_status(answer)
        found = self._cosignature(note, answer)
        self._size = size
        return found

    async def _ask(self, note: Note, proofs: Proofs, old: int) -> Answer:
        hashes = await proofs(old) if old else ()
        lines = [f"old {old}", *(encode_base64(value) for value in hashes), ""]
        body = "".join(f"{line}\n" for line in lines).encode() + note.encode()
        return await self._poster.post(body, "text/plain; charset=utf-8", self._target)

    def _size_in(self, answer: Answer, sent: int, size: int) -> int:
        """At which size the witness is, by its answer to an older one: one that a proof can start from."""
        try:
            text = answer.body.decode("ascii")
            if answer.content_type.partition(";")[0].strip() != "text/x.tlog.size" or not text.endswith("\n"):
                raise NoteError("no size is said")
            there = parse_decimal(text[:-1], "the size", MAX_SIZE)
        except ValueError as error:
            if sent == size:
                raise self._conflict(size) from error
            raise UnavailableError(
                f"{self.name} answered with a conflict that can't be read: {error}", reason="HOLDER_REFUSED"
            ) from error
        if there == sent:
            raise self._conflict(there)
        if there > size:
            raise FailedPreconditionError(
                f"{self.name} has cosigned a checkpoint of {there} entries; this one has {size}",
                reason="WITNESS_AHEAD",
                hint="Was the ledger restored from an older backup? Its later checkpoint proves that there was more.",
            )
        return there

    def _conflict(self, there: int) -> DataLossError:
        return DataLossError(
            f"{self.name} has cosigned another checkpoint of {there} entries than this ledger's",
            reason="WITNESS_CONFLICT",
            hint="Ask the witness for it, and compare: broker ledger verify --checkpoint FILE",
        )

    def _check_status(self, answer: Answer) -> None:
        why = _REFUSALS.get(answer.status)
        if why is not None:
            raise FailedPreconditionError(f"{self.name} refuses: {why}", reason="WITNESS_REFUSED")
        if answer.status != HTTPStatus.OK:
            raise UnavailableError(f"{self.name} answered with status {answer.status}", reason="HOLDER_REFUSED")

    def _cosignature(self, note: Note, answer: Answer) -> Signature:
        try:
            lines = answer.body.decode("utf-8").split("\n", _MAX_LINES)
            if lines.pop() or not lines:
                raise NoteError("the answer is not lines of signatures")
            all_given = tuple(Signature.parse(line) for line in lines)
            given = tuple(one for one in all_given if (one.name, one.key_id) == (self._key.name, self._key.key_id))
            verify_note(Note(note.text, given), (self._key,))
            for signature in given:
                self._check_time(cosignature_time(signature))
        except ValueError as error:  # NoteError is one, and so is what UTF-8 is not
            raise FailedPreconditionError(
                f"{self.name} gave a cosignature that isn't kept: {error}",
                reason="COSIGNATURE_WRONG",
                hint="Compare the key in the setting witnesses with the one that the witness publishes.",
            ) from error
        return given[0]

    def _check_time(self, moment_s: int) -> None:
        off = moment_s - int(self._clock().timestamp())
        if abs(off) > CLOCKS_DIFFER_S:
            raise NoteError(f"its time is {off} seconds off ours")


_REFUSALS: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "it finds the request malformed",
    HTTPStatus.FORBIDDEN: "it doesn't trust the key that signs this ledger's checkpoints",
    HTTPStatus.NOT_FOUND: "it doesn't know this ledger's origin",
    HTTPStatus.UNPROCESSABLE_ENTITY: "it finds that the ledger doesn't extend what it has cosigned",
}
