"""Checks an evidence bundle of a broker's ledger, with Python's standard library and `cryptography` alone.

    python verify_bundle.py BUNDLE [--key VKEY]... [--checkpoint FILE]... [--witness VKEY]... [--custody FILE] [--json]

It is one file, longer than others here, because it lies in each bundle: an auditor reads it from top to bottom, installs
nothing of the broker's, and runs it anywhere (Python 3.9 or later). Better still, take it from elsewhere than from the
bundle that it is to check. The format is described in docs/bundle.md of the broker.

Without --key it believes the key that the ledger's own first entry names: that proves integrity, not origin.

Exit code: 0 ok, 10 tampered, 11 forked, 12 gapped, 13 truncated, 14 malformed, 15 rolled back, 16 recovered, 17 wrong
key, 18 votes invalid; 2 for a wrong use. The first thing that is wrong is said with its place. Votes are checked of a whole
ledger only, and the last: the ledger is as it was written, but something in it happened without the votes that it takes. A witness that is named and has cosigned no
checkpoint of the bundle is a wrong key (17), a false cosignature of its is tampering (10).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import re
import sys
import zipfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

FORMAT = "broker.ledger-bundle.v1"
PAYLOAD_TYPE = "application/vnd.broker.ledger-bundle.v1+json"
EVIDENCE = "broker.evidence-bundle.v1"
"""Format of an incident's bundle: an extract with the entries beside it that tell the story, names, and its custody."""
EVIDENCE_TYPE = "application/vnd.broker.evidence-bundle.v1+json"
CUSTODY_TYPE = "application/vnd.broker.custody-line.v1+json"
OK, TAMPERED, FORKED, GAPPED, TRUNCATED = "ok", "tampered", "forked", "gapped", "truncated"
MALFORMED, ROLLED_BACK, RECOVERED, WRONG_KEY = "malformed", "rolled back", "recovered", "wrong key"
VOTES_INVALID = "votes invalid"
WORDS = (TAMPERED, FORKED, GAPPED, TRUNCATED, MALFORMED, ROLLED_BACK, RECOVERED, WRONG_KEY, VOTES_INVALID)
EXIT_CODES = {OK: 0, **{word: 10 + place for place, word in enumerate(WORDS)}}
NOT_SHOWN = "not shown"
WITNESS = (
    "a witness's verifier key; 17 if it has cosigned no checkpoint of the bundle, 10 if a cosignature of its is false"
)

MAX_ENTRY = 64 * 1024
MAX_NUMBER = 2**53 - 1
MAX_MEMBERS = 250_000
MIB = 2**20
MEMBERS = (  # what a bundle may hold, and how many bytes of it at most
    (r"manifest\.json", 48 * MIB),
    (r"manifest\.dsse\.json", 65 * MIB),
    (r"entries\.jsonl", 2**50),
    (r"proofs/(?:0|[1-9][0-9]{0,15})\.tlog-proof", 2 * MIB),
    (r"checkpoints/[0-9]{16}\.note", MIB),
    (r"(?:keys|heads)\.json", 16 * MIB),
    (r"consistency\.json", 64 * MIB),
    (r"texts/(?:policy|specs|files)/[0-9a-f]{64}", 16 * MIB),
    (r"approvals/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.json", 16 * MIB),
    (r"verify_bundle\.py|README\.txt", 4 * MIB),
    (r"names\.json", 16 * MIB),
    (r"custody\.json", MIB),
)
ONLY_EVIDENCE = {"names.json", "custody.json"}
STORY = {  # part of an incident's story -> the types of entries that tell it
    "approvals": {"approval.requested", "vote", "vote.attested", "approval.closed"},
    "erased": {"erased"},
    "freezes": {"frozen", "unfrozen"},
    "identities": {"identity.issued", "identity.revoked"},
    "keys": {"key.enrolled", "key.revoked"},
    "policy": {"policy.changed", "settings.changed", "heartbeat"},
    "sessions": {"session.started", "session.ended"},
    "specs": {"spec.registered"},
    "undo": {
        *("decision", "plan.intent", "plan.outcome", "intent", "outcome", "unknown"),
        *("undo.intent", "undo.outcome", "artifact"),
    },
    "workflows": {"workflow.approved"},
}
UNSIGNED = {"manifest.json", "manifest.dsse.json"}
BEGINNINGS = {"decision", "plan.intent", "intent", "unknown", "undo.intent"}
"""Types of entries after which a call isn't over."""
KEY_TYPES = {"genesis", "signer.rotated", "signer.revoked", "recovered"}
HEX_32 = re.compile(r"[0-9a-f]{64}")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
ZEROS = "0" * 64


class Fault(Exception):  # noqa: N818 - a verdict, not an error of this program
    """Ends the check with a verdict and its place."""

    def __init__(self, verdict: str, why: str, file: str = "", seq: int | None = None, field: str = "") -> None:
        super().__init__(why)
        self.verdict = verdict
        self.place = {"file": file, "seq": seq, "field": field, "why": why}


class UsageError(Exception):
    """What was asked for can't be answered; the bundle isn't to blame."""


# --- JSON in RFC 8785 form, without floats -----------------------------------------------------------------------------


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys: list[Any] = [key for key, _ in pairs]
    if not "".join(keys).isascii():  # among ASCII alone, the order by code points and by UTF-16 is one
        keys = [key.encode("utf-16-be", "surrogatepass") for key in keys]
    if keys != sorted(set(keys)):
        raise ValueError("its keys are not in RFC 8785's order, or one is there twice")
    return dict(pairs)


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_NUMBER:
        raise ValueError("an integer is beyond 2^53-1")
    return int(text)


def _refused(text: str) -> Any:  # noqa: ANN401 - what json wants
    raise ValueError(f"the number {text[:40]} is no integer")


def read_json(data: bytes, file: str, seq: int | None = None) -> dict[str, Any]:
    """Reads an object that must be in RFC 8785 form: order, numbers, escapes and spaces."""
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_pairs, parse_int=_integer, parse_float=_refused, parse_constant=_refused
        )
        again = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise Fault(MALFORMED, f"is not JSON in RFC 8785 form: {str(error)[:200]}", file, seq) from error
    if not isinstance(value, dict) or again != text:
        raise Fault(MALFORMED, "is no JSON object in RFC 8785 form", file, seq)
    return value


def member(value: Any, name: str, kind: type, file: str, seq: int | None = None) -> Any:  # noqa: ANN401 - any JSON
    """A member of an object, which must be of a type."""
    found: Any = value.get(name) if isinstance(value, dict) else None
    if type(found) is not kind or (type(found) is int and found < 0):
        raise Fault(MALFORMED, f"has no {name} that is a {kind.__name__}", file, seq, name)
    return found


# --- RFC 6962 trees ----------------------------------------------------------------------------------------------------


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A growing tree, as the roots of its perfect subtrees, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.roots: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Adds a leaf hash."""
        size = self.size
        while size & 1:
            leaf = node_hash(self.roots.pop(), leaf)
            size >>= 1
        self.roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of what was added."""
        if not self.roots:
            return hashlib.sha256(b"").digest()
        root = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            root = node_hash(left, root)
        return root


