"""The Ledger service as the check of the history asks it: one attempt each, checked for form, never held up by itself."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from broker.client.transport import Request, Response, Transport
from broker.client.wire import protocol_error
from broker.tlog.key_history import KEY_ENTRIES
from broker.tlog.note import Note
from broker.tlog.proof import TlogProof
from broker.v1 import ledger_pb2

_TIMEOUT_S = 10.0
_MOST_KEY_ENTRIES = 10_000
_MOST_HASHES = 128


class LedgerQuestions:
    """Implements ``broker.client.history.LedgerSource``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def checkpoint(self) -> Note:
        """The latest checkpoint.

        Raises:
            NoteError: it is none.
            BrokerError: the broker's refusal, or the transport's failure.
        """
        request = ledger_pb2.GetCheckpointRequest(name="checkpoints/latest")
        reply = await self._ask(self._transport.ledger.GetCheckpoint, request)
        return Note.parse(reply.note)

    async def key_entries(self, first: int, before: int) -> Sequence[tuple[int, bytes]]:
        """Numbers and bytes of the entries that a key history is made of, in order.

        Raises:
            BrokerError: as above; InternalError where there are too many or they come in no order.
        """
        wanted = ledger_pb2.LedgerEntryFilter(types=sorted(KEY_ENTRIES), first_seq=first, before_seq=before)
        found: list[tuple[int, bytes]] = []
        token, seen = "", set[str]()
        while True:
            request = ledger_pb2.ListEntriesRequest(filter=wanted, page_size=1000, page_token=token)
            reply = await self._ask(self._transport.ledger.ListEntries, request)
            for entry in reply.entries:
                last = found[-1][0] if found else first - 1
                if not last < entry.seq < before or len(found) == _MOST_KEY_ENTRIES:
                    raise protocol_error("the entries of the ledger's keys are too many, or in no order")
                found.append((entry.seq, entry.data))
            token = reply.next_page_token
            if not token:
                return found
            if token in seen or len(seen) == _MOST_KEY_ENTRIES:
                raise protocol_error("a page token came twice")
            seen.add(token)

    async def inclusion(self, seq: int, size: int) -> TlogProof:
        """The proof that an entry is in the tree of a checkpoint; nothing of it is verified here.

        Raises:
            NoteError: it is none.
            BrokerError: as above.
        """
        request = ledger_pb2.GetInclusionProofRequest(entry=f"entries/{seq}", checkpoint=f"checkpoints/{size}")
        reply = await self._ask(self._transport.ledger.GetInclusionProof, request)
        return TlogProof.parse(reply.proof)

    async def consistency(self, old_size: int, size: int) -> Sequence[bytes]:
        """The proof that the tree of a checkpoint extends a smaller one; nothing of it is verified here.

        Raises:
            BrokerError: as above.
        """
        request = ledger_pb2.GetConsistencyProofRequest(old_size=old_size, checkpoint=f"checkpoints/{size}")
        reply = await self._ask(self._transport.ledger.GetConsistencyProof, request)
        if len(reply.hashes) > _MOST_HASHES:
            raise protocol_error("a consistency proof is too long")
        return tuple(reply.hashes)

    async def _ask(self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        try:
            return await method(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._transport.error(error) from error
