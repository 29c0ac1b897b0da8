"""Who is who as the ledger says it: what rows about identities, certificates and chat accounts are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RegisteredIdentity:
    """An identity, as its entries last had it."""

    kind: str
    owner: str
    registrar: str
    name_commit: str
    """The keyed commitment of its name, made with the key of what is sealed under its id."""
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate, as its entries last had it."""

    identity: str
    key_digest: str
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class MappedAccount:
    """A chat account, as the entry has it that gave it to a person: the account itself is sealed."""

    person: str
    index: int
    """Where it lies, in what is sealed under the person's id."""
    commit: str


@dataclass(frozen=True, slots=True)
class Registered:
    """Everybody, up to some entry of the ledger. What is made is not changed any more: ``with_`` makes another."""

    identities: Mapping[str, RegisteredIdentity] = field(default_factory=dict)
    """By id."""
    certificates: Mapping[str, IssuedCertificate] = field(default_factory=dict)
    """By fingerprint."""
    accounts: Mapping[int, MappedAccount] = field(default_factory=dict)
    """By the number of the entry that mapped it, whether it has been taken away since or not."""
    taken_away: Mapping[str, tuple[tuple[int, str], ...]] = field(default_factory=dict)
    """Person -> number and commitment of each entry that took an account of theirs away."""