def included(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    if index >= size:
        return False
    at, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            node = node_hash(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and node == root


def extends(old_size: int, old_root: bytes, size: int, root: bytes, proof: list[bytes]) -> bool:
    """RFC 9162, 2.1.4.2: is the tree of ``old_size`` leaves the beginning of the other?"""
    if old_size in {0, size}:
        return not proof and (old_root == root if old_size else old_root == Tree().root())
    path = proof if old_size & (old_size - 1) else [old_root, *proof]
    if old_size > size or not path:
        return False
    at, last = old_size - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and old == old_root and new == root


def agent_head_root(agent: str, head: tuple[int, bytes] | None, proof: dict[str, Any], file: str) -> bytes:
    """The root of the map of agents' heads that follows from a proof: a sparse trie by the bits of SHA-256(agent)."""

    def hashed(key: bytes, number: int, leaf: bytes) -> bytes:
        return hashlib.sha256(b"\x00" + key + number.to_bytes(8, "big") + leaf).digest()

    key = hashlib.sha256(agent.encode()).digest()
    bits = "".join(f"{byte:08b}" for byte in key)
    siblings, other = member(proof, "siblings", list, file), proof.get("other")
    if set(proof) != {"siblings", "other"} or len(siblings) > len(bits) or (head is not None and other is not None):
        raise Fault(MALFORMED, "is no proof of an agent's head", file, field="proof")
    node = bytes(32)
    if head is not None:
        node = hashed(key, *head)
    elif other is not None:
        there = unhex(member(other, "key", str, file), file, "proof.other")
        if there == key or "".join(f"{byte:08b}" for byte in there)[: len(siblings)] != bits[: len(siblings)]:
            raise Fault(TAMPERED, "shows a head that doesn't lie on the agent's way", file, field="proof.other")
        node = hashed(
            there, member(other, "seq", int, file), unhex(member(other, "leaf", str, file), file, "proof.other")
        )
    for bit, text in zip(reversed(bits[: len(siblings)]), reversed(siblings)):  # noqa: B905 - for Python 3.9
        sibling = unhex(text, file, "proof.siblings")
        node = node_hash(sibling, node) if bit == "1" else node_hash(node, sibling)
    return node


def unhex(text: Any, file: str, field: str) -> bytes:  # noqa: ANN401 - any JSON
    """32 bytes in hexadecimal."""
    if not isinstance(text, str) or not HEX_32.fullmatch(text):
        raise Fault(MALFORMED, "is not 64 hexadecimal digits", file, field=field)
    return bytes.fromhex(text)


# --- C2SP signed notes and checkpoints ---------------------------------------------------------------------------------


def unbase64(text: str) -> bytes:
    """Reads canonical base64."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("is no canonical base64")
    return data


class Key:
    """A verifier key: ``name+hex(id)+base64(type || public key)``."""

    def __init__(self, text: str) -> None:
        name, _, rest = text.partition("+")
        digits, _, encoded = rest.partition("+")
        data = unbase64(encoded)
        self.text, self.name, self.id = text, name, hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
        if not name or any(char.isspace() for char in name) or digits != self.id.hex() or len(data) != 33:
            raise ValueError("is no verifier key")
        if data[0] not in (1, 4):
            raise ValueError(f"is a key of the unknown type {data[0]}")
        self.cosigns, self._key = data[0] == 4, Ed25519PublicKey.from_public_bytes(data[1:])

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Is this the key's Ed25519 signature?"""
        try:
            self._key.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def a_key(entry: dict[str, Any], name: str, file: str, seq: int) -> Key:
    """A member that is a key by which the entry's own log signs."""
    try:
        key = Key(member(entry, name, str, file, seq))
    except ValueError as error:
        raise Fault(MALFORMED, f"is no verifier key: {error}", file, seq, name) from error
    if key.cosigns or key.name != entry["origin"]:
        raise Fault(MALFORMED, "is a witness's key, or another log's", file, seq, name)
    return key


class Checkpoint:
    """A signed note whose text is origin, size, root, and perhaps more lines."""

    def __init__(self, data: bytes, file: str, seq: int | None = None) -> None:
        self.data, self.file, self.seq = data, file, seq
        try:
            whole = data.decode("utf-8")
            end = whole.rindex("\n\n")
            if not whole.endswith("\n") or re.search("[\x00-\x09\x0b-\x1f]", whole):
                raise ValueError("it has no newline at its end, or a control character")  # noqa: TRY301 - one handler for all
            self.text = whole[: end + 1]
            self.origin, size, root, *self.extensions = self.text[:-1].split("\n")
            self.size, self.root = int(size[:17]), unbase64(root)
            self.signatures: list[tuple[str, bytes, bytes]] = []
            for line in whole[end + 2 : -1].split("\n"):
                dash, name, encoded = line.split(" ")
                raw = unbase64(encoded)
                if dash != "\u2014" or len(raw) < 5:
                    raise ValueError("a signature line is none")  # noqa: TRY301 - one handler for all
                self.signatures.append((name, raw[:4], raw[4:]))
        except ValueError as error:
            raise Fault(MALFORMED, f"is no signed checkpoint: {str(error)[:200]}", file, seq) from error
        if str(self.size) != size or not 0 <= self.size <= MAX_NUMBER or len(self.root) != 32 or not self.origin:
            raise Fault(MALFORMED, "is no signed checkpoint: its size or root is none", file, seq)

    def signed_by(self, key: Key) -> bool:
        """Did this key sign it? A false signature in a known key's name is tampering."""
        found = [data for name, key_id, data in self.signatures if (name, key_id) == (key.name, key.id)]
        if any(not key.signed(self.text.encode(), data) for data in found):
            why = f"the signature by {key.name} ({key.id.hex()}) is false"
            raise Fault(TAMPERED, why, self.file, self.seq, "signature")
        return bool(found)

    def cosigned_at(self, key: Key) -> int | None:
        """When a witness cosigned it, in seconds since 1970; none of its cosignatures may be false."""
        moments = []
        for name, key_id, data in self.signatures:
            if (name, key_id) == (key.name, key.id):
                moments.append(int.from_bytes(data[:8], "big"))
                if not key.signed(f"cosignature/v1\ntime {moments[-1]}\n{self.text}".encode(), data[8:]):
                    raise Fault(TAMPERED, f"the cosignature by {key.name} is false", self.file, field="signature")
        return max(moments, default=None)


def a_note(entry: dict[str, Any], name: str, file: str, seq: int) -> Checkpoint:
    """A member that is the text of a signed checkpoint."""
    return Checkpoint(member(entry, name, str, file, seq).encode("utf-8", "replace"), file, seq)


# --- the history of the log's keys, from the genesis on ----------------------------------------------------------------


class Period:
    """A key, and the sizes of the checkpoints that it must sign: from ``first`` until the next key's."""

    def __init__(self, key: Key, first: int) -> None:
        self.key, self.first, self.revoked = key, first, False


class History:
    """What the entries say of the log's keys."""

    def __init__(self) -> None:
        self.genesis: str | None = None
        self.periods: list[Period] = []
        self.recovered: list[tuple[int, int]] = []
        self.stood = 0  # entries that the last recovery's statement is of: nothing of them can be lost later
        self.within: list[Checkpoint] = []  # of the tree before a rotation's or recovery's entry, which holds it

    def entry(self, entry: dict[str, Any], seq: int, file: str) -> None:
        """Takes in an entry of one of ``KEY_TYPES``."""
        if entry["type"] == "signer.rotated":
            self._rotated(entry, seq, file)
        elif entry["type"] == "signer.revoked":
            self._revoked(entry, seq, file)
        elif entry["type"] == "recovered":
            self._recovered(entry, seq, file)
        elif "checkpoint_key" in entry:
            self.periods.append(Period(a_key(entry, "checkpoint_key", file, seq), 1))
            self.genesis = self.periods[0].key.text

    def _rotated(self, entry: dict[str, Any], seq: int, file: str) -> None:
        old, new = a_key(entry, "old", file, seq), a_key(entry, "new", file, seq)
        if not self.periods:
            self.periods.append(Period(old, 1))
        note = a_note(entry, "checkpoint", file, seq)
        named = [line for line in note.extensions if line.startswith("next-key ")]
        agreed = (note.origin, note.size, named) == (entry["origin"], seq, [f"next-key {new.text}"])
        if not agreed or old.text != self.current.key.text or new.id in {period.key.id for period in self.periods}:
            why = "hands over between other keys, or at another size, than it says"
            raise Fault(TAMPERED, why, file, seq, "checkpoint")
        if not note.signed_by(old) or not note.signed_by(new):
            raise Fault(WRONG_KEY, "the handing over is not signed by both keys", file, seq, "checkpoint")
        self.within.append(note)
        self.periods.append(Period(new, seq + 1))

    def _revoked(self, entry: dict[str, Any], seq: int, file: str) -> None:
        text = member(entry, "key", str, file, seq)
        found = [period for period in self.periods[:-1] if period.key.text == text and not period.revoked]
        if not found:
            raise Fault(TAMPERED, "revokes the key in force, or none that was replaced", file, seq, "key")
        found[0].revoked = True

    def _recovered(self, entry: dict[str, Any], seq: int, file: str) -> None:
        lost = member(entry, "lost", dict, file, seq)
        first, last = member(lost, "from", int, file, seq), member(lost, "to", int, file, seq)
        if not self.periods:
            raise Fault(WRONG_KEY, "the ledger names no key that could have signed it", file, seq, "statement")
        keys = [period.key for period in self.periods if not period.revoked]
        if "lost_key" in entry:
            keys.append(a_key(entry, "lost_key", file, seq))
            if keys[-1].id in {period.key.id for period in self.periods}:
                raise Fault(TAMPERED, "is a key of the ledger as it is: that one is not lost", file, seq, "lost_key")
        note = a_note(entry, "checkpoint", file, seq)
        member(entry, "votes", list, file, seq)
        for name in sorted({"forked", "unproved"} & set(entry)):
            member(entry, name, bool, file, seq)
        if first < self.stood:
            why = f"begins before entry {self.stood}, and the recovery there stated that what is before it stands"
            raise Fault(TAMPERED, why, file, seq, "lost")
        if not first <= min(last, seq) or (note.origin, note.size) != (entry["origin"], last + 1):
            raise Fault(TAMPERED, "its checkpoint doesn't show that those entries are lost", file, seq, "lost")
        if not sum(note.signed_by(key) for key in keys):  # each of them is asked: none may be false
            raise Fault(WRONG_KEY, "its checkpoint is not signed by a key of this ledger", file, seq, "checkpoint")
        # Whoever can write entries, but has no key, could else have any checkpoint excused: so the key says it too.
        said, root = a_note(entry, "statement", file, seq), bytes(32) if entry.get("unproved") else note.root
        line = f"recovered {first} {last} {base64.b64encode(root).decode()}"
        if (said.origin, said.size, said.extensions) != (entry["origin"], seq, [line]):
            raise Fault(TAMPERED, "states another loss, or at another size, than the entry", file, seq, "statement")
        if not said.signed_by(self.current.key):
            raise Fault(WRONG_KEY, "the statement is not signed by the key in force", file, seq, "statement")
        self.within.append(said)
        self.recovered.append((first, last))
        self.stood = seq

    @property
    def current(self) -> Period:
        """The key in force after all that was taken in."""
        return self.periods[-1]

    def at(self, size: int) -> Period:
        """The key that must sign a checkpoint of this size."""
        return [period for period in self.periods if period.first <= max(size, 1)][-1]

    def signed(self, note: Checkpoint) -> bool:
        """Is it signed as it must be: by the key of its size and, where that was revoked, by a later one too?"""
        required = self.at(note.size)
        signers = [period for period in self.periods if note.signed_by(period.key)]
        later = [one for one in signers if one.first > required.first and not one.revoked]
        return required in signers and (not required.revoked or bool(later))

    def lost(self, size: int) -> bool:
        """Has the key in force signed that checkpoints of this size may be of a history that is lost?"""
        return any(first < size <= last + 1 for first, last in self.recovered)


# --- votes: that people agreed to what needs it, and signed it themselves ---------------------------------------------


FOUNDERS = 3
HIGHEST = 4  # the tier at which two people agree, whatever data says
LISTED = 1000
USED_KEPT = 1024  # approvals that were used last: what they were used for stands right behind the use
SLACK = timedelta(seconds=60)
BOUND = {  # what is done -> the administrative action, and the members of its entry that the request says beforehand
    "key.enrolled": ("key.enroll", ("key.id", "key.kind", "person")),
    "account.mapped": ("account.map", ("person", "sealed.commit")),
    "account.unmapped": ("account.unmap", ("person", "sealed.commit")),
    "unfrozen": ("unfreeze", ("scope", "target")),
    "policy.changed": ("policy.change", ("policy_digest", "before")),
    "settings.changed": ("settings.change", ("in_force.settings", "before")),
    "spec.registered": ("tool.approve", ("tool.name", "tool.version", "tier", "surface")),
    "identity.issued registered": ("identity.issue", ("kind", "lineage.owner")),
    "identity.issued certificate": ("identity.issue", ("kind", "lineage.owner", "key_digest")),
    "identity.issued owner": ("identity.owner", ("identity", "lineage.owner")),
}
WITH_THE_VOTE = ("key.enrolled", "account.mapped", "account.unmapped", "unfrozen")
CHANGES = ("spec.registered", "policy.changed", "settings.changed", "identity.issued", "heartbeat")
VOTE, ATTESTED, ACCEPTANCE = "broker.vote.v1", "broker.attested-vote.v1", "broker.acceptance.v1"
ACCEPTED = {"format", "origin", "founding_digest", "approver", "key", "time", "checkpoint"}
VOTED = {
    *("format", "origin", "approval", "envelope_digest", "rendering_digest"),
    *("decision", "reason_commit", "approver", "key", "time", "checkpoint"),
}


class Finding(Exception):  # noqa: N818 - said of an entry; the check goes on
    """What the broker should never have done: the member of the entry, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def needed(holds: Any, field: str, why: str) -> None:  # noqa: ANN401 - what is true or not
    """Raises ``Finding`` unless it holds."""
    if not holds:
        raise Finding(field, why)


def of(value: Any, name: str, kind: type, field: str = "") -> Any:  # noqa: ANN401 - any JSON
    """A member of an object, which must be of a type and not empty; else it is a ``Finding``."""
    found: Any = value.get(name) if isinstance(value, dict) else None
    needed(type(found) is kind and (found or kind is not str), field or name, f"is missing, or no {kind.__name__}")
    return found


def stated(text: str, formats: dict[str, set[str]], field: str) -> dict[str, Any]:
    """What was signed: RFC 8785 bytes of an object with exactly the members of its format."""
    try:
        said = read_json(text.encode("utf-8"), "")
        moment(str(said.get("time")))
    except (Fault, ValueError) as error:
        raise Finding(field, f"is no statement: {str(error)[:200]}") from error
    right = set(said) == formats.get(str(said.get("format")))
    right = right and all(type(value) is str and value for name, value in said.items() if name != "checkpoint")
    needed(right, field, "has other members than its format")
    return said


def moment(text: str) -> datetime:
    """A time with its zone."""
    found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    if found.tzinfo is None:
        raise ValueError("has no time zone")
    return found


class Asked:
    """An approval, by the entry that asked for it."""

    def __init__(self, entry: dict[str, Any]) -> None:
        said = of(entry, "approval", dict)
        for name in ("id", "kind", "subject", "envelope_digest", "rendering_digest", "expires"):
            of(said, name, str, f"approval.{name}")
        self.said, self.id, self.kind, self.subject = said, said["id"], said["kind"], said["subject"]
        kinds = ("CALL", "WORKFLOW", "ADMINISTRATION", "RUNBOOK", "REVIEW")
        needed(self.kind in kinds, "approval", "is of a kind that there isn't")
        try:
            self.expires = moment(said["expires"])
        except ValueError as error:
            raise Finding("approval", f"can't be read: {error}") from error
        self.excluded = listed(said, "excluded", "approval.excluded")
        self.tier = of(entry, "tier", int)
        needed(within(self.tier, 0, HIGHEST), "tier", "is none")
        least = 2 if self.tier >= HIGHEST and self.kind not in {"REVIEW", "WORKFLOW"} else 1
        self.people = max(self._requirement(of(said, "requirement", dict, "approval.requirement")), least)
        weak = self.kind in {"CALL", "RUNBOOK"} and self.tier >= HIGHEST and self.signed < 1
        if self.kind == "ADMINISTRATION":
            weak = self.tier < HIGHEST or self.people < 2 or self.signed < 2 or self.channels != {"cli"}
        needed(not weak, "approval.requirement", "asks for less than must be asked for, whatever data says")
        # person -> number of the entry, decision, key, attested, time: the last vote of each
        self.ballots: dict[str, tuple[int, str, str, bool, datetime]] = {}
        self.votes, self.denied, self.acted = 0, False, False
        self.counted: list[int] = []
        self.act = entry["act"] if isinstance(entry.get("act"), dict) else {}
        self.made, self.issued = "", False  # the identity that was registered by it; was a certificate issued?

    def _requirement(self, wants: dict[str, Any]) -> int:
        """How many people it takes."""
        bounds = {
            "people": (1, 64),
            "min_signed": (0, 64),
            "expiry_s": (1, 604800),
            "cooldown_s": (0, 604800),
            "max_pending": (1, 100),
        }
        right = set(wants) == {*bounds, "roles", "channels", "exclude_tool_owner"}
        right = right and all(within(wants[name], *bound) for name, bound in bounds.items())
        right = right and type(wants["exclude_tool_owner"]) is bool and type(wants["roles"]) is list
        needed(right, "approval", "its requirement can't be read")
        names: set[str] = set()
        for role in wants["roles"]:
            whole = isinstance(role, dict) and set(role) == {"role", "people"} and within(role["people"], 1, 64)
            named = whole and type(role["role"]) is str and re.fullmatch("[a-z][a-z0-9-]{0,62}", role["role"])
            needed(named and role["role"] not in names | {"agent", "human"}, "approval", "a role of it can't be read")
            names.add(role["role"])
        self.channels, self.signed = listed(wants, "channels", "approval"), int(wants["min_signed"])
        people = max(int(wants["people"]), sum(int(role["people"]) for role in wants["roles"]))
        right = bool(self.channels) and self.channels <= {"cli", "slack"}
        right = right and len(self.channels) == len(wants["channels"])
        right = right and bool(names) and people <= 64 and self.signed <= people
        needed(right and (not self.signed or "cli" in self.channels), "approval", "its requirement can never be met")
        return people


def within(value: Any, least: int, most: int) -> bool:  # noqa: ANN401 - any JSON
    """Is it an integer between these?"""
    return type(value) is int and least <= value <= most


def at(entry: dict[str, Any], path: str) -> Any:  # noqa: ANN401 - any JSON
    """What an entry has at a dotted path; ``None`` for nothing."""
    found: Any = entry
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def bound(entry: dict[str, Any], asked: Asked, named: str) -> None:
    """Does an entry say what its approval's request said that it would?"""
    kind, change = entry["type"], str(entry.get("change"))
    found = BOUND.get(f"{kind} {change}" if kind == "identity.issued" else kind)
    if found is None or asked.kind != "ADMINISTRATION" or asked.subject != found[0]:
        raise Finding(named, f"{asked.id} is about something else")
    needed(asked.act.get("type") == kind, named, f"the request of {asked.id} doesn't say that it is for this")
    for path in found[1]:
        said, wanted = at(entry, path), asked.act.get(path)
        same = type(said) is type(wanted) and said is not None and said == wanted
        needed(same, path, f"is {str(said)[:200]}, and {asked.id} is about {str(wanted)[:200]}")
    if kind != "identity.issued" or change == "owner":
        return
    who, wanted, new = of(entry, "identity", str), asked.act.get("identity"), change == "registered"
    right = wanted in ("" if new else who, "") and asked.made in ("", who)
    needed(right, "identity", f"is {who}, and {asked.id} is about another")
    asked.made = who if new else asked.made


CONFINED = {"name", "owner", "image", "runtime", "data_classes", "reversibility", "egress", "workspace"}
TOLD = {"description", "notes", "tier"}


def written(text: str) -> dict[str, str]:
    """The members of an object in RFC 8785 form, each as it is written: name -> value."""
    found, place, decoder = {}, 1, json.JSONDecoder()
    while text[place] != "}":
        name, colon = decoder.raw_decode(text, place + (text[place] == ","))
        _, end = decoder.raw_decode(text, colon + 1)
        found[name] = text[colon + 1 : end]
        place = end
    return found


def surface_of(text: str) -> str:
    """The digest of what decides what a tool may do, from the text of which its version is the digest."""
    whole = written(text)
    spec = written(whole["spec"])
    reaches = spec.get("egress", "[]") != "[]" or spec.get("effects", '"none"') != '"none"'
    kept = [name for name in spec if (name not in TOLD if reaches else name in CONFINED)]
    members = ",".join(f"{json.dumps(name)}:{spec[name]}" for name in kept)
    files = whole["files"] if reaches else "{}"
    data = f'{{"files":{files},"format":"broker.tool-surface.v1","spec":{{{members}}}}}'.encode()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tool_of(entry: dict[str, Any]) -> tuple[Any, Any]:
    """Name and version of the tool that an entry names."""
    tool = entry.get("tool")
    return (tool.get("name"), tool.get("version")) if isinstance(tool, dict) else (None, None)


class InForce:
    """What is in force by all entries so far that were found right: tools, policy, settings."""

    def __init__(self) -> None:
        # name -> version, tier, tier that was asked for, surface: how each tool runs
        self.tools: dict[str, tuple[str, int, int, str]] = {}
        self.accepted: dict[str, tuple[int, str]] = {}  # name -> tier and surface that were accepted
        self.digests = {"policy": "", "settings": ""}

    def need(self, entry: dict[str, Any], founded: bool) -> str:  # noqa: FBT001 - no caller outside of this file
        """Whose agreement an entry of ``CHANGES`` needs: nobody's, nobody's by the broker's own word, or people's."""
        kind = entry["type"]
        if kind == "spec.registered":
            name, (_, tier, declared, surface) = self.registered(entry)
            why = f"{name} runs below tier {declared}, which its specification asks for"
            needed(tier >= declared, "tier", why)
            least, known = self.accepted.get(name, (HIGHEST, ""))
            return "people" if founded and tier < (least if known == surface else HIGHEST) else "nobody"
        if kind == "identity.issued":
            return "people" if founded else "nobody"
        parts = entry["in_force"] if isinstance(entry.get("in_force"), dict) else {}
        if kind in ("settings.changed", "heartbeat") and parts.get("tools") is not None:
            why = "is not the digest of the tools that are registered"
            needed(parts["tools"] == self.tools_digest(), "in_force.tools", why)
        if kind == "heartbeat":
            named = {"policy": entry.get("policy_digest"), **parts}
            for name, known in self.digests.items():
                why = f"is not the one that was put into force: {known}"
                needed(not founded or named.get(name) == known, f"in_force.{name}", why)
            return "nobody"
        name, which = "policy", entry.get("policy_digest")
        if kind == "settings.changed":
            of(entry, "in_force", dict)
            if "settings" not in parts:
                return "nobody"
            name, which = "settings", of(parts, "settings", str)
        needed(type(which) is str and which, "policy_digest", "is missing, or no str")
        if not founded or which == self.digests[name]:
            return "nobody"
        alone = entry.get("sensitive") is False and entry.get("before") == self.digests[name]
        return "word" if alone and "approvals" not in entry else "people"

    def take(self, entry: dict[str, Any], founded: bool) -> None:  # noqa: FBT001 - no caller outside of this file
        """Takes in an entry that was found right."""
        kind, parts = entry["type"], entry.get("in_force")
        parts = parts if isinstance(parts, dict) else {}
        if kind == "spec.registered":
            name, said = self.registered(entry)
            self.tools[name] = said
            if not founded or said[1] == said[2]:
                self.accepted[name] = (said[1], said[3])
        elif kind == "policy.changed":
            self.digests["policy"] = entry["policy_digest"]
        elif kind == "settings.changed" and "settings" in parts:
            self.digests["settings"] = parts["settings"]
        elif kind == "heartbeat" and not founded:
            named = {"policy": entry.get("policy_digest"), **parts}
            self.digests.update({name: str(named[name]) for name in self.digests if named.get(name)})

    def least(self, name: str, version: str, founded: bool) -> int:  # noqa: FBT001 - no caller outside of this file
        """The lowest tier at which a call of that version of a tool may run."""
        known = self.tools.get(name)
        if known is None or (known[0] != version and founded):
            return HIGHEST if founded else 0
        return known[1]

    def registered(self, entry: dict[str, Any]) -> tuple[str, tuple[str, int, int, str]]:
        """The name of a tool, and how it runs."""
        tool, tier = of(entry, "tool", dict), entry.get("tier")
        declared, surface = entry.get("declared", tier), entry.get("surface", "")
        for name, value in (("tier", tier), ("declared", declared)):
            needed(within(value, 0, HIGHEST), name, "is none")
        needed(type(surface) is str, "surface", "is no text")
        name, version = of(tool, "name", str, "tool.name"), of(tool, "version", str, "tool.version")
        return name, (version, tier, declared, surface)  # type: ignore[return-value]  # needed above

    def tools_digest(self) -> str:
        """The digest by which starts and the founding name all tools."""
        tiers = {name: said[1] for name, said in self.tools.items()}
        text = {"surfaces": {name: said[3] for name, said in self.tools.items()}, "tools": tiers}
        data = json.dumps(text, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8")
        return f"sha256:{hashlib.sha256(data).hexdigest()}"


def listed(value: dict[str, Any], name: str, field: str) -> set[str]:
    """A member that is a list of texts."""
    found = value.get(name)
    needed(isinstance(found, list) and all(type(item) is str for item in found), field, "is no list of texts")
    return set(found)  # type: ignore[arg-type]  # needed above


def reached(entry: dict[str, Any], *path: str) -> Any:  # noqa: ANN401 - any JSON
    """A member by its path, which must be a text, but may be empty."""
    found: Any = entry
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    needed(type(found) is str, "type", f"can't be read: {'.'.join(path)} is no text")
    return found


class Standing:
    """What stands before the founding: all that founders sign, and so all that is made of the entries here again."""

    def __init__(self) -> None:
        self.genesis = ""
        self.last = {"seq": 0, "leaf": ""}
        self.keys: dict[str, str] = {}
        self.identities: dict[str, dict[str, Any]] = {}
        self.named = {"policy": "", "settings": "", "tools": ""}

    def entry(self, seq: int, entry: dict[str, Any], leaf: str) -> None:
        """Takes in the next entry, of any type, in which nothing else is wrong."""
        kind, changed = entry["type"], False
        if kind == "genesis":
            self.genesis, changed = leaf, True
        elif kind == "key.enrolled":
            if reached(entry, "key", "kind") == "approver":
                self.keys[reached(entry, "key", "id")], changed = reached(entry, "person"), True
        elif kind == "key.revoked":
            changed = self.keys.pop(reached(entry, "key", "id"), None) is not None
        elif kind in ("identity.issued", "identity.revoked"):
            self._identity(entry)
            changed = True
        elif kind in ("policy.changed", "settings.changed", "heartbeat"):
            changed = self._names(entry, kind)
        if changed:
            self.last = {"seq": seq, "leaf": leaf}

    def digest(self) -> str:
        """What founders sign."""
        body = {
            "approvers": [
                {"key": key, "person": who} for who, key in sorted((who, key) for key, who in self.keys.items())
            ],
            "format": "broker.founding.v2",
            "genesis": self.genesis,
            "identities": [self.identities[which] for which in sorted(self.identities)],
            "last": {"leaf": self.last["leaf"], "seq": self.last["seq"]},
            **self.named,
        }
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8")
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    def _names(self, entry: dict[str, Any], kind: str) -> bool:
        said: dict[str, Any] = {}
        if kind != "settings.changed":
            said["policy"] = entry.get("policy_digest")
        in_force = entry.get("in_force")
        if kind != "policy.changed" and isinstance(in_force, dict):
            said.update((part, in_force.get(part)) for part in ("settings", "tools"))
        found = {part: which for part, which in said.items() if type(which) is str and which}
        changed = any(self.named[part] != which for part, which in found.items())
        self.named.update(found)
        return changed

    def _identity(self, entry: dict[str, Any]) -> None:
        which, change = reached(entry, "identity"), reached(entry, "change")
        known = self.identities.get(which)
        certificates = [] if known is None else known["certificates"]
        if change in ("registered", "owner", "certificate"):
            if change == "owner":
                ended = listed(entry, "revoked_certificates", "type")
                certificates = [one for one in certificates if one["fingerprint"] not in ended]
            if change == "certificate":
                added = {"fingerprint": reached(entry, "fingerprint"), "key": reached(entry, "key_digest")}
                certificates = [*certificates, added]
            self.identities[which] = {
                "certificates": sorted(certificates, key=lambda one: (one["fingerprint"], one["key"])),
                "id": which,
                "kind": reached(entry, "kind"),
                "name_commit": reached(entry, "name_commit"),
                "owner": reached(entry, "lineage", "owner"),
                "registrar": reached(entry, "lineage", "registrar"),
            }
        elif change == "certificate-revoked":
            gone = reached(entry, "fingerprint")
            if known is not None:
                stay = [one for one in certificates if one["fingerprint"] != gone]
                self.identities[which] = {**known, "certificates": stay}
        else:
            needed(change == "revoked", "type", "can't be read: changes an identity in a way that isn't known")
            self.identities.pop(which, None)


class Votes:
    """The two-person rule, from the entries of a whole ledger alone."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        report.update(checked=True, acts=0, votes=0, signatures=0, attested=[], attested_count=0, findings=[], found=0)
        report.update(alone=[], alone_count=0)
        self.force = InForce()
        self.keys: dict[str, dict[str, Any]] = {}
        self.accepted: dict[str, set[str]] = {}
        self.standing, self.founding = Standing(), ""
        self.open: dict[str, Asked] = {}
        self.used: dict[str, Asked] = {}
        # call that may be taken back by itself -> its intent's number, tier and tool, what that does, and is its end not known?
        self.undoing: dict[str, tuple[Any, Any, Any, str, bool]] = {}
        self.readers = {
            **dict.fromkeys(WITH_THE_VOTE, self._action),
            **dict.fromkeys(CHANGES, self._change),
            **dict.fromkeys(("intent", "workflow.approved"), self._act),
            **dict.fromkeys(("outcome", "unknown", "undo.outcome"), self._ended),
            "undo.intent": self._taken_back,
            "key.revoked": self._revoke,
            "approver.accepted": self._accept,
            "founding.completed": self._complete,
            "approval.requested": self._ask,
            "approval.closed": self._close,
        }

    def entry(self, seq: int, entry: dict[str, Any], leaf: str) -> None:
        """Takes in the next entry, of any type."""
        try:
            if entry["type"] in ("vote", "vote.attested"):
                self._vote(seq, entry)
            elif entry["type"] in self.readers:
                self.readers[entry["type"]](entry)
            if entry["type"] == "intent":
                self._may_be_undone(seq, entry)
            if not self.founding:
                self.standing.entry(seq, entry, leaf)
        except Finding as finding:
            self._find(seq, finding)
        if entry["type"] in ("intent", "undo.intent"):
            self._ran(seq, entry)

    def _find(self, seq: int, finding: Finding) -> None:
        self.report["found"] += 1
        if len(self.report["findings"]) < LISTED:
            self.report["findings"].append(Fault("", str(finding), "entries.jsonl", seq, finding.field).place)

    def _ran(self, seq: int, entry: dict[str, Any]) -> None:
        tier = entry.get("tier")
        if not within(tier, 0, HIGHEST - 1):
            return
        tool = entry["tool"] if isinstance(entry.get("tool"), dict) else {}
        name, version = (tool[one] if type(tool.get(one)) is str else "" for one in ("name", "version"))
        least = self.force.least(name, version, bool(self.founding))
        if tier < least:  # type: ignore[operator]  # within bounds
            why = f"is {tier}, and what is registered of {name[:80] or 'no tool'} {version[:80]} runs at {least}"
            self._find(seq, Finding("tier", why))

    # keys and founding

    def _key(self, which: str, field: str) -> dict[str, Any]:
        needed(which in self.keys, field, f"names the key {which[:80]}, which no entry before this one enrolled")
        return self.keys[which]

    def _revoke(self, entry: dict[str, Any]) -> None:
        self._key(of(of(entry, "key", dict), "id", str, "key.id"), "key.id")["revoked"] = True

    def _signed(self, said: dict[str, Any], text: str, signature: str, fields: tuple[str, str]) -> dict[str, Any]:
        """The key that signed a statement, which must be valid now."""
        key = self._key(said["key"], fields[0])
        needed(not key["revoked"], fields[0], f"is by the key {said['key']}, which was revoked before")
        self.report["signatures"] += 1
        try:
            Ed25519PublicKey.from_public_bytes(key["public"]).verify(unbase64(signature), text.encode("utf-8"))
        except (InvalidSignature, ValueError) as error:
            why = f"is not the signature of this statement by the key {said['key']}"
            raise Finding(fields[1], why) from error
        return key

    def _accept(self, entry: dict[str, Any]) -> None:
        text = of(entry, "statement", str)
        said = stated(text, {ACCEPTANCE: ACCEPTED}, "statement")
        key = self._key(said["key"], "statement")
        wanted = (key["person"], said["key"], said["founding_digest"], key["person"])
        found = (entry.get("person"), of(entry, "key", dict).get("id"), entry.get("founding_digest"), said["approver"])
        why = "is another person's, by another key or of another founding than is said"
        needed(found == wanted, "statement", why)
        right = key["kind"] == "approver" and said["origin"] == entry["origin"]
        needed(right, "statement", "is of another ledger, or a bot's")
        self._signed(said, text, of(entry, "signature", str), ("statement", "signature"))
        if not self.founding:
            lacks = [part for part, which in self.standing.named.items() if not which]
            needed(not lacks, "founding_digest", f"no entry before it names what is in force: {', '.join(lacks)}")
        why = f"is not that of what stood then, as of entry {self.standing.last['seq']}"
        needed(said["founding_digest"] == (self.founding or self.standing.digest()), "founding_digest", why)
        self.accepted.setdefault(said["founding_digest"], set()).add(key["person"])

    def _complete(self, entry: dict[str, Any]) -> None:
        needed(not self.founding, "type", "the founding was complete before")
        why = "covers other tools than those that are registered"
        needed(self.standing.named["tools"] in ("", self.force.tools_digest()), "founding_digest", why)
        which = self.standing.digest()
        people = self.accepted.get(which, set())
        right = (
            entry.get("founding_digest") == which and len(people) >= FOUNDERS and entry.get("people") == sorted(people)
        )
        needed(right, "people", f"{len(people)} people have accepted the founding that is in force here")
        self.founding = which

    # approvals and votes

    def _founded(self) -> None:
        needed(self.founding, "type", f"comes before {FOUNDERS} people have accepted the founding")

    def _ask(self, entry: dict[str, Any]) -> None:
        self._founded()
        asked = Asked(entry)
        needed(
            asked.id not in self.open and asked.id not in self.used, "approval.id", f"{asked.id} was asked for before"
        )
        self.open[asked.id] = asked

    def _opened(self, entry: dict[str, Any]) -> Asked:
        which = of(of(entry, "approval", dict), "id", str, "approval.id")
        closed = "was closed before" if which in self.used else "is not open: never asked for, or closed before"
        needed(which in self.open, "approval.id", f"{which[:80]} {closed}")
        return self.open[which]

    def _vote(self, seq: int, entry: dict[str, Any]) -> None:
        attested = entry["type"] == "vote.attested"
        self.report["votes"] += 1
        asked, vote = self._opened(entry), of(entry, "vote", dict)
        text = of(vote, "statement", str, "vote.statement")
        formats = {VOTE: VOTED, ATTESTED: VOTED | {"channel", "account_commit"}}
        said = stated(text, formats, "vote.statement")
        key = self._signed(
            said, text, of(vote, "signature", str, "vote.signature"), ("vote.statement", "vote.signature")
        )
        why = "a bot's word stands as a person's vote, or the other way round"
        needed((said["format"] == ATTESTED) is attested, "type", why)
        right = key["kind"] == ("bot" if attested else "approver")
        needed(right, "vote.statement", f"is by a key of the kind {key['kind']}")
        person, decision, channel = said["approver"], said["decision"], said.get("channel", "cli")
        why = f"is in the name of {person}, by the key of {key['person']}"
        needed(attested or key["person"] == person, "vote.statement", why)
        for field, what, found, wanted in (
            ("person", "person", entry.get("person"), person),
            ("channel", "channel", entry.get("channel"), channel),
            ("vote.statement", "ledger", said["origin"], entry["origin"]),
            ("vote.statement", "approval", said["approval"], asked.id),
            ("vote.statement", "envelope", said["envelope_digest"], asked.said["envelope_digest"]),
            ("vote.statement", "rendering", said["rendering_digest"], asked.said["rendering_digest"]),
        ):
            needed(found == wanted, field, f"names the {what} {str(found)[:200]}, not {str(wanted)[:200]}")
        needed(within(vote.get("number"), asked.votes + 1, asked.votes + 1), "vote.number", f"is not {asked.votes + 1}")
        needed(decision in ("approve", "deny", "withdraw"), "vote.statement", "says neither yes nor no")
        self._timely(entry, asked)
        needed(person not in asked.excluded, "person", f"{person} is in the request's lineage, or it is about them")
        before, now = asked.ballots.get(person), moment(said["time"])
        why = "is not later than the person's vote before: it was played in again"
        needed(before is None or now > before[4] or decision == "deny", "vote.statement", why)
        why = f"approves by {channel}, which the requirement doesn't let count"
        needed(decision != "approve" or channel in asked.channels, "channel", why)
        asked.votes += 1
        asked.denied = asked.denied or decision == "deny"
        asked.ballots[person] = (seq, decision, said["key"], attested, now)
        if attested:
            self.report["attested_count"] += 1
            if len(self.report["attested"]) < LISTED:
                self.report["attested"].append({"seq": seq, "key": said["key"], "person": person})

    def _timely(self, entry: dict[str, Any], asked: Asked) -> None:
        needed(moment(entry["ts"]) <= asked.expires + SLACK, "ts", f"is after {asked.id} had expired")

    def _close(self, entry: dict[str, Any]) -> None:
        asked, said = self._opened(entry), entry["approval"]
        del self.open[asked.id]
        state = of(said, "state", str, "approval.state")
        needed(state in ("USED", "DENIED", "EXPIRED", "CANCELLED"), "approval.state", "is no state that ends it")
        right = said.get("envelope_digest") == asked.said["envelope_digest"]
        needed(right, "approval.envelope_digest", "is not that of the request")
        if state != "USED":
            needed(not asked.acted, "approval.state", "ends as not used what has been acted on")
            return
        self._timely(entry, asked)
        asked.counted = of(said, "votes", list, "approval.votes")
        self._enough(asked, asked.counted, set(), "approval.votes")
        self.used[asked.id] = asked
        if len(self.used) > USED_KEPT:
            del self.used[next(iter(self.used))]

    def _enough(self, asked: Asked, counted: list[Any], barred: set[str], field: str) -> None:
        """Do these votes stand, of enough people who aren't barred, by keys that are valid now?"""
        needed(not asked.denied, field, f"{asked.id} was denied")
        standing = {ballot[0]: (person, *ballot) for person, ballot in asked.ballots.items()}
        people, signed = set(), 0
        for seq in counted:
            found = standing.get(seq) if type(seq) is int else None
            needed(found and found[2] == "approve", field, f"entry {seq} is no vote for {asked.id} that stands")
            person, _, _, key, attested, _ = found  # type: ignore[misc]  # needed above
            needed(person not in barred, field, f"entry {seq} is the vote of {person}, who is in the lineage")
            revoked = self.keys[key]["revoked"]
            needed(not revoked, field, f"entry {seq} is by the key {key}, which was revoked before")
            people.add(person)
            signed += not attested
        why = f"{len(people)} people have agreed to {asked.id}; it takes {asked.people}"
        needed(asked.people <= len(people) == len(counted), field, why)
        why = f"{signed} people have signed {asked.id} themselves; it takes {asked.signed}"
        needed(signed >= asked.signed, field, why)

    # what people agreed to

    def _act(self, entry: dict[str, Any]) -> None:
        kind, tier = entry["type"], entry.get("tier")
        if type(tier) is not int or not 0 <= tier <= HIGHEST:
            tier = HIGHEST  # what says no tier, or none that there is, is taken for the highest
        due = tier >= HIGHEST or kind == "workflow.approved"
        if not due and "approvals" not in entry:
            return
        self.report["acts"] += 1
        named = entry.get("approvals")
        why = "nobody's agreement is named, and it needs that of people"
        needed(isinstance(named, list) and (named or not due), "approvals", why)
        self._founded()
        for item in named or ():
            self._named(kind, entry, item, tier)

    def _named(self, kind: str, entry: dict[str, Any], item: Any, tier: int) -> None:  # noqa: ANN401 - any JSON
        which = of(item, "id", str, "approvals.id")
        asked = self.used.get(which)
        # A certificate goes with the identity that was registered by the same approval.
        first = kind == "identity.issued" and entry.get("change") == "certificate" and asked and not asked.issued
        goes_on = first and asked and asked.made and asked.made == entry.get("identity")
        if asked is None or (asked.acted and not goes_on):
            why = "was used for something else before" if asked else "was not used for this"
            raise Finding("approvals.id", f"{which[:80]} {why}")
        asked.acted = True
        for name in ("envelope_digest", "rendering_digest"):
            right = item.get(name) == asked.said[name]
            needed(right, f"approvals.{name}", f"is not the one of {which}: {asked.said[name]}")
        why = f"are not those by which {which} was used: {asked.counted}"
        needed(item.get("votes") == asked.counted, "approvals.votes", why)
        if kind in CHANGES:
            bound(entry, asked, "approvals.id")
            asked.issued = asked.issued or entry.get("change") == "certificate"
            right = True
        elif kind == "workflow.approved":
            workflow = entry.get("workflow")
            right = asked.kind == "WORKFLOW" and isinstance(workflow, dict) and workflow.get("id") == asked.subject
            told = asked.act.get("workflow.version") if asked.act.get("type") == kind else None
            same = isinstance(workflow, dict) and isinstance(told, str) and workflow.get("version") == told
            needed(same or not right, "workflow.version", f"is not the one that {asked.id} is about: {str(told)[:200]}")
        else:
            right = asked.kind == "RUNBOOK" or (asked.kind == "CALL" and entry.get("call_id") == asked.subject)
        needed(right, "approvals.id", f"{asked.id} is about something else")
        needed(tier <= asked.tier, "tier", f"{asked.id} was for tier {asked.tier}")
        self._timely(entry, asked)
        behind: set[str] = set()
        if kind in ("intent", "undo.intent"):
            lineage, names = of(entry, "lineage", dict), ("owner", "registrar", "starter", "on_behalf_of")
            behind = listed({"lineage": [lineage.get(name) for name in names]}, "lineage", "lineage")
        self._enough(asked, asked.counted, behind, "approvals.votes")

    def _may_be_undone(self, seq: int, entry: dict[str, Any]) -> None:
        effect = entry.get("effect")
        outside = effect.get("outside") if isinstance(effect, dict) else None
        if isinstance(outside, dict) and outside.get("on_failure") == "undo":
            back = of(outside, "undo", str, "effect.outside.undo")
            self.undoing[of(entry, "call_id", str)] = (seq, entry.get("tier"), tool_of(entry), back, False)

    def _ended(self, entry: dict[str, Any]) -> None:
        if entry["type"] == "outcome" and "effect" not in entry:
            return
        call = str(entry.get("call_id"))
        agreed = self.undoing.pop(call, None)
        if agreed is not None and entry["type"] == "unknown":
            self.undoing[call] = (*agreed[:4], True)

    def _taken_back(self, entry: dict[str, Any]) -> None:
        self.report["acts"] += 1
        agreed = self.undoing.pop(of(entry, "call_id", str), None)
        why = "is not what was agreed to, should the call's end not be known"
        needed(agreed, "undo.digest", why)
        back = of(of(entry, "undo", dict), "digest", str, "undo.digest")
        needed(agreed is not None and agreed[3] == back, "undo.digest", why)
        seq, tier, tool, _, unknown = agreed or (0, 0, 0, "", False)
        needed(unknown, "call_id", "names a call whose end was known")
        same = (entry.get("intent_seq"), entry.get("tier"), tool_of(entry)) == (seq, tier, tool)
        needed(same, "intent_seq", f"is not that of the call's intent {seq}, at its tier and of its tool")

    def _action(self, entry: dict[str, Any]) -> None:
        kind = entry["type"]
        key = self._enrolled(entry) if kind == "key.enrolled" else None
        which = entry.get("approval")
        needed(isinstance(which, str), "approval", "is missing, or no text")
        if not self.founding:
            bot = key is not None and key["kind"] == "bot"
            needed(not bot, "key.kind", "is a bot's, and comes before the founding: nobody agreed to it")
            why = "comes before the founding: nobody agreed to whose the account is"
            needed(kind not in ("account.mapped", "account.unmapped"), "type", why)
            needed(not which, "approval", "is named before anything could be approved")
        else:
            self.report["acts"] += 1
            self._with_the_vote(entry, str(which), "approval")
        if key is not None:
            needed(key["id"] not in self.keys, "key.id", "was enrolled before")
            self.keys[key["id"]] = key

    def _with_the_vote(self, entry: dict[str, Any], which: str, field: str) -> None:
        asked = self.open.get(which)
        if asked is None or asked.acted:
            raise Finding(field, "the founding is complete, and no open approval of this act is named")
        bound(entry, asked, field)
        asked.acted = True
        ballots = [one for one in asked.ballots.values() if one[1] == "approve" and not self.keys[one[2]]["revoked"]]
        self._enough(asked, [one[0] for one in ballots], set(), field)

    def _change(self, entry: dict[str, Any]) -> None:
        founded, named = bool(self.founding), entry.get("approvals")
        need = self.force.need(entry, founded)
        if named is None and need == "word":
            self.report["alone_count"] += 1
            if len(self.report["alone"]) < LISTED:
                self.report["alone"].append({"seq": entry["seq"], "type": entry["type"]})
        elif named is not None or need == "people":
            self.report["acts"] += 1
            why = "nobody's agreement is named, and it needs that of people"
            needed(isinstance(named, list) and len(named) == 1, "approvals", why)
            self._founded()
            item = named[0]  # type: ignore[index]  # needed above
            if entry["type"] == "identity.issued" and entry.get("change") == "owner":
                self._with_the_vote(entry, of(item, "id", str, "approvals.id"), "approvals.id")
            else:
                self._named(entry["type"], entry, item, HIGHEST)
        self.force.take(entry, founded)

    def _enrolled(self, entry: dict[str, Any]) -> dict[str, Any]:
        said = of(entry, "key", dict)
        kind, which = of(said, "kind", str, "key.kind"), of(said, "id", str, "key.id")
        needed(kind in ("approver", "bot"), "key.kind", "is neither approver nor bot")
        try:
            public = unbase64(of(said, "public_key", str, "key.public_key"))
        except ValueError as error:
            raise Finding("key.public_key", "is no base64") from error
        right = len(public) == 32 and which == f"sha256:{hashlib.sha256(public).hexdigest()}"
        needed(right, "key.id", "is not the digest of this public key")
        return {"id": which, "kind": kind, "person": of(entry, "person", str), "public": public, "revoked": False}


# --- the ZIP file ------------------------------------------------------------------------------------------------------


class Archive:
    """Members of a bundle, read once, in bounded memory; ``digests`` has the SHA-256 and size of those read."""

    def __init__(self, path: str) -> None:
        self.zip = zipfile.ZipFile(path)
        self.digests: dict[str, tuple[str, int]] = {}
        self.members: dict[str, zipfile.ZipInfo] = {}
        if len(self.zip.infolist()) > MAX_MEMBERS:
            raise Fault(MALFORMED, f"has more than {MAX_MEMBERS} files")
        end = 0
        for info in sorted(self.zip.infolist(), key=lambda info: info.header_offset):
            name = info.orig_filename
            limit = next((most for pattern, most in MEMBERS if re.fullmatch(pattern, name)), None)
            if limit is None or info.filename != name:
                raise Fault(MALFORMED, "is no file of a bundle", ascii(name)[:200])
            if name in self.members:
                raise Fault(MALFORMED, "is there twice", name)
            if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Fault(MALFORMED, "is encrypted, or compressed in a way that bundles aren't", name)
            if info.file_size > limit:
                raise Fault(MALFORMED, f"says that it has {info.file_size} bytes; the limit is {limit}", name)
            if info.header_offset < end:  # else a few bytes could be given out as terabytes, or as two texts
                raise Fault(MALFORMED, "overlaps another file of the archive", name)
            end = info.header_offset + 30 + len(name.encode()) + info.compress_size
            self.members[name] = info

    def chunks(self, name: str) -> Any:  # noqa: ANN401 - an iterator of bytes
        """The bytes of a member, piece by piece."""
        if name not in self.members:
            raise Fault(MALFORMED, "is missing from the bundle", name)
        digest, size = hashlib.sha256(), 0
        with self.zip.open(self.members[name]) as stream:
            while piece := stream.read(MIB):
                digest.update(piece)
                size += len(piece)
                yield piece
        if size != self.members[name].file_size:
            raise Fault(MALFORMED, "is not as long as the archive says", name)
        self.digests[name] = (digest.hexdigest(), size)

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        return b"".join(self.chunks(name))

    def lines(self, name: str) -> Any:  # noqa: ANN401 - an iterator of bytes
        """The lines of a member without their newlines; one that is too long ends it."""
        rest = b""
        for piece in self.chunks(name):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
            if len(rest) > MAX_ENTRY:
                break
        if rest:
            yield rest


# --- an incident's story, and through whose hands it went ----------------------------------------------------------------


class Story:
    """What an incident's bundle shows beside the selected entries, and whether that fits together."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts: dict[int, str] = {}  # number of an entry -> the part of the story that it tells
        for part, numbers in parts.items():
            if (
                part not in STORY
                or not isinstance(numbers, list)
                or not all(within(one, 0, MAX_NUMBER) for one in numbers)
            ):
                raise Fault(MALFORMED, f"{part[:80]} is no part of a story", "manifest.json", field="story")
            self.parts.update((one, part) for one in numbers)
        if len(self.parts) != sum(map(len, parts.values())):
            raise Fault(MALFORMED, "names an entry twice", "manifest.json", field="story")
        self.told: Counter[str] = Counter()
        self.seen: set[int] = set()
        self.asked: set[str] = set()
        self.votes: dict[str, list[tuple[int, int]]] = {}  # approval -> number and entry of each vote
        self.counted: list[tuple[int, str, list[Any]]] = []  # entry, approval, and the votes that it says
        self.used: list[tuple[int, str]] = []  # entry, and the approval by which it happened
        self.keys: dict[str, Ed25519PublicKey] = {}
        self.ballots: list[tuple[int, str, str, str]] = []  # entry, key, statement, signature
        self.erased: dict[int, set[str]] = {}  # entry -> what it says is erased
        self.identities: dict[str, str] = {}  # id -> agent or human
        self.certificates: dict[str, tuple[str, str, int]] = {}  # fingerprint -> whose, digest of its key, entry
        self.report: dict[str, Any] = {}

    def tells(self, seq: int, kind: str) -> bool:
        """Is this entry a part of the story?"""
        part = self.parts.get(seq)
        if part is None:
            return False
        if kind not in STORY[part]:
            raise Fault(
                MALFORMED, f"is of the type {kind[:80]}, which isn't one of {part}", "entries.jsonl", seq, "type"
            )
        self.told[part] += 1
        self.seen.add(seq)
        return True

    def entry(self, seq: int, entry: dict[str, Any], *, whole: bool) -> None:
        """Takes in an entry; ``whole`` means that it is there for itself, so that the votes behind it must be there too."""
        kind, said = entry["type"], entry.get("approval")
        which = str(said.get("id")) if isinstance(said, dict) else ""
        if kind == "approval.requested":
            self.asked.add(which)
        elif kind in ("vote", "vote.attested") and isinstance(entry.get("vote"), dict):
            self._vote(seq, which, entry["vote"])
        elif kind == "approval.closed" and isinstance(said, dict) and said.get("state") == "USED":
            self.counted.append((seq, which, member(said, "votes", list, "entries.jsonl", seq)))
        elif kind == "key.enrolled":
            self._key(seq, entry)
        elif kind == "erased":
            self._erased(seq, entry)
        elif kind == "identity.issued":
            who = str(entry.get("identity"))
            self.identities[who] = str(entry.get("kind"))
            if entry.get("change") == "certificate":
                self.certificates[str(entry.get("fingerprint"))] = (who, str(entry.get("key_digest")), seq)
        elif whole and kind in ("intent", "undo.intent"):
            named = entry.get("approvals")
            for item in named if isinstance(named, list) else []:
                self.used.append((seq, str(item.get("id")) if isinstance(item, dict) else ""))

    def _vote(self, seq: int, which: str, vote: dict[str, Any]) -> None:
        file = "entries.jsonl"
        self.votes.setdefault(which, []).append((member(vote, "number", int, file, seq), seq))
        text = member(vote, "statement", str, file, seq)
        key = str(read_json(text.encode("utf-8", "replace"), file, seq).get("key"))
        self.ballots.append((seq, key, text, member(vote, "signature", str, file, seq)))

    def _key(self, seq: int, entry: dict[str, Any]) -> None:
        said = member(entry, "key", dict, "entries.jsonl", seq)
        try:
            public = unbase64(member(said, "public_key", str, "entries.jsonl", seq))
            if said.get("id") != f"sha256:{hashlib.sha256(public).hexdigest()}":
                raise ValueError("its id is not its digest")  # noqa: TRY301 - one handler for all
            self.keys[said["id"]] = Ed25519PublicKey.from_public_bytes(public)
        except ValueError as error:
            raise Fault(VOTES_INVALID, f"is no key of a person or bot: {error}", "entries.jsonl", seq, "key") from error

    def _erased(self, seq: int, entry: dict[str, Any]) -> None:
        subject, ids = entry.get("subject"), entry.get("ids")
        gone = {str(one) for one in ids} if isinstance(ids, list) else set()
        if isinstance(subject, dict) and entry.get("name") is True:
            gone.add(f"name:{subject.get('id')}")
        self.erased[seq] = gone

    def ends(self) -> None:
        """Checks that no vote is left out, and each signature whose key is here."""
        file = "entries.jsonl"
        missing = min(set(self.parts) - self.seen, default=None)
        if missing is not None:
            raise Fault(GAPPED, "is part of the story, and missing", file, missing)
        for which, votes in self.votes.items():
            for place, (number, seq) in enumerate(votes, 1):
                if number != place:
                    why = f"is vote {number} on {which[:80]}, and the bundle has {place - 1} before it"
                    raise Fault(GAPPED, why, file, seq, "vote.number")
        for seq, which, counted in self.counted:
            here = {one for _, one in self.votes.get(which, ())}
            if which not in self.asked or not all(type(one) is int and one in here for one in counted):
                raise Fault(GAPPED, f"the request of {which[:80]}, or a vote that it counts, is missing", file, seq)
        closed = {which for _, which, _ in self.counted}
        for seq, which in self.used:
            if which not in closed:
                raise Fault(GAPPED, f"names the approval {which[:80]}, whose end is missing", file, seq, "approvals")
        signed = sum(self._signed(*ballot) for ballot in self.ballots)
        self.report.update(entries=dict(sorted(self.told.items())), approvals=len(self.asked))
        self.report.update(votes=len(self.ballots), signatures=signed, by_keys_not_here=len(self.ballots) - signed)

    def _signed(self, seq: int, key: str, text: str, signature: str) -> bool:
        """Is a vote signed by a key that is here? ``False`` where the key isn't."""
        if key not in self.keys:
            return False
        try:
            self.keys[key].verify(unbase64(signature), text.encode("utf-8"))
        except (InvalidSignature, ValueError) as error:
            why = f"is not the signature of this statement by the key {key[:80]}"
            raise Fault(VOTES_INVALID, why, "entries.jsonl", seq, "vote.signature") from error
        return True


def custody_line(data: bytes, number: int, before: str, bundle: str) -> dict[str, Any]:
    """A line of a custody file: who gave the bundle to whom, signed by who gave it."""
    file = "the custody file"
    line = read_json(data, file, number)
    wanted = {"after", "at", "bundle", "fingerprint", "format", "key", "note", "number", "person", "signature", "to"}
    if set(line) != wanted or line["format"] != "broker.custody-line.v1":
        raise Fault(MALFORMED, "has other members than a custody line", file, number)
    texts = [member(line, name, str, file, number) for name in sorted(wanted - {"number"})]
    if any("\n" in text for text in texts) or not TIMESTAMP.fullmatch(line["at"]):
        raise Fault(MALFORMED, "has a time or a text that none may have", file, number)
    if member(line, "number", int, file, number) != number:
        raise Fault(GAPPED, f"is line {line['number']} where line {number} belongs", file, number, "number")
    if line["bundle"] != bundle:
        raise Fault(TAMPERED, "is about another bundle than this one, byte for byte", file, number, "bundle")
    if line["after"] != before:
        raise Fault(TAMPERED, "goes on from another line than the one before it", file, number, "after")
    said = json.dumps(
        {name: line[name] for name in sorted(wanted - {"signature"})}, ensure_ascii=False, separators=(",", ":")
    ).encode("utf-8")
    kind = CUSTODY_TYPE.encode()
    try:
        public = unbase64(line["key"])
        signed_by(public, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(said), said), unbase64(line["signature"]))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise Fault(TAMPERED, "is not signed by the key that it names", file, number, "signature") from error
    line["key_digest"] = f"sha256:{hashlib.sha256(public).hexdigest()}"
    return line


def signed_by(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises unless it is the signature by the key of a certificate: ECDSA or RSA, with SHA-256."""
    key: Any = load_der_public_key(public)
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    else:
        raise ValueError("the key is neither EC nor RSA")  # noqa: TRY004 - what the caller turns into a verdict


# --- the check ---------------------------------------------------------------------------------------------------------


class Check:
    """One bundle. ``report`` fills up as it goes."""

    def __init__(
        self, archive: Archive, report: dict[str, Any], held: list[Checkpoint], wanted: tuple[int, ...]
    ) -> None:
        self.archive, self.report, self.wanted = archive, report, wanted
        self.history, self.tree = History(), Tree()
        self.later: Fault | None = None  # a proof that fails: said after it is known whose signature the root has
        self.seq, self.count, self.selected = -1, 0, 0
        self.first: int | None = None
        self.last: int | None = None
        self.leaf, self.prev = "", ""
        self.agents: dict[str, tuple[int, str]] = {}
        self.calls: set[str] = set()
        self.named: dict[str, set[str]] = {"policy": set(), "specs": set()}
        self.surfaces: dict[str, list[tuple[int, str]]] = {}  # version -> entries that register it, and what they say
        self.types: Counter[str] = Counter()
        self.roots: dict[int, bytes] = {}
        self.heads_root = b""
        # approval whose texts lie here -> what entries commit to: of the texts, and of each vote by its number
        shown = [name[len("approvals/") : -len(".json")] for name in archive.members if name.startswith("approvals/")]
        self.shown: dict[str, dict[str, Any]] = {name: {} for name in shown}
        self.story: Story | None = None
        self.redacted: dict[str, int] = {}
        self.span: dict[str, Any] = {}
        self.begun = self.reached = self.ended = False
        self.unended: set[str] = set()
        self._manifest()
        self.votes = Votes(report["votes"]) if self.full else None
        self._checkpoints()
        self.known_sizes = {note.size for note in (*self.notes, *held)}
        self.head_of = self.filter.get("agent") or (self.span["agent"] if self.span.get("heads") else "")
        self.heads = self._json("heads.json") if self.head_of else {}
        if self.heads:
            self.heads_seq = member(self.heads, "seq", int, "heads.json")
            if set(self.heads) != {"agent", "seq", "proof"}:
                raise Fault(MALFORMED, "must hold exactly agent, seq and proof", "heads.json")
            if self.span and self.span["last"] != self.heads_seq:
                raise Fault(MALFORMED, "names another heads entry than the manifest", "heads.json", field="seq")

    def _json(self, name: str) -> dict[str, Any]:
        return read_json(self.archive.read(name), name)

    def _manifest(self) -> None:
        name = "manifest.json"
        self.raw = self.archive.read(name)
        manifest = self.manifest = read_json(self.raw, name)
        if manifest.get("format") not in (FORMAT, EVIDENCE):
            raise Fault(MALFORMED, f"this verifier knows only {FORMAT} and {EVIDENCE}", name, field="format")
        evidence = manifest["format"] == EVIDENCE
        self.payload_type = EVIDENCE_TYPE if evidence else PAYLOAD_TYPE
        self.origin, kind = member(manifest, "origin", str, name), member(manifest, "kind", str, name)
        self.full, self.filter = kind == "full", member(manifest, "selected", dict, name)
        wanted: dict[str, Any] = {"full": [[]], "extract": [["agent"], ["call"], ["session"], ["from", "to"]]}
        if sorted(self.filter) not in wanted.get(kind, []) or (evidence and self.full):
            raise Fault(MALFORMED, "is neither a whole ledger nor a known extract", name, field="selected")
        for field, value in self.filter.items():
            member(self.filter, field, int if field in ("from", "to") else str, name)
            self.report["selected"][field] = value
        self.files = member(manifest, "files", dict, name)
        self.absent = member(manifest, "absent", dict, name)
        self.report.update(kind=kind, origin=self.origin, made=manifest.get("made"), absent=self.absent)
        if evidence:
            self._evidence(manifest)
        elif other := ONLY_EVIDENCE & set(self.archive.members):
            raise Fault(MALFORMED, f"is no file of a {FORMAT}", min(other))
        name = "manifest.dsse.json"
        envelope = self._json(name)
        try:
            payload = unbase64(member(envelope, "payload", str, name))
            self.signatures = [
                (member(item, "keyid", str, name), unbase64(member(item, "sig", str, name)))
                for item in member(envelope, "signatures", list, name)
            ]
        except ValueError as error:
            raise Fault(MALFORMED, f"is no DSSE envelope: {error}", name) from error
        if payload != self.raw or envelope.get("payloadType") != self.payload_type:
            raise Fault(TAMPERED, "signs another manifest than the one in the bundle", name, field="payload")

    def _evidence(self, manifest: dict[str, Any]) -> None:
        """Of an incident's bundle: its story, what was erased of it, and which stretch of an agent's chain is shown."""
        name, span = "manifest.json", manifest.get("span")
        self.story = Story(member(manifest, "story", dict, name))
        for item in member(manifest, "redacted", list, name):
            which, seq = member(item, "id", str, name), member(item, "erased", int, name)
            if set(item) != {"id", "erased"}:
                raise Fault(MALFORMED, "must hold exactly id and erased", name, field="redacted")
            self.redacted[which] = seq
        self.report["redacted"] = [{"id": which, "erased": seq} for which, seq in self.redacted.items()]
        if ("call" in self.filter or "session" in self.filter) is not isinstance(span, dict):
            raise Fault(MALFORMED, "must be there for a call or a session, and null for others", name, field="span")
        if span is None:
            return
        member(span, "agent", str, name)
        heads = member(span, "heads", bool, name)
        if set(span) != {"agent", "first", "last", "heads"}:
            raise Fault(MALFORMED, "must hold exactly agent, first, last and heads", name, field="span")
        if member(span, "first", int, name) > member(span, "last", int, name) - (1 if heads else 0):
            raise Fault(MALFORMED, "ends before it begins", name, field="span")
        self.span = span

    def _checkpoints(self) -> None:
        names = sorted(name for name in self.archive.members if name.startswith("checkpoints/"))
        self.notes = [Checkpoint(self.archive.read(name), name) for name in names]
        for note in self.notes:
            if note.file != f"checkpoints/{note.size:016d}.note" or note.origin != self.origin:
                raise Fault(TAMPERED, "is of another size or ledger than its place", note.file)
        said = member(self.manifest, "checkpoint", dict, "manifest.json")
        if not self.notes:
            raise Fault(MALFORMED, "holds no checkpoint", "checkpoints/")
        self.newest = self.notes[-1]
        if (said.get("size"), said.get("root")) != (self.newest.size, self.newest.root.hex()):
            raise Fault(
                TAMPERED, "names another checkpoint than the bundle's newest", "manifest.json", field="checkpoint"
            )
        self.report["checkpoint"] = {"size": self.newest.size, "root": self.newest.root.hex()}
        self.paths = {} if self.full else self._json("consistency.json")

    # entries

    def walk(self) -> None:
        """Checks all entries, one after the other."""
        try:
            self._walk()
        finally:
            self.report.update(entries=self.count, types=dict(sorted(self.types.items())))
        if not self.count:
            raise Fault(GAPPED, "has no genesis: the key history begins there", "entries.jsonl", 0)
        if self.full and self.count < self.newest.size:
            why = f"ends after {self.count} entries; the checkpoint has {self.newest.size}"
            raise Fault(TRUNCATED, why, "entries.jsonl", self.count)
        if self.full and self.tree.root() != self.newest.root:
            why = "the entries give another root than the checkpoint's"
            self.later = Fault(TAMPERED, why, self.newest.file, field="root")
        self._ends()

    def _walk(self) -> None:
        for data in self.archive.lines("entries.jsonl"):
            entry = self._entry(data)
            leaf = leaf_hash(data)
            self._link(entry, leaf)
            self._agent(entry, leaf.hex())
            self._select(entry)
            self._texts(entry)
            self._shown(entry)
            if entry["type"] in KEY_TYPES:
                self.history.entry(entry, self.seq, "entries.jsonl")
            if self.votes is not None:
                self.votes.entry(self.seq, entry, leaf.hex())
            self.leaf, self.prev = leaf.hex(), entry["prev"]
            if self.seq in self.wanted:
                self.report["leaves"][str(self.seq)] = self.leaf
            self.count += 1
            self.types[entry["type"]] += 1

    def _entry(self, data: bytes) -> dict[str, Any]:
        file, guess = "entries.jsonl", self.seq + 1
        if len(data) >= MAX_ENTRY:
            raise Fault(MALFORMED, f"an entry is longer than {MAX_ENTRY} bytes", file, guess)
        entry = read_json(data, file, guess)
        seq, origin = member(entry, "seq", int, file, guess), member(entry, "origin", str, file, guess)
        kind, prev = member(entry, "type", str, file, seq), member(entry, "prev", str, file, seq)
        member(entry, "boot_id", str, file, seq)
        stamp = member(entry, "ts", str, file, seq)
        if type(entry.get("v")) is not int or entry["v"] != 1:
            raise Fault(MALFORMED, "this verifier knows only version 1", file, seq, "v")
        if not HEX_32.fullmatch(prev) or not TIMESTAMP.fullmatch(stamp) or (kind == "genesis") != (seq == 0):
            raise Fault(MALFORMED, "prev, ts or type is none that an entry may have", file, seq)
        if origin != self.origin:
            raise Fault(TAMPERED, f"belongs to another ledger, {origin[:100]!a}", file, seq, "origin")
        if seq <= self.seq:
            raise Fault(FORKED, f"comes again, or after entry {self.seq}", file, seq, "seq")
        if seq > guess and (self.full or guess == 0):
            raise Fault(GAPPED, f"entries {guess} to {seq - 1} are missing before it", file, guess, "seq")
        if seq >= self.newest.size:
            raise Fault(TAMPERED, f"is not in the checkpoint of {self.newest.size} entries", file, seq, "seq")
        self.adjacent, self.seq = seq == guess, seq
        return entry

    def _link(self, entry: dict[str, Any], leaf: bytes) -> None:
        file, seq = "entries.jsonl", self.seq
        if self.adjacent and entry["prev"] != (self.leaf if seq else ZEROS):
            twice = seq > 0 and entry["prev"] == self.prev
            verdict = FORKED if twice else TAMPERED
            raise Fault(verdict, "names another predecessor than the entry before it", file, seq, "prev")
        if self.full:
            if seq in self.known_sizes or entry["type"] in ("signer.rotated", "recovered"):
                self.roots[seq] = self.tree.root()
            self.tree.append(leaf)
            return
        name = f"proofs/{seq}.tlog-proof"
        head, _, checkpoint = self.archive.read(name).partition(b"\n\n")
        try:
            magic, index, *hashes = head.decode("ascii").split("\n")
            proof = [unbase64(text) for text in hashes]
        except ValueError as error:
            raise Fault(MALFORMED, "is no tlog-proof", name, seq) from error
        if magic != "c2sp.org/tlog-proof@v1" or any(len(item) != 32 for item in proof):
            raise Fault(MALFORMED, "is no tlog-proof", name, seq)
        right = index == f"index {seq}" and checkpoint == self.newest.data
        if not right or not included(leaf, seq, self.newest.size, proof, self.newest.root):
            self.later = self.later or Fault(TAMPERED, "doesn't prove that the entry is in the checkpoint", name, seq)

    def _agent(self, entry: dict[str, Any], leaf: str) -> None:
        if "agent" not in entry:
            return
        file, seq, agent = "entries.jsonl", self.seq, entry["agent"]
        name, number = member(agent, "id", str, file, seq), member(agent, "seq", int, file, seq)
        if set(agent) != {"id", "seq", "prev"} or not HEX_32.fullmatch(member(agent, "prev", str, file, seq)):
            raise Fault(MALFORMED, "must hold exactly id, seq and prev", file, seq, "agent")
        span = self.span if self.span.get("agent") == name else {}
        inside = bool(span) and span["first"] < seq <= span["last"]
        whole = self.full or self.filter.get("agent") == name or inside
        if inside and name not in self.agents:
            raise Fault(
                GAPPED, "comes before the first entry of the stretch that is to be whole", file, seq, "agent.seq"
            )
        known = self.agents.get(name, (-1, ZEROS) if whole or number == 0 else None)
        if known is not None:
            if number <= known[0]:
                raise Fault(FORKED, f"is number {number} of its agent, which is at {known[0]}", file, seq, "agent.seq")
            if whole and number > known[0] + 1:
                why = f"entries {known[0] + 1} to {number - 1} of the agent are missing before it"
                raise Fault(GAPPED, why, file, seq, "agent.seq")
            if number == known[0] + 1 and agent["prev"] != known[1]:
                raise Fault(FORKED, "names another entry as its agent's last", file, seq, "agent.prev")
        self.agents[name] = (number, leaf)

    def _hit(self, entry: dict[str, Any]) -> bool:
        """Is the entry one of those that were selected?"""
        seq, chosen = self.seq, self.filter
        if self.head_of and seq >= self.heads_seq:
            return False
        if "agent" in chosen:
            return "agent" in entry and bool(entry["agent"]["id"] == chosen["agent"])
        if "call" in chosen:
            return bool(entry.get("call_id") == chosen["call"])
        if "session" in chosen:
            lineage = entry.get("lineage")
            proofs = lineage.get("proofs") if isinstance(lineage, dict) else None
            named = isinstance(proofs, list) and f"session:{chosen['session']}" in proofs
            call = entry.get("call_id")
            if named and isinstance(call, str):
                self.calls.add(call)
            return named or entry.get("session") == chosen["session"] or (isinstance(call, str) and call in self.calls)
        return self.full or bool(chosen["from"] <= seq <= chosen["to"])

    def _select(self, entry: dict[str, Any]) -> None:
        seq, chosen, hit, told = self.seq, self.filter, self._hit(entry), False
        if self.story is not None:
            told = self.story.tells(seq, entry["type"])
            self.story.entry(seq, entry, whole=hit or told)
            if told and hit:
                raise Fault(MALFORMED, "is selected, and yet named as part of the story", "entries.jsonl", seq)
        if self.span:
            told = self._spanned(entry, hit=hit) or told
        if hit:
            if "from" in chosen and seq != (chosen["from"] if self.last is None else self.last + 1):
                raise Fault(GAPPED, "entries of the range are missing before it", "entries.jsonl", seq, "seq")
            self.first, self.last, self.selected = seq if self.first is None else self.first, seq, self.selected + 1
        elif entry["type"] == "heads" and self.heads and seq == self.heads_seq:
            root = member(entry.get("heads"), "root", str, "entries.jsonl", seq)
            self.heads_root = unhex(root, "entries.jsonl", "heads")
        elif entry["type"] not in KEY_TYPES and not told:
            raise Fault(MALFORMED, "is not part of what was selected", "entries.jsonl", seq)

    def _spanned(self, entry: dict[str, Any], *, hit: bool) -> bool:
        """Is the entry in the stretch of the agent's chain that is to be whole? Notes where that begins and ends."""
        span, seq, kind, file = self.span, self.seq, entry["type"], "entries.jsonl"
        call, agent = entry.get("call_id"), entry.get("agent")
        on_chain = isinstance(agent, dict) and agent.get("id") == span["agent"]
        if hit and on_chain and not span["first"] <= seq <= span["last"]:
            raise Fault(MALFORMED, "is selected, and outside of the stretch that is to be whole", file, seq)
        if seq == span["first"]:
            session = self.filter.get("session")
            begins = kind == "session.started" and entry.get("session") == session if session else kind == "decision"
            if not (begins and hit and on_chain):
                raise Fault(MALFORMED, "is not where what was selected begins", file, seq)
            self.begun = True
        if hit and isinstance(call, str):
            policy = entry.get("policy")
            if kind in ("outcome", "undo.outcome"):
                self.unended.discard(call)
            elif kind != "decision" or not isinstance(policy, dict) or policy.get("decision") == "allow":
                self.unended |= {call} if kind in BEGINNINGS else set()
        self.ended = self.ended or (hit and on_chain and kind == "session.ended")
        self.reached = self.reached or (seq == span["last"] and on_chain)
        return on_chain and span["first"] <= seq <= span["last"]

    def _texts(self, entry: dict[str, Any]) -> None:
        policy, tool = entry.get("policy"), entry.get("tool")
        if entry["type"] == "spec.registered" and isinstance(tool, dict) and "surface" in entry:
            said = self.seq, str(entry["surface"])
            self.surfaces.setdefault(str(tool.get("version")), []).append(said)
        named = [("policy", entry.get("policy_digest")), ("policy", entry.get("before"))]
        named.append(("policy", policy.get("digest") if isinstance(policy, dict) else None))
        named.append(("specs", tool.get("version") if isinstance(tool, dict) else None))
        for kind, text in named:
            found = DIGEST.fullmatch(text) if isinstance(text, str) else None
            if found:
                self.named[kind].add(found[1])

    def _shown(self, entry: dict[str, Any]) -> None:
        said, vote = entry.get("approval"), entry.get("vote")
        found = self.shown.get(str(said.get("id"))) if isinstance(said, dict) else None
        if found is None:
            return
        if entry["type"] == "approval.requested":
            found.setdefault("said", said)
            found.setdefault("act", entry.get("act"))
        elif entry["type"] in ("vote", "vote.attested") and isinstance(vote, dict):
            data = member(vote, "statement", str, "entries.jsonl", self.seq).encode("utf-8")
            found.setdefault(str(vote.get("number")), read_json(data, "entries.jsonl", self.seq))

    def _ends(self) -> None:
        said, file = member(self.manifest, "entries", dict, "manifest.json"), "manifest.json"
        if self.head_of:
            self._heads()
        if self.span:
            self._span_ends()
        if self.story is not None:
            self.story.ends()
            self.report.update(story=self.story.report, not_shown=self._not_shown())
        if "to" in self.filter and self.last != self.filter["to"]:
            raise Fault(TRUNCATED, "the range ends before its last entry", "entries.jsonl", self.last)
        wanted = {"count": self.count, "selected": self.selected, "first": self.first, "last": self.last}
        if said != wanted:
            short = isinstance(said.get("count"), int) and said["count"] > self.count
            raise Fault(GAPPED if short else TAMPERED, f"says {said}, but there are {wanted}", file, field="entries")
        self.report.update(selected_entries=self.selected, first=self.first, last=self.last, complete=self._complete())

    def _span_ends(self) -> None:
        span, what = self.span, "the session" if "session" in self.filter else "the call"
        if not self.begun:
            raise Fault(GAPPED, f"{what} begins there, and the entry is missing", "entries.jsonl", span["first"])
        if span["heads"]:
            return
        if not self.reached:
            raise Fault(TRUNCATED, f"{what} goes on to there, and the entry is missing", "entries.jsonl", span["last"])
        if self.unended or ("session" in self.filter and not self.ended):
            why = f"says that {what} is over, and the end of {min(self.unended, default=what)} isn't here"
            raise Fault(TRUNCATED, why, "manifest.json", field="span")

    def _not_shown(self) -> list[str]:
        """What an incident's bundle can't show, in words."""
        told = []
        if self.span and not self.span["heads"]:
            told.append(f"whether the agent did anything that concerns it after entry {self.span['last']}")
        if not self.span and "agent" not in self.filter and "from" not in self.filter:
            told.append("that these are all of the selected entries")
        told.append(
            "that no entry of other chains is left out: requests, votes, changes of policy, freezes, undos of others"
        )
        told.append("that the votes were enough: the whole ledger shows that")
        return told

    def _complete(self) -> str:
        if self.span:
            kind, which = next(iter(self.filter.items()))
            where = f"on the chain of {self.span['agent']}, from entry {self.span['first']}"
            if self.span["heads"]:
                return f"all of {kind} {which} {where} up to entry {self.heads_seq}, which commits its end"
            return f"all of {kind} {which} {where} to its end, entry {self.span['last']}"
        if "agent" in self.filter:
            return f"all of the agent's entries before entry {self.heads_seq}, of {self.newest.size} in the checkpoint"
        return "all entries" if self.full else "all of the range" if "from" in self.filter else NOT_SHOWN

    def _heads(self) -> None:
        file, agent = "heads.json", self.head_of
        if self.heads.get("agent") != agent or not self.heads_root:
            raise Fault(MALFORMED, "is about another agent, or its entry is missing", file, self.heads_seq)
        head = self.agents.get(agent)
        shown = None if head is None else (head[0], bytes.fromhex(head[1]))
        if agent_head_root(agent, shown, member(self.heads, "proof", dict, file), file) != self.heads_root:
            why = "the agent's last entry in the bundle is not its last in the ledger"
            self.later = self.later or Fault(TRUNCATED, why, file, None if self.last is None else self.last + 1, "head")

    # signatures

    def signatures_hold(self, pinned: list[Key]) -> None:
        """Checks whose word the newest checkpoint is, and then what rests on it."""
        history, newest = self.history, self.newest
        if not history.periods and pinned:
            history.periods.append(Period(pinned[0], 1))
        if history.genesis is None and not pinned:
            raise Fault(WRONG_KEY, "the genesis names no key: one from elsewhere is needed", "entries.jsonl", 0)
        if pinned and not {one.text for one in pinned} & {one.key.text for one in history.periods if not one.revoked}:
            raise Fault(WRONG_KEY, "the key that you trust is not one of this ledger's, or was revoked", "keys.json")
        if not history.signed(newest):
            why = f"is not signed by the key in force, {history.at(newest.size).key.text}"
            raise Fault(WRONG_KEY, why, newest.file, field="signature")
        if self.later is not None:
            raise self.later
        self.roots[newest.size] = newest.root
        notes = (*history.within, *self.notes)
        if not self.full and set(self.paths) != {str(note.size) for note in notes} - {str(newest.size)}:
            raise Fault(MALFORMED, "must hold exactly a proof for each older checkpoint", "consistency.json")
        for note in notes:
            self._consistent(note, kept=note.seq is None)
        self._same_keys()

    def _consistent(self, note: Checkpoint, *, kept: bool) -> None:
        history = self.history
        if note.size == self.newest.size or self.full:
            same = self.roots.get(note.size) == note.root
        else:
            try:
                path = [unbase64(text) for text in member(self.paths, str(note.size), list, "consistency.json")]
            except (ValueError, TypeError) as error:
                raise Fault(MALFORMED, "holds no hashes", "consistency.json", field=str(note.size)) from error
            same = extends(note.size, note.root, self.newest.size, self.newest.root, path)
        if same:
            self.roots[note.size] = note.root
        signed = not kept or history.signed(note)
        if signed and same:
            return
        # A revoked key's word alone counts for nothing; a checkpoint that counts is excused by a signed loss alone.
        if kept and (history.lost(note.size) or (not signed and history.at(note.size).revoked)):
            self.report["set_aside"].append(note.file)
        elif not signed:
            raise Fault(WRONG_KEY, "is not signed by the key in force at its size", note.file, field="signature")
        else:
            raise Fault(FORKED, "the ledger does not continue this checkpoint", note.file, note.seq, "root")

    def _same_keys(self) -> None:
        periods = self.history.periods
        keys = [
            {"key": one.key.text, "from_size": one.first, "until_size": None, "revoked": one.revoked} for one in periods
        ]
        for one, following in zip(keys, periods[1:]):  # noqa: B905 - for Python 3.9
            one["until_size"] = following.first - 1
        recovered = [{"from": first, "to": last} for first, last in self.history.recovered]
        self.report.update(keys=keys, recovered=recovered)
        if self._json("keys.json") != {"genesis": self.history.genesis, "keys": keys, "recovered": recovered}:
            raise Fault(TAMPERED, "tells another history of keys than the entries", "keys.json")

    def sealed(self) -> None:
        """Checks each file by the manifest, and the manifest by its signature."""
        listed, present = set(self.files), set(self.archive.members) - UNSIGNED
        if listed != present:
            name = min(listed ^ present)
            raise Fault(MALFORMED, "is missing" if name in listed else "is not in the manifest", name)
        for name in sorted(present):
            if name not in self.archive.digests:
                for _ in self.archive.chunks(name):
                    pass
            digest, size = self.archive.digests[name]
            if self.files[name] != {"sha256": digest, "size": size}:
                raise Fault(TAMPERED, "is not the file that the manifest names", name, field="sha256")
        text = self.payload_type.encode()
        message = b"DSSEv1 %d %s %d %s" % (len(text), text, len(self.raw), self.raw)
        key = self.history.current.key
        found = [signature for keyid, signature in self.signatures if keyid == key.text]
        if not found:
            raise Fault(WRONG_KEY, "is not signed by the key in force", "manifest.dsse.json", field="signatures")
        if not all(key.signed(message, signature) for signature in found):
            raise Fault(TAMPERED, "its signature is false: the manifest was changed", "manifest.dsse.json", field="sig")

    def texts(self) -> None:
        """Checks that each text is the one that an entry names, and that those that lack are said."""
        have: dict[str, set[str]] = {"policy": set(), "specs": set(), "files": set()}
        self.named["files"] = set()
        for name in sorted(self.archive.members):
            if name.startswith("texts/"):
                _, kind, digest = name.split("/")
                have[kind].add(digest)
                if self.archive.digests[name][0] != digest:
                    raise Fault(TAMPERED, "is not the text of that digest", name)
                if kind == "specs":
                    self._spec_files(name)
        for kind, named in self.named.items():
            absent = member(self.absent, kind, list, "manifest.json")
            if have[kind] & set(map(str, absent)) or have[kind] | set(map(str, absent)) != named:
                why = "a text is there or absent that no entry names, or neither"
                raise Fault(MALFORMED, why, "manifest.json", field=kind)
            self.report["texts"][kind] = len(have[kind])

    def _spec_files(self, name: str) -> None:
        try:
            found = json.loads(self.archive.read(name))["files"].values()
            self.named["files"].update(DIGEST.fullmatch(text)[1] for text in found)  # type: ignore[index]
            said = self.surfaces.get(f"sha256:{self.archive.digests[name][0]}", ())
            surface = surface_of(self.archive.read(name).decode("utf-8")) if said else ""
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise Fault(MALFORMED, "is no specification with its files", name) from error
        for seq, claimed in said:
            if claimed != surface:
                why = f"is another one than that of the specification, {surface}"
                raise Fault(VOTES_INVALID, why, "entries.jsonl", seq, "surface")

    def approvals(self) -> None:
        """Checks that what is shown of an approval is what its entries commit to."""
        for which, commits in sorted(self.shown.items()):
            name = f"approvals/{which}.json"
            texts = self._json(name)
            if set(texts) != {"approval", "envelope", "rendering", "votes"} or texts["approval"] != which:
                raise Fault(MALFORMED, "must hold exactly approval, envelope, rendering and votes", name)
            if "said" not in commits:
                raise Fault(MALFORMED, "no entry here asks for this approval", name, field="approval")
            for part in ("envelope", "rendering"):
                digest = hashlib.sha256(member(texts, part, str, name).encode("utf-8")).hexdigest()
                if commits["said"].get(f"{part}_digest") != f"sha256:{digest}":
                    raise Fault(TAMPERED, f"is not the {part} that the request's entry commits to", name, field=part)
            self._same_act(texts["envelope"], commits["act"], name)
            for number, text in member(texts, "votes", dict, name).items():
                self._reason(commits.get(number) if number.isdigit() else None, text, name, f"votes.{number}")
        self.report["texts"]["approvals"] = len(self.shown)

    def _same_act(self, envelope: str, act: Any, name: str) -> None:  # noqa: ANN401 - any JSON
        """People agreed to the very act that the request's entry told beforehand, where it told one."""
        if act is None:
            return
        try:
            shown = json.loads(envelope)
            action, workflow = shown.get("action"), shown.get("workflow")
        except (ValueError, AttributeError, RecursionError) as error:
            raise Fault(MALFORMED, "is no envelope", name, field="envelope") from error
        said = action.get("act") if isinstance(action, dict) else None
        if shown.get("kind") == "WORKFLOW" and isinstance(workflow, dict):
            said = {"type": "workflow.approved", "workflow.version": workflow.get("digest")}
        if said != act:
            raise Fault(VOTES_INVALID, "is about another act than the request's entry says", name, field="envelope")

    def _reason(self, said: dict[str, Any] | None, text: Any, name: str, field: str) -> None:  # noqa: ANN401 - any JSON
        if said is None:
            raise Fault(MALFORMED, "is of a vote that isn't among the entries", name, field=field)
        salt, account = unhex(member(text, "salt", str, name), name, field), text.get("account")
        kept = {"reason_commit": f"reason\0{text.get('reason')}"}
        if account is not None:
            kept["account_commit"] = "account\0" + "\n".join(map(str, account))
        for commit, words in kept.items():
            if hmac.new(salt, words.encode("utf-8"), hashlib.sha256).hexdigest() != said.get(commit):
                raise Fault(TAMPERED, f"is not what the vote's {commit} is of", name, field=field)

    def evidence(self, lines: bytes | None) -> None:
        """Of an incident's bundle: names, what was erased, and through whose hands it went."""
        story = self.story
        if story is None:
            if lines is not None:
                raise UsageError("only an incident's bundle has a custody file")
            return
        withheld = set(map(str, member(self.manifest, "withheld", list, "manifest.json")))
        gone = set(map(str, self.absent.get("approvals", []))) - set(self.redacted)
        if gone != withheld:
            why = "is absent, and neither shown to be erased nor said to be withheld; or the other way round"
            raise Fault(MALFORMED, why, "manifest.json", field=min(gone ^ withheld)[:80])
        self.report["withheld"] = sorted(withheld)
        for which, seq in self.redacted.items():
            if which not in story.erased.get(seq, ()):
                why = f"says that {which[:80]} is erased, and entry {seq} doesn't"
                raise Fault(TAMPERED, why, "manifest.json", seq, "redacted")
            if which in self.shown:
                raise Fault(MALFORMED, "is here, and said to be erased", f"approvals/{which}.json")
        self._names(story)
        self._custody(story, lines)

    def _names(self, story: Story) -> None:
        file = "names.json"
        if file not in self.archive.members:
            return
        found = self._json(file)
        for who, said in found.items():
            name, kind = member(said, "name", str, file), member(said, "kind", str, file)
            if set(said) != {"kind", "name"} or story.identities.get(who) != kind or not name:
                raise Fault(MALFORMED, "names somebody whose registration isn't here", file, field=who[:80])
            if f"name:{who}" in self.redacted:
                raise Fault(MALFORMED, "names somebody whose name was erased", file, field=who[:80])
        self.report["names"] = len(found)

    def _custody(self, story: Story, lines: bytes | None) -> None:
        file = "custody.json"
        found = self._json(file)
        if set(found) != {"at", "by", "checkpoint", "for", "format", "options", "origin", "software"}:
            raise Fault(MALFORMED, "has other members than it must have", file)
        for name, kind in (("by", dict), ("options", dict), ("for", str), ("software", str), ("at", str)):
            member(found, name, kind, file)
        same = {"format": "broker.custody.v1", "origin": self.origin, "checkpoint": self.report["checkpoint"]}
        for name, value in same.items():
            if found[name] != value:
                raise Fault(TAMPERED, "is about another bundle", file, field=name)
        by = found["by"]
        if "person" in by and story.certificates.get(str(by.get("fingerprint")), ("", "", 0))[0] != by["person"]:
            raise Fault(TAMPERED, "names a certificate that no entry here says was issued to them", file, field="by")
        self.report["custody"] = [found]
        if lines is not None:
            self._handed_on(story, lines)

    def _handed_on(self, story: Story, lines: bytes) -> None:
        digest = hashlib.sha256()
        with Path(self.report["bundle"]).open("rb") as stream:
            while piece := stream.read(MIB):
                digest.update(piece)
        before = ZEROS
        *whole, rest = lines.split(b"\n")
        if rest or not whole:
            raise Fault(TRUNCATED, "is empty, or ends within a line", "the custody file")
        for number, data in enumerate(whole, 1):
            line = custody_line(data, number, before, digest.hexdigest())
            before = hashlib.sha256(data).hexdigest()
            who, key, seq = story.certificates.get(line["fingerprint"], ("", "", 0))
            shown = who == line["person"] and key == line["key_digest"]
            if who and not shown:
                why = "is by another person or key than the ledger issued this certificate for"
                raise Fault(TAMPERED, why, "the custody file", number, "fingerprint")
            line["proved_by"] = seq if shown else None
            self.report["custody"].append(line)

    def brought(self, held: list[Checkpoint], witnesses: list[Key]) -> None:
        """Asks for what the auditor knows from elsewhere: checkpoints, and witnesses."""
        found = self.report["witnesses"] = [self.cosigned(one) for one in witnesses]
        for note in held:
            self.held(note)
        for one in found:
            if one["size"] is None:
                raise Fault(WRONG_KEY, f"no checkpoint here is cosigned by {one['key']}", "checkpoints/")

    def held(self, note: Checkpoint) -> None:
        """Compares with a checkpoint that the auditor holds; one of a signed loss is excused, and said to be."""
        if note.origin != self.origin or not self.history.signed(note):
            raise Fault(WRONG_KEY, "is of another ledger, or not signed by a key of this one", note.file)
        if self.roots.get(note.size) == note.root:
            self.report["held_checkpoints"].append(note.size)
        elif self.history.lost(note.size):
            self.report["excused_checkpoints"].append(note.size)
        elif note.size > self.newest.size:
            raise Fault(ROLLED_BACK, f"has {note.size} entries, the bundle proves only {self.newest.size}", note.file)
        elif note.size not in self.roots:
            raise UsageError(f"this bundle doesn't show the tree of {note.size} entries: ask for a whole ledger's")
        else:
            raise Fault(FORKED, "is of another history than the bundle", note.file, field="root")

    def cosigned(self, witness: Key) -> dict[str, Any]:
        """The newest checkpoint that a witness has cosigned; of those set aside none counts, but none may be false."""
        found: dict[str, Any] = {"key": witness.text, "size": None, "time": None}
        for note in self.notes:
            moment = note.cosigned_at(witness)
            if moment is not None and note.file not in self.report["set_aside"]:
                found.update(size=note.size, time=moment)
        return found


def verify(
    path: str,
    keys: tuple[str, ...] = (),
    checkpoints: tuple[bytes, ...] = (),
    witnesses: tuple[str, ...] = (),
    entries: tuple[int, ...] = (),
    *,
    custody: bytes | None = None,
) -> dict[str, Any]:
    """Checks a bundle.

    Args:
        path: the ZIP file.
        keys: verifier keys of which one is trusted to be the ledger's; none believes the genesis.
        checkpoints: signed checkpoints of this ledger, known from elsewhere, which it must continue.
        witnesses: verifier keys of witnesses, each of which must have cosigned a checkpoint in the bundle.
        entries: numbers of entries whose leaf hashes are to be in ``leaves`` of the report, if they are in the bundle.
        custody: the lines by which it was handed on since it was made; ``None`` asks for none.

    Returns:
        The verdict, its place, and what was found; plain JSON.

    Raises:
        UsageError: a key is none, there is no such file, or the bundle can't answer for a checkpoint.
    """
    try:
        pinned, watching = [Key(text) for text in keys], [Key(text) for text in witnesses]
    except ValueError as error:
        raise UsageError(f"a key that you gave is none: {error}") from error
    if any(one.cosigns for one in pinned) or not all(one.cosigns for one in watching):
        raise UsageError("--key takes a log's key, --witness a witness's")
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    report: dict[str, Any] = {"bundle": path, "verdict": OK, "place": None, "kind": "", "origin": "", "selected": {}}
    report.update(trusted="your key" if keys else "the genesis's own key: this proves integrity, not origin")
    report.update(entries=0, selected_entries=0, first=None, last=None, complete=NOT_SHOWN, types={}, checkpoint=None)
    report.update(keys=[], recovered=[], set_aside=[], texts={}, absent={}, made=None, leaves={})
    report.update(story={}, not_shown=[], redacted=[], withheld=[], names=0, custody=[])
    report.update(witnesses=[], held_checkpoints=[], excused_checkpoints=[], votes={"checked": False})
    try:
        held = [Checkpoint(data, "the checkpoint that you gave") for data in checkpoints]
        check = Check(Archive(path), report, held, entries)
        check.walk()
        check.signatures_hold(pinned)
        check.sealed()
        check.texts()
        check.approvals()
        check.evidence(custody)
        check.brought(held, watching)
        if check.history.recovered:
            first, last = check.history.recovered[-1]
            why, excused = f"entries {first} to {last} were lost, and the ledger went on", report["excused_checkpoints"]
            why += f"; that excuses your checkpoints of these sizes, which don't agree: {excused}" if excused else ""
            report.update(verdict=RECOVERED, place=Fault(RECOVERED, why, field="lost").place)
        if report["votes"].get("findings"):
            report.update(verdict=VOTES_INVALID, place=report["votes"]["findings"][0])
    except Fault as fault:
        report.update(verdict=fault.verdict, place=fault.place)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a bundle makes Python raise, it is not ok
        why = f"the file is no whole bundle: {type(error).__name__}: {str(error)[:200]}"
        report.update(verdict=MALFORMED, place={"file": "", "seq": None, "field": "", "why": why})
    if report["verdict"] not in {OK, RECOVERED, VOTES_INVALID}:
        report.update(complete=NOT_SHOWN)  # what was said of it rests on entries that aren't proved
    return report


def _tell_votes(votes: dict[str, Any]) -> list[str]:
    if not votes["checked"]:
        return [f"  {'votes':<12} not checked: that takes the whole ledger"]
    told = f"{votes['votes']}, signatures verified: {votes['signatures']}, acts that need people: {votes['acts']}"
    lines = [f"  {'votes':<12} {told}"]
    for one in votes["attested"]:
        told = f"entry {one['seq']}, of {one['person']}: attested by bot {one['key']}, not signed by the person"
        lines.append(f"  {'':<12} {told}")
    for one in votes["alone"]:
        told = f"entry {one['seq']}, {one['type']}: by one person, on the broker's word that it takes no second"
        lines.append(f"  {'':<12} {told}")
    lines += [f"  {'invalid':<12} entry {one['seq']} {one['field']}: {one['why']}" for one in votes["findings"][1:]]
    return lines


def _tell_evidence(report: dict[str, Any]) -> list[str]:
    if not report["story"]:
        return []
    lines = [f"  {'story':<12} {report['story']}"]
    lines += [f"  {'not shown':<12} {text}" for text in report["not_shown"]]
    lines += [f"  {'erased':<12} {one['id']}, by entry {one['erased']}" for one in report["redacted"]]
    lines += [
        f"  {'withheld':<12} {which}: not here, and no entry here says that it is erased"
        for which in report["withheld"]
    ]
    if report["names"]:
        lines.append(f"  {'names':<12} {report['names']}, on the signed word of the broker that wrote the bundle")
    for one in report["custody"]:
        if one["format"] == "broker.custody.v1":
            by = ", ".join(f"{name} {value}" for name, value in sorted(one["by"].items()))
            lines.append(f"  {'custody':<12} made at {one['at']}, {by}, for: {one['for'] or 'not said'}")
            continue
        proof = (
            f"certificate of entry {one['proved_by']}" if one["proved_by"] else "by a key that the bundle doesn't know"
        )
        told = f"handed to {one['to']} at {one['at']} by {one['person']}, {proof}"
        lines.append(f"  {'':<12} {told}{': ' * bool(one['note'])}{one['note']}")
    return lines


def _tell(report: dict[str, Any]) -> str:
    lines = [f"{report['verdict']}  {report['bundle']}"]
    place = report["place"]
    if place is not None:
        parts = (place["file"], f"entry {place['seq']}" if place["seq"] is not None else "", place["field"])
        where = " ".join(part for part in parts if part)
        lines.append(f"  at {where or 'the file'}: {place['why']}")
    shown = ("kind", "selected", "origin", "entries", "first", "last", "complete", "checkpoint", "texts", "absent")
    lines += [f"  {name:<12} {report[name]}" for name in shown]
    lines += [
        f"  {'key':<12} {one['key']} from size {one['from_size']}{', revoked' * one['revoked']}"
        for one in report["keys"]
    ]
    for one in report["witnesses"]:
        what = "has cosigned none" if one["size"] is None else f"cosigned size {one['size']}, at {one['time']}"
        lines.append(f"  {'witness':<12} {one['key']} {what}")
    lines += [f"  {'agrees':<12} with your checkpoint of size {size}" for size in report["held_checkpoints"]]
    for size in report["excused_checkpoints"]:
        lines.append(
            f"  {'excused':<12} your checkpoint of size {size} doesn't agree: its key signed that this is lost"
        )
    lines += [f"  {'set aside':<12} {name}: of a lost history, or by a revoked key" for name in report["set_aside"]]
    lines += _tell_votes(report["votes"])
    lines += _tell_evidence(report)
    lines.append(f"  {'trusted':<12} {report['trusted']}")
    text = "\n".join(lines) + "\n"
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Checks an evidence bundle of a broker's ledger.",
        epilog="exit code: " + ", ".join(f"{code} {word}" for word, code in EXIT_CODES.items()) + ", 2 wrong use",
    )
    parser.add_argument("bundle")
    parser.add_argument("--key", action="append", default=[], help="the ledger's verifier key, from elsewhere")
    parser.add_argument("--checkpoint", action="append", default=[], help="a signed checkpoint that it must continue")
    parser.add_argument("--witness", action="append", default=[], help=WITNESS)
    parser.add_argument("--custody", default="", help="the lines by which an incident's bundle was handed on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    try:
        held = tuple(Path(name).read_bytes() for name in given.checkpoint)
        custody = Path(given.custody).read_bytes() if given.custody else None
        report = verify(given.bundle, tuple(given.key), held, tuple(given.witness), custody=custody)
    except (UsageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(report) + "\n" if given.json else _tell(report))
    return EXIT_CODES[report["verdict"]]


if __name__ == "__main__":
    sys.exit(main())
