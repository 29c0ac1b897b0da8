"""What the tables of the two-person rule must hold, from the ledger's entries and what is sealed beside them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TypeAlias

from broker.domain.approval import ApprovalState
from broker.domain.canonical import JsonObject, canonical
from broker.domain.ports import StoredEntry, Transaction, Vault
from broker.domain.projection import Cell, Expected, UnexpectedEntryError, listed, member, number, words
from broker.domain.statement import parse_vote
from broker.errors import BrokerError

_Row: TypeAlias = dict[str, "Cell | datetime"]
_Key: TypeAlias = tuple[str | int, ...]
_ACCOUNT_PARTS = 3


class ApprovalRows:
    """Hears every entry of the ledger in order, and knows then what the eight tables must hold.

    Args:
        tx: a transaction.
        vault: opens what the entries commit to.
    """

    def __init__(self, tx: Transaction, vault: Vault) -> None:
        self._tx = tx
        self._vault = vault
        self._keys: dict[_Key, _Row] = {}
        self._acceptances: dict[_Key, _Row] = {}
        self._foundings: dict[_Key, _Row] = {}
        self._approvals: dict[_Key, _Row] = {}
        self._votes: dict[_Key, _Row] = {}
        self._freezes: dict[_Key, _Row] = {}
        self._accounts: dict[_Key, _Row] = {}
        self._workflows: dict[_Key, _Row] = {}
        self._takers: Mapping[str, Callable[[int, JsonObject], None]] = {
            "key.enrolled": self._enrolled,
            "key.revoked": self._key_revoked,
            "approver.accepted": self._accepted,
            "founding.completed": self._completed,
            "approval.requested": self._requested,
            "vote": self._voted,
            "vote.attested": self._voted,
            "approval.closed": self._closed,
            "frozen": self._frozen,
            "unfrozen": self._unfrozen,
            "workflow.approved": self._workflow,
            "account.mapped": self._account,
            "account.unmapped": self._account,
            "erased": self._erased,
        }

    def entry(self, row: StoredEntry, entry: JsonObject) -> None:
        """Takes the next entry.

        Raises:
            UnexpectedEntryError: it isn't one that this version writes.
        """
        take = self._takers.get(str(entry.get("type")))
        if take is not None:
            take(row.seq, entry)

    def tables(self) -> Mapping[str, Iterator[Expected]]:
        """Table -> its rows, by their keys."""
        return {
            "voter_key": _by_key(self._keys),
            "acceptance": _by_key(self._acceptances),
            "founding": _by_key(self._foundings),
            "approval": _by_key(self._approvals),
            "vote": _by_key(self._votes),
            "freeze": _by_key(self._freezes),
            "chat_account": _by_key(self._accounts),
            "approved_workflow": _by_key(self._workflows),
        }

    def _enrolled(self, seq: int, entry: JsonObject) -> None:
        which = words(entry, "key", "id")
        self._keys[which,] = {
            "id": which,
            "holder": words(entry, "person"),
            "kind": words(entry, "key", "kind"),
            "public_key": _bytes(entry, "key", "public_key"),
            "enrolled": _moment(entry, "at"),
            "enrolled_seq": seq,
            "revoked": None,
        }

    def _key_revoked(self, _: int, entry: JsonObject) -> None:
        key = _known(self._keys, (words(entry, "key", "id"),))
        if key["revoked"] is None:
            key["revoked"] = _moment(entry, "at")

    def _accepted(self, seq: int, entry: JsonObject) -> None:
        digest, person = words(entry, "founding_digest"), words(entry, "person")
        made: _Row = {"founding_digest": digest, "person": person, "key": words(entry, "key", "id"), "seq": seq}
        self._acceptances.setdefault((digest, person), made)

    def _completed(self, seq: int, entry: JsonObject) -> None:
        self._foundings[seq,] = {"seq": seq, "digest": words(entry, "founding_digest")}

    def _requested(self, seq: int, entry: JsonObject) -> None:
        which = words(entry, "approval", "id")
        texts = ("kind", "subject", "obj", "requester", "envelope_digest", "rendering_digest")
        self._approvals[which,] = {
            "id": which,
            **{name: words(entry, "approval", name) for name in texts},
            "workspace": words(entry, "workspace"),
            "tier": number(entry, "tier"),
            "excluded": canonical(listed(entry, "approval", "excluded")).decode(),
            "state": ApprovalState.PENDING.value,
            "requirement": canonical(member(entry, "approval", "requirement")).decode(),
            "created": _moment(entry, "approval", "created"),
            "expires": _moment(entry, "approval", "expires"),
            "requested_seq": seq,
            "closed": None,
            "closed_seq": None,
        }

    def _voted(self, seq: int, entry: JsonObject) -> None:
        which, place = words(entry, "approval", "id"), number(entry, "vote", "number")
        try:
            statement = parse_vote(words(entry, "vote", "statement").encode())
        except BrokerError as error:
            raise UnexpectedEntryError(
                f"the vote of entry {entry.get('seq')} can't be read: {error.message}"
            ) from error
        self._votes[which, place] = {
            "approval": which,
            "number": place,
            "person": words(entry, "person"),
            "key": statement.key,
            "decision": statement.decision.value,
            "channel": words(entry, "channel"),
            "cast": statement.time,
            "seq": seq,
        }
        _known(self._approvals, (which,))["state"] = words(entry, "approval", "state")

    def _closed(self, seq: int, entry: JsonObject) -> None:
        _known(self._approvals, (words(entry, "approval", "id"),)).update(
            {"state": words(entry, "approval", "state"), "closed": _moment(entry, "at"), "closed_seq": seq}
        )

    def _frozen(self, seq: int, entry: JsonObject) -> None:
        scope, target = words(entry, "scope"), words(entry, "target")
        self._freezes[scope, target] = {
            "scope": scope,
            "target": target,
            "by": words(entry, "by"),
            "since": _moment(entry, "at"),
            "seq": seq,
        }

    def _unfrozen(self, _: int, entry: JsonObject) -> None:
        self._freezes.pop((words(entry, "scope"), words(entry, "target")), None)

    def _workflow(self, seq: int, entry: JsonObject) -> None:
        name, version = words(entry, "workflow", "id"), words(entry, "workflow", "version")
        used = member(entry, "approvals")
        first = used[0] if isinstance(used, list) and used else None
        if not isinstance(first, dict):
            raise UnexpectedEntryError(f"entry {entry.get('seq')} names no approval of the workflow")
        self._workflows[name, version] = {
            "name": name,
            "digest": version,
            "tier": number(entry, "tier"),
            "approval": words(first, "id"),
            "approved": _moment(entry, "at"),
            "seq": seq,
        }

    def _account(self, seq: int, entry: JsonObject) -> None:
        person = words(entry, "person")
        account = self._sealed_account(entry)
        if account is None:
            # Whose account it is can't be told any more: then it is nobody's, and votes by it are refused.
            self._forget_accounts(person)
        elif words(entry, "type") == "account.mapped":
            service, team, user = account
            made: _Row = {"service": service, "team": team, "user": user, "person": person, "seq": seq}
            self._accounts[account] = made
        else:
            self._accounts.pop(account, None)

    def _sealed_account(self, entry: JsonObject) -> tuple[str, str, str] | None:
        """Service, team and user as they lie sealed, if they are what the entry commits to."""
        index, commit = number(entry, "sealed", "index"), words(entry, "sealed", "commit")
        try:
            sealed = self._vault.open(self._tx, words(entry, "person"))
            for found, plaintext in sealed.read(self._tx, index, 1):
                if found == index and sealed.commit(words(entry, "type"), plaintext) == commit:
                    return _account_of(plaintext)
        except BrokerError:
            return None
        return None

    def _erased(self, _: int, entry: JsonObject) -> None:
        for person in listed(entry, "ids"):
            self._forget_accounts(person)

    def _forget_accounts(self, person: str) -> None:
        self._accounts = {key: row for key, row in self._accounts.items() if row["person"] != person}


def _account_of(plaintext: bytes) -> tuple[str, str, str] | None:
    try:
        parts = json.loads(plaintext)
    except ValueError:
        return None
    if not isinstance(parts, list) or len(parts) != _ACCOUNT_PARTS or not all(isinstance(item, str) for item in parts):
        return None
    return str(parts[0]), str(parts[1]), str(parts[2])


def _moment(entry: JsonObject, *path: str) -> datetime:
    try:
        moment = datetime.fromisoformat(words(entry, *path))
    except ValueError as error:
        raise UnexpectedEntryError(f"the member {'.'.join(path)} of entry {entry.get('seq')} is no time") from error
    if moment.tzinfo is None:
        raise UnexpectedEntryError(f"the member {'.'.join(path)} of entry {entry.get('seq')} has no time zone")
    return moment


def _bytes(entry: JsonObject, *path: str) -> bytes:
    try:
        return base64.b64decode(words(entry, *path), validate=True)
    except binascii.Error as error:
        raise UnexpectedEntryError(f"the member {'.'.join(path)} of entry {entry.get('seq')} is no base64") from error


def _known(rows: dict[_Key, _Row], key: _Key) -> _Row:
    row = rows.get(key)
    if row is None:
        raise UnexpectedEntryError(f"an entry is about {str(key[0])[:80]!a}, which no earlier one made")
    return row


def _by_key(rows: dict[_Key, _Row]) -> Iterator[Expected]:
    return (rows[key] for key in sorted(rows))
