"""Hosts that tools may reach, and what calls did with them: messages of the wire -> values."""

from __future__ import annotations

from broker.client.wire import protocol_error
from broker.domain.events import KeptRecording
from broker.domain.run import EgressKind, EgressRecord, EgressRule, EgressVerdict, SecretUse
from broker.v1 import call_pb2, tool_pb2


def rule(message: tool_pb2.EgressRule) -> EgressRule:
    """A host that a tool may reach.

    Raises:
        InternalError: a kind that this client doesn't know.
    """
    secret = message.secret
    return EgressRule(
        kind=_kind(message.kind),
        host=message.host,
        port=message.port,
        methods=tuple(message.methods),
        paths=tuple(message.paths),
        listen=message.listen_port,
        secret=SecretUse(secret.name, secret.header, secret.prefix) if message.HasField("secret") else None,
        database=message.database,
        user=message.user,
        record_bytes=message.record_bytes,
    )


def record(message: call_pb2.EgressRecord) -> EgressRecord:
    """What a call did with a host.

    Raises:
        InternalError: a kind or a verdict that this client doesn't know.
    """
    return EgressRecord(
        host=message.host,
        port=message.port,
        kind=_kind(message.kind),
        verdict=_verdict(message.verdict),
        listed=message.listed,
        count=message.count,
        sent_bytes=message.sent_bytes,
        received_bytes=message.received_bytes,
        detail=message.detail,
    )


def recording(message: call_pb2.EgressRecording) -> KeptRecording:
    """What is kept of hosts' answers."""
    return KeptRecording(message.artifact, message.exchanges, message.missed, message.size, whole=message.whole)


def _kind(number: tool_pb2.EgressKind.ValueType) -> EgressKind:
    try:
        return EgressKind[tool_pb2.EgressKind.Name(number).removeprefix("EGRESS_KIND_")]
    except (ValueError, KeyError) as error:
        raise protocol_error(f"{number} is no kind of egress") from error


def _verdict(number: call_pb2.EgressVerdict.ValueType) -> EgressVerdict:
    try:
        return EgressVerdict(call_pb2.EgressVerdict.Name(number).removeprefix("EGRESS_VERDICT_"))
    except ValueError as error:
        raise protocol_error(f"{number} is no verdict on egress") from error
