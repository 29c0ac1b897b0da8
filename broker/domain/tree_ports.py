"""What is needed of the store about workspaces' trees: the state of each, and what calls have done to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TreeState:
    """The state of a workspace's tree: its digest, and the number of the ledger's entry that brought it there."""

    workspace: str
    state: str
    seq: int
    changed: datetime


@dataclass(frozen=True, slots=True)
class EffectRow:
    """What a call did to a workspace, by digests; the changes lie with the call."""

    call: str
    workspace: str
    base: str
    """The state before it."""
    after: str
    digest: str
    """Of the changes, with the call's salt."""
    artifact: str
    """Address of what takes it back."""
    undoes: tuple[str, ...]
    """The calls that it took back, oldest first."""
    undone_by: str
    """The call that took it back; empty while it is in effect."""
    seq: int
    """Number of the ledger's entry that says so."""
    at: datetime


class TreeTable(Protocol):
    """States and effects. Both are projections of the ledger."""

    def get(self, workspace: str) -> TreeState | None:
        """A workspace's state; ``None`` where it has no tree."""

    def state(self, workspace: str) -> str:
        """The digest of it; empty where it has no tree."""

    def all(self) -> Sequence[TreeState]:
        """All, by the names of their workspaces."""

    def move(self, workspace: str, old: str, new: str, seq: int, now: datetime) -> None:
        """Brings a workspace into a state; ``old`` is empty for one without a tree.

        Raises:
            ConflictError: its state is another than ``old`` (``STATE_MOVED``).
        """

    def knows(self, workspace: str, state: str) -> bool:
        """Is it the workspace's state, or was it before or after an effect on it?"""

    def insert(self, effect: EffectRow) -> None:
        """Adds an effect.

        Raises:
            ConflictError: the call has one (``EFFECT_KNOWN``).
        """

    def effect(self, call: str) -> EffectRow | None:
        """A call's effect."""

    def effects(self, workspace: str, after_seq: int) -> Sequence[EffectRow]:
        """The effects on a workspace whose entries have higher numbers than that, oldest first."""

    def mark(self, call: str, *, undone_by: str) -> None:
        """Says which call took an effect back; empty where it is in effect again."""
