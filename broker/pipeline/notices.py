"""What those outside are told of an approval, and how they know that it comes from here. Pure.

A notice says that something happened, and to which approval. It holds no content, no name and no reason: whoever may see
those looks at the approval itself.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from broker.domain.approval import Approval, ApprovalState
from broker.domain.canonical import JsonObject, canonical, parse_object
from broker.domain.ports import StoredEntry

SIGNATURE = "Broker-Signature"
"""The header: ``t=UNIX,v1=HEX``."""
_MARKS = (b'"type":"approval.', b'"type":"vote')
_MOST_ENTRY = 64 * 1024
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Notice:
    """One event of an approval; ``seq`` is the ledger entry that it follows from."""

    event: str
    """``requested``, ``voted``, ``approved``, ``denied``, ``expired``, ``cancelled`` or ``used``."""
    approval: Approval
    seq: int

    def encode(self) -> bytes:
        """The body that is posted."""
        approval = self.approval
        return canonical(
            {
                "event": self.event,
                "approval": f"approvals/{approval.id}",
                "kind": approval.kind.value,
                "object": approval.obj,
                "tier": approval.tier,
                "workspace": approval.workspace,
                "expires": approval.expires.isoformat(),
                "seq": self.seq,
            }
        )


def signature(secret: bytes, stamp: int, body: bytes) -> str:
    """The header's value: HMAC-SHA256 of ``stamp.body`` under the secret; ``stamp`` is the time, in seconds since 1970."""
    mac = hmac.new(secret, str(stamp).encode() + b"." + body, hashlib.sha256)
    return f"t={stamp},v1={mac.hexdigest()}"


class Herald:
    """Hears the ledger's entries in order, and knows what is to be told of them."""

    def __init__(self) -> None:
        self._agreed: dict[str, None] = {}

    def hear(self, row: StoredEntry, find: Callable[[str], Approval | None]) -> list[Notice]:
        """The notices that follow from an entry; ``find`` gives an approval by its id."""
        if not any(mark in row.data for mark in _MARKS):
            return []  # most entries are about something else, and none of those is parsed
        entry = parse_object(row.data, field="entry", max_bytes=_MOST_ENTRY)
        said = entry.get("approval")
        if not isinstance(said, dict):
            return []
        approval = find(str(said.get("id")))
        if approval is None:
            return []
        return [Notice(event, approval, row.seq) for event in self._events(str(entry.get("type")), approval.id, said)]

    def _events(self, kind: str, which: str, said: JsonObject) -> list[str]:
        state = str(said.get("state"))
        match kind:
            case "approval.requested":
                return ["requested"]
            case "approval.closed":
                self._agreed.pop(which, None)
                return [state.lower()]
            case "vote" | "vote.attested":
                return ["voted", *self._after_vote(which, state)]
        return []

    def _after_vote(self, which: str, state: str) -> list[str]:
        if state != ApprovalState.APPROVED.value:
            self._agreed.pop(which, None)
            return []
        if which in self._agreed:
            return []
        self._agreed[which] = None
        if len(self._agreed) > _REMEMBERED:
            del self._agreed[next(iter(self._agreed))]
        return ["approved"]
