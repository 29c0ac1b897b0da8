"""What is kept of an approval, sealed under its id: envelope, rendering, the texts of votes, and a result."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.domain.approval import Approval, ApprovalKind
from broker.domain.canonical import JsonObject, canonical, digest, parse_object
from broker.domain.ports import SealedObject, Transaction, Vault
from broker.domain.rendering import render, summary
from broker.errors import DataLossError, NotFoundError

KIND = "approval"
_ENVELOPE, _RENDERING, _RESULT, _SUMMARY, _VOTES = 0, 1, 2, 3, 16
_MOST = 32 << 20
_MOST_VOTES = 2**20


@dataclass(frozen=True, slots=True)
class Texts:
    """Envelope and rendering, with their digests."""

    envelope: bytes
    rendering: str

    @classmethod
    def of(cls, envelope: JsonObject) -> Texts:
        """Renders an envelope.

        Raises:
            InvalidArgumentError: it isn't one that can be shown whole.
        """
        return cls(canonical(envelope), render(envelope))

    @property
    def envelope_digest(self) -> str:
        """Digest of the envelope's bytes."""
        return digest(self.envelope)

    @property
    def size(self) -> int:
        """Bytes of both."""
        return len(self.envelope) + len(self.rendering.encode())

    @property
    def rendering_digest(self) -> str:
        """Digest of the rendering's UTF-8 bytes."""
        return digest(self.rendering.encode())


KEPT = timedelta(days=30)
"""How long after its end the texts of what isn't a call are kept, as those of calls whose tool says nothing else."""


def keep(tx: Transaction, vault: Vault, approval: Approval, texts: Texts, until: datetime | None) -> SealedObject:
    """Seals what an approval is about; kept until a moment, or for ``KEPT`` after its time is over, or until it is erased."""
    of_call = approval.kind is ApprovalKind.CALL
    sealed = vault.create(
        tx,
        object_id=approval.id,
        owner=approval.requester,
        kind=KIND,
        now=approval.created,
        expires=approval.expires + KEPT if until is None else max(until, approval.expires),
        # What erases a call or its workspace erases this too. Who approved stays: that stands in the ledger.
        workspace=approval.workspace if of_call else "",
        call=approval.subject if of_call else "",
    )
    line = summary(parse_object(texts.envelope, field="envelope", max_bytes=_MOST))
    sealed.put(tx, {_ENVELOPE: texts.envelope, _RENDERING: texts.rendering.encode(), _SUMMARY: line.encode()})
    return sealed


def read_texts(tx: Transaction, vault: Vault, approval: Approval) -> Texts:
    """What an approval is about, checked against the digests that it is on record with.

    Raises:
        NotFoundError: it has been erased (``CONTENT_ERASED``).
        DataLossError: it is another text than the one that was shown (``APPROVAL_CHANGED``).
    """
    sealed = vault.open(tx, approval.id)
    found = dict(sealed.read(tx, _ENVELOPE, 2))
    texts = Texts(found.get(_ENVELOPE, b""), found.get(_RENDERING, b"").decode("utf-8", "replace"))
    if texts.envelope_digest != approval.envelope_digest or texts.rendering_digest != approval.rendering_digest:
        raise DataLossError(
            f"what is kept of approvals/{approval.id} is not what was shown: envelope {texts.envelope_digest} instead of "
            f"{approval.envelope_digest}, rendering {texts.rendering_digest} instead of {approval.rendering_digest}",
            reason="APPROVAL_CHANGED",
            hint="Somebody worked on the database: run `broker ledger verify`, and ask for the approval anew.",
            metadata={"expected": approval.envelope_digest, "found": texts.envelope_digest},
        )
    return texts


def read_summary(tx: Transaction, vault: Vault, approval: str) -> str:
    """The line for lists, without reading the rest.

    Raises:
        NotFoundError: it has been erased (``CONTENT_ERASED``).
    """
    found = dict(vault.open(tx, approval).read(tx, _SUMMARY, 1))
    return found.get(_SUMMARY, b"").decode("utf-8", "replace")


def read_envelope(tx: Transaction, vault: Vault, approval: Approval) -> JsonObject:
    """The envelope as an object.

    Raises:
        NotFoundError, DataLossError: as ``read_texts``.
    """
    return parse_object(read_texts(tx, vault, approval).envelope, field="envelope", max_bytes=_MOST)


def keep_vote(tx: Transaction, vault: Vault, approval: str, number: int, text: JsonObject) -> None:
    """Seals what goes with a vote: its reason, and the salt under which the statement commits to it."""
    vault.open(tx, approval).put(tx, {_VOTES + number: canonical(text)})


def read_vote(tx: Transaction, vault: Vault, approval: str, number: int) -> JsonObject:
    """What goes with a vote; empty where it has been erased."""
    try:
        found = dict(vault.open(tx, approval).read(tx, _VOTES + number, 1))
    except NotFoundError:
        return {}
    data = found.get(_VOTES + number)
    return {} if data is None else parse_object(data, field="vote", max_bytes=_MOST)


def disclosed(tx: Transaction, vault: Vault, approval_id: str) -> JsonObject | None:
    """What is kept of an approval, for an auditor who compares it with the ledger; ``None`` where it has been erased.

    ``envelope`` and ``rendering`` are the very texts whose digests stand in the ledger; ``votes`` has by number what each
    vote's statement commits to, with its salt.
    """
    try:
        sealed = vault.open(tx, approval_id)
    except NotFoundError:
        return None
    found = dict(sealed.read(tx, _ENVELOPE, 2))
    votes = {
        str(index - _VOTES): parse_object(data, field="vote", max_bytes=_MOST)
        for index, data in sealed.read(tx, _VOTES, _MOST_VOTES)
    }
    if _ENVELOPE not in found or _RENDERING not in found:
        return None
    return {
        "approval": approval_id,
        "envelope": found[_ENVELOPE].decode(),
        "rendering": found[_RENDERING].decode(),
        "votes": dict(votes),
    }


def keep_result(tx: Transaction, vault: Vault, approval: str, result: JsonObject) -> None:
    """Seals what came of an administrative action."""
    vault.open(tx, approval).put(tx, {_RESULT: canonical(result)})


def read_result(tx: Transaction, vault: Vault, approval: str) -> str:
    """What came of it, as JSON text; empty where nothing did."""
    try:
        found = dict(vault.open(tx, approval).read(tx, _RESULT, 1))
    except NotFoundError:
        return ""
    return found.get(_RESULT, b"").decode()
