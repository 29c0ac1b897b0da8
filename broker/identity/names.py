"""Names and SPIFFE ids: ``spiffe://<origin>.broker/<kind>/<name>``, and the times that certificates carry."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from broker.domain.canonical import parse_object
from broker.domain.identity import IdentityKind
from broker.domain.ids import ID_PATTERN, NAME_PATTERN
from broker.domain.ports import Transaction
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError, UnauthenticatedError

_SUFFIX = ".broker"
_SPIFFE = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]{1,255})/(?P<kind>agent|human)/(?P<name>[a-z0-9-]{1,63})")
_ENTRY_BYTES = 64 * 1024


def check_name(name: str, *, field: str) -> str:
    """Lets a name of an agent, a human or a workspace pass.

    Raises:
        InvalidArgumentError: it isn't 1 to 63 of ``a-z``, ``0-9`` and ``-``, starting with a letter (``NAME_INVALID``).
    """
    if NAME_PATTERN.fullmatch(name):
        return name
    why = f"{name[:80]!a} is not a name: 1 to 63 of a-z, 0-9 and -, starting with a letter"
    raise InvalidArgumentError(
        f"{field} {why}", reason="NAME_INVALID", violations=(FieldViolation(field, why),), hint="Choose a plain name."
    )


def trust_domain(origin: str) -> str:
    """The SPIFFE trust domain of a broker, from the origin id of its ledger."""
    return origin + _SUFFIX


def origin_of(domain: str) -> str:
    """The origin id behind a trust domain.

    Raises:
        InvalidArgumentError: it isn't the trust domain of a broker.
    """
    origin = domain.removesuffix(_SUFFIX)
    if origin == domain or not ID_PATTERN.fullmatch(origin):
        raise InvalidArgumentError(f"{domain!a} is not the trust domain of a broker", reason="CERTIFICATE_INVALID")
    return origin


def spiffe_uri(origin: str, kind: IdentityKind, name: str) -> str:
    """The SPIFFE id of an identity; the name must have been checked."""
    return f"spiffe://{trust_domain(origin)}/{kind}/{name}"


def parse_spiffe(uri: str) -> tuple[str, IdentityKind, str]:
    """Trust domain, kind and name of a SPIFFE id, in exactly the form that ``spiffe_uri`` gives.

    Raises:
        UnauthenticatedError: any other form (``CERTIFICATE_INVALID``).
    """
    match = _SPIFFE.fullmatch(uri)
    if match is None or not NAME_PATTERN.fullmatch(match["name"]):
        raise UnauthenticatedError(
            f"the certificate's SPIFFE id {uri[:200]!a} is not one that this broker gives",
            reason="CERTIFICATE_INVALID",
        )
    return match["domain"], IdentityKind(match["kind"]), match["name"]


def genesis(tx: Transaction) -> dict[str, str]:
    """The text fields of the ledger's first entry, such as ``origin`` and ``operator``.

    Raises:
        DataLossError: the ledger has no genesis entry.
    """
    first = tx.ledger.entries(0, 1)
    if not first:
        raise DataLossError("the ledger has no genesis entry", reason="GENESIS_MISSING", hint="Run `broker doctor`.")
    try:
        entry = parse_object(first[0].data, field="genesis", max_bytes=_ENTRY_BYTES)
    except InvalidArgumentError as error:
        raise DataLossError("the genesis entry can't be read", reason="GENESIS_INVALID") from error
    if entry.get("type") != "genesis" or not isinstance(entry.get("origin"), str):
        raise DataLossError("the ledger's first entry is no genesis", reason="GENESIS_INVALID")
    return {key: value for key, value in entry.items() if isinstance(value, str)}


def stamp(moment: datetime) -> str:
    """A time as ledger entries carry it: RFC 3339 in UTC with microseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
