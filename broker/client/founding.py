"""The part of the asynchronous client that knows whose keys count: the founding of the two-person rule, and keys."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime

from broker.client import approval_models as models
from broker.client import convert_approval as convert
from broker.client.approval_models import Founding
from broker.client.ballot import Voter, check_ledger, sign_acceptance
from broker.client.base import Client
from broker.client.checkpoint_memory import CheckpointMemory, default_folder
from broker.client.founding_memory import SETTLED, FoundingMemory, PinnedFounding
from broker.client.history import Anchored
from broker.client.wire import resource
from broker.domain.founding import parse_content
from broker.domain.founding_text import differences
from broker.errors import DataLossError, FailedPreconditionError
from broker.signing import Signer
from broker.v1 import approvals_pb2 as pb


class FoundingMethods(Client):
    """The founding, keys, and what each signature stands on."""

    async def get_founding(self, *, content: bool = True, timeout_s: float | None = None) -> Founding:
        """The founding of the two-person rule, compared with what was accepted here; ``content`` is all that it covers.

        Raises:
            DataLossError: ``FOUNDING_DIFFERS``.
        """
        found = await self.show_founding(content=content, timeout_s=timeout_s)
        await self.compare_founding(found)
        return found

    async def check_founding(self) -> None:
        """Compares the broker's founding with what was accepted here; asks nothing where nothing was.

        Raises:
            DataLossError: ``FOUNDING_DIFFERS``.
        """
        memory = self._foundings()
        if memory is not None and await asyncio.to_thread(memory.pinned):
            await self.get_founding(content=False)

    async def compare_founding(self, founding: Founding) -> bool:
        """Compares a founding with what was accepted here; returns whether anything was.

        Raises:
            DataLossError: ``FOUNDING_DIFFERS``.
        """
        memory = self._foundings()
        return memory is not None and await asyncio.to_thread(
            memory.check, founding.origin, founding.digest, in_force=founding.complete
        )

    async def newest_checkpoint(self) -> Anchored | None:
        """What a signature says that its signer has seen: the ledger's newest checkpoint, verified; ``None`` for none.

        Raises:
            HistoryRewrittenError: it can't be accepted.
        """
        rpc = self._rpc
        return None if rpc.history is None else await rpc.history.newest()

    async def show_founding(self, *, content: bool = True, timeout_s: float | None = None) -> Founding:
        """The same, as the broker says it, whatever was accepted: to look at, not to go by."""
        method, request = self._rpc.approvals.GetFounding, pb.GetFoundingRequest(content=content)
        return convert.founding(await self._rpc.ask(method, request, timeout_s=timeout_s))

    async def changes_since_accepted(self, founding: Founding) -> tuple[str, ...]:
        """What a founding, shown with its content, has otherwise than the one that was accepted here, a sentence each.

        It goes by what this client remembers, not by what the broker says; it is empty where nothing is remembered.

        Raises:
            FailedPreconditionError: ``FOUNDING_MEMORY_DAMAGED``.
            InvalidArgumentError: the content is none (``FOUNDING_MALFORMED``).
        """
        memory = self._foundings()
        pinned = None if memory is None else await asyncio.to_thread(memory.accepted, founding.origin)
        if pinned is None or not pinned.content or pinned.digest == founding.digest:
            return ()
        before, after = parse_content(pinned.content.encode()), parse_content(founding.content)
        return differences(before, after, founding.names)

    async def accept_founding(self, founding: Founding, *, signer: Signer, timeout_s: float | None = None) -> Founding:
        """Accepts a founding that its user has looked at, whole, and remembers it: another one is refused from then on.

        The digest that is signed is computed here, of the content that the founding shows.

        Where another was accepted here before, and the rule isn't in force yet, this one takes its place.

        Raises:
            InvalidArgumentError: it was fetched without its content (``CONTENT_MISSING``).
            DataLossError: ``FOUNDING_INVALID``, or ``FOUNDING_DIFFERS`` where the rule is or was in force. Nothing was signed.
            FailedPreconditionError: ``KEY_UNKNOWN``, ``KEY_REVOKED``.
        """
        try:
            await self.compare_founding(founding)
        except DataLossError as error:
            if error.metadata.get(SETTLED) != "no":
                raise
        seen = await self.newest_checkpoint()
        voter = Voter(await self._holder(signer), founding.origin, seen)
        signed = sign_acceptance(founding, voter, signer, now=datetime.now(UTC))
        memory = self._foundings()
        if memory is not None:
            # Before it is sent: whatever becomes of the reply, this is what its user has looked at.
            text = founding.content.decode()
            pinned = PinnedFounding(founding.origin, founding.digest, founding.complete, text)
            await asyncio.to_thread(memory.pin, pinned)
        request = pb.AcceptFoundingRequest(statement=signed.statement, signature=signed.signature)
        method = self._rpc.approvals.AcceptFounding
        reply = convert.founding(await self._rpc.ask(method, request, timeout_s=timeout_s))
        await self.compare_founding(reply)
        return reply

    async def list_voter_keys(self, *, timeout_s: float | None = None) -> tuple[models.VoterKey, ...]:
        """The keys that votes are taken of, and those that were revoked, oldest first."""
        method = self._rpc.approvals.ListVoterKeys
        reply = await self._rpc.ask(method, pb.ListVoterKeysRequest(), timeout_s=timeout_s)
        return tuple(convert.voter_key(item) for item in reply.keys)

    async def revoke_voter_key(self, key: str, reason: str, *, timeout_s: float | None = None) -> models.VoterKey:
        """Revokes a key (``sha256:...``) at once: by its holder, or by any approver."""
        request = pb.RevokeVoterKeyRequest(name=resource("voterKeys", key), reason=reason)
        method = self._rpc.approvals.RevokeVoterKey
        reply = await self._rpc.ask(method, request, timeout_s=timeout_s, always=True)
        return convert.voter_key(reply)

    # What a signature stands on

    async def _voter(self, signer: Signer) -> Voter:
        origin, seen = await self._place()
        return Voter(await self._holder(signer), origin, seen)

    async def _place(self) -> tuple[str, Anchored | None]:
        """The ledger's origin, and its newest checkpoint."""
        seen, founding = await self.newest_checkpoint(), await self.get_founding(content=False)
        check_ledger(founding, seen)
        return founding.origin, seen

    async def _holder(self, signer: Signer) -> str:
        held = next((item for item in await self.list_voter_keys() if item.id == signer.id), None)
        if held is None or held.public_key != signer.public_key:
            raise FailedPreconditionError(
                f"the broker doesn't know the key {signer.id}",
                reason="KEY_UNKNOWN",
                hint="Is it the right key file? A new key is enrolled first: broker approvers enroll",
            )
        if held.revoked is not None:
            raise FailedPreconditionError(
                f"the key {signer.id} was revoked",
                reason="KEY_REVOKED",
                hint="Make another one (`broker keys new`) and have it enrolled.",
            )
        return held.holder

    def _foundings(self) -> FoundingMemory | None:
        if not isinstance(self._checkpoints, CheckpointMemory):
            return None
        folder = self._checkpoints.folder or default_folder()
        ca = self._endpoint.ca
        return None if folder is None else FoundingMemory(folder, hashlib.sha256(ca).hexdigest() if ca else "")
