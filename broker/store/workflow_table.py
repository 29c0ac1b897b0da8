"""Approved versions of workflows in the database."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from broker.domain.approval import ApprovedWorkflow
from broker.errors import ConflictError
from broker.store.columns import read_time, time_text
from broker.store.prepared import Prepared, driver_of
from broker.store.tables import APPROVED_WORKFLOW

_W = APPROVED_WORKFLOW.c
_GET = Prepared(
    select(_W.name, _W.digest, _W.tier, _W.approval, _W.approved, _W.seq).where(
        _W.name == bindparam("which_name"), _W.digest == bindparam("which_digest")
    )
)


class SqlWorkflowTable:
    """Implements ``broker.domain.approval_ports.WorkflowTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)

    def approve(self, workflow: ApprovedWorkflow) -> None:
        """Adds a version.

        Raises:
            ConflictError: it is approved already.
        """
        values = {
            "name": workflow.name,
            "digest": workflow.digest,
            "tier": workflow.tier,
            "approval": workflow.approval,
            "approved": time_text(workflow.approved),
            "seq": workflow.seq,
        }
        try:
            self._connection.execute(insert(APPROVED_WORKFLOW), values)
        except IntegrityError as error:
            raise ConflictError(f"this version of workflow {workflow.name} is approved already") from error

    def get(self, name: str, digest: str) -> ApprovedWorkflow | None:
        """An approved version."""
        row = _GET.run(self._driver, {"which_name": name, "which_digest": digest}).fetchone()
        return None if row is None else ApprovedWorkflow(row[0], row[1], row[2], row[3], read_time(row[4]), row[5])
