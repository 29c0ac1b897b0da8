"""What the tables of identities, certificates, sessions and schedules must hold, from the ledger and what is sealed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import TypeAlias

from cryptography import x509

from broker.domain.canonical import JsonObject, digest, parse_object
from broker.domain.ports import StoredEntry, Transaction, Vault
from broker.domain.projection import Cell, Expected, UnexpectedEntryError, Unheld, listed, member, number, words
from broker.errors import BrokerError
from broker.identity import ca

_Row: TypeAlias = dict[str, "Cell | Unheld"]

_MAX_SEALED = 1 << 20


class IdentityRows:
    """Hears every entry of the ledger in order, and knows then what the four tables must hold.

    Args:
        tx: a transaction.
        vault: opens what the entries commit to.
    """

    def __init__(self, tx: Transaction, vault: Vault) -> None:
        self._tx = tx
        self._vault = vault
        self._identities: dict[str, _Row] = {}
        self._certificates: dict[str, _Row] = {}
        self._sessions: dict[str, _Row] = {}
        self._schedules: dict[str, _Row] = {}

    def entry(self, _: StoredEntry, entry: JsonObject) -> None:
        """Takes the next entry.

        Raises:
            UnexpectedEntryError: it isn't one that this version writes.
        """
        match entry.get("type"):
            case "identity.issued" | "identity.revoked":
                self._identity(entry)
            case "session.started":
                self._session(entry)
            case "session.ended":
                row = _known(self._sessions, words(entry, "session"))
                row["ended"] = row["ended"] or _time(entry, "ended")
            case "schedule.registered":
                self._schedule(entry)
            case "erased" if entry.get("name") is True:
                which = words(entry, "subject", "id")
                _known(self._identities, which)["name"] = which

    def identities(self) -> Iterator[Expected]:
        """Rows of ``identity``, by their keys."""
        return _by_key(self._identities)

    def certificates(self) -> Iterator[Expected]:
        """Rows of ``certificate``, by their keys; ``number`` is that of their issue, from 1."""
        return _by_key(self._certificates)

    def sessions(self) -> Iterator[Expected]:
        """Rows of ``session``, by their keys."""
        return _by_key(self._sessions)

    def schedules(self) -> Iterator[Expected]:
        """Rows of ``schedule``, by their keys."""
        return _by_key(self._schedules)

    def _identity(self, entry: JsonObject) -> None:
        which = words(entry, "identity")
        match words(entry, "change"):
            case "registered":
                text = self._sealed(entry)
                name = Unheld(which, text) if isinstance(text, str) else words(text, "name")
                self._identities[which] = {
                    "id": which,
                    "kind": words(entry, "kind"),
                    "name": name,
                    "owner": words(entry, "lineage", "owner"),
                    "registrar": words(entry, "lineage", "registrar"),
                    "created": _time(entry, "at"),
                    "revoked": None,
                }
            case "owner":
                _known(self._identities, which)["owner"] = words(entry, "lineage", "owner")
                _known(self._identities, which)["registrar"] = words(entry, "lineage", "registrar")
                for fingerprint in listed(entry, "revoked_certificates"):
                    _known(self._certificates, fingerprint)["revoked"] = _time(entry, "at")
            case "certificate":
                self._certificate(which, entry)
            case "revoked":
                _known(self._identities, which)["revoked"] = _time(entry, "at")
            case "certificate-revoked":
                _known(self._certificates, words(entry, "fingerprint"))["revoked"] = _time(entry, "at")

    def _certificate(self, which: str, entry: JsonObject) -> None:
        fingerprint, key_digest = words(entry, "fingerprint"), words(entry, "key_digest")
        self._certificates[fingerprint] = {
            "number": len(self._certificates) + 1,
            "fingerprint": fingerprint,
            "identity": which,
            "public_key_der": self._public_key(entry, fingerprint, key_digest),
            "not_before": words(entry, "not_before"),
            "not_after": words(entry, "not_after"),
            "revoked": None,
        }

    def _public_key(self, entry: JsonObject, fingerprint: str, key_digest: str) -> bytes | Unheld:
        text = self._sealed(entry)
        why = text if isinstance(text, str) else "the sealed certificate is another one"
        if not isinstance(text, str):
            certificate = x509.load_pem_x509_certificate(words(text, "certificate").encode())
            record = ca.record_of(certificate, "")
            if record.fingerprint == fingerprint and digest(record.public_key_der) == key_digest:
                return record.public_key_der
        return Unheld(b"", why, partial(_has_digest, key_digest))

    def _session(self, entry: JsonObject) -> None:
        which = words(entry, "session")
        self._sessions[which] = {
            "id": which,
            "agent": words(entry, "agent", "id"),
            "workspace": words(entry, "workspace"),
            "starter": words(entry, "lineage", "starter"),
            "schedule": words(entry, "schedule"),
            "created": _time(entry, "created"),
            "expires": words(entry, "expires"),
            "ended": None,
        }

    def _schedule(self, entry: JsonObject) -> None:
        which = words(entry, "schedule")
        days = member(entry, "weekdays")
        self._schedules[which] = {
            "id": which,
            "agent": words(entry, "agent", "id"),
            "workspace": words(entry, "workspace"),
            "registrar": words(entry, "lineage", "starter"),
            "weekdays": json.dumps(days, separators=(",", ":")),
            "from_minute": number(entry, "from_minute"),
            "until_minute": number(entry, "until_minute"),
            "session_ttl_s": float(number(entry, "session_ttl_s")),
            "expires": words(entry, "expires"),
        }

    def _sealed(self, entry: JsonObject) -> JsonObject | str:
        """What is sealed beside an entry, if it is what the entry commits to; otherwise why it can't be had."""
        index, commit = number(entry, "sealed", "index"), words(entry, "sealed", "commit")
        try:
            sealed = self._vault.open(self._tx, words(entry, "identity"))
            for found, plaintext in sealed.read(self._tx, index, 1):
                if found == index and sealed.commit(words(entry, "type"), plaintext) == commit:
                    return parse_object(plaintext, field="sealed", max_bytes=_MAX_SEALED)
        except BrokerError as error:
            return f"the sealed text can't be read: {error.reason}"
        return "the sealed text is missing, or not what the entry commits to"


def _time(entry: JsonObject, name: str) -> Cell | Unheld:
    if name in entry:
        return words(entry, name)
    return Unheld(words(entry, "ts"), "the entry is from before this time was recorded")


def _known(rows: dict[str, _Row], key: str) -> _Row:
    row = rows.get(key)
    if row is None:
        raise UnexpectedEntryError(f"an entry is about {key[:80]!a}, which no earlier one made")
    return row


def _has_digest(key_digest: str, value: Cell) -> bool:
    # Empty where a row had to be made after the key was erased.
    return value == b"" or (isinstance(value, bytes) and digest(value) == key_digest)


def _by_key(rows: dict[str, _Row]) -> Iterator[Expected]:
    return (rows[key] for key in sorted(rows))
