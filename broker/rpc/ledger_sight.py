"""Which entries of the ledger a caller may see: its own, and what the policy lets it see of others'."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.call import PolicyRequest
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import NAME_PATTERN
from broker.domain.ports import CallRow, EntryKeys, EntryQuery, Transaction
from broker.domain.tier import Tier
from broker.ledger.reading import PUBLIC_TYPES
from broker.policy.snapshot import Snapshot

_OTHER = "other"


class Sight:
    """What one caller may see by one method, inside one transaction.

    Args:
        policy: the one in force.
        tx: for the registry and the calls.
        caller: who asks.
        method: full method, such as ``broker.v1.Ledger/GetLedgerEntry``.
    """

    def __init__(self, policy: Snapshot, tx: Transaction, caller: Caller, method: str) -> None:
        self._policy = policy
        self._tx = tx
        self._caller = caller
        self._method = method
        self._own_agents: dict[str, bool] = {}
        self._calls: dict[str, CallRow | None] = {}

    def sees(self, keys: EntryKeys) -> bool:
        """May the caller see an entry?

        What is about its own chain and calls (a human: about those of agents that it owns), what is public, and what lies
        in a workspace where the policy allows the method. What lies in none is asked about in one that no rule names.
        """
        if keys.type in PUBLIC_TYPES or self.owns(keys.agent):
            return True
        call = self._call(keys.call_id)
        if call is not None and self.owns(call.agent):
            return True
        return self._oversees(keys.workspace or (call.workspace if call is not None else ""))

    def owns(self, agent: str) -> bool:
        """Is this agent (by id) the caller itself, or one of its own?"""
        if not agent:
            return False
        identity = self._caller.identity
        if identity.kind is IdentityKind.AGENT:
            return agent == identity.id
        known = self._own_agents.get(agent)
        if known is None:
            found = self._tx.identities.get(agent)
            known = self._own_agents[agent] = found is not None and found.owner == identity.id
        return known

    def sees_agent(self, agent: str) -> bool:
        """May the caller see where an agent's chain ends, whichever workspaces its entries lie in?"""
        return self.owns(agent) or self._oversees("")

    def narrowed(self, query: EntryQuery) -> EntryQuery:
        """The query by which a caller's entries are found without looking at everybody's.

        An agent that the policy shows nobody else's entries is shown its own chain, unless it asks for a call, or for
        types that are public.
        """
        if self._caller.identity.kind is not IdentityKind.AGENT or self._oversees_anywhere():
            return query
        if query.agent or query.call_id or query.types & PUBLIC_TYPES:
            return query
        return replace(query, agent=self._caller.identity.id)

    def _call(self, call_id: str) -> CallRow | None:
        if not call_id:
            return None
        if call_id not in self._calls:
            self._calls[call_id] = self._tx.calls.get(call_id)
        return self._calls[call_id]

    def _oversees(self, workspace: str) -> bool:
        # Asked in the workspace that the entry lies in. Refused methods are on record under `-`, where everybody may do
        # something: what is no workspace's name counts as none.
        where = workspace if NAME_PATTERN.fullmatch(workspace) else self._unnamed()
        request = PolicyRequest(self._caller.subject, where, self._method, "rpc", Tier.INTERNAL)
        return self._policy.decide(request).allowed

    def _oversees_anywhere(self) -> bool:
        return self._oversees("") or any(self._oversees(workspace) for workspace in self._policy.workspaces)

    def _unnamed(self) -> str:
        # A workspace that the policy doesn't name stands for all the others: in it the rules about `*` decide.
        other = _OTHER
        while other in self._policy.workspaces:
            other += "-"
        return other
