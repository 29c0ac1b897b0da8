"""Sessions, schedules, status and identities: messages of the wire -> values."""

from __future__ import annotations

from broker.client import models
from broker.client.wire import moment, protocol_error, seconds
from broker.v1 import administration_pb2, sessions_pb2


def session(message: sessions_pb2.Session) -> models.Session:
    """A session."""
    return models.Session(
        name=message.name,
        agent=message.agent,
        workspace=message.workspace,
        starter=message.starter,
        schedule=message.schedule,
        created=moment(message, "create_time"),
        expires=moment(message, "expire_time"),
        ended=moment(message, "end_time"),
    )


def schedule(message: sessions_pb2.Schedule) -> models.Schedule:
    """A schedule."""
    return models.Schedule(
        name=message.name,
        agent=message.agent,
        workspace=message.workspace,
        weekdays=tuple(message.weekdays),
        from_minute=message.from_minute,
        until_minute=message.until_minute,
        session_ttl_s=seconds(message.session_ttl),
        expires=moment(message, "expire_time"),
        registrar=message.registrar,
    )


def status(message: administration_pb2.BrokerStatus) -> models.BrokerStatus:
    """What a broker runs with."""
    return models.BrokerStatus(
        version=message.version,
        origin=message.origin,
        boot_id=message.boot_id,
        started=moment(message, "start_time"),
        policy_digest=message.policy_digest,
        tools=message.tools,
        running=message.running,
        queued=message.queued,
        ledger_seq=message.ledger_seq,
        held=tuple(models.HeldChange(item.action, item.digest, tuple(item.weaker), item.tool) for item in message.held),
    )


def identity(message: administration_pb2.Identity) -> models.IdentityInfo:
    """An identity."""
    kinds = {administration_pb2.IDENTITY_KIND_AGENT: "agent", administration_pb2.IDENTITY_KIND_HUMAN: "human"}
    if message.kind not in kinds:
        raise protocol_error(f"{message.kind} is no kind of identity")
    return models.IdentityInfo(
        name=message.name,
        kind=kinds[message.kind],
        display_name=message.display_name,
        owner=message.owner,
        registrar=message.registrar,
        fingerprints=tuple(message.fingerprints),
        created=moment(message, "create_time"),
        revoked=moment(message, "revoke_time"),
    )
