"""Every request that names a workspace is known to the table by which the policy is asked there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor

from broker.errors import InvalidArgumentError
from broker.rpc.methods import SERVED
from broker.rpc.workspaces import NAMED, ONLY_FILTERED, named_workspace
from broker.v1 import sessions_pb2, tool_broker_pb2

CREATE = "broker.v1.ToolBroker/CreateToolCall"


def paths(message: Descriptor, above: tuple[Descriptor, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields called workspace in a message, at any depth."""
    for field in message.fields:
        if field.name == "workspace":
            yield (field.name,)
        inner = field.message_type
        if inner is not None and inner not in above:
            yield from ((field.name, *rest) for rest in paths(inner, (*above, message)))


def test_no_request_names_a_workspace_that_the_policy_is_not_asked_about() -> None:
    found = {
        f"{service.full_name}/{method.name}": tuple(paths(method.input_type))
        for service in SERVED
        for method in service.methods
    }
    named = {method: where[0] for method, where in found.items() if where}
    assert named == {**NAMED, **ONLY_FILTERED}
    assert all(len(where) <= 1 for where in found.values())


def test_the_workspace_is_read_where_it_stands() -> None:
    request = tool_broker_pb2.CreateToolCallRequest()
    request.tool_call.context.workspace = "finance"
    assert named_workspace(CREATE, request) == "finance"
    assert named_workspace("broker.v1.Sessions/StartSession", sessions_pb2.StartSessionRequest(workspace="hr")) == "hr"
    listed = tool_broker_pb2.ListToolCallsRequest(filter=tool_broker_pb2.ToolCallFilter(workspace="*"))
    assert named_workspace("broker.v1.ToolBroker/ListToolCalls", listed) is None


@pytest.mark.parametrize("workspace", ["", "-", "*", "Finance", "finance ", "finance\n", "fin\u0430nce", "x" * 64])
def test_what_is_no_name_is_refused_with_the_field(workspace: str) -> None:
    request = tool_broker_pb2.CreateToolCallRequest()
    request.tool_call.context.workspace = workspace
    with pytest.raises(InvalidArgumentError) as caught:
        named_workspace(CREATE, request)
    assert caught.value.violations[0].field == "tool_call.context.workspace"
