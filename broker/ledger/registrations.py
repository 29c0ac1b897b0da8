"""What the ledger's entries say of identities, certificates and chat accounts, taken in one by one."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.registered import IssuedCertificate, MappedAccount, Registered, RegisteredIdentity

TYPES = frozenset({"identity.issued", "identity.revoked", "account.mapped", "account.unmapped"})
"""Types of entries that say something of it."""


class Registrations:
    """Everybody so far."""

    def __init__(self) -> None:
        self._identities: dict[str, RegisteredIdentity] = {}
        self._certificates: dict[str, IssuedCertificate] = {}
        self._accounts: dict[int, MappedAccount] = {}
        self._taken_away: dict[str, tuple[tuple[int, str], ...]] = {}

    def copy(self) -> Registrations:
        """The same, to go on from without changing this one."""
        made = Registrations()
        made._identities, made._certificates = dict(self._identities), dict(self._certificates)
        made._accounts, made._taken_away = dict(self._accounts), dict(self._taken_away)
        return made

    @property
    def registered(self) -> Registered:
        """What has been read; it grows with what is read later."""
        return Registered(self._identities, self._certificates, self._accounts, self._taken_away)

    def entry(self, seq: int, entry: JsonObject) -> None:
        """Takes in an entry of one of ``TYPES``; a member that isn't there as the broker writes it fits no row."""
        match entry.get("type"):
            case "identity.issued":
                self._issued(entry)
            case "identity.revoked":
                self._revoked(entry)
            case "account.mapped":
                sealed = _part(entry, "sealed")
                index = sealed.get("index")
                where = index if isinstance(index, int) else -1
                self._accounts[seq] = MappedAccount(_text(entry, "person"), where, _text(sealed, "commit"))
            case "account.unmapped":
                person = _text(entry, "person")
                gone = (seq, _text(_part(entry, "sealed"), "commit"))
                self._taken_away[person] = (*self._taken_away.get(person, ()), gone)

    def _issued(self, entry: JsonObject) -> None:
        which, lineage = _text(entry, "identity"), _part(entry, "lineage")
        before = self._identities.get(which)
        self._identities[which] = RegisteredIdentity(
            kind=_text(entry, "kind"),
            owner=_text(lineage, "owner"),
            registrar=_text(lineage, "registrar"),
            name_commit=_text(entry, "name_commit"),
            revoked=before is not None and before.revoked,
        )
        match entry.get("change"):
            case "certificate":
                made = IssuedCertificate(which, _text(entry, "key_digest"))
                # One that stands there already keeps what was said of it first: nobody issues it twice.
                self._certificates.setdefault(_text(entry, "fingerprint"), made)
            case "owner":
                ended = entry.get("revoked_certificates")
                for fingerprint in ended if isinstance(ended, list) else []:
                    self._end(str(fingerprint))

    def _revoked(self, entry: JsonObject) -> None:
        which = self._identities.get(_text(entry, "identity"))
        match entry.get("change"):
            case "revoked" if which is not None:
                self._identities[_text(entry, "identity")] = replace(which, revoked=True)
            case "certificate-revoked":
                self._end(_text(entry, "fingerprint"))

    def _end(self, fingerprint: str) -> None:
        known = self._certificates.get(fingerprint)
        if known is not None:
            self._certificates[fingerprint] = replace(known, revoked=True)


def _part(entry: JsonObject, name: str) -> JsonObject:
    value: JsonValue = entry.get(name)
    return value if isinstance(value, dict) else {}


def _text(entry: JsonObject, name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""
