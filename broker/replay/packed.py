"""Evidence bundles as casebooks: of a whole ledger, or of an extract whose entries are each proved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from broker.domain.canonical import digest as digest_of
from broker.errors import DataLossError, InvalidArgumentError
from broker.ledger.bundle_evidence import NAMES
from broker.ledger.bundle_format import ENTRIES
from broker.ledger.bundle_reader import is_bundle
from broker.ledger.verify_bundle import Archive, Fault, UsageError, verify
from broker.replay.casebook import Casebook, Mark
from broker.replay.making import extract_casebook
from broker.replay.naming import KnownNames, Names, NoNames

_MOST_SELECTED = 200
_DAMAGE = (Fault, OSError, ValueError, EOFError, RuntimeError, NotImplementedError)


@contextmanager
def open_packed(path: Path) -> Iterator[tuple[Casebook, Names]]:
    """The casebook of a bundle, and the names that are in it; the bundle is verified by the verifier that lies in bundles.

    Raises:
        InvalidArgumentError: ``LEDGER_MISSING``: there is no such file; ``USAGE``: it is no bundle.
        DataLossError: ``BUNDLE_UNREADABLE``: it is too damaged to be read at all.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"there is no bundle {path}", reason="LEDGER_MISSING", hint="Name the ZIP file.")
    if not is_bundle(path):
        raise InvalidArgumentError(
            f"{path} is no bundle",
            reason="USAGE",
            hint="Make one with `broker replay bundle` or `broker ledger export`.",
        )
    try:
        found = verify(str(path))
    except UsageError as error:
        raise InvalidArgumentError(str(error), reason="USAGE") from error
    # Its lines are one stream, in which no single one can be looked up: so the casebook holds them itself.
    with extract_casebook(_rows(path), _mark(found)) as casebook:
        yield casebook, _names(path)


def _names(path: Path) -> Names:
    """The names that the bundle tells, on the word of who signed its manifest."""
    try:
        archive = Archive(str(path))
        with closing(archive.zip):
            if NAMES not in archive.members:
                return NoNames()
            told = json.loads(archive.read(NAMES))
            return KnownNames({who: f"{said['kind']}:{said['name']}" for who, said in told.items()})
    except (
        Fault,
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        AttributeError,
        TypeError,
        KeyError,
    ):
        return NoNames()  # the mark says already that the bundle doesn't verify


def policy_in_bundle(path: Path, digest: str) -> str | None:
    """The text of a policy, as a bundle has it under its digest; ``None`` where it hasn't."""
    name = f"texts/policy/{digest.removeprefix('sha256:')}"
    try:
        archive = Archive(str(path))
        with closing(archive.zip):
            data = archive.read(name) if name in archive.members else b""
    except _DAMAGE:
        return None
    return data.decode() if data and digest_of(data) == digest else None


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        archive = Archive(str(path))
        with closing(archive.zip):
            for place, data in enumerate(archive.lines(ENTRIES)):
                yield _number(data, place), data
    except _DAMAGE as error:
        raise DataLossError(
            f"{path} can't be read as a bundle: {error}",
            reason="BUNDLE_UNREADABLE",
            hint="Get it again from who made it.",
        ) from error


def _number(data: bytes, place: int) -> int:
    try:
        seq = json.loads(data)["seq"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return place
    return seq if type(seq) is int and 0 <= seq < 2**62 else place


def _mark(found: dict[str, Any]) -> Mark:
    place, checkpoint, selected = found["place"] or {}, found["checkpoint"] or {}, found["selected"] or {}
    where = " ".join(str(place[name]) for name in ("file", "seq", "field") if place.get(name) not in (None, ""))
    chosen = ", ".join(f"{name} {value}" for name, value in selected.items())[:_MOST_SELECTED]
    return Mark(
        verdict=str(found["verdict"]),
        why=f"{where}: {place.get('why', '')}" if place else "",
        origin=str(found["origin"]),
        entries=0,
        head="",
        checkpoint_size=checkpoint.get("size", 0),
        checkpoint_root=str(checkpoint.get("root", "")),
        extract=(chosen or "a part") if found["kind"] != "full" else "",
        complete=str(found["complete"]),
        votes_checked=found["entries"] if found["votes"].get("checked") else 0,
    )
