"""What stands before the founding, read from the ledger's entries one after the other. Pure.

Whatever decides who may let something happen is an entry before it is in force; so the entries alone say what founders
accept. The broker asks this, and so does whoever verifies the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from broker.domain.approval import KeyKind
from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.founding import FoundingCertificate, FoundingContent, FoundingIdentity, FoundingKey
from broker.domain.projection import UnexpectedEntryError, listed, words

COVERED = frozenset(
    {
        "genesis",
        "key.enrolled",
        "key.revoked",
        "identity.issued",
        "identity.revoked",
        "policy.changed",
        "settings.changed",
        "heartbeat",
    }
)
"""Types of entries that change what stands. A start (``heartbeat``) does so only where it names something else."""

_MOST_CHANGES = 100
_PARTS = ("settings", "tools")


@dataclass(frozen=True, slots=True)
class FoundingChange:
    """An entry that changed what stands."""

    seq: int
    what: str
    """In words, with ids and digests."""


@dataclass(frozen=True, slots=True)
class FoundingStanding:
    """How far a founding is, by the ledger alone."""

    content: FoundingContent
    """What stands, or what stood when it was completed."""
    accepted: frozenset[str]
    """People who have accepted this very content."""
    voided: frozenset[str]
    """People who have accepted another one, and not this one since."""
    changes: tuple[FoundingChange, ...]
    """What has changed since the first of their acceptances; the newest hundred."""


class FoundingState:
    """What stands after the entries that it was given."""

    def __init__(self) -> None:
        self._genesis = ""
        self._last = (0, "")
        self._keys: dict[str, str] = {}
        self._identities: dict[str, FoundingIdentity] = {}
        self._digests = dict.fromkeys(("policy", *_PARTS), "")
        self._changes: list[FoundingChange] = []

    def entry(self, seq: int, leaf: bytes, entry: JsonObject) -> None:
        """Takes in the next entry of a type in ``COVERED``.

        Raises:
            UnexpectedEntryError: it isn't one that the broker writes; nothing is taken of it.
        """
        what = self._take(leaf, entry)
        if what:
            self._last = (seq, leaf.hex())
            self._changes = [*self._changes[1 - _MOST_CHANGES :], FoundingChange(seq, f"{entry['type']}: {what}")]

    def content(self) -> FoundingContent:
        """What stands now."""
        return FoundingContent(
            genesis=self._genesis,
            last_seq=self._last[0],
            last_leaf=self._last[1],
            approvers=tuple(sorted(FoundingKey(person, key) for key, person in self._keys.items())),
            identities=tuple(self._identities[which] for which in sorted(self._identities)),
            **self._digests,
        )

    def changes(self, after: int) -> tuple[FoundingChange, ...]:
        """What has changed since an entry; the newest hundred."""
        return tuple(item for item in self._changes if item.seq > after)

    def copy(self) -> FoundingState:
        """The same, to go on from without changing this one."""
        made = FoundingState()
        made._genesis, made._last = self._genesis, self._last
        made._keys, made._identities = dict(self._keys), dict(self._identities)
        made._digests, made._changes = dict(self._digests), self._changes
        return made

    def _take(self, leaf: bytes, entry: JsonObject) -> str:
        """Takes it in, and says what it changed; empty for nothing."""
        match entry["type"]:
            case "genesis":
                self._genesis = leaf.hex()
                return "the first entry"
            case "key.enrolled" | "key.revoked":
                return self._key(entry)
            case "identity.issued" | "identity.revoked":
                return self._identity(entry)
            case _:
                return self._name(dict(_named(entry)))

    def _key(self, entry: JsonObject) -> str:
        which = words(entry, "key", "id")
        if entry["type"] == "key.revoked":
            return f"the key {which}" if self._keys.pop(which, None) else ""
        if words(entry, "key", "kind") != KeyKind.APPROVER.value:
            return ""
        person = self._keys[which] = words(entry, "person")
        return f"the key {which} of {person}"

    def _name(self, named: dict[str, str]) -> str:
        changed = {part: which for part, which in named.items() if self._digests[part] != which}
        self._digests.update(changed)
        return ", ".join(f"{part} {which}" for part, which in sorted(changed.items()))

    def _identity(self, entry: JsonObject) -> str:
        which, change = words(entry, "identity"), words(entry, "change")
        known = self._identities.get(which)
        certificates = () if known is None else known.certificates
        match change:
            case "registered" | "owner" | "certificate":
                ended = frozenset(listed(entry, "revoked_certificates")) if change == "owner" else frozenset[str]()
                added: tuple[FoundingCertificate, ...] = ()
                if change == "certificate":
                    added = (FoundingCertificate(words(entry, "fingerprint"), words(entry, "key_digest")),)
                stay = (item for item in certificates if item.fingerprint not in ended)
                self._identities[which] = _identity(entry, which, (*stay, *added))
            case "certificate-revoked":
                self._revoke_certificate(which, words(entry, "fingerprint"))
            case "revoked":
                self._identities.pop(which, None)
            case _:
                raise UnexpectedEntryError(f"entry {entry.get('seq')} changes {which} in a way that isn't known")
        return f"{change} {which}"

    def _revoke_certificate(self, which: str, fingerprint: str) -> None:
        known = self._identities.get(which)
        if known is not None:
            stay = tuple(item for item in known.certificates if item.fingerprint != fingerprint)
            self._identities[which] = FoundingIdentity(
                known.id, known.kind, known.name_commit, known.owner, known.registrar, stay
            )


def _identity(entry: JsonObject, which: str, certificates: tuple[FoundingCertificate, ...]) -> FoundingIdentity:
    return FoundingIdentity(
        id=which,
        kind=words(entry, "kind"),
        name_commit=words(entry, "name_commit"),
        owner=words(entry, "lineage", "owner"),
        registrar=words(entry, "lineage", "registrar"),
        certificates=tuple(sorted(certificates)),
    )


def _named(entry: JsonObject) -> Iterator[tuple[str, str]]:
    """What an entry says is in force; like the broker at its start, it passes over members that name nothing."""
    found: list[tuple[str, JsonValue]] = []
    if entry["type"] != "settings.changed":
        found.append(("policy", entry.get("policy_digest")))
    named: JsonValue = entry.get("in_force") if entry["type"] != "policy.changed" else None
    if isinstance(named, dict):
        found += [(part, named.get(part)) for part in _PARTS]
    yield from ((part, which) for part, which in found if isinstance(which, str) and which)
