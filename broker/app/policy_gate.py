"""What lets another policy go into force: before the founding anything that passes its checks, after it what is agreed to.

The comparison comes first, as it may take seconds; the approval is used in the transaction that records the new policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from broker.app.record import Keeper
from broker.approvals.authority import find_approved, use_approved
from broker.approvals.desk import Desk
from broker.domain.approval import Approval
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.domain.tier import Tier
from broker.errors import FailedPreconditionError
from broker.pipeline.policy_changes import ACTION, examine, parameters_of
from broker.policy.snapshot import Snapshot
from broker.store.base import SqlStore

_MOST_NAMED = 3


class PolicyGate:
    """The two hooks of a ``LivePolicy``.

    Args:
        store: the broker's.
        keeper: records what goes into force.
        desk: counts by the policy that is in force until then.
        path: of the policy file, for the hint.
        tools: name of a tool -> its tier.
        counted: the roles of which approvals ask for so many people.
    """

    def __init__(
        self,
        store: SqlStore,
        keeper: Keeper,
        desk: Desk,
        *,
        path: Path,
        tools: Mapping[str, Tier],
        counted: Collection[str],
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._desk = desk
        self._path = path
        self._tools = tools
        self._counted = counted
        self._harmless: tuple[str, str] = ("", "")

    async def may_swap(self, old: Snapshot, new: Snapshot) -> None:
        """Lets a policy pass that doesn't touch the two-person rule, or that people agreed to.

        Raises:
            FailedPreconditionError: ``APPROVAL_REQUIRED``, with what it widens.
        """
        if not await self._store.read(self._desk.founded):
            return
        change = await asyncio.to_thread(examine, old, new, tools=self._tools, counted=self._counted)
        if not change.sensitive:
            self._harmless = (old.digest, new.digest)
        elif await self._store.read(lambda tx: self._agreed(tx, change.parameters)) is None:
            raise self._refusal(change.parameters, change.sensitive)

    async def on_change(self, old: Snapshot, new: Snapshot) -> None:
        """Records the new policy, and uses what people agreed to, in one transaction.

        Raises:
            FailedPreconditionError: ``APPROVAL_REQUIRED``: what was there to use is there no longer.
            BrokerError: as ``Desk.use``.
        """

        def work(tx: Transaction) -> None:
            used: list[JsonObject] = []
            founded = self._desk.founded(tx)
            if founded and self._harmless != (old.digest, new.digest):
                parameters = parameters_of(old, new)
                approval = self._agreed(tx, parameters)
                if approval is None:
                    raise self._refusal(parameters, ())
                used.append(use_approved(tx, self._desk, approval, parameters).body())
            self._keeper.record_policy(tx, old, new, used, founded=founded)

        await self._store.write(work)

    def _agreed(self, tx: Transaction, parameters: JsonObject) -> Approval | None:
        return find_approved(tx, self._desk, ACTION, parameters)

    def _refusal(self, parameters: JsonObject, sensitive: Sequence[str]) -> FailedPreconditionError:
        more = len(sensitive) - _MOST_NAMED
        named = [*sensitive[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]
        return FailedPreconditionError(
            f"the new policy touches the two-person rule, and two people have not agreed to it. {'; '.join(named)}",
            reason="APPROVAL_REQUIRED",
            hint=f"Ask for it: broker policy apply {self._path}",
            metadata={"action": ACTION, "digest": str(parameters["digest"])},
        )
