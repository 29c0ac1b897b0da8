"""Looking at approvals: who may see which, pages of them, and watching."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from broker.approvals.desk import not_found
from broker.domain.approval import OPEN_STATES, Approval, KeyKind
from broker.domain.approval_ports import ApprovalQuery
from broker.domain.call import PolicyRequest
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ports import Transaction
from broker.domain.tier import Tier
from broker.errors import PermissionDeniedError
from broker.pipeline.administration import NO_WORKSPACE
from broker.pipeline.approval_views import ApprovalView, ApprovalViews
from broker.pipeline.parts import Parts

_SERVICE = "broker.v1.Approvals"
_WATCH_S = 2.0
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which approvals a caller wants to see; ``votable`` leaves out those that they may not vote on now."""

    query: ApprovalQuery
    votable: bool = False


class ApprovalSight:
    """What callers see of a broker's approvals.

    Args:
        parts: the broker's.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.views = ApprovalViews(parts.desk)

    async def get(self, caller: Caller, approval_id: str, voter: str = "") -> ApprovalView:
        """One approval with its content, for the caller or for the person for whom a bot asks.

        Raises:
            NotFoundError: ``APPROVAL_NOT_FOUND``: there is none, or it is none of the caller's business.
            PermissionDeniedError: only bots ask for others (``NOT_A_BOT``).
            DataLossError: the account by which the bot knows the person isn't the one in the ledger (``ACCOUNT_CHANGED``).
        """

        def work(tx: Transaction) -> ApprovalView:
            approval = tx.approvals.get(approval_id)
            if approval is None or not self.sees(tx, caller, approval, "GetApproval"):
                raise not_found(approval_id)
            if voter:
                check_bot(tx, caller)
            person = tx.identities.get(voter) if voter else caller.identity
            # A bot sees content only while it asks for somebody who may decide on it, and whom it can know by an account.
            bot = caller.identity.kind is IdentityKind.AGENT and approval.requester != caller.identity.id
            known = bool(voter) and self._has_account(tx, voter)
            with_content = not bot or (known and not self.views.why_not(approval, person))
            return self.views.view(tx, approval, person, with_content=with_content, reader=caller.identity)

        return await self._parts.store.read(work)

    def _has_account(self, tx: Transaction, person: str) -> bool:
        rows, accounts = self._parts.desk.rows(tx), tx.voters.accounts(person=person)
        for account in accounts:
            rows.account(account)
        return bool(accounts)

    async def search(self, caller: Caller, wanted: Wanted) -> list[ApprovalView]:
        """Approvals that the caller may see, newest first, without content and without votes' reasons."""

        def work(tx: Transaction) -> list[ApprovalView]:
            found: list[ApprovalView] = []
            query = wanted.query
            while True:
                page = tx.approvals.list(query)
                for approval in page:
                    if self.sees(tx, caller, approval, "ListApprovals"):
                        view = self.views.view(tx, approval, caller.identity, with_content=False)
                        if not (wanted.votable and view.why_not):
                            found.append(view)
                if len(page) < query.limit or len(found) >= query.limit:
                    return found[: query.limit]
                query = replace(query, before=page[-1].id)

        return await self._parts.store.read(work)

    async def watch(self, caller: Caller, wanted: Wanted) -> AsyncGenerator[ApprovalView, None]:
        """First the open ones, then each again whenever something about it changes."""
        sent: dict[str, tuple[object, ...]] = {}
        while True:
            count = self._parts.bell.count
            views = await self._changed(caller, wanted, sent)
            for view in views:
                yield view
            await self._parts.bell.heard(count, _WATCH_S)

    async def _changed(self, caller: Caller, wanted: Wanted, sent: dict[str, tuple[object, ...]]) -> list[ApprovalView]:
        def work(tx: Transaction) -> list[ApprovalView]:
            query = wanted.query
            states = query.states & OPEN_STATES if query.states else OPEN_STATES
            rows = {row.id: row for row in self._all(tx, replace(query, states=frozenset(states)))} if states else {}
            rows |= {which: row for which in sent if which not in rows and (row := tx.approvals.get(which))}
            found = []
            for row in sorted(rows.values(), key=lambda item: item.id):
                if self.sees(tx, caller, row, "WatchApprovals"):
                    view = self.views.view(tx, row, caller.identity, with_content=False)
                    if row.id in sent or not (wanted.votable and view.why_not):
                        found.append(view)
            return found

        changed = []
        for view in await self._parts.store.read(work):
            row = view.approval
            state = (row.state, len(view.votes), view.missing, view.why_not, view.held)
            if sent.get(row.id) != state:
                changed.append(view)
            if row.state in OPEN_STATES:
                sent[row.id] = state
            else:
                sent.pop(row.id, None)
        return changed

    @staticmethod
    def _all(tx: Transaction, query: ApprovalQuery) -> list[Approval]:
        found: list[Approval] = []
        query = replace(query, limit=_PAGE)
        while page := tx.approvals.list(query):
            found += page
            query = replace(query, before=page[-1].id)
        return found

    def sees(self, tx: Transaction, caller: Caller, approval: Approval, method: str) -> bool:
        """Its requester, who answers for that, whom it concerns, who may vote or has voted, and who oversees the workspace.

        What belongs to none is overseen by bots with a key alone, which tell people that it waits: there the right to ask
        at all, which all humans have, would be that right.
        """
        identity = caller.identity
        if approval.requester == identity.id or identity.id in approval.excluded:
            return True
        if identity.kind is IdentityKind.HUMAN:
            asked = tx.identities.get(approval.requester)
            if asked is not None and asked.owner == identity.id:
                return True
            if not self.views.why_not(approval, identity):
                return True
            if any(vote.person == identity.id for vote in tx.approvals.votes(approval.id)):
                return True
        return all(self._oversees(tx, caller, workspace, method) for workspace in approval.workspaces)

    def _oversees(self, tx: Transaction, caller: Caller, workspace: str, method: str) -> bool:
        if workspace == NO_WORKSPACE and not (caller.identity.kind is IdentityKind.AGENT and is_bot(tx, caller)):
            return False
        return self._may_rpc(caller, workspace, method)

    def _may_rpc(self, caller: Caller, workspace: str, method: str) -> bool:
        request = PolicyRequest(caller.subject, workspace, f"{_SERVICE}/{method}", "rpc", Tier.INTERNAL)
        return self._parts.policy.snapshot.decide(request).allowed


def check_bot(tx: Transaction, caller: Caller) -> None:
    """Lets a bot pass that has an enrolled key.

    Raises:
        PermissionDeniedError: ``NOT_A_BOT``.
    """
    if not is_bot(tx, caller):
        raise PermissionDeniedError(
            "only a bot with an enrolled key asks for others",
            reason="NOT_A_BOT",
            hint="Have its key enrolled: broker approvers enroll --help",
        )


def is_bot(tx: Transaction, caller: Caller) -> bool:
    """Has the caller a key by which it attests votes?"""
    keys = tx.voters.all_keys()
    return any(key.kind is KeyKind.BOT and key.holder == caller.identity.id and key.revoked is None for key in keys)
