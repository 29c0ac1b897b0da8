"""A bundle of a whole ledger, read as a source of entries: its own verifier's reader, so that both refuse the same files.

Nothing is verified here but that the file is a bundle; ``broker.ledger.verify_bundle.verify`` does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError  # noqa: N812 - its own name says nothing

from broker.domain.canonical import JsonObject
from broker.errors import DataLossError, InvalidArgumentError
from broker.ledger.bundle_evidence import FORMAT as EVIDENCE
from broker.ledger.bundle_format import ENTRIES, FORMAT, MANIFEST
from broker.ledger.source import Reopen, Row, UnreadableError
from broker.ledger.verify_bundle import Archive, Fault, leaf_hash, read_json
from broker.tlog.note import Note, NoteError

_MAGIC = b"PK\x03\x04"
_DAMAGE = (Fault, BadZipFile, ZlibError, OSError, EOFError, ValueError, RuntimeError, NotImplementedError)


def is_bundle(path: Path) -> bool:
    """Does this file begin as a bundle does? A ledger file never does."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Implements ``broker.ledger.source.Source``: what a bundle of the whole ledger holds.

    ``incomplete`` is always empty: whether the end is missing, the manifest and the checkpoints in it say.
    """

    path: Path
    manifest: JsonObject
    _archive: Archive

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def incomplete(self) -> str:
        """Empty."""
        return ""

    @property
    def reopen(self) -> Reopen | None:
        """``None``: the entries are one compressed stream, of which no second reader could take a later part."""
        return None

    def count(self) -> int:
        """Number of entries, as the manifest says it: quick, and not verified."""
        entries = self.manifest.get("entries")
        count = entries.get("count") if isinstance(entries, dict) else None
        if not isinstance(count, int):
            raise UnreadableError("the manifest doesn't say how many entries there are")
        return count

    def beyond(self, count: int) -> str:
        """What says that there are more than the first ``count`` entries; see ``broker.ledger.source.Projected``."""
        if count >= self.count():
            return ""
        return f"the manifest names {self.count()} entries"

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """Entries from number ``first`` to number ``last``, both included (``None``: to the end).

        A line that can't be read comes under the number of its place, for the verifier to judge.

        Raises:
            UnreadableError: the file is damaged here.
        """
        try:
            for place, data in enumerate(self._archive.lines(ENTRIES)):
                seq, prev = _columns(data, place)
                if last is not None and seq > last:
                    return
                if seq >= first:
                    yield Row(seq, prev, leaf_hash(data), data)
        except _DAMAGE as error:
            raise UnreadableError(f"{ENTRIES}: {error}") from error

    def notes(self) -> tuple[Note, ...]:
        """The checkpoints in it, smallest first; not verified.

        Raises:
            DataLossError: ``BUNDLE_UNREADABLE``.
        """
        names = sorted(name for name in self._archive.members if name.startswith("checkpoints/"))
        try:
            return tuple(Note.parse(self._archive.read(name)) for name in names)
        except (*_DAMAGE, NoteError) as error:
            raise _unreadable(self.path, str(error)) from error


@contextmanager
def open_bundle(path: Path) -> Iterator[BundleSource]:
    """Opens a bundle of a whole ledger.

    Raises:
        InvalidArgumentError: ``LEDGER_MISSING``: there is no such file; ``BUNDLE_IS_EXTRACT``: it holds a part only.
        DataLossError: ``BUNDLE_UNREADABLE``: it is no bundle, or is damaged.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"there is no bundle {path}", reason="LEDGER_MISSING", hint="Name the ZIP file.")
    try:
        archive = Archive(str(path))
    except _DAMAGE as error:
        raise _unreadable(path, _why(error)) from error
    with closing(archive.zip):
        try:
            manifest: JsonObject = read_json(archive.read(MANIFEST), MANIFEST)
        except _DAMAGE as error:
            raise _unreadable(path, _why(error)) from error
        if manifest.get("format") not in (FORMAT, EVIDENCE):
            raise _unreadable(path, f"this version of the broker knows only {FORMAT} and {EVIDENCE}")
        if manifest.get("kind") != "full":
            raise InvalidArgumentError(
                f"{path} is an extract: it holds only a part of a ledger",
                reason="BUNDLE_IS_EXTRACT",
                hint="Check it with: python verify_bundle.py FILE",
            )
        yield BundleSource(path, manifest, archive)


@contextmanager
def open_target(how: Reopen) -> Iterator[BundleSource]:
    """Opens a bundle for ``broker.ledger.source_kinds``; see ``open_bundle``."""
    with open_bundle(Path(how.target)) as source:
        yield source


def _columns(data: bytes, place: int) -> tuple[int, str]:
    try:
        entry = json.loads(data)
        seq, prev = entry["seq"], entry["prev"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return place, ""
    return (seq if type(seq) is int else place), (prev if isinstance(prev, str) else "")


def _why(error: BaseException) -> str:
    place = f"{error.place['file']} " if isinstance(error, Fault) and error.place["file"] else ""
    return f"{place}{error}"


def _unreadable(path: Path, why: str) -> DataLossError:
    return DataLossError(
        f"{path} can't be read as a bundle: {why}", reason="BUNDLE_UNREADABLE", hint="Get it again from who made it."
    )
