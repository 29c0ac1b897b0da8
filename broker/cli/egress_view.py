"""Hosts that tools may reach, and what calls did with them, as commands print them."""

from __future__ import annotations

from collections.abc import Iterable

from broker.cli.output import OutputModel
from broker.domain.events import KeptRecording
from broker.domain.hosts import authority
from broker.domain.run import EgressKind, EgressRecord, EgressRule, EgressVerdict

EGRESS_COLUMNS = ["host", "kind", "verdict", "times", "bytes sent", "bytes received", "detail"]
"""Headings of ``egress_rows``."""


class EgressOutput(OutputModel):
    """What a call did with one host, port, kind and verdict; where not ``listed``, the host is the tool's own words."""

    host: str
    port: int
    kind: EgressKind
    verdict: EgressVerdict
    listed: bool
    count: int
    sent_bytes: int
    received_bytes: int
    detail: str


class SecretOutput(OutputModel):
    """A secret that the broker adds to requests or logs in with: its name in the broker's settings, and the header that
    carries it, empty for a password.
    """

    name: str
    header: str
    prefix: str


class EgressRuleOutput(OutputModel):
    """A host that a tool may reach. No methods are GET and HEAD, no paths are all; ``listen`` is 0 except of tcp and postgres,
    ``database`` and ``user`` are empty except of postgres.
    """

    kind: EgressKind
    host: str
    port: int
    methods: list[str]
    paths: list[str]
    listen: int
    secret: SecretOutput | None
    database: str
    user: str
    record_bytes: int
    """How much of a call's requests and answers is kept; 0 where nothing is."""


class RecordingOutput(OutputModel):
    """What is kept, encrypted, of what a call asked hosts and was answered; ``missed`` requests found no room."""

    artifact: str
    exchanges: int
    missed: int
    size: int
    whole: bool


def egress_output(record: EgressRecord) -> EgressOutput:
    """The model of a record."""
    return EgressOutput(
        host=record.host,
        port=record.port,
        kind=record.kind,
        verdict=record.verdict,
        listed=record.listed,
        count=record.count,
        sent_bytes=record.sent_bytes,
        received_bytes=record.received_bytes,
        detail=record.detail,
    )


def rule_output(rule: EgressRule) -> EgressRuleOutput:
    """The model of a rule."""
    secret = rule.secret
    return EgressRuleOutput(
        kind=rule.kind,
        host=rule.host,
        port=rule.port,
        methods=list(rule.methods),
        paths=list(rule.paths),
        listen=rule.listen,
        secret=None if secret is None else SecretOutput(name=secret.name, header=secret.header, prefix=secret.prefix),
        database=rule.database,
        user=rule.user,
        record_bytes=rule.record_bytes,
    )


def recording_output(kept: KeptRecording) -> RecordingOutput:
    """The model of a recording."""
    return RecordingOutput(
        artifact=kept.artifact, exchanges=kept.exchanges, missed=kept.missed, size=kept.size, whole=kept.whole
    )


def recording_sentence(kept: KeptRecording | RecordingOutput) -> str:
    """What is kept of hosts' answers, in a line."""
    rest = "" if kept.whole else f", not all of it: there was no room for more ({kept.missed} requests not at all)"
    return f"{kept.exchanges} requests with their answers, {kept.size} bytes{rest}"


def egress_rows(items: Iterable[EgressOutput]) -> list[list[str]]:
    """A row for each record; a host that no rule lists stands in quotes, for it is whatever the tool wrote."""
    return [
        [
            where(item.host, item.port, listed=item.listed),
            item.kind.value,
            item.verdict.value,
            str(item.count),
            str(item.sent_bytes),
            str(item.received_bytes),
            item.detail,
        ]
        for item in items
    ]


def egress_sentence(record: EgressRecord) -> str:
    """What a call did with a host, in a line."""
    times = "" if record.count == 1 else f" {record.count} times"
    why = f": {record.detail}" if record.detail and record.verdict is not EgressVerdict.ALLOWED else ""
    return (
        f"{record.kind} {where(record.host, record.port, listed=record.listed)} {record.verdict}{times},"
        f" {record.sent_bytes} bytes sent, {record.received_bytes} received{why}"
    )


def rule_sentence(rule: EgressRuleOutput) -> str:
    """A rule in a line."""
    parts = [f"{rule.kind} {authority(rule.host, rule.port)}"]
    if rule.kind in {EgressKind.HTTP, EgressKind.HTTPS}:
        parts.append("/".join(rule.methods) or "GET/HEAD")
        parts.append(" ".join(rule.paths) or "every path")
    if rule.listen:
        parts.append(f"from 127.0.0.1:{rule.listen}")
    if rule.database:
        parts.append(f"to the database {rule.database} as {rule.user}")
    if rule.secret is not None:
        where_to = f"in {rule.secret.header}" if rule.secret.header else "as the password"
        parts.append(f"with the secret {rule.secret.name} {where_to}")
    if rule.record_bytes:
        parts.append(f"of each call {rule.record_bytes} bytes of requests and answers are kept")
    return ", ".join(parts)


def where(host: str, port: int, *, listed: bool) -> str:
    """Host and port, the tool's own words in quotes."""
    place = authority(host, port) if port else host
    return place if listed else f'"{place}"'
