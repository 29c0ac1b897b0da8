"""The founding: what stands when it begins, and the people who accept that. And every key after that.

Until three people have accepted, by signatures of their own, which ledger this is and all that stands in it, one operator
alone enrols people's keys, and nothing can be approved. From then on an approval does it. What stands is read from the
ledger, and whatever changes it voids what was accepted before.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.approvals import evidence
from broker.approvals.desk import FOUNDERS
from broker.approvals.electorate import why_not_key
from broker.domain.approval import Acceptance, KeyKind, VoterKey
from broker.domain.approval_ports import Agreement
from broker.domain.canonical import JsonObject
from broker.domain.founding_state import FoundingStanding
from broker.domain.identity import Caller, Identity, IdentityKind
from broker.domain.ports import Recorder, Transaction
from broker.domain.statement import key_id, parse_acceptance
from broker.errors import (
    ConflictError,
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    PermissionDeniedError,
)
from broker.signing import verify
from broker.tlog.note import ED25519, NoteError, VerifierKey

_MOST_SKEW = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Founding:
    """How far the founding is."""

    keys: tuple[VoterKey, ...]
    """Of approvers, as they are now."""
    standing: FoundingStanding
    """What is accepted, and by whom, as the ledger has it."""
    complete: bool

    @property
    def digest(self) -> str:
        """What is accepted: of what stands now, or of what stood when it was completed."""
        return self.standing.content.digest

    @property
    def accepted(self) -> frozenset[str]:
        """People who have accepted this very digest."""
        return self.standing.accepted


def founding(tx: Transaction, agreement: Agreement) -> Founding:
    """How far it is.

    Raises:
        DataLossError: the tables have other keys than the ledger (``FOUNDING_CHANGED``).
    """
    standing = agreement.standing(tx)
    keys = tuple(key for key in tx.voters.all_keys() if key.kind is KeyKind.APPROVER and key.revoked is None)
    complete = bool(tx.voters.founding())
    known = {(item.person, item.key) for item in standing.content.approvers}
    if not complete and {(key.holder, key.id) for key in keys} != known:
        raise DataLossError(
            "the database has other approvers' keys than the ledger",
            reason="FOUNDING_CHANGED",
            hint="Somebody worked on the database: run `broker ledger verify --votes` and `broker ledger rebuild`.",
        )
    return Founding(keys, standing, complete)


def check_after_founding(what: str, *, founded: bool) -> None:
    """Lets pass, once the founding is complete, what nobody may do alone before it.

    Args:
        what: what is refused, as the beginning of a sentence.
        founded: whether it is complete.

    Raises:
        FailedPreconditionError: ``FOUNDING_INCOMPLETE``.
    """
    if not founded:
        raise FailedPreconditionError(
            f"{what} before the founding is complete: afterwards two people agree to it",
            reason="FOUNDING_INCOMPLETE",
            hint="Have three people accept the founding (`broker approvers founding` says how far it is), then ask again.",
        )


def enrol_key(
    tx: Transaction,
    recorder: Recorder,
    *,
    holder: Identity,
    vkey: str,
    kind: KeyKind,
    by: str,
    approval: str,
    now: datetime,
) -> VoterKey:
    """Enrols a key. Who may have that done is the caller's question.

    Raises:
        InvalidArgumentError: the text is no ``vkey`` of the holder's (``KEY_INVALID``).
        FailedPreconditionError: the holder is revoked, or of the wrong kind (``HOLDER_INVALID``); a bot's key before the
            founding, without an approval (``FOUNDING_INCOMPLETE``).
        ConflictError: the key is enrolled, or was (``KEY_IN_USE``).
    """
    public_key = parse_vkey(vkey, holder.name)
    wanted = IdentityKind.HUMAN if kind is KeyKind.APPROVER else IdentityKind.AGENT
    if holder.kind is not wanted or holder.revoked is not None:
        raise FailedPreconditionError(
            f"{holder.kind} {holder.name} can't hold a key of kind {kind.value}: it is a {wanted.value}'s, not revoked",
            reason="HOLDER_INVALID",
        )
    if kind is KeyKind.BOT:
        check_after_founding(f"no bot's key is enrolled ({holder.name}'s)", founded=bool(approval))
    which = key_id(public_key)
    if tx.voters.key(which) is not None:
        # One key for two people would let one person fill two places; a revoked one may be known to others.
        raise ConflictError(
            "the key is enrolled, or was", reason="KEY_IN_USE", hint="Make a fresh one: broker keys new"
        )
    body: JsonObject = {
        "key": {"id": which, "kind": kind.value, "public_key": base64.b64encode(public_key).decode()},
        "person": holder.id,
        "by": by,
        "approval": approval,
        "at": now.isoformat(),
    }
    seq = recorder.append(tx, "key.enrolled", body)
    key = VoterKey(which, holder.id, kind, public_key, now, seq)
    tx.voters.insert_key(key)
    return key


def check_approver(tx: Transaction, caller: Caller) -> None:
    """Lets a human pass who holds an approver's key that counts.

    Raises:
        PermissionDeniedError: ``NOT_AN_APPROVER``.
    """
    mine = [key for key in tx.voters.all_keys() if not why_not_key(key, caller.identity.id, KeyKind.APPROVER)]
    if caller.identity.kind is not IdentityKind.HUMAN or not mine:
        raise PermissionDeniedError(
            f"only people with an enrolled key of their own may do this; {caller.subject} has none",
            reason="NOT_AN_APPROVER",
            hint="See who has one with: broker approvers keys",
        )


def accept(
    tx: Transaction,
    recorder: Recorder,
    agreement: Agreement,
    caller: Caller,
    *,
    statement: bytes,
    signature: bytes,
    now: datetime,
    origin: str,
) -> Founding:
    """Takes a founder's signed acceptance; the third one completes the founding.

    Raises:
        InvalidArgumentError: ``STATEMENT_INVALID``, ``SIGNATURE_INVALID``.
        PermissionDeniedError: it isn't the caller's own, or by a key that doesn't count (``KEY_UNKNOWN``).
        FailedPreconditionError: something that it covers has changed since (``DIGEST_DIFFERS``), isn't on record at all
            (``FOUNDING_UNREADY``), or it is too old (``STATEMENT_STALE``).
        DataLossError: as ``founding``.
    """
    said = parse_acceptance(statement)
    key = evidence.enrolled_key(tx, said.key)
    why = why_not_key(key, caller.identity.id, KeyKind.APPROVER)
    if key is None or why or said.approver != caller.identity.id or caller.identity.kind is not IdentityKind.HUMAN:
        raise PermissionDeniedError(
            f"the acceptance is refused: {why or 'not by its own signer'}",
            reason="KEY_UNKNOWN",
            hint="Have your key enrolled first, and accept under your own certificate.",
        )
    if not verify(key.public_key, signature, statement):
        field = FieldViolation("signature", "is not the key's signature of the statement")
        raise InvalidArgumentError(
            f"{field.field} {field.description}", reason="SIGNATURE_INVALID", violations=(field,)
        )
    present = founding(tx, agreement)
    _check_same(said.origin == origin, said.founding_digest, present)
    if abs(now - said.time) > _MOST_SKEW:
        raise FailedPreconditionError(
            "the acceptance's time is far from the broker's",
            reason="STATEMENT_STALE",
            hint="Set your clock, and sign again.",
        )
    if caller.identity.id in present.accepted:
        return present
    body: JsonObject = {
        "person": caller.identity.id,
        "key": {"id": key.id},
        "founding_digest": present.digest,
        "statement": statement.decode(),
        "signature": base64.b64encode(signature).decode(),
    }
    seq = recorder.append(tx, "approver.accepted", body)
    tx.voters.accept(Acceptance(caller.identity.id, key.id, present.digest, seq))
    people = sorted(agreement.standing(tx).accepted)
    if not present.complete and len(people) >= FOUNDERS:
        completed: JsonObject = {"founding_digest": present.digest, "people": list(people)}
        tx.voters.complete_founding(present.digest, recorder.append(tx, "founding.completed", completed))
    return founding(tx, agreement)


def _check_same(of_here: bool, digest: str, present: Founding) -> None:  # noqa: FBT001 - private
    content = present.standing.content
    if content.missing:
        raise FailedPreconditionError(
            f"nothing on record says what is in force: {', '.join(content.missing)}",
            reason="FOUNDING_UNREADY",
            hint="Start the broker once with its policy, tiers and settings, and look again: broker approvers founding",
        )
    if not of_here or digest != present.digest:
        raise FailedPreconditionError(
            f"the acceptance is of another founding: {digest} instead of {present.digest}. What it covers last changed by "
            f"entry {content.last_seq} of the ledger",
            reason="DIGEST_DIFFERS",
            hint="Look at what has changed, and sign again: broker approvers accept",
            metadata={"expected": present.digest, "found": digest, "changed_by": str(content.last_seq)},
        )


def parse_vkey(text: str, name: str) -> bytes:
    """The 32 bytes of a public key from its text, which must be under its holder's name.

    Raises:
        InvalidArgumentError: ``KEY_INVALID``.
    """
    try:
        key = VerifierKey.parse(text.strip())
    except NoteError as error:
        raise _bad_key(f"is no key as `broker keys show` prints it: {error}") from error
    if key.algorithm != ED25519:
        raise _bad_key("is no Ed25519 key for signatures")
    if key.name != name:
        raise _bad_key(f"is of {key.name!a}, not of {name}")
    return key.public_key


def _bad_key(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"vkey {why}",
        reason="KEY_INVALID",
        violations=(FieldViolation("vkey", why),),
        hint="Its holder makes it with `broker keys new` and hands over what `broker keys show` prints.",
    )
