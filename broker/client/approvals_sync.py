"""Approvals, votes, keys, the founding and freezes for code without an event loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from broker.client import approval_models as models
from broker.client.aio import AsyncBroker
from broker.client.approval_models import Approval, ApprovalFilter, ChatAccount, Founding
from broker.client.loop import LoopThread
from broker.domain.approval import FreezeScope, VoteDecision
from broker.signing import Signer


class SyncApprovalMethods:
    """The part of ``Broker`` that people decide with. Methods, values and errors are those of ``AsyncBroker``."""

    _client: AsyncBroker
    _loop: LoopThread

    def get_approval(self, name: str, *, voter: str = "", timeout_s: float | None = None) -> Approval:
        """One approval with its content, as far as it is kept."""
        return self._loop.run(self._client.get_approval(name, voter=voter, timeout_s=timeout_s))

    def list_approvals(
        self, chosen: ApprovalFilter | None = None, *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Approval]:
        """Approvals, newest first, without their content."""
        return self._loop.iterate(self._client.list_approvals(chosen, page_size=page_size, timeout_s=timeout_s))

    def watch_approvals(
        self, chosen: ApprovalFilter | None = None, *, timeout_s: float | None = None
    ) -> Iterator[Approval]:
        """First the open approvals, then each again whenever it changes; leaving the iterator ends it."""
        return self._loop.iterate(self._client.watch_approvals(chosen, timeout_s=timeout_s))

    def cast_vote(
        self,
        approval: Approval,
        decision: VoteDecision,
        *,
        signer: Signer,
        reason: str = "",
        timeout_s: float | None = None,
    ) -> Approval:
        """Signs a vote with the caller's own key, and casts it."""
        return self._loop.run(
            self._client.cast_vote(approval, decision, signer=signer, reason=reason, timeout_s=timeout_s)
        )

    def cast_attested_vote(
        self,
        approval: Approval,
        decision: VoteDecision,
        *,
        signer: Signer,
        account: ChatAccount,
        reason: str = "",
        timeout_s: float | None = None,
    ) -> Approval:
        """As a bot: attests that a person has voted in its chat, and casts that vote."""
        return self._loop.run(
            self._client.cast_attested_vote(
                approval, decision, signer=signer, account=account, reason=reason, timeout_s=timeout_s
            )
        )

    def cancel_approval(self, name: str, *, timeout_s: float | None = None) -> Approval:
        """Withdraws a request."""
        return self._loop.run(self._client.cancel_approval(name, timeout_s=timeout_s))

    def request_administration(
        self, action: str, parameters: Mapping[str, object], reason: str = "", *, timeout_s: float | None = None
    ) -> Approval:
        """Asks for an administrative action."""
        return self._loop.run(self._client.request_administration(action, parameters, reason, timeout_s=timeout_s))

    def submit_workflow(
        self, name: str, digest: str = "", reason: str = "", *, timeout_s: float | None = None
    ) -> Approval:
        """Asks for a version of a workflow to be approved."""
        return self._loop.run(self._client.submit_workflow(name, digest, reason, timeout_s=timeout_s))

    def list_workflows(self, *, timeout_s: float | None = None) -> tuple[models.Workflow, ...]:
        """The workflows that the broker has read."""
        return self._loop.run(self._client.list_workflows(timeout_s=timeout_s))

    def create_runbook(
        self,
        tool: str,
        arguments: Mapping[str, object],
        *,
        agent: str,
        expires: datetime,
        workspace: str = "",
        tool_version: str = "",
        workflow: str = "",
        reason: str = "",
        timeout_s: float | None = None,
    ) -> Approval:
        """Asks for a runbook: one exact call that an agent may make once."""
        return self._loop.run(
            self._client.create_runbook(
                tool,
                arguments,
                agent=agent,
                expires=expires,
                workspace=workspace,
                tool_version=tool_version,
                workflow=workflow,
                reason=reason,
                timeout_s=timeout_s,
            )
        )

    def get_founding(self, *, content: bool = True, timeout_s: float | None = None) -> Founding:
        """The founding of the two-person rule, compared with what was accepted here."""
        return self._loop.run(self._client.get_founding(content=content, timeout_s=timeout_s))

    def check_founding(self) -> None:
        """Compares the broker's founding with what was accepted here; asks nothing where nothing was."""
        self._loop.run(self._client.check_founding())

    def show_founding(self, *, content: bool = True, timeout_s: float | None = None) -> Founding:
        """The same, as the broker says it, whatever was accepted."""
        return self._loop.run(self._client.show_founding(content=content, timeout_s=timeout_s))

    def changes_since_accepted(self, founding: Founding) -> tuple[str, ...]:
        """What a founding has otherwise than the one that was accepted here."""
        return self._loop.run(self._client.changes_since_accepted(founding))

    def accept_founding(self, founding: Founding, *, signer: Signer, timeout_s: float | None = None) -> Founding:
        """Accepts a founding that its user has looked at, whole, and remembers it."""
        return self._loop.run(self._client.accept_founding(founding, signer=signer, timeout_s=timeout_s))

    def list_voter_keys(self, *, timeout_s: float | None = None) -> tuple[models.VoterKey, ...]:
        """The keys that votes are taken of, and those that were revoked."""
        return self._loop.run(self._client.list_voter_keys(timeout_s=timeout_s))

    def revoke_voter_key(self, key: str, reason: str, *, timeout_s: float | None = None) -> models.VoterKey:
        """Revokes a key at once."""
        return self._loop.run(self._client.revoke_voter_key(key, reason, timeout_s=timeout_s))

    def request_tool_approval(self, version: str, reason: str = "", *, timeout_s: float | None = None) -> Approval:
        """Asks for a tool that is held to be accepted; ``version`` is the digest that ``status`` names of it."""
        return self._loop.run(self._client.request_tool_approval(version, reason, timeout_s=timeout_s))

    def create_freeze(
        self, scope: FreezeScope, target: str = "", reason: str = "", *, timeout_s: float | None = None
    ) -> models.Freeze:
        """Freezes at once."""
        return self._loop.run(self._client.create_freeze(scope, target, reason, timeout_s=timeout_s))

    def list_freezes(self, *, timeout_s: float | None = None) -> tuple[models.Freeze, ...]:
        """What is frozen."""
        return self._loop.run(self._client.list_freezes(timeout_s=timeout_s))

    def get_chat_account(
        self, service: str, team: str, user: str = "", person: str = "", *, timeout_s: float | None = None
    ) -> ChatAccount:
        """Whom a bot knows by a chat account, or a person's account."""
        return self._loop.run(self._client.get_chat_account(service, team, user, person, timeout_s=timeout_s))
