"""What says of an effect on a folder, until all of it is done and on record, that it is on its way, and what it consists of.

It lies beside the broker's state and is there before anything is made in the folder. A digest over all of it tells half of
one; a seal, which its writer alone can make, tells one that somebody else has changed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from broker.domain.canonical import JsonObject, canonical, parse_json
from broker.domain.ids import ID_PATTERN
from broker.domain.tree import STAGED, Effect, check_change, read_effect
from broker.errors import DataLossError, InvalidArgumentError
from broker.private_file import PRIVATE, read_private, replace, sync_dir

FORMAT = "broker.folder-journal.v1"
"""First member of every journal; another set of members gets another name."""

_STAGING = re.compile(re.escape(STAGED) + "[0-9a-f]{32}")
_MOST = 64 << 20


@dataclass(frozen=True, slots=True)
class Journal:
    """One effect on its way."""

    call: str
    """Id of the call whose effect it is."""
    folder: str
    """The folder of the host, absolute."""
    staging: str
    """Name of the folder in it in which what comes is made ready."""
    effect: Effect
    ready: bool = False
    """Is all made ready, and was all there that it starts from? Before that nothing is changed."""
    seal: str = ""
    """Over ``text``."""

    def text(self) -> bytes:
        """What is sealed: the RFC 8785 form of all but the seal."""
        body: JsonObject = {
            "format": FORMAT,
            "call": self.call,
            "folder": self.folder,
            "staging": self.staging,
            "ready": self.ready,
            "changes": self.effect.body(),
        }
        return canonical(body)


class JournalFile:
    """Where the journal of one folder lies; there is one at the most.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def there(self) -> bool:
        """Is an effect on its way, or a file in its journal's place?"""
        return self.path.is_symlink() or self.path.exists()

    def write(self, journal: Journal) -> None:
        """Keeps a journal, in the place of one that is there; durable on return."""
        replace(self.path, encode(journal), mode=PRIVATE)

    def read(self) -> Journal | None:
        """The journal; ``None`` where no effect is on its way. Whether its seal is right is for others to say.

        Raises:
            DataLossError: ``JOURNAL_DAMAGED``: it was cut, or is none.
            FailedPreconditionError: others may use it, or it can't be read.
        """
        if not self.there:
            return None
        data = read_private(
            self.path, what="journal of an effect", most_bytes=_MOST, missing="It was removed just now."
        )
        return decode(data)

    def remove(self) -> None:
        """The effect is done with; durable on return."""
        self.path.unlink(missing_ok=True)
        sync_dir(self.path.parent)

    def clear_drafts(self) -> None:
        """Removes what a kill in the midst of writing has left beside it; nobody may be writing now."""
        for draft in self.path.parent.glob(f".{self.path.stem}.*.new"):
            draft.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """One that can't be gone on with is kept for an investigation, under a name that is given back."""
        aside = self.path.with_suffix(f".left-{secrets.token_hex(4)}")
        self.path.replace(aside)
        sync_dir(self.path.parent)
        return aside


def encode(journal: Journal) -> bytes:
    """A line with the digest of what follows, a line with the seal, then ``text``."""
    rest = journal.seal.encode() + b"\n" + journal.text()
    return f"{hashlib.sha256(rest).hexdigest()}\n".encode() + rest


def decode(data: bytes) -> Journal:
    """Reads what ``encode`` wrote.

    Raises:
        DataLossError: ``JOURNAL_DAMAGED``.
    """
    head, _, rest = data.partition(b"\n")
    seal, _, body = rest.partition(b"\n")
    try:
        whole = head.decode() == hashlib.sha256(rest).hexdigest()
        match parse_json(body, field="journal", max_bytes=_MOST) if whole else None:
            case {
                "format": str(name),
                "call": str(call),
                "folder": str(folder),
                "staging": str(staging),
                "ready": bool(ready),
                "changes": changes,
                **more,
            } if name == FORMAT and ID_PATTERN.fullmatch(call) and _STAGING.fullmatch(staging) and not more:
                effect = read_effect(changes)
                for change in effect.changes:
                    check_change(change, "changes")
                return Journal(call, folder, staging, effect, ready, seal.decode())
    except (ValueError, InvalidArgumentError, DataLossError) as error:
        raise _damaged("it can't be read") from error
    raise _damaged("it has other members than a journal has" if whole else "it isn't what its digest says")


def _damaged(why: str) -> DataLossError:
    return DataLossError(
        f"the journal of an effect on a folder is damaged: {why}",
        reason="JOURNAL_DAMAGED",
        hint="Keep it for an investigation. What the effect was to change stands in the call's plan.",
    )
