"""The tables inside one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from broker.errors import InternalError
from broker.store.approval_table import SqlApprovalTable
from broker.store.call_table import SqlCallTable
from broker.store.erasure_table import SqlErasureTable
from broker.store.freeze_table import SqlFreezeTable
from broker.store.identity_table import SqlIdentityTable
from broker.store.ledger_table import SqlLedgerTable
from broker.store.projections import SqlProjectionTable
from broker.store.refusal_table import SqlRefusalTable
from broker.store.savepoint import Savepoint
from broker.store.tree_table import SqlTreeTable
from broker.store.vault_table import SqlVaultTable
from broker.store.voter_table import SqlVoterTable
from broker.store.workflow_table import SqlWorkflowTable
from broker.store.workspace_key_table import SqlWorkspaceKeyTable


class SqlTransaction:
    """Implements ``broker.domain.ports.Transaction`` on a connection; made once for it and used again.

    Begin, commit and rollback are its owner's. After a write or read is over its gateways must not be used.

    Args:
        connection: the connection.
        savepoint: what is needed before a statement writes; ``None`` where nothing is to be written.
    """

    def __init__(self, connection: Connection, savepoint: Savepoint | None = None) -> None:
        self._savepoint = savepoint
        self._begins: list[Callable[[], None]] = []
        self._ledger = SqlLedgerTable(connection, savepoint)
        self._vault = SqlVaultTable(connection)
        self._workspace_keys = SqlWorkspaceKeyTable(connection)
        self._erasure = SqlErasureTable(connection)
        self._identities = SqlIdentityTable(connection)
        self._calls = SqlCallTable(connection)
        self._refusals = SqlRefusalTable(connection)
        self._approvals = SqlApprovalTable(connection)
        self._voters = SqlVoterTable(connection)
        self._freezes = SqlFreezeTable(connection)
        self._trees = SqlTreeTable(connection)
        self._workflows = SqlWorkflowTable(connection)
        self._projections = SqlProjectionTable(connection)

    @property
    def deletions(self) -> int:
        """How often something was deleted or overwritten that must not be readable any more; never goes down."""
        return self._vault.deletions + self._workspace_keys.deletions + self._erasure.deletions

    def meanwhile(self, begin: Callable[[], None]) -> None:
        """See ``broker.domain.ports.Transaction``."""
        if self._savepoint is None:
            raise InternalError("nothing begins with a reading transaction", reason="STORE_READ_ONLY")
        self._begins.append(begin)

    def take_begins(self) -> Sequence[Callable[[], None]]:
        """What is to begin while the disk is waited for, given since this was asked last."""
        begins, self._begins = self._begins, []
        return begins

    @property
    def ledger(self) -> SqlLedgerTable:
        """Ledger entries."""
        return self._ledger

    @property
    def vault(self) -> SqlVaultTable:
        """Encrypted objects."""
        self._need()
        return self._vault

    @property
    def workspace_keys(self) -> SqlWorkspaceKeyTable:
        """Keys of workspaces."""
        self._need()
        return self._workspace_keys

    @property
    def erasure(self) -> SqlErasureTable:
        """What erasures need."""
        self._need()
        return self._erasure

    @property
    def identities(self) -> SqlIdentityTable:
        """Identities, certificates, sessions and schedules."""
        self._need()
        return self._identities

    @property
    def calls(self) -> SqlCallTable:
        """Calls."""
        self._need()
        return self._calls

    @property
    def refusals(self) -> SqlRefusalTable:
        """Repeated refusals."""
        self._need()
        return self._refusals

    @property
    def approvals(self) -> SqlApprovalTable:
        """Approvals and votes."""
        self._need()
        return self._approvals

    @property
    def voters(self) -> SqlVoterTable:
        """Voters' keys, the founding, chat accounts."""
        self._need()
        return self._voters

    @property
    def freezes(self) -> SqlFreezeTable:
        """What is frozen."""
        self._need()
        return self._freezes

    @property
    def workflows(self) -> SqlWorkflowTable:
        """Approved versions of workflows."""
        self._need()
        return self._workflows

    @property
    def trees(self) -> SqlTreeTable:
        """States of workspaces' trees, and effects on them."""
        self._need()
        return self._trees

    @property
    def projections(self) -> SqlProjectionTable:
        """What is made anew from the ledger, as plain rows."""
        self._need()
        self._ledger.flush()  # the ledger's own projections are among them
        return self._projections

    def _need(self) -> None:
        if self._savepoint is not None:
            self._savepoint.need()
