"""Settles at a start at which tier each tool runs, and records how.

Before the founding each runs as its specification says. After it one that is new, that may do something else than before,
or that asks for a lower tier, runs as if it hadn't been asked for, until two people have agreed to its very specification:
then the next start uses their approval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from broker.app.record import Keeper
from broker.app.standing import warn_held
from broker.approvals.authority import find_approved, use_approved
from broker.approvals.desk import Desk
from broker.domain.administration import TOOL
from broker.domain.ports import Transaction
from broker.domain.tier import Tier
from broker.domain.tool_standing import ToolStanding, tools_digest, tools_text
from broker.errors import FailedPreconditionError
from broker.ledger.in_force import newest_digest
from broker.pipeline.standing import TOOLS_PART, Held
from broker.pipeline.tool_changes import held_tool, registered
from broker.specs.catalogue import Catalogue, Tool
from broker.store.base import SqlStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ToolsInForce:
    """How the tools run after a start."""

    tiers: Mapping[str, Tier]
    """Name -> the tier that it runs at."""
    digest: str
    """Of all tools on record, for the entry of the start."""
    held: tuple[Held, ...]
    """Those that run at a higher tier than they ask for."""


@dataclass(frozen=True, slots=True)
class ToolSettling:
    """Settles the tools of a start.

    Args:
        store: the broker's.
        keeper: records how they run.
        desk: has what people agreed to.
        catalogue: the tools as their specifications have them.
    """

    store: SqlStore
    keeper: Keeper
    desk: Desk
    catalogue: Catalogue

    async def settle(self) -> ToolsInForce:
        """Uses what people agreed to, and records what differs from the record."""
        for item in await self.store.read(self._held):
            tool = self.catalogue.get(item.tool)
            if tool is not None:
                await self._use(tool, item)
        found = await self.store.write(self._record)
        for item in found.held:
            warn_held(item)
        return found

    async def _use(self, tool: Tool, item: Held) -> None:
        def work(tx: Transaction) -> None:
            approval = find_approved(tx, self.desk, TOOL, item.parameters)
            if approval is None:
                return
            used = use_approved(tx, self.desk, approval, item.parameters)
            self.keeper.register(tx, tool, registered(tool, None, founded=True, agreed=True), [used.body()])

        try:
            await self.store.write(work)
        except FailedPreconditionError as error:
            # Somebody's role or key is gone since they agreed: then it is as if they hadn't.
            _log.warning("change.approval_unusable", action=TOOL, reason=error.reason, error=error.message)

    def _held(self, tx: Transaction) -> tuple[Held, ...]:
        if not self.desk.founded(tx):
            return ()
        stands = self.desk.agreement.tools(tx)
        found = (self._held_tool(tx, tool, stands.get(tool.spec.name)) for tool in self.catalogue.all())
        return tuple(item for item in found if item is not None)

    def _held_tool(self, tx: Transaction, tool: Tool, standing: ToolStanding | None) -> Held | None:
        accepted = None if standing is None else standing.accepted
        seen = accepted is not None and accepted.version != tool.digest
        before = self.keeper.kept_spec(tx, accepted.version) if accepted is not None and seen else None
        agreed = "" if standing is None else standing.agreed
        return held_tool(tool, registered(tool, standing, founded=True), accepted, before, agreed)

    def _record(self, tx: Transaction) -> ToolsInForce:
        founded, stands = self.desk.founded(tx), self.desk.agreement.tools(tx)
        tiers = {}
        for tool in self.catalogue.all():
            known = stands.get(tool.spec.name)
            said = registered(tool, known, founded=founded)
            tiers[said.name] = Tier(said.tier)
            if known is None or known.last != said:
                self.keeper.register(tx, tool, said, ())
        stands = self.desk.agreement.tools(tx)
        before, which = newest_digest(tx, "settings.changed", ("in_force", TOOLS_PART)), tools_digest(stands)
        if before != which:
            self.keeper.record_standing(tx, TOOLS_PART, tools_text(stands), before=before)
        return ToolsInForce(tiers, which, self._held(tx))
