"""What founders accept: all that decides who may let something happen, as it stands in the ledger at one entry.

One canonical form, and its digest. A founder's client makes both again from what it is shown; whoever has the ledger makes
them again from its entries. So what is shown, what is signed and what stood are one and the same, or nothing is founded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from broker.domain.canonical import JsonObject, JsonValue, canonical, digest, parse_object
from broker.errors import FieldViolation, InvalidArgumentError

FOUNDING = "broker.founding.v2"
MAX_CONTENT_BYTES = 32 * 2**20

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_SHAPE = frozenset({"format", "genesis", "last", "approvers", "identities", "policy", "settings", "tools"})
_IDENTITY = frozenset({"id", "kind", "name_commit", "owner", "registrar", "certificates"})


@dataclass(frozen=True, slots=True, order=True)
class FoundingKey:
    """An approver's key that is enrolled and not revoked."""

    person: str
    key: str
    """``sha256:`` of the public key."""


@dataclass(frozen=True, slots=True, order=True)
class FoundingCertificate:
    """A certificate that is not revoked: whoever has its key acts as the identity."""

    fingerprint: str
    key: str
    """``sha256:`` of the public key (DER)."""


@dataclass(frozen=True, slots=True)
class FoundingIdentity:
    """A person or an agent, not revoked."""

    id: str
    kind: str
    """``human`` or ``agent``."""
    name_commit: str
    """Commitment to the name, which lies sealed beside the ledger."""
    owner: str
    """Id of the agent's owner; empty for a person."""
    registrar: str
    certificates: tuple[FoundingCertificate, ...]

    def body(self) -> JsonObject:
        """As the canonical form has it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "name_commit": self.name_commit,
            "owner": self.owner,
            "registrar": self.registrar,
            "certificates": [{"fingerprint": item.fingerprint, "key": item.key} for item in self.certificates],
        }


@dataclass(frozen=True)
class FoundingContent:
    """All that the founding covers."""

    genesis: str
    """Hex leaf hash of the ledger's first entry."""
    last_seq: int
    """Number of the newest entry that changed any of this."""
    last_leaf: str
    """Its hex leaf hash, which commits to every entry before it: what was changed and changed back is another content."""
    approvers: tuple[FoundingKey, ...]
    identities: tuple[FoundingIdentity, ...]
    policy: str
    """Digest of the policy's text."""
    settings: str
    """Digest of the table of tiers together with the settings that weaken the rule."""
    tools: str
    """Digest of all tools with their tiers."""

    def encode(self) -> bytes:
        """The canonical form: RFC 8785."""
        return canonical(
            {
                "format": FOUNDING,
                "genesis": self.genesis,
                "last": {"seq": self.last_seq, "leaf": self.last_leaf},
                "approvers": [{"person": item.person, "key": item.key} for item in sorted(self.approvers)],
                "identities": [item.body() for item in sorted(self.identities, key=lambda item: item.id)],
                "policy": self.policy,
                "settings": self.settings,
                "tools": self.tools,
            }
        )

    @cached_property
    def digest(self) -> str:
        """What founders sign: ``sha256:`` of the canonical form."""
        return digest(self.encode())

    @property
    def missing(self) -> tuple[str, ...]:
        """What no entry has named so far; nobody can accept what isn't on record."""
        return tuple(name for name in ("policy", "settings", "tools") if not getattr(self, name))


def parse_content(data: bytes) -> FoundingContent:
    """Reads a content; what it accepts is byte for byte what ``encode`` writes, and names policy, settings and tools.

    Raises:
        InvalidArgumentError: ``FOUNDING_MALFORMED``; names the field.
    """
    try:
        body = parse_object(data, field="content", max_bytes=MAX_CONTENT_BYTES)
    except InvalidArgumentError as error:
        raise _refuse("", error.message) from error
    if body.keys() != _SHAPE or body["format"] != FOUNDING:
        raise _refuse("format", f"is not {FOUNDING}, or has other members than it")
    last = body["last"]
    if not isinstance(last, dict) or last.keys() != {"seq", "leaf"} or type(last["seq"]) is not int:
        raise _refuse("last", "must hold exactly seq, a number, and leaf")
    content = FoundingContent(
        genesis=_matching(body["genesis"], "genesis", _HEX_32),
        last_seq=last["seq"],
        last_leaf=_matching(last["leaf"], "last.leaf", _HEX_32),
        approvers=tuple(_key(item) for item in _items(body["approvers"], "approvers")),
        identities=tuple(_identity(item) for item in _items(body["identities"], "identities")),
        policy=_matching(body["policy"], "policy", _DIGEST),
        settings=_matching(body["settings"], "settings", _DIGEST),
        tools=_matching(body["tools"], "tools", _DIGEST),
    )
    if content.encode() != data:
        raise _refuse("", "isn't in its canonical form")
    return content


def _key(value: JsonObject) -> FoundingKey:
    if value.keys() != {"person", "key"}:
        raise _refuse("approvers", "must each hold exactly person and key")
    return FoundingKey(_text(value["person"], "approvers.person"), _matching(value["key"], "approvers.key", _DIGEST))


def _identity(value: JsonObject) -> FoundingIdentity:
    if value.keys() != _IDENTITY:
        raise _refuse("identities", f"must each hold exactly {', '.join(sorted(_IDENTITY))}")
    certificates = []
    for item in _items(value["certificates"], "identities.certificates"):
        if item.keys() != {"fingerprint", "key"}:
            raise _refuse("identities.certificates", "must each hold exactly fingerprint and key")
        fingerprint = _text(item["fingerprint"], "identities.certificates.fingerprint")
        certificates.append(FoundingCertificate(fingerprint, _text(item["key"], "identities.certificates.key")))
    if value["kind"] not in ("human", "agent") or not isinstance(value["owner"], str):
        raise _refuse("identities", "must each be a human or an agent, with a text as owner")
    return FoundingIdentity(
        id=_text(value["id"], "identities.id"),
        kind=_text(value["kind"], "identities.kind"),
        name_commit=_text(value["name_commit"], "identities.name_commit"),
        owner=value["owner"],
        registrar=_text(value["registrar"], "identities.registrar"),
        certificates=tuple(certificates),
    )


def _items(value: JsonValue, name: str) -> list[JsonObject]:
    found = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(found) != len(value):
        raise _refuse(name, "must be a list of objects")
    return found


def _text(value: JsonValue, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(name, "must be a text that is not empty")
    return value


def _matching(value: JsonValue, name: str, pattern: re.Pattern[str]) -> str:
    text = _text(value, name)
    if not pattern.fullmatch(text):
        raise _refuse(name, "doesn't have its form")
    return text


def _refuse(name: str, why: str) -> InvalidArgumentError:
    field = f"content.{name}" if name else "content"
    return InvalidArgumentError(
        f"{field} of the founding {why}",
        reason="FOUNDING_MALFORMED",
        violations=(FieldViolation(field, why),),
        hint="Use a client of the same version as the broker.",
    )
