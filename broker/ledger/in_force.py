"""What the record says is in force: the newest entry that says so, and the text that is sealed beside it."""

from __future__ import annotations

from broker.domain.canonical import JsonObject, digest, parse_object
from broker.domain.ports import Transaction, Vault
from broker.domain.projection import UnexpectedEntryError, member
from broker.errors import BrokerError, DataLossError

_PAGE = 256
_MOST_ENTRY = 64 * 1024
_MOST_CHUNKS = 1
_HEARTBEAT = "heartbeat"


def newest_digest(tx: Transaction, entry_type: str, path: tuple[str, ...]) -> str:
    """The digest that the newest entry of a type, or the newest start after it, has at ``path``; empty where none has.

    It is read from the entries themselves, backwards, and not from their index: a row of a projection never decides what
    is in force. The last start names it too, so this doesn't go back further than that.
    """
    head = tx.ledger.head()
    end = 0 if head is None else head.seq + 1
    wanted = (f'"type":"{entry_type}"'.encode(), f'"type":"{_HEARTBEAT}"'.encode())
    while end > 0:
        first = max(0, end - _PAGE)
        for row in reversed(tx.ledger.entries(first, end - first)):
            if any(item in row.data for item in wanted):
                found = _at(parse_object(row.data, field="entry", max_bytes=_MOST_ENTRY), entry_type, path)
                if found:
                    return found
        end = first
    return ""


def _at(entry: JsonObject, entry_type: str, path: tuple[str, ...]) -> str:
    if entry.get("type") not in {entry_type, _HEARTBEAT}:
        return ""
    try:
        found = member(entry, *path)
    except UnexpectedEntryError:
        return ""
    return found if isinstance(found, str) else ""


def sealed_id(kind: str, text_digest: str) -> str:
    """Id of the encrypted object that holds a text of a kind."""
    return f"{kind}_{text_digest[7:39]}"


def sealed_text(tx: Transaction, vault: Vault, kind: str, text_digest: str) -> str:
    """A text that was put on the record.

    Raises:
        DataLossError: it is gone, or another one (``RECORD_DIFFERS``).
    """
    try:
        found = dict(vault.open(tx, sealed_id(kind, text_digest)).read(tx, 0, _MOST_CHUNKS))
    except BrokerError as error:
        raise _differs(kind, text_digest, error.reason) from error
    data = found.get(0, b"")
    if digest(data) != text_digest:
        raise _differs(kind, text_digest, "it is another one")
    return data.decode()


def policy_in_force(tx: Transaction, vault: Vault) -> str | None:
    """Text of the policy that is in force, or was until the broker ended; ``None`` before its first start.

    Raises:
        DataLossError: ``RECORD_DIFFERS``.
    """
    found = newest_digest(tx, "policy.changed", ("policy_digest",))
    return sealed_text(tx, vault, "policy", found) if found else None


def _differs(kind: str, text_digest: str, why: str) -> DataLossError:
    return DataLossError(
        f"the {kind} {text_digest} that the ledger says is in force can't be read: {why}",
        reason="RECORD_DIFFERS",
        hint="Somebody worked on the database: restore it from a backup; `broker doctor` says more.",
    )
