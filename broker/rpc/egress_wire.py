"""Hosts that tools may reach, and what calls did with them: values of the domain -> messages of the wire."""

from __future__ import annotations

from collections.abc import Iterable

from broker.domain.events import KeptRecording
from broker.domain.run import EgressKind, EgressRecord, EgressRule
from broker.v1 import call_pb2, tool_pb2


def rule_messages(rules: Iterable[EgressRule]) -> list[tool_pb2.EgressRule]:
    """Rules on the wire; of a secret its name, never its value."""
    return [
        tool_pb2.EgressRule(
            kind=_kind(rule.kind),
            host=rule.host,
            port=rule.port,
            methods=rule.methods,
            paths=rule.paths,
            listen_port=rule.listen,
            secret=None
            if rule.secret is None
            else tool_pb2.EgressSecret(name=rule.secret.name, header=rule.secret.header, prefix=rule.secret.prefix),
            database=rule.database,
            user=rule.user,
            record_bytes=rule.record_bytes,
        )
        for rule in rules
    ]


def record_messages(records: Iterable[EgressRecord]) -> list[call_pb2.EgressRecord]:
    """What a call did with each host, on the wire."""
    return [
        call_pb2.EgressRecord(
            host=record.host,
            port=record.port,
            kind=_kind(record.kind),
            verdict=call_pb2.EgressVerdict.Value(f"EGRESS_VERDICT_{record.verdict.value}"),
            listed=record.listed,
            count=record.count,
            sent_bytes=record.sent_bytes,
            received_bytes=record.received_bytes,
            detail=record.detail,
        )
        for record in records
    ]


def recording_message(kept: KeptRecording) -> call_pb2.EgressRecording:
    """What is kept of hosts' answers, on the wire."""
    return call_pb2.EgressRecording(
        artifact=kept.artifact,
        exchanges=kept.exchanges,
        missed=kept.missed,
        size=kept.size,
        whole=kept.whole,
    )


def _kind(kind: EgressKind) -> tool_pb2.EgressKind.ValueType:
    return tool_pb2.EgressKind.Value(f"EGRESS_KIND_{kind.name}")
