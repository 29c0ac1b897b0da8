"""The tables inside one transaction."""

from __future__ import annotations

from sqlalchemy import Connection

from broker.store.call_table import SqlCallTable
from broker.store.identity_table import SqlIdentityTable
from broker.store.ledger_table import SqlLedgerTable
from broker.store.refusal_table import SqlRefusalTable
from broker.store.vault_table import SqlVaultTable


class SqlTransaction:
    """Implements ``broker.domain.ports.Transaction`` on a connection; made once for it and used again.

    Begin, commit and rollback are its owner's. After a write or read is over its gateways must not be used.
    """

    def __init__(self, connection: Connection) -> None:
        self._ledger = SqlLedgerTable(connection)
        self._vault = SqlVaultTable(connection)
        self._identities = SqlIdentityTable(connection)
        self._calls = SqlCallTable(connection)
        self._refusals = SqlRefusalTable(connection)

    @property
    def ledger(self) -> SqlLedgerTable:
        """Ledger entries."""
        return self._ledger

    @property
    def vault(self) -> SqlVaultTable:
        """Encrypted objects."""
        return self._vault

    @property
    def identities(self) -> SqlIdentityTable:
        """Identities, certificates, sessions and schedules."""
        return self._identities

    @property
    def calls(self) -> SqlCallTable:
        """Calls."""
        return self._calls

    @property
    def refusals(self) -> SqlRefusalTable:
        """Repeated refusals."""
        return self._refusals
