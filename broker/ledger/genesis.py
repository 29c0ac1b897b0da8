"""The first entry: which ledger this is, and by what rules it is hashed."""

from __future__ import annotations

from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.errors import DataLossError, FailedPreconditionError
from broker.ledger.encoding import NotCanonicalError, decode
from broker.tlog.key_history import GENESIS_KEY
from broker.tlog.note import VerifierKey


def genesis_body(*, trust_domain: str, software: str, checkpoint_key: VerifierKey | None = None) -> JsonObject:
    """Body of the genesis entry.

    Args:
        trust_domain: SPIFFE trust domain of the broker's certificates.
        software: name and version of what made the ledger.
        checkpoint_key: the first key that signs the ledger's checkpoints; its name is the ledger's origin. A ledger
            without one has no checkpoints that prove anything.
    """
    key: JsonObject = {} if checkpoint_key is None else {GENESIS_KEY: str(checkpoint_key)}
    return {
        **key,
        "format": {"bytes": "RFC8785", "leaf": "RFC6962-SHA256", "times": "UTC microseconds", "tree": "RFC6962-SHA256"},
        "software": software,
        "trust_domain": trust_domain,
    }


def read_genesis(tx: Transaction) -> JsonObject:
    """The first entry, whole.

    Raises:
        FailedPreconditionError: ``LEDGER_EMPTY``.
        DataLossError: ``LEDGER_DAMAGED``: the first entry can't be read, or is no genesis.
    """
    rows = tx.ledger.entries(0, 1)
    if not rows:
        raise FailedPreconditionError(
            "the ledger is empty: it has no genesis", reason="LEDGER_EMPTY", hint="Run `broker init` first."
        )
    try:
        entry = decode(rows[0].data)
    except NotCanonicalError as error:
        raise _damaged() from error
    if rows[0].seq != 0 or entry.get("type") != "genesis":
        raise _damaged()
    return entry


def read_origin(tx: Transaction) -> str:
    """The origin of the ledger, from its genesis.

    Raises:
        FailedPreconditionError: ``LEDGER_EMPTY``.
        DataLossError: ``LEDGER_DAMAGED``.
    """
    origin = read_genesis(tx).get("origin")
    if not isinstance(origin, str) or not origin:
        raise _damaged()
    return origin


def _damaged() -> DataLossError:
    return DataLossError(
        "the first entry of the ledger is no readable genesis",
        reason="LEDGER_DAMAGED",
        hint="Run `broker ledger verify`, keep the file and restore a backup.",
    )
