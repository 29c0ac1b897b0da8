"""The typed client of the broker: ``AsyncBroker`` for asyncio, ``Broker`` for everything else.

    async with AsyncBroker.connect("127.0.0.1:7443", identity=Path("agent"), ca=Path("ca.pem"),
                                   context=CallContext(workspace="demo")) as broker:
        call = await broker.run("python.run", {"code": "print(1)"})
        print(call.stdout_text, call.outcome)

Errors are the classes of ``broker.errors``; see ``broker.client.errors`` for those that the transport makes.
"""

from broker.client.aio import AsyncBroker
from broker.client.approval_models import (
    Approval,
    ApprovalFile,
    ApprovalFilter,
    ApprovalRequirement,
    ChatAccount,
    Founder,
    Founding,
    Freeze,
    Vote,
    VoterKey,
    Workflow,
)
from broker.client.checkpoint_memory import CheckpointMemory, UnsafeNoCheckpointMemory
from broker.client.connection import Endpoint, Identity
from broker.client.errors import HistoryRewrittenError
from broker.client.events import EventStream
from broker.client.ledger import AsyncLedger
from broker.client.ledger_models import (
    EntryFilter,
    LedgerEntry,
    ProvenAgentHead,
    ProvenEntry,
    ProvenGrowth,
    VerifiedCheckpoint,
)
from broker.client.ledger_sync import Ledger
from broker.client.models import (
    Blob,
    BrokerStatus,
    Call,
    CallContext,
    CallFilter,
    CompletedCall,
    Decision,
    Event,
    Finished,
    HeldChange,
    IdentityInfo,
    InputFile,
    Lineage,
    Outcome,
    OutputFile,
    PolicyReload,
    Schedule,
    Session,
    StateChanged,
    Stderr,
    Stdout,
    Tool,
)
from broker.client.retry import RetryPolicy
from broker.client.sync import Broker
from broker.client.transport import Timeouts
from broker.client.workspace_models import Exported, Imported, Workspace, WorkspaceDiff
from broker.client.workspaces import AsyncWorkspaces
from broker.client.workspaces_sync import Workspaces
from broker.domain.approval import ApprovalKind, ApprovalState, FreezeScope, VoteDecision
from broker.domain.call import CallState, Source
from broker.domain.requirement import Channel
from broker.domain.run import EndCause, EvidenceSource, StreamSummary
from broker.domain.tier import Tier
from broker.domain.tree import Change, TreeFile, TreeLink

__all__ = [
    "Approval",
    "ApprovalFile",
    "ApprovalFilter",
    "ApprovalKind",
    "ApprovalRequirement",
    "ApprovalState",
    "AsyncBroker",
    "AsyncLedger",
    "AsyncWorkspaces",
    "Blob",
    "Broker",
    "BrokerStatus",
    "Call",
    "CallContext",
    "CallFilter",
    "CallState",
    "Change",
    "Channel",
    "ChatAccount",
    "CheckpointMemory",
    "CompletedCall",
    "Decision",
    "EndCause",
    "Endpoint",
    "EntryFilter",
    "Event",
    "EventStream",
    "EvidenceSource",
    "Exported",
    "Finished",
    "Founder",
    "Founding",
    "Freeze",
    "FreezeScope",
    "HeldChange",
    "HistoryRewrittenError",
    "Identity",
    "IdentityInfo",
    "Imported",
    "InputFile",
    "Ledger",
    "LedgerEntry",
    "Lineage",
    "Outcome",
    "OutputFile",
    "PolicyReload",
    "ProvenAgentHead",
    "ProvenEntry",
    "ProvenGrowth",
    "RetryPolicy",
    "Schedule",
    "Session",
    "Source",
    "StateChanged",
    "Stderr",
    "Stdout",
    "StreamSummary",
    "Tier",
    "Timeouts",
    "Tool",
    "TreeFile",
    "TreeLink",
    "UnsafeNoCheckpointMemory",
    "VerifiedCheckpoint",
    "Vote",
    "VoteDecision",
    "VoterKey",
    "Workflow",
    "Workspace",
    "WorkspaceDiff",
    "Workspaces",
]
