"""``broker init --approver NAME=VKEY``: the first people with a vote, by their public keys alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.approvals.founding import enrol_key, parse_vkey
from broker.domain.approval import KeyKind, VoterKey
from broker.domain.identity import IdentityKind
from broker.domain.ids import NAME_PATTERN
from broker.domain.ports import Recorder, Transaction
from broker.errors import BrokerError, FieldViolation, InvalidArgumentError
from broker.identity.registry import Registry

_OPTION = "--approver"
_PRIVATE = "PRIVATE KEY"


@dataclass(frozen=True, slots=True)
class FirstApprover:
    """A human, and the text of their public key."""

    name: str
    vkey: str


def parse_approvers(given: Iterable[str]) -> tuple[FirstApprover, ...]:
    """Reads what the options say; each name and each key once.

    Raises:
        InvalidArgumentError: ``APPROVER_INVALID``: it isn't NAME=VKEY, with a public key of that very name.
    """
    found: list[FirstApprover] = []
    for text in given:
        name, equals, vkey = text.partition("=")
        if _PRIVATE in text:
            raise _wrong("holds a private key, which its holder never hands over; it is not safe any more", _NEW_KEY)
        if not equals or NAME_PATTERN.fullmatch(name) is None:
            raise _wrong(f"{text[:80]!a} is not NAME=VKEY", _SHOW)
        try:
            key = parse_vkey(vkey, name)
        except BrokerError as error:
            raise _wrong(f"of {name}: {error.message}", error.hint) from error
        if any(name == other.name or key == parse_vkey(other.vkey, other.name) for other in found):
            raise _wrong(f"of {name}: the name or the key is given twice", _SHOW)
        found.append(FirstApprover(name, vkey.strip()))
    return tuple(found)


def grants(approvers: Sequence[FirstApprover]) -> str:
    """The rows of the policy by which they may approve."""
    if not approvers:
        return ""
    rows = "".join(f"g, human:{item.name}, role:approver, *\n" for item in approvers)
    return f"\n# The humans whom `broker init --approver` named.\n{rows}"


def enrol(
    tx: Transaction,
    registry: Registry,
    recorder: Recorder,
    approvers: Sequence[FirstApprover],
    *,
    by: str,
    now: datetime,
) -> tuple[VoterKey, ...]:
    """Registers whoever is new, and enrols the keys."""
    keys = []
    for item in approvers:
        holder = tx.identities.by_name(IdentityKind.HUMAN, item.name)
        if holder is None:
            holder = registry.register_human(tx, name=item.name, by=by, now=now)
        key = enrol_key(tx, recorder, holder=holder, vkey=item.vkey, kind=KeyKind.APPROVER, by=by, approval="", now=now)
        keys.append(key)
    return tuple(keys)


_SHOW = "Give what `broker keys show` prints at its holder's: --approver ada=ada+1f2e3d4c+AZbD..."
_NEW_KEY = "Have its holder make another: broker keys new NAME"


def _wrong(why: str, hint: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{_OPTION} {why}", reason="APPROVER_INVALID", violations=(FieldViolation(_OPTION, why),), hint=hint
    )
