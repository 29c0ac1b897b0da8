"""What an entry consists of, and which types there are."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from broker.errors import InternalError

VERSION = 1
"""``v`` of each entry."""

MAX_BYTES = 64 * 1024
"""An entry's RFC 8785 text is shorter than this."""

GENESIS_PREV = "0" * 64
"""``prev`` of the first entry, and of an agent's first."""

OWN_KEYS = frozenset({"v", "origin", "seq", "prev", "type", "ts", "boot_id", "agent"})
"""Members that the ledger writes itself; a body can't hold them."""

ENTRY_TYPES = frozenset(
    {
        "genesis",
        "identity.issued",
        "identity.revoked",
        "session.started",
        "session.ended",
        "schedule.registered",
        "spec.registered",
        "workflow.approved",
        "decision",
        "plan.intent",
        "plan.outcome",
        "approval.requested",
        "vote",
        "approval.closed",
        "intent",
        "outcome",
        "unknown",
        "artifact",
        "undo.intent",
        "undo.outcome",
        "policy.changed",
        "settings.changed",
        "key.enrolled",
        "key.revoked",
        "approver.accepted",
        "founding.completed",
        "vote.attested",
        "account.mapped",
        "account.unmapped",
        "administration",
        "frozen",
        "unfrozen",
        "heads",
        "signer.rotated",
        "signer.revoked",
        "recovered",
        "undo.drill",
        "workspace.imported",
        "erased",
        "heartbeat",
    },
)
"""Types that the broker writes. A verifier checks the chain over others too, and lists them."""

HEX_32 = re.compile(r"[0-9a-f]{64}")
"""32 bytes in hexadecimal, as ``prev`` holds them."""

TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
"""``ts``: UTC, always with microseconds, so that text order is time order."""


_WITHOUT_ZONE = len("2026-01-31T23:59:59.000000")


def timestamp(moment: datetime) -> str:
    """A moment as an entry holds it, ``2026-01-31T23:59:59.000000Z``.

    Raises:
        InternalError: the moment has no time zone.
    """
    if moment.tzinfo is None:
        raise InternalError("a time without a zone can't be recorded", reason="NAIVE_TIME")
    if moment.tzinfo is UTC:  # nearly always
        return moment.isoformat("T", "microseconds")[:_WITHOUT_ZONE] + "Z"
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
