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
        method: full method, such as ``broker.v1.Ledger/GetEntry``.
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

    def narrowed(self, query: EntryQuery) -> tuple[EntryQuery, ...]:
        """The queries by which a caller's entries are found without looking at everybody's; none where it may see none.

        Where the policy shows the caller nobody else's entries among those that could fit, all that these queries find
        is the caller's to see: how far a page reaches then tells nothing of what others did. They find the chains of the
        caller's own agents, what is about one of its calls where it asks for that, and what is public where it asks for
        that (a human: also without asking). For a caller that oversees some of it, the query stays as it is.
        """
        call = self._call(query.call_id)
        if self._oversees_some(query, call) or (call is not None and self.owns(call.agent)):
            return (query,)
        if query.agent:
            return (query,) if self.owns(query.agent) else ()
        if self._caller.identity.kind is IdentityKind.AGENT:
            agents, public = [self._caller.identity.id], query.types & PUBLIC_TYPES
        else:
            agents = [item.id for item in self._tx.identities.all() if item.owner == self._caller.identity.id]
            public = query.types & PUBLIC_TYPES if query.types else PUBLIC_TYPES
        found = [replace(query, agent=agent) for agent in agents]
        if public:
            found.append(replace(query, types=public))
        return tuple(found)

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

    def _oversees_some(self, query: EntryQuery, call: CallRow | None) -> bool:
        """Could an entry that fits be shown because of where it lies?"""
        if query.workspace:
            return self._oversees(query.workspace)
        if call is not None:
            return self._oversees(call.workspace)  # a call's entries lie where the call does
        return self._oversees("") or any(self._oversees(workspace) for workspace in self._policy.workspaces)

    def _unnamed(self) -> str:
        # A workspace that the policy doesn't name stands for all the others: in it the rules about `*` decide.
        other = _OTHER
        while other in self._policy.workspaces:
            other += "-"
        return other
