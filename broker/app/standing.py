"""Settles at a start what is in force: tools' tiers, the table of tiers, and the settings that weaken the rule.

What is stricter, or the same, or comes before the founding, goes on record and into force. What asks for less needs an
approval of exactly that, which is used here; without one the record's goes on being in force, and the broker says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from broker.app.record import Keeper
from broker.approvals.authority import find_approved, use_approved
from broker.approvals.desk import Desk
from broker.domain.administration import request_command
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.domain.tier import Tier
from broker.errors import FailedPreconditionError
from broker.pipeline import standing
from broker.pipeline.standing import PARTS, SETTINGS, TOOLS, Held, hold, text_digest
from broker.settings import Settings
from broker.specs.tiers import Tiers
from broker.store.base import SqlStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in force after a start, and what is held back."""

    tools: Mapping[str, Tier]
    """Name of a tool -> the tier that it runs at."""
    tiers: Tiers
    in_force: JsonObject
    """Part -> digest of what is on record of it, for the entry of the start."""
    held: tuple[Held, ...]


async def settle(
    store: SqlStore, keeper: Keeper, desk: Desk, *, tools: Mapping[str, Tier], tiers: Tiers, settings: Settings
) -> Standing:
    """Compares what the files say with the record.

    Raises:
        DataLossError: the record can't be read (``RECORD_DIFFERS``).
        InvalidArgumentError: the table that was in force is none any more (``TIERS_INVALID``).
    """
    unsafe = {name: bool(getattr(settings, name)) for name in standing.UNSAFE}
    first = _Settling(store, keeper, desk, TOOLS, lambda before: standing.tools_text(tools, before))
    second = _Settling(store, keeper, desk, SETTINGS, lambda _: standing.settings_text(tiers, unsafe))
    tool_text, tools_held = await first.settle()
    settings_text, settings_held = await second.settle()
    held = tuple(item for item in (tools_held, settings_held) if item is not None)
    for item in held:
        command = request_command(item.action, {"digest": item.parameters["digest"]})
        _log.warning("change.held", action=item.action, weaker=list(item.weaker), ask=command)
    return Standing(
        tools={name: tier for name, tier in standing.tool_tiers(tool_text).items() if name in tools},
        tiers=standing.table_of(settings_text) if settings_held is not None else tiers,
        in_force={PARTS[TOOLS]: text_digest(tool_text), PARTS[SETTINGS]: text_digest(settings_text)},
        held=held,
    )


@dataclass(frozen=True, slots=True)
class _Settling:
    """One part."""

    store: SqlStore
    keeper: Keeper
    desk: Desk
    action: str
    present: Callable[[JsonObject | None], JsonObject]

    async def settle(self) -> tuple[JsonObject, Held | None]:
        """What is in force of it, and what is held back."""
        try:
            return await self.store.write(lambda tx: self._settle(tx, using=True))
        except FailedPreconditionError as error:
            # Somebody's role or key is gone since they agreed: then it is as if they hadn't.
            _log.warning("change.approval_unusable", action=self.action, reason=error.reason, error=error.message)
            return await self.store.write(lambda tx: self._settle(tx, using=False))

    def _settle(self, tx: Transaction, *, using: bool) -> tuple[JsonObject, Held | None]:
        part = PARTS[self.action]
        before = standing.recorded(tx, self.desk.vault, self.action)
        after = self.present(before)
        if before is None:
            self.keeper.record_standing(tx, part, after, before="", agreed=())
            return after, None
        known = text_digest(before)
        if text_digest(after) == known:
            return after, None
        strict = standing.strictest_tools(before, after) if self.action == TOOLS else before
        change = hold(self.action, strict, after)
        agreed: list[JsonObject] = []
        if change.weaker and self.desk.founded(tx):
            approval = find_approved(tx, self.desk, self.action, change.parameters) if using else None
            if approval is None:
                if text_digest(strict) != known:
                    self.keeper.record_standing(tx, part, strict, before=known, agreed=())
                return strict, change
            agreed.append(use_approved(tx, self.desk, approval, change.parameters).body())
        self.keeper.record_standing(tx, part, after, before=known, agreed=agreed)
        return after, None
