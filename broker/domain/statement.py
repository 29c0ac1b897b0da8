"""What people and bots sign: one canonical form for each kind of statement, and nothing beside it.

The bytes are RFC 8785 and begin with nothing that another kind could begin with: ``format`` is a member of each and tells
them apart. A signature is Ed25519 over exactly these bytes. They stand verbatim in the ledger, so that a vote is verified
from the ledger alone.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.domain.approval import VoteDecision
from broker.domain.canonical import JsonObject, canonical, digest, parse_object
from broker.domain.ids import ID_PATTERN
from broker.domain.requirement import Channel
from broker.errors import FieldViolation, InvalidArgumentError

VOTE = "broker.vote.v1"
ATTESTED_VOTE = "broker.attested-vote.v1"
ACCEPTANCE = "broker.acceptance.v1"

MAX_STATEMENT_BYTES = 4096
MAX_REASON_BYTES = 4096
SALT_BYTES = 32
SIGNATURE_BYTES = 64

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HMAC = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_ROOT = re.compile(r"[A-Za-z0-9+/]{43}=")


@dataclass(frozen=True, slots=True)
class SeenCheckpoint:
    """The newest checkpoint that a signer's client has verified."""

    size: int
    root: str
    """Base64 of 32 bytes."""


@dataclass(frozen=True, slots=True)
class VoteStatement:
    """A vote. In an attested one ``key`` is the bot's, and the bot says that ``approver`` has voted in its channel."""

    origin: str
    approval: str
    envelope_digest: str
    rendering_digest: str
    decision: VoteDecision
    reason_commit: str
    """``commitment`` of the reason's text; the text itself travels beside the statement."""
    approver: str
    """Id of the person."""
    key: str
    time: datetime
    checkpoint: SeenCheckpoint | None
    channel: Channel = Channel.CLI
    """``cli`` stands for whatever holds the person's own key."""
    account_commit: str = ""
    """``commitment`` of the person's chat account, in an attested vote only."""

    @property
    def attested(self) -> bool:
        """Is it a bot's word?"""
        return self.channel is not Channel.CLI

    def encode(self) -> bytes:
        """The bytes that are signed."""
        body: JsonObject = {
            "format": ATTESTED_VOTE if self.attested else VOTE,
            "origin": self.origin,
            "approval": self.approval,
            "envelope_digest": self.envelope_digest,
            "rendering_digest": self.rendering_digest,
            "decision": self.decision.value,
            "reason_commit": self.reason_commit,
            "approver": self.approver,
            "key": self.key,
            "time": moment_text(self.time),
            "checkpoint": None
            if self.checkpoint is None
            else {"size": self.checkpoint.size, "root": self.checkpoint.root},
        }
        if self.attested:
            body |= {"channel": self.channel.value, "account_commit": self.account_commit}
        return canonical(body)


@dataclass(frozen=True, slots=True)
class AcceptanceStatement:
    """A founder's word: this is the ledger, and all that stands in it, that I know of; see ``broker.domain.founding``."""

    origin: str
    founding_digest: str
    approver: str
    key: str
    time: datetime
    checkpoint: SeenCheckpoint | None

    def encode(self) -> bytes:
        """The bytes that are signed."""
        return canonical(
            {
                "format": ACCEPTANCE,
                "origin": self.origin,
                "founding_digest": self.founding_digest,
                "approver": self.approver,
                "key": self.key,
                "time": moment_text(self.time),
                "checkpoint": None
                if self.checkpoint is None
                else {"size": self.checkpoint.size, "root": self.checkpoint.root},
            }
        )


