"""Rows about people, agents, certificates and chat accounts, compared with the ledger before anything is decided by them.

Whoever has the database may change them: give an agent another owner, so that its own owner votes as an outsider; give a
certificate to somebody else; exchange two names, and with them the roles; give a chat account to another person.
"""

from __future__ import annotations

import hmac

from broker.domain.approval import Approval, ChatAccount
from broker.domain.approval_ports import Agreement
from broker.domain.call import Lineage
from broker.domain.canonical import canonical, digest
from broker.domain.identity import Identity, IdentityKind
from broker.domain.ports import Transaction, Vault
from broker.domain.registered import Registered
from broker.errors import DataLossError, NotFoundError

_NAME, _MAPPED, _UNMAPPED = "identity.name", "account.mapped", "account.unmapped"


class RowCheck:
    """Compares rows with what the ledger says at the end of what one transaction sees.

    Args:
        tx: the transaction.
        vault: opens what entries commit to.
        agreement: what the ledger says.
    """

    def __init__(self, tx: Transaction, vault: Vault, agreement: Agreement) -> None:
        self._tx = tx
        self._vault = vault
        self._said: Registered = agreement.registered(tx)

    def identity(self, which: str) -> Identity | None:
        """An identity whose row is what the ledger says; ``None`` where there is no such row.

        Raises:
            DataLossError: it isn't: kind, name, owner, registrar or revocation (``IDENTITY_CHANGED``).
        """
        row = self._tx.identities.get(which)
        if row is None:
            return None
        said = self._said.identities.get(which)
        if said is None:
            raise _changed("IDENTITY_CHANGED", f"nobody has registered {which}", which)
        for field, found, wanted in (
            ("kind", row.kind.value, said.kind),
            ("owner", row.owner, said.owner),
            ("registrar", row.registrar, said.registrar),
            ("revocation", row.revoked is not None, said.revoked),
        ):
            if found != wanted:
                raise _changed("IDENTITY_CHANGED", f"the {field} of {which} is not what the ledger says", which, field)
        # Of somebody revoked the name may have been erased; they decide nothing any more.
        if row.revoked is None and not self._is_name(row, said.name_commit):
            raise _changed(
                "IDENTITY_CHANGED", f"the name of {which} is not the one it was registered with", which, "name"
            )
        return row

    def certificate(self, fingerprint: str, identity: str) -> None:
        """Lets a certificate pass that was issued to this identity.

        Raises:
            DataLossError: it was issued to another, with another key, or has been revoked (``CERTIFICATE_CHANGED``).
        """
        row, said = self._tx.identities.certificate(fingerprint), self._said.certificates.get(fingerprint)
        if said is None or said.identity != identity:
            raise _changed("CERTIFICATE_CHANGED", f"certificate {fingerprint} was not issued to {identity}", identity)
        if row is not None and row.public_key_der and digest(row.public_key_der) != said.key_digest:
            raise _changed("CERTIFICATE_CHANGED", f"certificate {fingerprint} was issued for another key", identity)
        if said.revoked and (row is None or row.revoked is None):
            raise _changed("CERTIFICATE_CHANGED", f"certificate {fingerprint} has been revoked", identity)

    def caller(self, identity: str, fingerprint: str) -> None:
        """Lets whoever calls pass, whose row and whose certificate's row are what the ledger says.

        Raises:
            DataLossError: ``IDENTITY_CHANGED``, ``CERTIFICATE_CHANGED``.
        """
        self.identity(identity)
        self.certificate(fingerprint, identity)

    def behind(self, approval: Approval) -> frozenset[str]:
        """Ids of the people who answer now for the agent that asked; empty where a person asked.

        Raises:
            DataLossError: ``IDENTITY_CHANGED``.
        """
        asked = self.identity(approval.requester)
        if asked is None or asked.kind is not IdentityKind.AGENT:
            return frozenset()
        return frozenset({asked.owner, asked.registrar} - {""})

    def lineage(self, lineage: Lineage) -> None:
        """Lets a lineage pass whose people are those that the ledger names.

        Raises:
            DataLossError: ``IDENTITY_CHANGED``, ``CERTIFICATE_CHANGED``; somebody else's vote would count as an outsider's.
        """
        agent = self.identity(lineage.agent)
        owner = "" if lineage.of_human else lineage.owner
        if agent is None or (agent.owner, agent.registrar) != (owner, lineage.registrar):
            why = f"{lineage.agent} is not answered for by {lineage.owner} and {lineage.registrar}"
            raise _changed("IDENTITY_CHANGED", why, lineage.agent, "owner")
        for person in {lineage.owner, lineage.registrar, lineage.starter, lineage.on_behalf_of} - {""}:
            self.identity(person)
        if lineage.on_behalf_of:
            # Whose word a delegation is says the certificate that signed it.
            for row in self._tx.identities.certificates():
                if row.identity == lineage.on_behalf_of:
                    self.certificate(row.fingerprint, row.identity)

    def account(self, account: ChatAccount) -> None:
        """Lets a chat account pass that was given to this person, and not taken away since.

        Raises:
            DataLossError: it wasn't (``ACCOUNT_CHANGED``).
        """
        said = self._said.accounts.get(account.seq)
        if said is None or said.person != account.person:
            raise _changed(
                "ACCOUNT_CHANGED", f"entry {account.seq} maps no chat account to {account.person}", account.person
            )
        text = canonical([account.service, account.team, account.user])
        try:
            sealed = self._vault.open(self._tx, account.person)
            kept = dict(sealed.read(self._tx, said.index, 1)).get(said.index)
        except NotFoundError as error:
            raise _changed("ACCOUNT_CHANGED", f"what {account.person}'s account was is gone", account.person) from error
        if kept != text or not hmac.compare_digest(sealed.commit(_MAPPED, text), said.commit):
            why = f"entry {account.seq} maps another chat account to {account.person}"
            raise _changed("ACCOUNT_CHANGED", why, account.person)
        gone = sealed.commit(_UNMAPPED, text)
        for seq, commit in self._said.taken_away.get(account.person, ()):
            if seq > account.seq and hmac.compare_digest(commit, gone):
                raise _changed("ACCOUNT_CHANGED", f"entry {seq} took the chat account away", account.person)

    def _is_name(self, row: Identity, commit: str) -> bool:
        try:
            sealed = self._vault.open(self._tx, row.id)
        except NotFoundError:
            return False
        return hmac.compare_digest(sealed.commit(_NAME, row.name.encode()), commit)


def _changed(reason: str, why: str, which: str, field: str = "") -> DataLossError:
    return DataLossError(
        f"{why}: it counts for nothing",
        reason=reason,
        hint="Somebody worked on the database: run `broker ledger verify` and `broker ledger rebuild`.",
        metadata={"identity": which, "field": field} if field else {"identity": which},
    )
