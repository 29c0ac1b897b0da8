"""What a client remembers of the ledgers that it has seen: of each the last checkpoint, and the keys that sign it.

One small JSON file for each ledger, replaced as a whole. Several processes may use the same folder: a file only changes
from what its writer has read, and nobody puts a smaller checkpoint in place of a larger one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note, NoteError, VerifierKey

MEMORY_DAMAGED = "CHECKPOINT_MEMORY_DAMAGED"
"""Reason where a file can't be used."""

UNPROVED_S = 60.0
"""Long enough for a broker to drain and start again; a program that just begins bears it for a few seconds only."""

_VERSION = 1
_MAX_BYTES = 16 << 20
_MAX_NAME = 200
_AUTHORITIES = "authorities"
FOUNDINGS = "foundings"
"""Folder inside that of the checkpoints, for what ``broker.client.founding_memory`` keeps."""


@dataclass(frozen=True, slots=True)
class CheckpointMemory:
    """Where and how a client remembers checkpoints.

    Raises:
        InvalidArgumentError: a value is none that works.
    """

    folder: Path | None = None
    """``None`` is ``$XDG_STATE_HOME/agent-broker/checkpoints``, or below ``~/.local/state`` where that isn't set."""
    key: str = ""
    """The ledger's first checkpoint key (``vkey``), known from elsewhere; empty trusts the one that the first connection
    shows, and that one only from then on."""
    interval_s: float = 300.0
    """Seconds after which an open client asks for the latest checkpoint again."""
    unproved_s: float = UNPROVED_S
    """For how long an open client bears it that the broker can't be asked, or doesn't prove what it has shown."""

    def __post_init__(self) -> None:
        parse_key(self.key)
        for field, value in (("interval_s", self.interval_s), ("unproved_s", self.unproved_s)):
            if not value > 0:
                raise _refuse(field, f"must be more than 0, not {value}")


@dataclass(frozen=True, slots=True)
class UnsafeNoCheckpointMemory:
    """Remembers nothing and asks for nothing by itself: a rewritten history goes unnoticed.

    Raises:
        InvalidArgumentError: the key is none.
    """

    key: str = ""
    """As in ``CheckpointMemory``; proofs that are asked for are still verified."""

    def __post_init__(self) -> None:
        parse_key(self.key)


def parse_key(text: str) -> VerifierKey | None:
    """The key of a ``vkey`` text; ``None`` for the empty one.

    Raises:
        InvalidArgumentError: it is none.
    """
    try:
        return VerifierKey.parse(text) if text else None
    except NoteError as error:
        raise _refuse("key", str(error)) from error


def default_folder() -> Path | None:
    """Where checkpoints are remembered if nobody says otherwise; ``None`` where the user has no home."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    except RuntimeError:
        return None
    return base / "agent-broker" / "checkpoints"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of one ledger."""

    note: Note
    """The last checkpoint that was verified."""
    key_entries: tuple[str, ...]
    """The texts of the entries that say which keys sign it, up to that checkpoint."""
    authority: str = ""
    """Digest of the CA that vouches for its broker; empty where there was none."""

    @property
    def checkpoint(self) -> Checkpoint:
        """What the note says."""
        return Checkpoint.parse(self.note.text)


class MemoryFolder:
    """The files. Its methods block.

    Args:
        folder: made with mode 0700 when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, origin: str) -> Path:
        """The file of a ledger."""
        name = quote(origin, safe="-_.~")
        if name.startswith(".") or name in {_AUTHORITIES, FOUNDINGS}:
            name = f"%{ord(name[0]):02X}{name[1:]}"  # neither hidden, nor upwards, nor our own folder
        if len(name) > _MAX_NAME:
            name = f"sha256-{hashlib.sha256(origin.encode()).hexdigest()}"
        return self._folder / name

    def read(self, origin: str) -> Remembered | None:
        """What is remembered of a ledger; ``None`` for nothing.

        Raises:
            OSError: the file can't be read.
            FailedPreconditionError: ``CHECKPOINT_MEMORY_DAMAGED``: the file is there and can't be used.
        """
        path = self.path(origin)
        found = _read(path)
        if found is not None and found.checkpoint.origin != origin:
            raise _damaged(path, "it is of another ledger")
        return found

    def origin_of(self, authority: str) -> str:
        """The ledger of the broker that a CA vouches for; empty where none is known.

        Raises:
            OSError: the file can't be read.
            FailedPreconditionError: ``CHECKPOINT_MEMORY_DAMAGED``.
        """
        path = self._folder / _AUTHORITIES / authority
        try:
            return path.read_text("utf-8").strip()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError as error:
            raise _damaged(path, "it isn't UTF-8") from error

    def replace(self, old: Remembered | None, new: Remembered) -> bool:
        """Remembers ``new`` if ``old`` is what is there; returns whether it was.

        Raises:
            OSError: the folder can't be read or written to.
            FailedPreconditionError: ``CHECKPOINT_MEMORY_DAMAGED``.
        """
        origin = new.checkpoint.origin
        path = self.path(origin)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._folder / ".lock"):
            if _read(path) != old or (old is not None and old.checkpoint.size > new.checkpoint.size):
                return False
            if new.authority:
                by_authority = self._folder / _AUTHORITIES
                by_authority.mkdir(mode=0o700, exist_ok=True)
                _write(by_authority / new.authority, f"{origin}\n")
            _write(path, _text(new))
        return True


def _text(known: Remembered) -> str:
    value = {
        "v": _VERSION,
        "authority": known.authority,
        "checkpoint": known.note.encode().decode(),
        "key_entries": known.key_entries,
    }
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _read(path: Path) -> Remembered | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > _MAX_BYTES:
        raise _damaged(path, "it is too long")
    try:
        value = json.loads(data)
        entries = tuple(value["key_entries"])
        known = Remembered(Note.parse(value["checkpoint"].encode()), entries, value["authority"])
        readable = value["v"] == _VERSION and all(isinstance(item, str) for item in (*entries, known.authority))
        Checkpoint.parse(known.note.text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"it can't be read ({type(error).__name__})") from error
    if not readable:
        raise _damaged(path, "it is of another version")
    return known


def _write(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".draft-", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Held for a read and a write of a small file: whoever waits waits for milliseconds, and a killed holder lets go.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _damaged(path: Path, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the checkpoint that this client remembers in {path} can't be used: {why}",
        reason=MEMORY_DAMAGED,
        hint="Restore the file from a copy. Without it a rewritten history goes unnoticed: remove it only if you know "
        "by other means that the ledger is whole.",
        metadata={"memory": str(path)},
    )


def _refuse(field: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field}: {why}",
        reason="CONNECTION_OPTIONS_INVALID",
        hint="`broker ledger checkpoint` shows the ledger's key.",
        violations=(FieldViolation(f"checkpoints.{field}", why),),
    )
