"""What a bundle consists of, and what may be selected for one. docs/bundle.md describes the format for others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from broker.domain.canonical import JsonObject
from broker.errors import FieldViolation, InvalidArgumentError
from broker.tlog.key_history import KEY_ENTRIES, KeyHistory

FORMAT = "broker.ledger-bundle.v1"
"""``format`` of the manifest."""
PAYLOAD_TYPE = "application/vnd.broker.ledger-bundle.v1+json"
"""``payloadType`` of the manifest's envelope."""

MANIFEST, ENVELOPE, ENTRIES = "manifest.json", "manifest.dsse.json", "entries.jsonl"
KEYS, HEADS, CONSISTENCY = "keys.json", "heads.json", "consistency.json"
VERIFIER, README = "verify_bundle.py", "README.txt"

MAX_APPROVAL = 16 * 2**20
"""Bytes of an approval's texts; longer ones are left out, which is said."""
MAX_EXTRACT = 150_000
"""Most entries of an extract, each of which has a proof in a file of its own."""
EXTRACT_NOTES = 256
"""Most kept checkpoints in an extract, the newest."""
FULL_NOTES = 20_000
"""Most kept checkpoints in a bundle of the whole ledger, the newest."""

_CALL_ID = re.compile(rb'"call_id":"([^"\\]{1,200})"')


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries a bundle is about; without any field, all. The range includes both ends."""

    agent: str = ""
    call: str = ""
    session: str = ""
    first: int | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        given = [bool(self.agent), bool(self.call), bool(self.session), self.first is not None or self.last is not None]
        whole_range = (self.first is None) == (self.last is None)
        if sum(given) > 1 or not whole_range or (self.last is not None and self.last < (self.first or 0)):
            why = "take one of --agent, --call, --session, or --from and --to together, in this order"
            raise InvalidArgumentError(why, reason="USAGE", violations=(FieldViolation("selection", why),))

    @property
    def full(self) -> bool:
        """Is it the whole ledger?"""
        return not (self.agent or self.call or self.session or self.first is not None)

    def members(self) -> JsonObject:
        """As the manifest says it."""
        named: JsonObject = {"agent": self.agent, "call": self.call, "session": self.session}
        chosen: JsonObject = {name: value for name, value in named.items() if value}
        return chosen if self.first is None else {"from": self.first, "to": self.last}

    def finder(self, heads_seq: int) -> Callable[[int, bytes], bool]:
        """A function that says of each entry, asked in order by number and bytes, whether it is selected.

        Args:
            heads_seq: an agent's entries are taken up to this one, which proves where they end.
        """
        calls: set[str] = set()
        needle = json.dumps(self.agent or self.call or self.session, ensure_ascii=False)[1:-1].encode()

        def found(seq: int, data: bytes) -> bool:
            if self.first is not None:
                return self.first <= seq <= (self.last or 0)
            if needle not in data and not (calls and any(one.decode() in calls for one in _CALL_ID.findall(data))):
                return False
            entry = json.loads(data)
            if self.agent:
                return (
                    seq < heads_seq and isinstance(entry.get("agent"), dict) and entry["agent"].get("id") == self.agent
                )
            if self.call:
                return bool(entry.get("call_id") == self.call)
            return self._of_session(entry, calls)

        return found

    def _of_session(self, entry: JsonObject, calls: set[str]) -> bool:
        # An outcome doesn't name the session, but its call, which the decision and the intent before it have named.
        lineage, call = entry.get("lineage"), entry.get("call_id")
        proofs = lineage.get("proofs") if isinstance(lineage, dict) else None
        named = isinstance(proofs, list) and f"session:{self.session}" in proofs
        if named and isinstance(call, str):
            calls.add(call)
        return named or entry.get("session") == self.session or (isinstance(call, str) and call in calls)


def is_key_entry(data: bytes) -> bool:
    """Is this an entry that the key history is made of?"""
    quick = (b'"type":"genesis"', b'"type":"signer.', b'"type":"recovered"')
    return any(text in data for text in quick) and json.loads(data).get("type") in KEY_ENTRIES


def is_heads_entry(data: bytes) -> bool:
    """Is this an entry that commits where each agent's chain ends?"""
    return b'"type":"heads"' in data and json.loads(data).get("type") == "heads"


def keys_file(history: KeyHistory) -> JsonObject:
    """What ``keys.json`` says: a summary of the entries, which a verifier compares with them."""
    return {
        "genesis": str(history.keys[0].key) if history.keys and history.anchored else None,
        "keys": [
            {
                "key": str(item.key),
                "from_size": item.from_size,
                "until_size": item.until_size,
                "revoked": item.revoked,
            }
            for item in history.keys
        ],
        "recovered": [{"from": item.first, "to": item.last} for item in history.recovered],
    }


def readme(origin: str, *, full: bool) -> bytes:
    """``README.txt``: how to check it."""
    what = "the whole ledger" if full else "an extract of the ledger"
    return f"""This is an evidence bundle: {what} of the broker {origin}.

To check it, take verify_bundle.py (from the broker's own source rather than from here, if you can), and run

    pip install cryptography
    python verify_bundle.py BUNDLE.zip --key "{origin}+..." --checkpoint FILE

--key is the ledger's verifier key, as `broker init` printed it; get it from somebody other than who gave you this
file. Without it the verifier believes the key that the ledger itself names: that proves integrity, not origin.
--checkpoint is a signed checkpoint that you got at another time or from somebody else; the ledger must continue it.

entries.jsonl       the entries, one a line, byte for byte as they were hashed
proofs/             of an extract: where each entry is in the tree of the newest checkpoint (C2SP tlog-proof)
checkpoints/        signed checkpoints (C2SP tlog-checkpoint); the newest is the one that all is proved by
consistency.json    of an extract: that the older checkpoints are beginnings of the newest (RFC 6962)
heads.json          of an agent's extract: that its last entry here is its last in the ledger
keys.json           which keys signed; the entries themselves prove it
texts/              policies, tool specifications and their files, by SHA-256
approvals/          where asked for: what people were shown, and their reasons, as the entries commit to them
names.json          of an incident, where asked for: who is who, on the word of the broker that made this
custody.json        of an incident: who made this bundle, when, and what for; --custody FILE checks who had it since
manifest.json       all files with their SHA-256; manifest.dsse.json signs it (DSSE)
""".encode()
