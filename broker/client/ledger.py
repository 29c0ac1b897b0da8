"""The part of the asynchronous client that reads the ledger. What is proved is verified here, before it is handed out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import grpc

from broker.client.history import Anchor, History
from broker.client.ledger_models import (
    EntryFilter,
    LedgerEntry,
    ProvenAgentHead,
    ProvenEntry,
    ProvenGrowth,
    VerifiedCheckpoint,
)
from broker.client.retry import may_retry
from broker.client.transport import Deadline, Transport
from broker.client.wire import json_object, moment, protocol_error, resource, timestamp
from broker.domain.canonical import JsonObject
from broker.domain.ids import ID_PATTERN
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from broker.tlog.agent_map import verify_head
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import HASH_BYTES, ProofError, leaf_hash, verify_consistency, verify_inclusion
from broker.tlog.note import Note, NoteError, VerifierKey
from broker.tlog.proof import TlogProof
from broker.v1 import ledger_pb2 as pb

_MAX_HASHES = 128


class AsyncLedger:
    """The ledger of a broker; ``AsyncBroker.ledger`` is one.

    Errors are those of ``broker.errors``; ``DataLossError`` with ``PROOF_INVALID`` where a proof doesn't show what it
    should, and ``HistoryRewrittenError`` where a checkpoint is not of the history that this client has seen.
    """

    def __init__(self, transport: Callable[[], Transport]) -> None:
        self._transport = transport

    @property
    def _rpc(self) -> Transport:
        return self._transport()

    @property
    def _history(self) -> History:
        history = self._rpc.history
        if history is None:
            raise InvalidArgumentError("this client was made without a history", reason="CLIENT_CLOSED")
        return history

    def key_for(self, size: int) -> VerifierKey:
        """The key that signs checkpoints of a size, as far as a checkpoint was accepted.

        Raises:
            FailedPreconditionError: ``LEDGER_KEY_UNKNOWN``: none was accepted yet, or its ledger names no key.
        """
        try:
            return self._history.keys.key_for(size)
        except NoteError as error:
            raise FailedPreconditionError(
                str(error), reason="LEDGER_KEY_UNKNOWN", hint="Ask for a checkpoint first."
            ) from error

    async def get(self, seq: int, *, timeout_s: float | None = None) -> LedgerEntry:
        """One entry by its number; nothing but its hash is verified.

        Raises:
            NotFoundError: there is none, or it isn't the caller's to see.
        """
        request = pb.GetEntryRequest(name=_entry_name(seq))
        entry = _entry(await self._rpc.ask(self._rpc.ledger.GetEntry, request, timeout_s=timeout_s))
        if entry.seq != seq:
            raise protocol_error(f"entry {seq} was asked for, and entry {entry.seq} came")
        return entry

    async def list(
        self,
        chosen: EntryFilter | None = None,
        *,
        newest_first: bool = False,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[LedgerEntry, None]:
        """Entries that the caller may see; pages by itself. ``timeout_s`` holds for each page."""
        wanted = _filter(chosen or EntryFilter())

        async def ask(token: str) -> pb.ListEntriesResponse:
            request = pb.ListEntriesRequest(
                filter=wanted, newest_first=newest_first, page_size=page_size, page_token=token
            )
            return await self._rpc.ask(self._rpc.ledger.ListEntries, request, timeout_s=timeout_s)

        async for message in self._rpc.pages(ask, lambda page: page.entries):
            yield _entry(message)

    async def watch(
        self, chosen: EntryFilter | None = None, *, timeout_s: float | None = None
    ) -> AsyncGenerator[LedgerEntry, None]:
        """Entries from ``first_seq`` on, and each further one once it is durable; close it with ``aclose``.

        A connection that breaks, or a broker that restarts, is taken up again where it stood: no entry is lost or doubled.

        Raises:
            DeadlineError: the time is over; the client's default is that of a call.
            BrokerError: the broker's refusal, or one that stays away for longer than the retry policy bears.
        """
        rpc = self._rpc
        deadline = Deadline(rpc.timeouts.call_s if timeout_s is None else timeout_s)
        wanted, failures = _filter(chosen or EntryFilter()), 0
        while True:
            await rpc.ready(deadline)
            stream = rpc.ledger.Watch(pb.WatchRequest(filter=wanted), timeout=deadline.remaining())
            try:
                async for reply in stream:
                    entry = _entry(reply.entry)
                    if entry.seq < wanted.first_seq:
                        raise protocol_error(f"entry {entry.seq} came after entry {wanted.first_seq - 1}")
                    wanted.first_seq, failures = entry.seq + 1, 0
                    yield entry
                failure: BrokerError = UnavailableError(
                    "the broker ended the watch: it shuts down", reason="NOT_SERVING"
                )
            except grpc.aio.AioRpcError as error:
                failure = rpc.error(error)
            finally:
                stream.cancel()
            failures += 1
            pause = rpc.retry.pause(failures, failure)
            if not may_retry(failure) or failures >= rpc.retry.attempts or pause >= deadline.remaining():
                raise failure
            await asyncio.sleep(pause)

    async def checkpoint(self, size: int | None = None, *, timeout_s: float | None = None) -> VerifiedCheckpoint:
        """The latest checkpoint, or that of a size, verified against all that this client has seen.

        Raises:
            NotFoundError: there is none.
            HistoryRewrittenError: it can't be accepted.
        """
        name = "checkpoints/latest" if size is None else f"checkpoints/{size}"
        at_least = await self._history.seen() if size is None else 0
        reply = await self._rpc.ask(
            self._rpc.ledger.GetCheckpoint, pb.GetCheckpointRequest(name=name), timeout_s=timeout_s
        )
        found = await self._accepted(reply.note, at_least)
        if size is not None and found.checkpoint.size != size:
            raise protocol_error(
                f"the checkpoint of {size} entries was asked for, and that of {found.checkpoint.size} came"
            )
        return VerifiedCheckpoint(found.note, found.checkpoint)

    async def prove(self, seq: int, size: int | None = None, *, timeout_s: float | None = None) -> ProvenEntry:
        """An entry with the proof that it is in the log of the latest checkpoint, or of that of a size.

        Raises:
            NotFoundError: there is no such entry that the caller may see, or no such checkpoint.
            FailedPreconditionError: ``ENTRY_NOT_COVERED``: no checkpoint covers it yet.
            DataLossError: ``PROOF_INVALID``.
            HistoryRewrittenError: the proof's checkpoint can't be accepted.
        """
        entry = await self.get(seq, timeout_s=timeout_s)
        request = pb.GetInclusionProofRequest(entry=_entry_name(seq), checkpoint=_checkpoint_name(size))
        reply = await self._rpc.ask(self._rpc.ledger.GetInclusionProof, request, timeout_s=timeout_s)
        return await self._proven(entry, reply.proof, size)

    async def consistency(
        self, old: Checkpoint, size: int | None = None, *, timeout_s: float | None = None
    ) -> ProvenGrowth:
        """That the log of the latest checkpoint, or of that of a size, begins with the tree of an earlier one.

        Args:
            old: what somebody holds from earlier, such as an auditor; its signature is not looked at.
            size: of the later checkpoint.
            timeout_s: deadline of each request.

        Raises:
            DataLossError: ``PROOF_INVALID``: it doesn't: one of the two is of another history.
            InvalidArgumentError: ``old`` is larger.
        """
        request = pb.GetConsistencyProofRequest(old_size=old.size, checkpoint=_checkpoint_name(size))
        reply = await self._rpc.ask(self._rpc.ledger.GetConsistencyProof, request, timeout_s=timeout_s)
        hashes = tuple(reply.hashes)
        if len(hashes) > _MAX_HASHES:
            raise protocol_error("a consistency proof is too long")
        found = await self._accepted(reply.checkpoint.note)
        if size is not None and found.checkpoint.size != size:
            raise protocol_error(f"a proof for {size} entries was asked for, and one for {found.checkpoint.size} came")
        try:
            verify_consistency(old.size, old.root, found.checkpoint.size, found.checkpoint.root, hashes)
        except ProofError as error:
            raise _invalid(f"the log doesn't extend that of {old.size} entries: {error}") from error
        return ProvenGrowth(old.size, old.root, hashes, VerifiedCheckpoint(found.note, found.checkpoint))

    async def agent_head(
        self, agent: str = "", size: int | None = None, *, timeout_s: float | None = None
    ) -> ProvenAgentHead:
        """With which entry an agent's chain ends, by the last ``heads`` entry that a checkpoint covers.

        Args:
            agent: by id or by name; empty for the caller. A name is resolved by the broker.
            size: of the checkpoint; ``None`` takes the latest.
            timeout_s: deadline of each request.

        Raises:
            DataLossError: ``PROOF_INVALID``.
            NotFoundError: the agent isn't the caller's to see, or there is no such checkpoint.
        """
        request = pb.GetAgentHeadProofRequest(agent=agent, checkpoint=_checkpoint_name(size))
        reply = await self._rpc.ask(self._rpc.ledger.GetAgentHeadProof, request, timeout_s=timeout_s)
        if ID_PATTERN.fullmatch(agent) and reply.agent != agent:
            raise protocol_error(f"agent {agent} was asked about, and the answer is about {reply.agent!a}")
        heads = await self._proven(_entry(reply.heads_entry), reply.heads_proof.proof, size)
        head = (reply.agent_seq, reply.agent_leaf_hash) if reply.present else None
        try:
            verify_head(
                _map_root(heads.entry.body), reply.agent, head, json_object(reply.map_proof_json, "map_proof_json")
            )
        except ProofError as error:
            raise _invalid(str(error)) from error
        seq, leaf = head or (None, None)
        return ProvenAgentHead(reply.agent, seq, leaf, heads)

    async def _accepted(self, data: bytes, at_least: int = 0) -> Anchor:
        try:
            note = Note.parse(data)
        except NoteError as error:
            raise protocol_error(f"what it gives as a checkpoint is none: {error}") from error
        return Anchor(note, await self._history.accept(note, at_least=at_least))

    async def _proven(self, entry: LedgerEntry, data: bytes, size: int | None) -> ProvenEntry:
        try:
            proof = TlogProof.parse(data)
        except NoteError as error:
            raise _invalid(str(error)) from error
        checkpoint = await self._history.accept(proof.checkpoint)
        if proof.index != entry.seq or (size is not None and checkpoint.size != size):
            raise _invalid("it is about another entry or checkpoint than was asked for")
        try:
            verify_inclusion(entry.leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
        except ProofError as error:
            raise _invalid(str(error)) from error
        return ProvenEntry(entry, proof, checkpoint)


def _entry_name(seq: int) -> str:
    if seq < 0:
        raise InvalidArgumentError(f"{seq} is no number of an entry", reason="INVALID_RESOURCE_NAME")
    return f"entries/{seq}"


def _checkpoint_name(size: int | None) -> str:
    return "" if size is None else f"checkpoints/{size}"


def _filter(chosen: EntryFilter) -> pb.LedgerEntryFilter:
    return pb.LedgerEntryFilter(
        types=chosen.types,
        agent=chosen.agent,
        call=resource("calls", chosen.call) if chosen.call else "",
        workspace=chosen.workspace,
        tool=resource("tools", chosen.tool) if chosen.tool else "",
        time_from=timestamp(chosen.time_from),
        time_before=timestamp(chosen.time_before),
        first_seq=chosen.first_seq,
        before_seq=chosen.before_seq,
    )


def _entry(message: pb.LedgerEntry) -> LedgerEntry:
    if leaf_hash(message.data) != message.leaf_hash:
        raise protocol_error(f"entry {message.seq} has another hash than it says")
    return LedgerEntry(
        seq=message.seq,
        leaf=message.leaf_hash,
        data=message.data,
        type=message.type,
        time=moment(message, "time"),
        agent=message.agent,
        call=message.call,
    )


def _map_root(body: JsonObject) -> bytes:
    heads = body.get("heads")
    root = heads.get("root") if isinstance(heads, dict) else None
    try:
        found = bytes.fromhex(root) if isinstance(root, str) else b""
    except ValueError:
        found = b""
    if body.get("type") != "heads" or len(found) != HASH_BYTES:
        raise ProofError("the entry is no `heads` entry with a root")
    return found


def _invalid(why: str) -> DataLossError:
    return DataLossError(
        f"the broker's proof doesn't show what it should: {why}",
        reason="PROOF_INVALID",
        hint="Ask again; if it stays so, the ledger is not what the broker says: tell its operators and auditors.",
    )
