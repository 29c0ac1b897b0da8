"""The Ledger service: thin, from wire to the ledger's entries, checkpoints and proofs, and back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace

from broker.domain.identity import Caller, IdentityKind
from broker.domain.ports import EntryQuery, Transaction
from broker.errors import NotFoundError
from broker.ledger.reading import Read, ReadEntry, Step, read_any, read_entry
from broker.pipeline.parts import Parts
from broker.rpc import ledger_wire, wire
from broker.rpc.dispatch import Context
from broker.rpc.ledger_proofs import AgentHeads, Anchor, CheckpointReader, anchor, consistency, inclusion
from broker.rpc.ledger_sight import Sight
from broker.rpc.ledger_watch import Arrivals
from broker.rpc.methods import LEDGER
from broker.v1 import ledger_pb2 as pb

_WATCH_STEP = Step(entries=32, max_bytes=1 << 20)


class LedgerService:
    """Answers the methods of ``broker.v1.Ledger`` for callers that the gate let in.

    Args:
        parts: store, policy and registry.
        checkpoints: where the log's checkpoints are.
    """

    def __init__(self, parts: Parts, checkpoints: CheckpointReader) -> None:
        self._parts = parts
        self._checkpoints = checkpoints
        self._arrivals = Arrivals(parts.store.data_version)
        self._agent_heads = AgentHeads()

    def drain(self) -> None:
        """Lets the watches end once they have sent all that is on record."""
        self._arrivals.close()

    async def GetEntry(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.GetEntryRequest, _: Context
    ) -> pb.LedgerEntry:
        """One entry."""
        seq = ledger_wire.entry_seq(request.name, "name")
        return ledger_wire.entry_message(
            await self._parts.store.read(lambda tx: self._entry(tx, caller, seq, "GetEntry"))
        )

    async def ListEntries(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.ListEntriesRequest, _: Context
    ) -> pb.ListEntriesResponse:
        """Entries that the caller may see, page by page."""
        size = wire.page_size(request.page_size)
        query = ledger_wire.query(request.filter, newest_first=request.newest_first)
        position = ledger_wire.page_position(caller.identity.id, request)
        if position is not None and request.newest_first:
            query = replace(query, before=position if query.before is None else min(query.before, position))
        elif position is not None:
            query = replace(query, first=max(query.first, position))
        agent, step = request.filter.agent, Step(entries=size)

        def work(tx: Transaction) -> Read:
            return self._step(tx, self._sight(tx, caller, "ListEntries"), query, agent, step)

        read = await self._parts.store.read(work)
        return pb.ListEntriesResponse(
            entries=[ledger_wire.entry_message(entry) for entry in read.entries],
            next_page_token="" if read.next is None else ledger_wire.page_token(caller.identity.id, request, read.next),
        )

    async def Watch(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.WatchRequest, _: Context
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        """Entries from a number on, and each further one once it is durable."""
        query, agent = ledger_wire.query(request.filter), request.filter.agent
        if query.before is not None:
            raise wire.refuse("filter.before_seq", "can't be set: a watch has no end of its own")
        async with self._arrivals.watching(caller.identity.id):
            while True:
                closed, changes = self._arrivals.closed, self._arrivals.changes
                read, end = await self._parts.store.read(lambda tx, query=query: self._news(tx, caller, query, agent))  # type: ignore[misc]  # the default binds this round's query
                for entry in read.entries:
                    yield pb.WatchResponse(entry=ledger_wire.entry_message(entry))
                query = replace(query, first=end if read.next is None else read.next)
                if read.next is not None:
                    continue
                if closed:
                    return
                await self._arrivals.beyond(changes)

    async def GetCheckpoint(  # noqa: N802 - the wire's name
        self, _: Caller, request: pb.GetCheckpointRequest, __: Context
    ) -> pb.Checkpoint:
        """A checkpoint."""
        found = await anchor(self._checkpoints, ledger_wire.checkpoint_size(request.name, "name"))
        return ledger_wire.checkpoint_message(found.note, found.checkpoint)

    async def GetInclusionProof(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.GetInclusionProofRequest, _: Context
    ) -> pb.InclusionProof:
        """Proof that an entry is in the log."""
        seq = ledger_wire.entry_seq(request.entry, "entry")
        found = await self._anchor(request.checkpoint)

        def work(tx: Transaction) -> pb.InclusionProof:
            entry = self._entry(tx, caller, seq, "GetInclusionProof")
            return _inclusion(tx, found, entry)

        return await self._parts.store.read(work)

    async def GetConsistencyProof(  # noqa: N802 - the wire's name
        self, _: Caller, request: pb.GetConsistencyProofRequest, __: Context
    ) -> pb.ConsistencyProof:
        """Proof that the log only grew."""
        found = await self._anchor(request.checkpoint)
        old_size = request.old_size
        hashes = await self._parts.store.read(lambda tx: consistency(tx.ledger, found, old_size))
        return pb.ConsistencyProof(
            old_size=old_size,
            hashes=hashes,
            checkpoint=ledger_wire.checkpoint_message(found.note, found.checkpoint),
        )

    async def GetAgentHeadProof(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.GetAgentHeadProofRequest, _: Context
    ) -> pb.AgentHeadProof:
        """Proof of where an agent's chain ends."""
        found = await self._anchor(request.checkpoint)

        def work(tx: Transaction) -> pb.AgentHeadProof:
            agent = self._head_agent(tx, caller, request.agent)
            proved = self._agent_heads.prove(tx.ledger, found, agent)
            return pb.AgentHeadProof(
                agent=agent,
                present=proved.head is not None,
                agent_seq=proved.head.seq if proved.head is not None else 0,
                agent_leaf_hash=proved.head.leaf if proved.head is not None else b"",
                map_proof_json=json.dumps(proved.proof),
                heads_entry=ledger_wire.entry_message(proved.heads),
                heads_proof=_inclusion(tx, found, proved.heads),
            )

        return await self._parts.store.read(work)

    async def _anchor(self, name: str) -> Anchor:
        size = ledger_wire.checkpoint_size(name, "checkpoint") if name else None
        return await anchor(self._checkpoints, size)

    def _sight(self, tx: Transaction, caller: Caller, method: str) -> Sight:
        return Sight(self._parts.policy.snapshot, tx, caller, f"{LEDGER.full_name}/{method}")

    def _entry(self, tx: Transaction, caller: Caller, seq: int, method: str) -> ReadEntry:
        entry = read_entry(tx.ledger, seq)
        if entry is None or not self._sight(tx, caller, method).sees(entry.keys):
            raise NotFoundError(
                f"entries/{seq} doesn't exist, or is not yours to see",
                reason="ENTRY_NOT_FOUND",
                hint="ListEntries shows the entries that you may see.",
            )
        return entry

    def _step(self, tx: Transaction, sight: Sight, query: EntryQuery, agent: str, step: Step) -> Read:
        if agent:
            found = tx.identities.get(agent) or tx.identities.by_name(IdentityKind.AGENT, agent)
            if found is None:
                return Read((), None)
            query = replace(query, agent=found.id)
        return read_any(tx.ledger, sight.narrowed(query), sight.sees, step)

    def _news(self, tx: Transaction, caller: Caller, query: EntryQuery, agent: str) -> tuple[Read, int]:
        head = tx.ledger.head()
        read = self._step(tx, self._sight(tx, caller, "Watch"), query, agent, _WATCH_STEP)
        # What this snapshot doesn't hold is where the next one is read from; a watch may also begin beyond the end.
        return read, max(query.first, 0 if head is None else head.seq + 1)

    def _head_agent(self, tx: Transaction, caller: Caller, wanted: str) -> str:
        if not wanted:
            if caller.identity.kind is not IdentityKind.AGENT:
                raise wire.refuse("agent", "is required: the caller is no agent")
            return caller.identity.id
        found = tx.identities.get(wanted) or tx.identities.by_name(IdentityKind.AGENT, wanted)
        if found is None or not self._sight(tx, caller, "GetAgentHeadProof").sees_agent(found.id):
            raise NotFoundError(
                f"there is no agent {wanted[:80]!r} whose chain you may see",
                reason="AGENT_NOT_FOUND",
                hint="Give an agent of yours by id or name; `broker identity list` shows them to operators.",
            )
        return found.id


def _inclusion(tx: Transaction, found: Anchor, entry: ReadEntry) -> pb.InclusionProof:
    proof = inclusion(tx.ledger, found, entry.row.seq)
    return pb.InclusionProof(seq=entry.row.seq, leaf_hash=entry.row.leaf, proof=proof.encode())
