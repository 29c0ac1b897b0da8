"""Which workspace a request names: the policy is asked there too, so that a rule about a workspace holds for RPCs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import Message

from broker.identity.names import check_name
from broker.rpc import wire

METHOD_LIST = "broker.v1.Workspaces/ListWorkspaces"
"""It names no workspace, and answers with those in which the policy allows it."""

NAMED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "broker.v1.ToolBroker/ListTools": ("workspace",),
        "broker.v1.ToolBroker/GetTool": ("workspace",),
        "broker.v1.ToolBroker/CreateToolCall": ("tool_call", "context", "workspace"),
        "broker.v1.ToolBroker/RunToolCall": ("tool_call", "context", "workspace"),
        "broker.v1.Sessions/StartSession": ("workspace",),
        "broker.v1.Sessions/CreateSchedule": ("schedule", "workspace"),
        "broker.v1.Approvals/CreateRunbook": ("workspace",),
        "broker.v1.Workspaces/GetWorkspace": ("workspace",),
        "broker.v1.Workspaces/ListWorkspaceFiles": ("workspace",),
        # The first request of the stream names it, and is looked at before any other is read.
        "broker.v1.Workspaces/ImportWorkspace": ("header", "workspace"),
        "broker.v1.Workspaces/ExportWorkspace": ("workspace",),
        "broker.v1.Workspaces/GetWorkspaceDiff": ("workspace",),
        "broker.v1.Workspaces/PlanUndo": ("workspace",),
        "broker.v1.Workspaces/DrillUndo": ("workspace",),
    },
)
"""Full method -> path of the field that names the workspace in which it acts."""

ONLY_FILTERED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # It answers with the caller's own calls, and with others' only where the policy allows the method in the
        # workspace of each call, whatever the filter says. Naming a workspace only leaves some of them out.
        "broker.v1.ToolBroker/ListToolCalls": ("filter", "workspace"),
        # The same: each entry is decided in the workspace that it lies in.
        "broker.v1.Ledger/ListEntries": ("filter", "workspace"),
        "broker.v1.Ledger/Watch": ("filter", "workspace"),
        # The same: an approval is shown to its requester, to who may vote on it, and to who oversees where it lies.
        "broker.v1.Approvals/ListApprovals": ("filter", "workspace"),
        "broker.v1.Approvals/WatchApprovals": ("filter", "workspace"),
    },
)
"""Methods whose field of that name gives no access to a workspace, each with its reason."""


def names_workspace(method: str) -> bool:
    """Do requests of this method say in which workspace they act?"""
    return method in NAMED


def named_workspace(method: str, request: Message) -> str | None:
    """The workspace that a request acts in; ``None`` where the method isn't about one.

    Raises:
        InvalidArgumentError: it names none, or what it names is no name (``NAME_INVALID``).
    """
    path = NAMED.get(method)
    if path is None:
        return None
    value: object = request
    for part in path:
        value = getattr(value, part)
    field = ".".join(path)
    if not isinstance(value, str) or not value:
        raise wire.refuse(field, "is required")
    return check_name(value, field=field)
