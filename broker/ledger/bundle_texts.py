"""The texts that entries name by digest: policies, and tool specifications with their files, as far as they are kept."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.domain.canonical import JsonObject, JsonValue, canonical
from broker.domain.ports import Transaction, Vault
from broker.errors import NotFoundError

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ALL = 2**31
_ID_DIGITS = 32
"""Digits of a digest that the id of a kept text has."""


@dataclass(slots=True)
class NamedTexts:
    """Digests (hexadecimal) that entries name."""

    policy: set[str] = field(default_factory=set)
    specs: set[str] = field(default_factory=set)

    def entry(self, entry: JsonObject) -> None:
        """Takes in what an entry names."""
        policy, tool = entry.get("policy"), entry.get("tool")
        self._add(self.policy, entry.get("policy_digest"))
        self._add(self.policy, entry.get("before"))
        self._add(self.policy, policy.get("digest") if isinstance(policy, dict) else None)
        self._add(self.specs, tool.get("version") if isinstance(tool, dict) else None)

    @staticmethod
    def _add(found: set[str], value: JsonValue) -> None:
        match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
        if match:
            found.add(match[1])


def kept_texts(
    tx: Transaction, vault: Vault, named: NamedTexts, absent: dict[str, list[str]]
) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member under ``texts/``: exactly what has the digest in its name.

    Args:
        tx: a transaction.
        vault: opens what is kept.
        named: what is looked for.
        absent: gets the digests, by kind, of what isn't kept any more.
    """
    for digest in sorted(named.policy):
        text = _kept(tx, vault, f"policy_{digest[:_ID_DIGITS]}")
        if text is not None and _hex(text) == digest:
            yield f"texts/policy/{digest}", text
        else:
            absent["policy"].append(digest)
    files: dict[str, bytes] = {}
    for digest in sorted(named.specs):
        kept = _kept(tx, vault, f"spec_{digest[:_ID_DIGITS]}")
        text, its_files = _spec(kept) if kept is not None else (b"", {})
        if _hex(text) == digest:
            files |= its_files
            yield f"texts/specs/{digest}", text
        else:
            absent["specs"].append(digest)
    for digest, data in sorted(files.items()):
        yield f"texts/files/{digest}", data


def _kept(tx: Transaction, vault: Vault, object_id: str) -> bytes | None:
    try:
        sealed = vault.open(tx, object_id)
    except NotFoundError:
        return None
    return b"".join(piece for _, piece in sealed.read(tx, 0, _ALL))


def _spec(kept: bytes) -> tuple[bytes, dict[str, bytes]]:
    """What a specification's digest is taken over, and the files that it names by digest.

    Kept are the specification and the texts of its files; hashed are the specification and their digests. A file that
    was no UTF-8 can't be had from its text: then the digest isn't met, and the caller says that the text is absent.
    """
    try:
        found = json.loads(kept)
        data = {name: text.encode() for name, text in found["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return b"", {}  # kept by a version of the broker that this one doesn't know: absent, as far as it can say
    digests = {name: f"sha256:{_hex(content)}" for name, content in data.items()}
    hashed = canonical({"format": "broker.tool-spec.v1", "spec": found["spec"], "files": digests})
    return hashed, {_hex(content): content for content in data.values()}


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
