"""Settles at a start what is in force: the table of tiers, the settings that weaken the rule, and bound directories.

What is stricter, or the same, or comes before the founding, goes on record and into force. What asks for less needs an
approval of exactly that, which is used here; without one the record's goes on being in force, and the broker says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from broker.app.record import Keeper
from broker.approvals.authority import find_approved, use_approved
from broker.approvals.desk import Desk
from broker.domain.administration import SETTINGS, request_command
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.errors import FailedPreconditionError
from broker.pipeline import standing
from broker.pipeline.standing import SETTINGS_PART, Held, hold, text_digest
from broker.settings import Settings
from broker.specs.tiers import Tiers
from broker.store.base import SqlStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in force after a start, and what is held back."""

    tiers: Tiers
    unsafe: Mapping[str, bool]
    """Setting that weakens the two-person rule -> is it in force."""
    folders: Mapping[str, str]
    """Workspace -> directory of the host that is its tree."""
    digest: str
    """Of what is on record, for the entry of the start."""
    held: Held | None


async def settle(store: SqlStore, keeper: Keeper, desk: Desk, *, tiers: Tiers, settings: Settings) -> Standing:
    """Compares what the files say with the record.

    Raises:
        DataLossError: the record can't be read (``RECORD_DIFFERS``).
        InvalidArgumentError: the table that was in force is none any more (``TIERS_INVALID``).
    """
    unsafe = {name: bool(getattr(settings, name)) for name in standing.UNSAFE}
    after = standing.settings_text(tiers, unsafe, settings.workspace_folders)
    text, held = await _Settling(store, keeper, desk, after).settle()
    if held is not None:
        warn_held(held)
    return Standing(
        tiers=standing.table_of(text) if held is not None else tiers,
        unsafe=standing.unsafe_of(text),
        folders=standing.folders_of(text),
        digest=text_digest(text),
        held=held,
    )


def warn_held(item: Held) -> None:
    """Says in the log what isn't in force, and what asks for it."""
    command = request_command(item.action, {"digest": item.parameters["digest"]})
    _log.warning("change.held", action=item.action, weaker=list(item.weaker), ask=command)


@dataclass(frozen=True, slots=True)
class _Settling:
    store: SqlStore
    keeper: Keeper
    desk: Desk
    after: JsonObject

    async def settle(self) -> tuple[JsonObject, Held | None]:
        """What is in force of it, and what is held back."""
        try:
            return await self.store.write(lambda tx: self._settle(tx, using=True))
        except FailedPreconditionError as error:
            # Somebody's role or key is gone since they agreed: then it is as if they hadn't.
            _log.warning("change.approval_unusable", action=SETTINGS, reason=error.reason, error=error.message)
            return await self.store.write(lambda tx: self._settle(tx, using=False))

    def _settle(self, tx: Transaction, *, using: bool) -> tuple[JsonObject, Held | None]:
        before, after = standing.recorded_settings(tx, self.desk.vault), self.after
        founded = self.desk.founded(tx)
        if before is None:
            self.keeper.record_standing(tx, SETTINGS_PART, after, before="", founded=founded)
            return after, None
        known = text_digest(before)
        if text_digest(after) == known:
            return after, None
        change = hold(before, after)
        agreed: list[JsonObject] = []
        if change.weaker and founded:
            approval = find_approved(tx, self.desk, SETTINGS, change.parameters) if using else None
            if approval is None:
                return before, change
            agreed.append(use_approved(tx, self.desk, approval, change.parameters).body())
        self.keeper.record_standing(tx, SETTINGS_PART, after, before=known, agreed=agreed, founded=founded)
        return after, None
