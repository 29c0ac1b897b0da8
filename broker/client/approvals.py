"""The part of the asynchronous client that people decide with: approvals, votes, keys, the founding and freezes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime

import grpc

from broker.client import convert_approval as convert
from broker.client.approval_models import Approval, ApprovalFilter, ChatAccount
from broker.client.approval_requests import RequestMethods
from broker.client.ballot import Voter, sign_vote
from broker.client.founding import FoundingMethods
from broker.client.retry import may_retry
from broker.client.transport import Deadline
from broker.client.wire import protocol_error, resource
from broker.domain.approval import OPEN_STATES, VoteDecision
from broker.errors import BrokerError, FailedPreconditionError, NotFoundError, UnavailableError
from broker.signing import Signer
from broker.v1 import approvals_pb2 as pb


class ApprovalMethods(FoundingMethods, RequestMethods):
    """Approvals, votes, administration, keys, the founding, freezes and chat accounts.

    What is signed is checked first, here: see ``broker.client.ballot``. A vote carries the newest checkpoint of the ledger,
    which was verified against all that this client has seen before.
    """

    async def get_approval(self, name: str, *, voter: str = "", timeout_s: float | None = None) -> Approval:
        """One approval with its content, as far as it is kept. Nothing of it is checked before somebody votes.

        Args:
            name: ``approvals/...``, or its id.
            voter: only for a bot: the person, by id, for whom it asks; ``may_vote`` and the content are theirs then.
            timeout_s: deadline in seconds.

        Raises:
            NotFoundError: there is none, or it isn't the caller's to see.
        """
        request = pb.GetApprovalRequest(name=resource("approvals", name), voter=voter)
        found = convert.approval(await self._rpc.ask(self._rpc.approvals.GetApproval, request, timeout_s=timeout_s))
        if found.name != request.name:
            raise protocol_error(f"{request.name} was asked for, and {found.name} came")
        return found

    async def list_approvals(
        self, chosen: ApprovalFilter | None = None, *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[Approval, None]:
        """Approvals, newest first, without their content; pages by itself."""
        wanted = convert.filter_message(chosen or ApprovalFilter())

        async def ask(token: str) -> pb.ListApprovalsResponse:
            request = pb.ListApprovalsRequest(filter=wanted, page_size=page_size, page_token=token)
            return await self._rpc.ask(self._rpc.approvals.ListApprovals, request, timeout_s=timeout_s)

        async for message in self._rpc.pages(ask, lambda page: page.approvals):
            yield convert.approval(message)

    async def watch_approvals(
        self, chosen: ApprovalFilter | None = None, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Approval, None]:
        """First the open approvals, then each again whenever something about it changes; close it with ``aclose``.

        A connection that breaks, or a broker that restarts, is taken up again: open ones then come again, and those that
        were open before and aren't any more are looked up, so that no end is lost.

        Raises:
            DeadlineError: the time is over; the client's default is that of a call.
            BrokerError: the broker's refusal, or one that stays away for longer than the retry policy bears.
        """
        rpc = self._rpc
        deadline = Deadline(rpc.timeouts.call_s if timeout_s is None else timeout_s)
        request = pb.WatchApprovalsRequest(filter=convert.filter_message(chosen or ApprovalFilter()))
        shown: dict[str, Approval] = {}
        failures = 0
        while True:
            await rpc.ready(deadline)
            if failures:
                async for ended in self._ended_meanwhile(shown):
                    yield ended
            stream = rpc.approvals.WatchApprovals(request, timeout=deadline.remaining())
            try:
                async for message in stream:
                    failures = 0
                    approval = convert.approval(message)
                    _keep(shown, approval)
                    yield approval
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

    async def _ended_meanwhile(self, shown: dict[str, Approval]) -> AsyncIterator[Approval]:
        for name in list(shown):
            try:
                present = await self.get_approval(name)
            except NotFoundError:
                del shown[name]  # no longer the caller's to see
                continue
            if present.state not in OPEN_STATES:
                del shown[name]
                yield present

    async def cast_vote(
        self,
        approval: Approval,
        decision: VoteDecision,
        *,
        signer: Signer,
        reason: str = "",
        timeout_s: float | None = None,
    ) -> Approval:
        """Signs a vote with the caller's own key, and casts it.

        Args:
            approval: from ``get_approval``, with its content: the vote is for exactly that.
            decision: what the vote says.
            signer: the caller's key.
            reason: kept encrypted; the statement commits to it.
            timeout_s: deadline of each request.

        Raises:
            DataLossError: ``DIGEST_DIFFERS``, ``RENDERING_DIFFERS``, ``CONTENT_DIFFERS``: the approval is not what it says;
                ``FOUNDING_DIFFERS``: the broker's founding isn't the one that was accepted. Nothing was signed.
            HistoryRewrittenError: nor is its ledger. Nothing was signed.
            FailedPreconditionError: ``KEY_UNKNOWN``, ``KEY_REVOKED``.
            BrokerError: the broker refuses the vote.
        """
        voter = await self._voter(signer)
        signed = sign_vote(approval, decision, voter, signer, reason=reason, now=datetime.now(UTC))
        request = pb.CastVoteRequest(
            name=approval.name,
            statement=signed.statement,
            signature=signed.signature,
            reason=reason,
            commit_salt=signed.salt,
        )
        # The very same vote again changes nothing, so it may be sent again.
        reply = await self._rpc.ask(self._rpc.approvals.CastVote, request, timeout_s=timeout_s)
        return convert.approval(reply)

    async def cast_attested_vote(
        self,
        approval: Approval,
        decision: VoteDecision,
        *,
        signer: Signer,
        account: ChatAccount,
        reason: str = "",
        timeout_s: float | None = None,
    ) -> Approval:
        """As a bot: attests by the bot's own key that a person has voted in its chat, and casts that vote.

        ``account`` is what ``get_chat_account`` gave; arguments and errors otherwise as for ``cast_vote``.
        """
        if not account.person:
            raise FailedPreconditionError(
                f"nobody is known by the account {account.user!a} of {account.service}",
                reason="NOT_ELIGIBLE",
                hint="An administrator maps it to a person: broker accounts map",
            )
        origin, seen = await self._place()
        voter = Voter(account.person, origin, seen)
        signed = sign_vote(approval, decision, voter, signer, reason=reason, now=datetime.now(UTC), account=account)
        request = pb.CastAttestedVoteRequest(
            name=approval.name,
            statement=signed.statement,
            signature=signed.signature,
            reason=reason,
            commit_salt=signed.salt,
            account=pb.ChatAccount(service=account.service, team=account.team, user=account.user),
        )
        method = self._rpc.approvals.CastAttestedVote
        return convert.approval(await self._rpc.ask(method, request, timeout_s=timeout_s))

    async def cancel_approval(self, name: str, *, timeout_s: float | None = None) -> Approval:
        """Withdraws a request: by its requester, or who answers for it."""
        request = pb.CancelApprovalRequest(name=resource("approvals", name))
        method = self._rpc.approvals.CancelApproval
        return convert.approval(await self._rpc.ask(method, request, timeout_s=timeout_s, repeatable=False))


def _keep(shown: dict[str, Approval], approval: Approval) -> None:
    if approval.state in OPEN_STATES:
        shown[approval.name] = approval
    else:
        shown.pop(approval.name, None)
