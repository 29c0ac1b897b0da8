"""The founding of the two-person rule as this client's user has accepted it: by it a later one in its place is noticed.

Beside the checkpoints that are remembered, one small file for each broker: by the CA that vouches for it, and by its
ledger's origin, so that neither can be exchanged alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_values
from hashlib import sha256
from pathlib import Path

from broker.client.checkpoint_memory import FOUNDINGS
from broker.errors import DataLossError, FailedPreconditionError
from broker.private_file import PRIVATE, make_private_dir, replace

SETTLED = "settled"
"""Member of the metadata of ``FOUNDING_DIFFERS``: ``yes`` where one of the two founded a rule that is in force."""

_VERSION = 1
_MAX_BYTES = 128 * 2**20
# The content's own bound, with all of it escaped.


@dataclass(frozen=True, slots=True)
class PinnedFounding:
    """What was accepted."""

    origin: str
    digest: str
    in_force: bool = False
    """Was it seen in force? Then no other may ever take its place."""
    content: str = ""
    """All that it covered, in its canonical form, to say later what has changed; empty where an older client accepted it."""


class FoundingMemory:
    """The files. Its methods block.

    Args:
        folder: that of the checkpoints.
        authority: the CA's digest; empty where there is none.
    """

    def __init__(self, folder: Path, authority: str) -> None:
        self._folder = folder / FOUNDINGS
        self._authority = authority

    def pinned(self) -> bool:
        """Was a founding accepted of the broker that this CA vouches for?"""
        return bool(self._authority) and self._by_authority.exists()

    def check(self, origin: str, digest: str, *, in_force: bool) -> bool:
        """Compares what a broker shows with what was accepted; returns whether anything was.

        Raises:
            DataLossError: ``FOUNDING_DIFFERS``; its metadata say as ``settled`` whether no other may take its place.
            FailedPreconditionError: ``FOUNDING_MEMORY_DAMAGED``: what was accepted can't be read;
                ``FOUNDING_MEMORY_UNWRITABLE``.
        """
        accepted = False
        for path in self._paths(origin):
            pinned = _read(path)
            if pinned is None:
                continue
            accepted = True
            if (pinned.origin, pinned.digest) != (origin, digest):
                raise _differs(path, pinned, origin, digest, settled=in_force or pinned.in_force)
            if in_force and not pinned.in_force:
                self.pin(replace_values(pinned, in_force=True))
        return accepted

    def accepted(self, origin: str) -> PinnedFounding | None:
        """What was accepted of a ledger; ``None`` for nothing.

        Raises:
            FailedPreconditionError: ``FOUNDING_MEMORY_DAMAGED``.
        """
        return next((pinned for path in self._paths(origin) if (pinned := _read(path)) is not None), None)

    def pin(self, founding: PinnedFounding) -> None:
        """Remembers what its user has accepted.

        Raises:
            FailedPreconditionError: ``FOUNDING_MEMORY_UNWRITABLE``.
        """
        text = json.dumps({"v": _VERSION, **asdict(founding)}, ensure_ascii=False, indent=1)
        try:
            make_private_dir(self._folder)
            for path in self._paths(founding.origin):
                replace(path, f"{text}\n".encode(), mode=PRIVATE)
        except OSError as error:
            raise FailedPreconditionError(
                f"what is accepted can't be remembered in {self._folder}: {error.strerror}",
                reason="FOUNDING_MEMORY_UNWRITABLE",
                hint="Nothing was sent. Make the folder writable, or set XDG_STATE_HOME to one that is.",
            ) from error

    def _paths(self, origin: str) -> tuple[Path, ...]:
        by_origin = self._folder / f"origin-{sha256(origin.encode()).hexdigest()}"
        return (by_origin, self._by_authority) if self._authority else (by_origin,)

    @property
    def _by_authority(self) -> Path:
        return self._folder / f"ca-{self._authority}"


def _read(path: Path) -> PinnedFounding | None:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_BYTES))
        version, known = value.pop("v"), PinnedFounding(**value)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, type(error).__name__) from error
    texts = (known.origin, known.digest, known.content)
    readable = all(isinstance(text, str) for text in texts) and isinstance(known.in_force, bool)
    if version != _VERSION or not readable:
        raise _damaged(path, "it is of another version")
    return known


def _damaged(path: Path, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the founding that was accepted is remembered in {path}, which can't be used: {why}",
        reason="FOUNDING_MEMORY_DAMAGED",
        hint="Restore the file from a copy, or remove it and accept the founding again after a careful look.",
        metadata={"memory": str(path)},
    )


def _differs(path: Path, pinned: PinnedFounding, origin: str, digest: str, *, settled: bool) -> DataLossError:
    return DataLossError(
        "THE FOUNDING OF THE TWO-PERSON RULE IS NOT THE ONE THAT WAS ACCEPTED HERE: the broker shows "
        f"{digest} of {origin!a}, and {pinned.digest} of {pinned.origin!a} was accepted",
        reason="FOUNDING_DIFFERS",
        hint="Nothing was signed. Before the rule is in force any change of what the founding covers does this: look at "
        "`broker approvers founding`, which says what has changed, and accept it again. Afterwards nothing may: ask the "
        "other founders and auditors, by another way.",
        metadata={"memory": str(path), "accepted": pinned.digest, "shown": digest, SETTLED: "yes" if settled else "no"},
    )
