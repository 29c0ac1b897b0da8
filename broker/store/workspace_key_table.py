"""Keys of workspaces in the database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, select

from broker.errors import ConflictError
from broker.store.columns import time_text
from broker.store.prepared import Prepared, driver_of, integrity_errors
from broker.store.tables import WORKSPACE_KEY

_K = WORKSPACE_KEY.c
_GET = Prepared(select(_K.wrapped).where(_K.workspace == bindparam("which")))
_INSERT = Prepared(insert(WORKSPACE_KEY))
_DELETE = Prepared(delete(WORKSPACE_KEY).where(_K.workspace == bindparam("which")))


class SqlWorkspaceKeyTable:
    """Implements ``broker.domain.ports.WorkspaceKeyTable``."""

    def __init__(self, connection: Connection) -> None:
        self._driver = driver_of(connection)
        self.deletions = 0
        """Keys deleted through this table since it was made, those of transactions rolled back included."""

    def get(self, workspace: str) -> bytes | None:
        """A workspace's wrapped key; ``None`` where it has none, or none any more."""
        row = _GET.run(self._driver, {"which": workspace}).fetchone()
        return None if row is None else bytes(row[0])

    def insert(self, workspace: str, wrapped: bytes, created: datetime) -> None:
        """Adds a workspace's key.

        Raises:
            ConflictError: it has one.
        """
        values = {"workspace": workspace, "wrapped": wrapped, "created": time_text(created)}
        try:
            _INSERT.run(self._driver, values)
        except integrity_errors() as error:
            raise ConflictError("the workspace has a key already") from error

    def delete(self, workspace: str) -> None:
        """Destroys a workspace's key; nothing happens where there is none."""
        self.deletions += 1
        _DELETE.run(self._driver, {"which": workspace})
