"""Which services are served, by their descriptors: the one list that the server, the policy's checks and tests share."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from broker.v1 import administration_pb2, approvals_pb2, ledger_pb2, sessions_pb2, tool_broker_pb2, workspaces_pb2

TOOL_BROKER: ServiceDescriptor = tool_broker_pb2.DESCRIPTOR.services_by_name["ToolBroker"]
SESSIONS: ServiceDescriptor = sessions_pb2.DESCRIPTOR.services_by_name["Sessions"]
ADMINISTRATION: ServiceDescriptor = administration_pb2.DESCRIPTOR.services_by_name["Administration"]
LEDGER: ServiceDescriptor = ledger_pb2.DESCRIPTOR.services_by_name["Ledger"]
APPROVALS: ServiceDescriptor = approvals_pb2.DESCRIPTOR.services_by_name["Approvals"]
WORKSPACES: ServiceDescriptor = workspaces_pb2.DESCRIPTOR.services_by_name["Workspaces"]
HEALTH: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION: ServiceDescriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

SERVED = (TOOL_BROKER, SESSIONS, ADMINISTRATION, LEDGER, APPROVALS, WORKSPACES, HEALTH, REFLECTION)


def served_methods() -> frozenset[str]:
    """Full methods, such as ``broker.v1.ToolBroker/ListTools``."""
    return frozenset(f"{service.full_name}/{method.name}" for service in SERVED for method in service.methods)
