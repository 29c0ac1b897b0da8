"""Workspaces' trees for code without an event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from broker.client.loop import LoopThread
from broker.client.workspace_models import Exported, Imported, Progress, UndoDrill, UndoPlan, Workspace, WorkspaceDiff
from broker.client.workspaces import AsyncWorkspaces
from broker.domain.tree import Entry


class Workspaces:
    """The trees of a broker's workspaces; ``Broker.workspaces`` is one. Methods, values and errors are those of
    ``AsyncWorkspaces``.
    """

    def __init__(self, workspaces: AsyncWorkspaces, loop: LoopThread) -> None:
        self._workspaces = workspaces
        self._loop = loop

    def list(self, *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[Workspace]:
        """The workspaces that have a tree and are open to the caller, by name."""
        return self._loop.iterate(self._workspaces.list(page_size=page_size, timeout_s=timeout_s))

    def get(self, name: str, *, timeout_s: float | None = None) -> Workspace:
        """A workspace's tree as it stands."""
        return self._loop.run(self._workspaces.get(name, timeout_s=timeout_s))

    def files(
        self, name: str, patterns: Sequence[str] = (), *, state: str = "", timeout_s: float | None = None
    ) -> Iterator[tuple[str, Entry]]:
        """Each path with what lies there, in the order of the paths' bytes."""
        return self._loop.iterate(self._workspaces.files(name, patterns, state=state, timeout_s=timeout_s))

    def diff(self, name: str, before: str, after: str = "", *, timeout_s: float | None = None) -> WorkspaceDiff:
        """What makes one state of another."""
        return self._loop.run(self._workspaces.diff(name, before, after, timeout_s=timeout_s))

    def plan_undo(self, name: str, call: str, *, cascade: bool = False, timeout_s: float | None = None) -> UndoPlan:
        """What taking a call back would do now, and what is in its way; nothing is changed."""
        return self._loop.run(self._workspaces.plan_undo(name, call, cascade=cascade, timeout_s=timeout_s))

    def drill_undo(self, name: str, sample: int, *, timeout_s: float | None = None) -> UndoDrill:
        """Tries rollback artifacts that are chosen by chance, each in a sandbox."""
        return self._loop.run(self._workspaces.drill_undo(name, sample, timeout_s=timeout_s))

    def import_folder(
        self,
        name: str,
        folder: Path,
        *,
        expected_state: str = "",
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Imported:
        """Puts a folder's files and links into a workspace: all of it, or nothing."""
        return self._loop.run(
            self._workspaces.import_folder(
                name, folder, expected_state=expected_state, progress=progress, timeout_s=timeout_s
            )
        )

    def export_folder(
        self,
        name: str,
        folder: Path,
        *,
        patterns: Sequence[str] = (),
        state: str = "",
        unsafe_links: bool = False,
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Exported:
        """Writes a workspace's tree into a new or empty folder, and checks that it is whole."""
        return self._loop.run(
            self._workspaces.export_folder(
                name,
                folder,
                patterns=patterns,
                state=state,
                unsafe_links=unsafe_links,
                progress=progress,
                timeout_s=timeout_s,
            )
        )
