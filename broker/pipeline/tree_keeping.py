"""What of workspaces' files is kept: the present states, and past ones for as long as calls can be taken back to them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import structlog

from broker.domain.call import RESTING_STATES, CallState
from broker.domain.planned import PLANNED, decode_planned
from broker.domain.ports import CallQuery, Transaction
from broker.domain.tree import TreeFile
from broker.errors import DataLossError, NotFoundError
from broker.pipeline.kept import read_request
from broker.pipeline.parts import Parts

_log = structlog.get_logger(__name__)
_EVERY_S = 3600.0
_PAGE = 1000
_GOING_ON = frozenset(CallState) - RESTING_STATES


class TreeKeeping:
    """Sweeps the objects of all workspaces, now and then.

    Args:
        parts: the broker's.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._swept = time.monotonic()

    async def sweep(self) -> None:
        """``sweep_now``, at most once an hour."""
        if time.monotonic() >= self._swept + _EVERY_S:
            self._swept = time.monotonic()
            await self.sweep_now()

    async def sweep_now(self, now: float | None = None) -> None:
        """Removes what nothing names any more.

        Args:
            now: the time, in Unix seconds; ``None`` for that of the clock.

        Raises:
            DataLossError: a state that counts can't be read (``TREE_DAMAGED``); nothing was removed.
        """
        roots, also = await self._parts.store.read(self._needed)
        swept = await self._parts.trees.sweep(roots, also, now)
        if swept.removed:
            _log.info("trees.swept", kept=swept.kept, removed=swept.removed, bytes=swept.removed_bytes)

    def _needed(self, tx: Transaction) -> tuple[frozenset[str], frozenset[str]]:
        roots, also = set(), set()
        for standing in tx.trees.all():
            roots.add(standing.state)
            for effect in tx.trees.effects(standing.workspace, -1):
                if tx.vault.get(effect.call) is not None:  # the same time as its artifact
                    roots |= {effect.base, effect.after} - {""}
        for call in self._going_on(tx):
            try:
                sealed = self._parts.vault.open(tx, call)
                base = read_request(tx, sealed, brief=True).base
                planned = dict(sealed.read(tx, PLANNED, 1)).get(PLANNED)
                effect_changes = () if planned is None else decode_planned(planned).effect.changes
            except (NotFoundError, DataLossError):
                continue  # erased: it can't go on, and is ended elsewhere
            roots |= {base} - {""}
            # Items that lie elsewhere are given to their programs with both sides.
            kept = (side for item in effect_changes for side in (item.before, item.after))
            also |= {side.digest for side in kept if isinstance(side, TreeFile)}
        return frozenset(roots), frozenset(also)

    def _going_on(self, tx: Transaction) -> Iterator[str]:
        before = ""
        while True:
            page = tx.calls.list(CallQuery(states=_GOING_ON, before=before, limit=_PAGE))
            yield from (row.id for row in page)
            if len(page) < _PAGE:
                return
            before = page[-1].id
