"""What keeps the two-person rule: the founding, keys, freezes, and the chat accounts that bots know people by."""

from __future__ import annotations

from collections.abc import Mapping

from broker.approvals.founding import accept, founding
from broker.approvals.freezing import covers, freeze
from broker.approvals.revoking import revoke_key
from broker.domain.approval import ChatAccount, Freeze, FreezeScope, VoterKey
from broker.domain.identity import Caller
from broker.domain.ports import Transaction
from broker.domain.run import EndCause
from broker.errors import NotFoundError
from broker.pipeline.active import ActiveCall
from broker.pipeline.approval_sight import check_bot
from broker.pipeline.founding_view import FoundingView, names_of, view_founding
from broker.pipeline.parts import Parts


class Safeguards:
    """Founding, keys, freezes and accounts of a broker.

    Args:
        parts: the broker's.
        active: the calls that go on, for a freeze to end.
    """

    def __init__(self, parts: Parts, active: Mapping[str, ActiveCall]) -> None:
        self._parts = parts
        self._active = active

    async def founding(self, *, content: bool) -> FoundingView:
        """How far the founding is, with the names of those who hold its keys; and what it covers, where that is asked for.

        Raises:
            DataLossError: as ``broker.approvals.founding.founding`` and ``view_founding``.
        """

        def work(tx: Transaction) -> FoundingView:
            found = founding(tx, self._parts.desk.agreement)
            return view_founding(tx, self._parts.vault, found, content=content)

        return await self._parts.store.read(work)

    async def accept(self, caller: Caller, statement: bytes, signature: bytes) -> FoundingView:
        """Takes a founder's acceptance.

        Raises:
            BrokerError: as ``broker.approvals.founding.accept``.
        """

        def work(tx: Transaction) -> FoundingView:
            found = accept(
                tx,
                self._parts.ledger,
                self._parts.desk.agreement,
                caller,
                statement=statement,
                signature=signature,
                now=self._parts.clock(),
                origin=self._parts.origin,
            )
            return view_founding(tx, self._parts.vault, found, content=False)

        found = await self._parts.store.write(work)
        self._parts.bell.ring()
        return found

    async def keys(self) -> list[tuple[VoterKey, str]]:
        """All keys with their holders' names, oldest first."""

        def work(tx: Transaction) -> list[tuple[VoterKey, str]]:
            keys = tx.voters.all_keys()
            names = names_of(tx, {key.holder for key in keys})
            return [(key, names[key.holder]) for key in keys]

        return await self._parts.store.read(work)

    async def revoke(self, caller: Caller, which: str, reason: str) -> tuple[VoterKey, str]:
        """Revokes a key at once.

        Raises:
            BrokerError: as ``broker.approvals.revoking.revoke_key``.
        """

        def work(tx: Transaction) -> tuple[VoterKey, str]:
            founded, now = self._parts.desk.founded(tx), self._parts.clock()
            key = revoke_key(tx, self._parts.ledger, caller, which=which, reason=reason, founded=founded, now=now)
            return key, names_of(tx, [key.holder])[key.holder]

        key = await self._parts.store.write(work)
        self._parts.bell.ring()
        return key

    async def freeze(self, caller: Caller, scope: FreezeScope, target: str) -> tuple[Freeze, int]:
        """Freezes, and ends what runs of it; returns the freeze and how many calls were told to end.

        Raises:
            BrokerError: as ``broker.approvals.freezing.freeze``.
        """
        made = await self._parts.store.write(
            lambda tx: freeze(tx, self._parts.ledger, caller, scope=scope, target=target, now=self._parts.clock())
        )
        await self._parts.store.read(self._parts.desk.agreement.read_on)
        ended = 0
        for active in list(self._active.values()):
            row = active.row
            waits = bool(active.approval) and active.waiting
            if covers(made, agent=row.agent, tool=row.tool, workspace=row.workspace) and not waits:
                active.end(EndCause.OPERATOR, f"frozen by {caller.identity.id}")
                ended += 1
        self._parts.bell.ring()
        return made, ended

    async def freezes(self) -> list[tuple[Freeze, str]]:
        """What is frozen, with the target's name."""

        def work(tx: Transaction) -> list[tuple[Freeze, str]]:
            return [(item, self._target(tx, item)) for item in tx.freezes.all()]

        return await self._parts.store.read(work)

    @staticmethod
    def _target(tx: Transaction, item: Freeze) -> str:
        agent = tx.identities.get(item.target) if item.scope is FreezeScope.AGENT else None
        return item.target if agent is None else agent.name

    async def account(self, caller: Caller, service: str, team: str, user: str, person: str) -> tuple[ChatAccount, str]:
        """Whom a bot knows by a chat account, or a person's account in a team.

        Raises:
            PermissionDeniedError: ``NOT_A_BOT``.
            NotFoundError: ``ACCOUNT_UNKNOWN``.
        """

        def work(tx: Transaction) -> tuple[ChatAccount, str]:
            check_bot(tx, caller)
            found = tx.voters.account(service, team, user) if user else None
            if not user and person:
                found = next(iter(tx.voters.accounts(service, team, person)), None)
            holder = None if found is None else tx.identities.get(found.person)
            if found is None or holder is None or holder.revoked is not None:
                raise NotFoundError("nobody is known by that account", reason="ACCOUNT_UNKNOWN")
            return found, holder.name

        return await self._parts.store.read(work)