def parse_vote(data: bytes) -> VoteStatement:
    """Reads a vote, attested or not; what it accepts is byte for byte what ``encode`` writes.

    Raises:
        InvalidArgumentError: ``STATEMENT_INVALID``; names the field.
    """
    body = _object(data)
    attested = body.get("format") == ATTESTED_VOTE
    if not attested and body.get("format") != VOTE:
        raise _refuse("format", f"must be {VOTE} or {ATTESTED_VOTE}")
    try:
        decision = VoteDecision(_text(body, "decision"))
        channel = Channel(_text(body, "channel")) if attested else Channel.CLI
    except ValueError as error:
        raise _refuse("decision", "is none of approve, deny and withdraw, or comes by no channel") from error
    statement = VoteStatement(
        origin=_text(body, "origin"),
        approval=_id(body, "approval"),
        envelope_digest=_matching(body, "envelope_digest", _DIGEST),
        rendering_digest=_matching(body, "rendering_digest", _DIGEST),
        decision=decision,
        reason_commit=_matching(body, "reason_commit", _HMAC),
        approver=_id(body, "approver"),
        key=_matching(body, "key", _DIGEST),
        time=_moment(body, "time"),
        checkpoint=_checkpoint(body),
        channel=channel,
        account_commit=_matching(body, "account_commit", _HMAC) if attested else "",
    )
    _same(statement.encode(), data)
    return statement


def parse_acceptance(data: bytes) -> AcceptanceStatement:
    """Reads an acceptance; what it accepts is byte for byte what ``encode`` writes.

    Raises:
        InvalidArgumentError: ``STATEMENT_INVALID``; names the field.
    """
    body = _object(data)
    if body.get("format") != ACCEPTANCE:
        raise _refuse("format", f"must be {ACCEPTANCE}")
    statement = AcceptanceStatement(
        origin=_text(body, "origin"),
        founding_digest=_matching(body, "founding_digest", _DIGEST),
        approver=_id(body, "approver"),
        key=_matching(body, "key", _DIGEST),
        time=_moment(body, "time"),
        checkpoint=_checkpoint(body),
    )
    _same(statement.encode(), data)
    return statement


def key_id(public_key: bytes) -> str:
    """Id of a key, from the 32 bytes of its public half."""
    return digest(public_key)


def fresh_commit_salt() -> bytes:
    """A salt for ``commitment``: whoever destroys it has erased what was committed to."""
    return secrets.token_bytes(SALT_BYTES)


def commitment(salt: bytes, kind: str, text: str) -> str:
    """Hex HMAC-SHA256(salt, kind || 0x00 || text)."""
    return hmac.new(salt, kind.encode() + b"\x00" + text.encode(), hashlib.sha256).hexdigest()


def moment_text(moment: datetime) -> str:
    """A time as statements carry it: RFC 3339 in UTC with microseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _object(data: bytes) -> JsonObject:
    try:
        return parse_object(data, field="statement", max_bytes=MAX_STATEMENT_BYTES)
    except InvalidArgumentError as error:
        raise _refuse("", error.message) from error


def _same(encoded: bytes, data: bytes) -> None:
    if encoded != data:
        raise _refuse("", "has members that don't belong in it, or isn't in its canonical form")


def _text(body: JsonObject, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise _refuse(name, "must be a text that is not empty")
    return value


def _matching(body: JsonObject, name: str, pattern: re.Pattern[str]) -> str:
    value = _text(body, name)
    if not pattern.fullmatch(value):
        raise _refuse(name, "doesn't have its form")
    return value


def _id(body: JsonObject, name: str) -> str:
    return _matching(body, name, ID_PATTERN)


def _moment(body: JsonObject, name: str) -> datetime:
    value = _matching(body, name, _TIME)
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise _refuse(name, "is no time") from error


def _checkpoint(body: JsonObject) -> SeenCheckpoint | None:
    value = body.get("checkpoint", ...)
    if value is None:
        return None
    if not isinstance(value, dict) or type(value.get("size")) is not int:
        raise _refuse("checkpoint", "must be null, or a size and a root")
    size = value["size"]
    root = value.get("root")
    if not isinstance(size, int) or size < 1 or not isinstance(root, str) or not _ROOT.fullmatch(root):
        raise _refuse("checkpoint", "must be null, or a size and a root")
    return SeenCheckpoint(size, root)


def _refuse(name: str, why: str) -> InvalidArgumentError:
    field = f"statement.{name}" if name else "statement"
    return InvalidArgumentError(
        f"{field} {why}",
        reason="STATEMENT_INVALID",
        violations=(FieldViolation(field, why),),
        hint="Sign with the broker's own client, of the same version as the broker.",
    )
