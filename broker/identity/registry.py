"""Registration: each change of who is who is a ledger entry, a sealed text and a row, in one transaction.

The ledger gets ids, fingerprints and commitments. Names, reasons and certificates (which hold names) are sealed in the
vault object that has the identity's id, one chunk per entry, so that the rows can be made again from both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509

from broker.domain.administration import ISSUE, OWNER, issue_parameters
from broker.domain.approval import KeyKind
from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.identity import Certificate, Identity, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Recorder, Transaction, Vault
from broker.errors import (
    ConflictError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from broker.identity import ca
from broker.identity.authority import Authority, NoApproval, permit_revoke
from broker.identity.directory import parse_peer
from broker.identity.keys import public_der
from broker.identity.names import check_name, genesis, spiffe_uri, stamp

_CHUNKS = 256
_MAX_REASON = 4096


@dataclass(frozen=True, slots=True)
class Registry:
    """Changes to the registry. ``by`` is always the id of the human who makes the change, proved by the caller.

    Once the two-person rule is in force, only what ``authority`` lets pass is registered, issued or given to another
    owner; somebody new is registered together with their first certificate, by ``enroll``.
    """

    recorder: Recorder
    vault: Vault
    authority: Authority = field(default_factory=NoApproval)

    def register_operator(self, tx: Transaction, *, identity: str, name: str, now: datetime) -> Identity:
        """Registers the first human, by its own word: the one whom the genesis entry names, in an empty registry.

        Raises:
            ConflictError: somebody is registered already (``OPERATOR_EXISTS``).
        """
        if tx.identities.all() or genesis(tx).get("operator") != identity:
            raise ConflictError("the first human is registered once, as the genesis says", reason="OPERATOR_EXISTS")
        return self._register(tx, Identity(identity, IdentityKind.HUMAN, name, "", identity, now), identity, None)

    def register_human(self, tx: Transaction, *, name: str, by: str, now: datetime) -> Identity:
        """Registers a human.

        Raises:
            InvalidArgumentError: ``NAME_INVALID``.
            ConflictError: the name is taken, even by somebody revoked (``NAME_TAKEN``).
            PermissionDeniedError: ``by`` is no valid human (``REGISTRAR_INVALID``).
            FailedPreconditionError: the two-person rule is in force (``APPROVAL_REQUIRED``): use ``enroll``.
        """
        self._actor(tx, by)
        agreed = self._permit_issue(tx, IdentityKind.HUMAN, name, owner="", key_digest="", by=by)
        return self._register(tx, Identity(new_id("hum"), IdentityKind.HUMAN, name, "", by, now), by, agreed)

    def register_agent(self, tx: Transaction, *, name: str, owner: str, by: str, now: datetime) -> Identity:
        """Registers an agent for a human, ``owner`` by id.

        Raises:
            InvalidArgumentError: ``NAME_INVALID``.
            ConflictError: ``NAME_TAKEN``.
            PermissionDeniedError: ``REGISTRAR_INVALID``.
            FailedPreconditionError: the owner is no valid human (``OWNER_INVALID``); the two-person rule is in force
                (``APPROVAL_REQUIRED``): use ``enroll``.
        """
        self._actor(tx, by)
        human = self._owner(tx, owner)
        agreed = self._permit_issue(tx, IdentityKind.AGENT, name, owner=human.name, key_digest="", by=by)
        return self._register(tx, Identity(new_id("agt"), IdentityKind.AGENT, name, owner, by, now), by, agreed)

    def enroll(
        self,
        tx: Transaction,
        *,
        kind: IdentityKind,
        name: str,
        owner: str,
        certificate: x509.Certificate,
        by: str,
        now: datetime,
    ) -> tuple[Identity, Certificate]:
        """Registers a certificate, and the identity with it where that is new: one change, which one approval covers.

        Args:
            tx: a transaction.
            kind: agent or human.
            name: whose certificate it is.
            owner: id of a new agent's owner; an agent that is known keeps the one that it has.
            certificate: names it.
            by: id of the human who makes the change.
            now: the time, UTC.

        Raises:
            BrokerError: as ``register_human``, ``register_agent`` and ``issue``.
        """
        self._actor(tx, by)
        known = tx.identities.by_name(kind, name)
        if known is not None:
            return known, self.issue(tx, identity=known.id, certificate=certificate, by=by, now=now)
        human = self._owner(tx, owner) if kind is IdentityKind.AGENT else None
        agreed = self._permit_issue(
            tx, kind, name, owner="" if human is None else human.name, key_digest=_key_digest(certificate), by=by
        )
        new = Identity(
            new_id("hum" if human is None else "agt"), kind, name, "" if human is None else human.id, by, now
        )
        identity = self._register(tx, new, by, agreed)
        return identity, self._issue(tx, identity, certificate=certificate, by=by, now=now, agreed=agreed)

    def change_owner(self, tx: Transaction, *, agent: str, owner: str, by: str, now: datetime) -> Identity:
        """Gives an agent another owner; ``by`` becomes its registrar, and all its certificates end.

        They end because whoever holds the old keys may stand outside the new lineage, and could then vote on what the
        agent asks for.

        Raises:
            NotFoundError, PermissionDeniedError, FailedPreconditionError: as for ``register_agent`` and ``issue``.
        """
        self._actor(tx, by)
        human = self._owner(tx, owner)
        identity = self._valid(tx, agent)
        if identity.kind is not IdentityKind.AGENT:
            raise FailedPreconditionError("a human has no owner", reason="NOT_AN_AGENT")
        agreed = self.authority.permit(tx, OWNER, {"agent": identity.name, "owner": human.name}, by=by)
        new = replace(identity, owner=owner, registrar=by)
        tx.identities.update(new)
        ended = [item for item in tx.identities.certificates() if item.identity == agent and item.revoked is None]
        for certificate in ended:
            tx.identities.revoke_certificate(certificate.fingerprint, now)
        body: JsonObject = {"at": stamp(now), "revoked_certificates": [item.fingerprint for item in ended]}
        self._record(tx, "identity.issued", new, by=by, text={"change": "owner"}, body=body, agreed=agreed)
        return new

    def issue(
        self, tx: Transaction, *, identity: str, certificate: x509.Certificate, by: str, now: datetime
    ) -> Certificate:
        """Registers a certificate of an identity; those that it has stay in force, so that keys can be rotated.

        Only the identity itself (a human), its owner or its registrar may: nobody outside the lineage may hold a key
        to an agent.

        Raises:
            NotFoundError: no such identity (``IDENTITY_UNKNOWN``).
            FailedPreconditionError: it is revoked (``IDENTITY_REVOKED``).
            PermissionDeniedError: ``by`` may not (``NOT_IN_LINEAGE``, ``REGISTRAR_INVALID``).
            ConflictError: the certificate names another identity (``CERTIFICATE_MISMATCH``), its key was given to
                somebody else or revoked before (``KEY_IN_USE``), or it has expired (``CERTIFICATE_EXPIRED``).
            FailedPreconditionError: nobody has agreed to a certificate for this key (``APPROVAL_REQUIRED``).
        """
        self._actor(tx, by)
        target = self._valid(tx, identity)
        if by not in {target.id, target.owner, target.registrar}:
            raise PermissionDeniedError(
                f"only the owner or the registrar of {target.kind} {target.name} may issue its certificates",
                reason="NOT_IN_LINEAGE",
                hint=f"Take it over first: broker identity owner {target.name} --owner HUMAN"
                if target.kind is IdentityKind.AGENT
                else "Ask the human, or who registered them.",
            )
        owner = tx.identities.get(target.owner) if target.owner else None
        owner_name = "" if owner is None else owner.name
        agreed = self._permit_issue(
            tx, target.kind, target.name, owner=owner_name, key_digest=_key_digest(certificate), by=by
        )
        return self._issue(tx, target, certificate=certificate, by=by, now=now, agreed=agreed)

    def _issue(
        self,
        tx: Transaction,
        target: Identity,
        *,
        certificate: x509.Certificate,
        by: str,
        now: datetime,
        agreed: JsonObject | None,
    ) -> Certificate:
        text = ca.pem(certificate)
        if parse_peer(text).spiffe_uri != spiffe_uri(genesis(tx)["origin"], target.kind, target.name):
            raise ConflictError("the certificate names another identity", reason="CERTIFICATE_MISMATCH")
        record = ca.record_of(certificate, target.id)
        if record.not_after <= now:
            raise ConflictError("the certificate has expired", reason="CERTIFICATE_EXPIRED")
        self._check_key(tx, record)
        tx.identities.insert_certificate(record)
        body: JsonObject = {
            "fingerprint": record.fingerprint,
            "key_digest": digest(record.public_key_der),
            "not_before": stamp(record.not_before),
            "not_after": stamp(record.not_after),
        }
        sealed: JsonObject = {"change": "certificate", "certificate": text.decode("ascii")}
        self._record(tx, "identity.issued", target, by=by, text=sealed, body=body, agreed=agreed)
        return record

    def revoke_identity(self, tx: Transaction, *, identity: str, by: str, reason: str, now: datetime) -> Identity:
        """Revokes an identity and so all its certificates; it is final. Revoking twice changes nothing.

        Raises:
            InvalidArgumentError: the reason is longer than 4096 bytes (``TOO_LARGE``).
            NotFoundError: ``IDENTITY_UNKNOWN``.
            PermissionDeniedError: ``REGISTRAR_INVALID``, ``NOT_AN_APPROVER``.
            FailedPreconditionError: it is the last valid human, without whom nobody could act (``LAST_HUMAN``); it is
                somebody else, and fewer than three people would be left who can vote (``APPROVAL_REQUIRED``).
        """
        _check_reason(reason)
        self._actor(tx, by)
        target = self._known(tx, identity)
        self._may_revoke(tx, target, by)
        if target.revoked is not None:
            return target
        if target.kind is IdentityKind.HUMAN and not any(
            item.kind is IdentityKind.HUMAN and item.revoked is None and item.id != target.id
            for item in tx.identities.all()
        ):
            raise FailedPreconditionError(
                f"human {target.name} is the last one; nobody could register or revoke after that",
                reason="LAST_HUMAN",
                hint="Register another human first: broker identity issue human NAME",
            )
        agreed = permit_revoke(tx, self.authority, target, "", by)
        revoked = replace(target, revoked=now)
        tx.identities.update(revoked)
        text: JsonObject = {"change": "revoked", "reason": reason}
        self._record(tx, "identity.revoked", revoked, by=by, text=text, body={"at": stamp(now)}, agreed=agreed)
        return revoked

    def revoke_certificate(
        self, tx: Transaction, *, identity: str, fingerprint: str, by: str, reason: str, now: datetime
    ) -> Certificate:
        """Revokes one certificate of an identity. Revoking twice changes nothing.

        Raises:
            InvalidArgumentError: the reason is longer than 4096 bytes (``TOO_LARGE``).
            NotFoundError: no such identity, or not its certificate (``CERTIFICATE_UNKNOWN``).
            PermissionDeniedError: ``REGISTRAR_INVALID``, ``NOT_AN_APPROVER``.
            FailedPreconditionError: as ``revoke_identity`` (``APPROVAL_REQUIRED``).
        """
        _check_reason(reason)
        self._actor(tx, by)
        target = self._known(tx, identity)
        self._may_revoke(tx, target, by)
        found = tx.identities.certificate(fingerprint)
        if found is None or found.identity != target.id:
            raise NotFoundError(
                f"{target.kind} {target.name} has no certificate {fingerprint[:80]!a}",
                reason="CERTIFICATE_UNKNOWN",
                hint="List them with: broker identity list",
            )
        if found.revoked is not None:
            return found
        agreed = permit_revoke(tx, self.authority, target, fingerprint, by)
        tx.identities.revoke_certificate(fingerprint, now)
        text: JsonObject = {"change": "certificate-revoked", "reason": reason}
        body: JsonObject = {"at": stamp(now), "fingerprint": fingerprint}
        self._record(tx, "identity.revoked", target, by=by, text=text, body=body, agreed=agreed)
        return replace(found, revoked=now)

    def _permit_issue(
        self, tx: Transaction, kind: IdentityKind, name: str, *, owner: str, key_digest: str, by: str
    ) -> JsonObject | None:
        # Nobody can agree to an empty key digest: without a certificate nothing passes once the rule is in force.
        parameters = issue_parameters(kind=kind.value, name=name, owner=owner, key_digest=key_digest)
        return self.authority.permit(tx, ISSUE, parameters, by=by)

    def _register(self, tx: Transaction, identity: Identity, by: str, agreed: JsonObject | None) -> Identity:
        check_name(identity.name, field="name")
        taken = tx.identities.by_name(identity.kind, identity.name)
        if taken is not None:
            state = "revoked; its name is never given again" if taken.revoked else "registered already"
            raise ConflictError(
                f"{identity.kind} {identity.name} is {state}", reason="NAME_TAKEN", hint="Choose another name."
            )
        tx.identities.insert(identity)
        self.vault.create(
            tx, object_id=identity.id, owner=identity.id, kind="identity", now=identity.created, expires=None
        )
        body: JsonObject = {"at": stamp(identity.created)}
        self._record(tx, "identity.issued", identity, by=by, text={"change": "registered"}, body=body, agreed=agreed)
        return identity

    def _record(
        self,
        tx: Transaction,
        entry_type: str,
        identity: Identity,
        *,
        by: str,
        text: JsonObject,
        body: JsonObject,
        agreed: JsonObject | None = None,
    ) -> None:
        sealed = self.vault.open(tx, identity.id)
        index = next_chunk(tx, identity.id)
        plaintext = canonical({"kind": str(identity.kind), "name": identity.name, **text})
        sealed.put(tx, {index: plaintext})
        entry: JsonObject = {
            "identity": identity.id,
            "kind": str(identity.kind),
            "change": text["change"],
            "by": by,
            "lineage": {"owner": identity.owner, "registrar": identity.registrar},
            "name_commit": sealed.commit("identity.name", identity.name.encode()),
            "sealed": {"index": index, "commit": sealed.commit(entry_type, plaintext)},
            **body,
        }
        if agreed is not None:
            entry["approvals"] = [agreed]
        self.recorder.append(tx, entry_type, entry, agent=identity.id if identity.kind is IdentityKind.AGENT else "")

    def _may_revoke(self, tx: Transaction, target: Identity, by: str) -> None:
        # One person is enough, and at once; but once people hold keys, not anybody who happens to have a certificate.
        if not self.authority.founded(tx) or by in {target.id, target.owner, target.registrar}:
            return
        keys = tx.voters.all_keys()
        if not any(key.holder == by and key.kind is KeyKind.APPROVER and key.revoked is None for key in keys):
            raise PermissionDeniedError(
                f"only {target.kind} {target.name} itself, its owner, its registrar and approvers with an enrolled key "
                "may revoke it",
                reason="NOT_AN_APPROVER",
                hint="Ask an approver; see who has a key with: broker approvers keys",
            )

    @staticmethod
    def _actor(tx: Transaction, by: str) -> Identity:
        human = tx.identities.get(by)
        if human is None or human.kind is not IdentityKind.HUMAN or human.revoked is not None:
            raise PermissionDeniedError("only a valid human may change the registry", reason="REGISTRAR_INVALID")
        return human

    @staticmethod
    def _owner(tx: Transaction, owner: str) -> Identity:
        human = tx.identities.get(owner)
        if human is None or human.kind is not IdentityKind.HUMAN or human.revoked is not None:
            raise FailedPreconditionError("the owner must be a human who is not revoked", reason="OWNER_INVALID")
        return human

    @staticmethod
    def _known(tx: Transaction, identity: str) -> Identity:
        found = tx.identities.get(identity)
        if found is None:
            raise NotFoundError("there is no such identity", reason="IDENTITY_UNKNOWN")
        return found

    def _valid(self, tx: Transaction, identity: str) -> Identity:
        found = self._known(tx, identity)
        if found.revoked is not None:
            raise FailedPreconditionError(f"{found.kind} {found.name} has been revoked", reason="IDENTITY_REVOKED")
        return found

    @staticmethod
    def _check_key(tx: Transaction, record: Certificate) -> None:
        for other in tx.identities.certificates():
            if other.public_key_der != record.public_key_der:
                continue
            if other.identity != record.identity or other.revoked is not None:
                # One key for two people would let one person fill two places; a revoked key may be known to others.
                raise ConflictError(
                    "the key belongs to another identity, or was revoked",
                    reason="KEY_IN_USE",
                    hint="Make a fresh key.",
                )


def _key_digest(certificate: x509.Certificate) -> str:
    return digest(public_der(certificate.public_key()))


def _check_reason(reason: str) -> None:
    if len(reason.encode("utf-8", "surrogatepass")) > _MAX_REASON:
        why = f"is longer than {_MAX_REASON} bytes"
        raise InvalidArgumentError(
            f"reason {why}", reason="TOO_LARGE", violations=(FieldViolation("reason", why),), hint="Say it shorter."
        )


def next_chunk(tx: Transaction, object_id: str) -> int:
    """The index after an encrypted object's last chunk."""
    index = 0
    while chunks := tx.vault.chunks(object_id, index, _CHUNKS):
        index = chunks[-1][0] + 1
    return index
