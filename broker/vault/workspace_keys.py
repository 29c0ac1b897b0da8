"""Keys of workspaces: random, wrapped under the vault's key, unwrapped once and kept for as long as the row is there.

Each use looks at the row, which may be deleted by another process: a key that is destroyed there is not used from here.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broker.domain.ports import Transaction
from broker.errors import DataLossError
from broker.vault.keyfile import KEY_BYTES
from broker.vault.sealing import bound, check_words, seal, unseal

KEPT = 1024
"""Keys that are kept unwrapped at the most."""


class WorkspaceKeys:
    """Gives the ciphers of workspaces. Any thread may ask.

    Args:
        cipher: of the vault's key.
    """

    def __init__(self, cipher: AESGCM) -> None:
        self._cipher = cipher
        self._kept: OrderedDict[str, tuple[bytes, AESGCM]] = OrderedDict()
        self._gate = threading.Lock()

    def __repr__(self) -> str:
        return f"WorkspaceKeys({len(self._kept)} kept)"

    def made(self, tx: Transaction, workspace: str, now: datetime) -> AESGCM:
        """The cipher of a workspace, whose key is made where there is none. The transaction must be a writing one.

        Raises:
            DataLossError: the key doesn't open under the vault's (``VAULT_KEYS_DAMAGED``).
            InternalError: no workspace has such a name.
        """
        found = self.present(tx, workspace)
        if found is not None:
            return found
        check_words(workspace)
        key = secrets.token_bytes(KEY_BYTES)
        tx.workspace_keys.insert(workspace, seal(self._cipher, key, bound("workspace", workspace)), now)
        # Not kept before the next look at the row: this transaction may be rolled back.
        return AESGCM(key)

    def present(self, tx: Transaction, workspace: str) -> AESGCM | None:
        """The cipher of a workspace; ``None`` where it has no key, or none any more.

        Raises:
            DataLossError: the key doesn't open under the vault's (``VAULT_KEYS_DAMAGED``).
        """
        wrapped = tx.workspace_keys.get(workspace)
        with self._gate:
            kept = self._kept.get(workspace)
            if kept is not None and kept[0] == wrapped:
                self._kept.move_to_end(workspace)
                return kept[1]
            self._kept.pop(workspace, None)
        if wrapped is None:
            return None
        cipher = self._open(workspace, wrapped)
        with self._gate:
            self._kept[workspace] = (wrapped, cipher)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return cipher

    def _open(self, workspace: str, wrapped: bytes) -> AESGCM:
        try:
            return AESGCM(unseal(self._cipher, wrapped, bound("workspace", workspace)))
        except InvalidTag as error:
            raise DataLossError(
                f"the key of workspace {workspace} doesn't open under the vault's key",
                reason="VAULT_KEYS_DAMAGED",
                hint="Either the key file isn't the one of this database, or the row was changed.",
            ) from error
