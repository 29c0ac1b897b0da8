"""What the rooms need of the store for approvals, as protocols. See ``broker.domain.ports`` for transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from broker.domain.approval import (
    Acceptance,
    Approval,
    ApprovalKind,
    ApprovalState,
    ApprovedWorkflow,
    ChatAccount,
    Freeze,
    FreezeScope,
    Vote,
    VoterKey,
)
from broker.domain.founding_state import FoundingStanding
from broker.domain.registered import Registered
from broker.domain.tool_standing import ToolStanding

if TYPE_CHECKING:
    from broker.domain.ports import Transaction


@dataclass(frozen=True, slots=True)
class ApprovalQuery:
    """Which approvals to list; empty fields don't filter; ``before`` pages by id."""

    states: frozenset[ApprovalState] = frozenset()
    kinds: frozenset[ApprovalKind] = frozenset()
    workspace: str = ""
    requester: str = ""
    subject: str = ""
    before: str = ""
    limit: int = 100


class ApprovalTable(Protocol):
    """Approvals and their votes."""

    def insert(self, approval: Approval) -> None:
        """Adds an approval."""

    def get(self, approval_id: str) -> Approval | None:
        """By id."""

    def by_subject(self, subject: str) -> Approval | None:
        """The newest one about a subject, such as a call's id."""

    def close(self, approval: Approval) -> None:
        """Stores state and closing of an approval."""

    def list(self, query: ApprovalQuery) -> Sequence[Approval]:
        """Newest first."""

    def due(self, now: datetime, limit: int) -> Sequence[Approval]:
        """Open ones whose time is over, the oldest first."""

    def pending(self, requester: str) -> int:
        """How many of a requester's are open, reviews apart."""

    def cancelled(self, requester: str, since: datetime) -> int:
        """How many of a requester's were withdrawn, or came to nothing with their call, since a moment."""

    def last_denied(self, requester: str) -> datetime | None:
        """When a call of a requester's was last denied by a person."""

    def insert_vote(self, vote: Vote) -> None:
        """Adds a vote; approval and number together are unique."""

    def votes(self, approval_id: str) -> Sequence[Vote]:
        """In the order in which they came."""


class VoterTable(Protocol):
    """Keys, the founding, and chat accounts."""

    def insert_key(self, key: VoterKey) -> None:
        """Adds a key; its id is unique."""

    def key(self, key_id: str) -> VoterKey | None:
        """By id, revoked or not."""

    def all_keys(self) -> Sequence[VoterKey]:
        """All, oldest first."""

    def revoke_key(self, key_id: str, moment: datetime) -> None:
        """Revokes a key."""

    def accept(self, acceptance: Acceptance) -> None:
        """Adds an acceptance; one person's again changes nothing."""

    def complete_founding(self, founding_digest: str, seq: int) -> None:
        """Says that the founding is complete, for good."""

    def founding(self) -> str:
        """Digest of the founding that is complete; empty before."""

    def map_account(self, account: ChatAccount, seq: int) -> None:
        """Gives an account to a person; it, and the person's place in that team, must be free."""

    def unmap_account(self, service: str, team: str, user: str) -> None:
        """Takes an account away."""

    def account(self, service: str, team: str, user: str) -> ChatAccount | None:
        """By the service's own ids."""

    def accounts(self, service: str = "", team: str = "", person: str = "") -> Sequence[ChatAccount]:
        """Accounts; empty texts don't filter."""


class FreezeTable(Protocol):
    """What is frozen."""

    def freeze(self, freeze: Freeze) -> None:
        """Adds a freeze, or leaves the one that is there."""

    def unfreeze(self, scope: FreezeScope, target: str) -> None:
        """Takes one away."""

    def all(self) -> Sequence[Freeze]:
        """All, oldest first."""


class WorkflowTable(Protocol):
    """Versions of workflows that are approved."""

    def approve(self, workflow: ApprovedWorkflow) -> None:
        """Adds a version."""

    def get(self, name: str, digest: str) -> ApprovedWorkflow | None:
        """An approved version."""


class Agreement(Protocol):
    """What the ledger alone says of people's agreement, whatever the tables say."""

    def read_on(self, tx: Transaction) -> None:
        """Reads what has been added, in a reading transaction."""

    def founding(self, tx: Transaction) -> str:
        """Digest of the founding that the ledger has seen completed; empty before."""

    def tools(self, tx: Transaction) -> Mapping[str, ToolStanding]:
        """Name of a tool -> what stands of it, with what the transaction itself has added."""

    def standing(self, tx: Transaction) -> FoundingStanding:
        """How far the founding is, and what stands, with what the transaction itself has added."""

    def frozen(self) -> frozenset[tuple[str, str]]:
        """(scope, target) of what was frozen, and freed by nobody, as far as has been read."""

    def check_use(self, tx: Transaction, approval: str, votes: Sequence[int]) -> None:
        """Lets an approval pass that the ledger has as open and agreed to by these votes, by their entries' numbers.

        Raises:
            DataLossError: it hasn't (``AGREEMENT_DIFFERS``).
        """

    def registered(self, tx: Transaction) -> Registered:
        """Everybody as the ledger has them: identities, certificates, chat accounts."""

    def check_workflow(self, tx: Transaction, name: str, digest: str) -> None:
        """Lets a version of a workflow pass whose approval stands in the ledger.

        Raises:
            DataLossError: it doesn't (``AGREEMENT_DIFFERS``).
        """
