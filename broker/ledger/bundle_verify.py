"""Verifies a bundle for the commands: by the verifier that lies in it, and then by the broker's own.

Two programs that were written apart from each other read a whole ledger's entries here; both must find them good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from broker.errors import FieldViolation, InvalidArgumentError
from broker.ledger.bundle_reader import open_bundle
from broker.ledger.verdict import Expectation, Place, Report, Verdict
from broker.ledger.verifier import Known, verify_opened
from broker.ledger.verify_bundle import UsageError, verify
from broker.tlog.merkle import EMPTY_ROOT


def verify_bundle_file(
    path: Path, known: Known, *, first: int = 0, progress: Callable[[int, int], None] | None = None
) -> Report:
    """The verdict on a bundle, of a whole ledger or an extract.

    Of an extract ``entries`` are those that are in it, and ``root`` is its checkpoint's.

    Args:
        path: the ZIP file.
        known: what the reader knows from elsewhere.
        first: where the broker's own verifier begins; the bundle's reads all.
        progress: called now and then with the number of entries checked and that of all.

    Raises:
        InvalidArgumentError: ``USAGE``: there is no such file, or the bundle can't answer for a checkpoint; an extract
            can't begin at ``first``, or doesn't hold the entry that is expected.
    """
    wanted = () if known.expected is None else (known.expected.seq,)
    try:
        keys = tuple(map(str, known.keys))
        found = verify(str(path), keys, tuple(item.note.encode() for item in known.held), entries=wanted)
    except UsageError as error:
        raise InvalidArgumentError(str(error), reason="USAGE") from error
    verdict = Verdict(found["verdict"])
    if verdict not in (Verdict.OK, Verdict.RECOVERED):
        return _report(found, verdict)
    if found["kind"] == "full":
        return verify_opened(lambda: open_bundle(path), known, first=first, progress=progress)
    if first:
        raise _not_of_an_extract("--from", f"needs a whole ledger, and {path} is an extract, which is checked as one")
    report = _report(found, verdict)
    return report if known.expected is None else _expected(report, known.expected, found["leaves"])


def _expected(report: Report, expected: Expectation, leaves: dict[str, str]) -> Report:
    leaf = leaves.get(str(expected.seq))
    if leaf is None:
        why = f"names entry {expected.seq}, which this extract doesn't hold: take a bundle of the whole ledger"
        raise _not_of_an_extract("--expect-seq", why)
    if expected.leaf in ("", leaf):
        return report
    why = f"has the hash {leaf}, but {expected.leaf} is expected: this is another history"
    return replace(report, verdict=Verdict.FORKED, place=Place(expected.seq, "leaf", why))


def _not_of_an_extract(option: str, why: str) -> InvalidArgumentError:
    violations = (FieldViolation(option, why),)
    return InvalidArgumentError(f"{option} {why}", reason="USAGE", violations=violations)


def _report(found: dict[str, object], verdict: Verdict) -> Report:
    place, checkpoint, keys, lost = found["place"], found["checkpoint"], found["keys"], found["recovered"]
    types, entries = found["types"], found["entries"]
    return Report(
        verdict=verdict,
        entries=entries if isinstance(entries, int) else 0,
        head_seq=_number(found["last"]),
        head_leaf="",
        root=str(checkpoint["root"]) if isinstance(checkpoint, dict) else EMPTY_ROOT.hex(),
        place=_place(place) if isinstance(place, dict) else None,
        origin=str(found["origin"]),
        types=types if isinstance(types, dict) else {},
        keys=tuple(item["key"] for item in keys) if isinstance(keys, list) else (),
        checkpoint_size=checkpoint["size"] if isinstance(checkpoint, dict) else 0,
        recovered=tuple((item["from"], item["to"]) for item in lost) if isinstance(lost, list) else (),
    )


def _place(place: dict[str, object]) -> Place:
    where = " ".join(str(place[name]) for name in ("file", "field") if place[name])
    return Place(_number(place["seq"]), where or "file", str(place["why"]))


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
