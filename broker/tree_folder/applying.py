"""An effect on a folder of the host, from its journal to its end. What is done between its parts decides what a start does:

1. ``prepare``: the journal is durable, then all that comes lies ready, then the journal says so. Who is killed here has
   changed nothing.
2. The caller makes durable that the effect is to happen, if that isn't yet.
3. ``carry_out``: each path changes in one step. Who is killed here goes on at the next start.
4. The caller makes durable that it has happened.
5. ``finish``: what was made ready, and what was replaced, goes; the journal last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from broker.domain.tree import Change, Effect, check_change
from broker.errors import FailedPreconditionError, UnavailableError
from broker.tree_folder.guarding import conflicts
from broker.tree_folder.journal import Journal, JournalFile
from broker.tree_folder.looking import FOLDER, look
from broker.tree_folder.placing import Placing
from broker.tree_folder.staging import Content, Staging
from broker.tree_folder.steps import steps_of

Seal = Callable[[bytes], str]
"""Makes the seal of a journal's text."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """An effect stopped half-way: somebody else changed something, or the folder can't be written to."""

    path: str
    """Where it stopped."""
    why: str
    done: tuple[str, ...]
    """Paths that are as the effect leaves them."""
    left: tuple[str, ...]
    """Paths that are as they were before it."""
    others: tuple[str, ...]
    """Paths that are neither."""


class FolderEffect:
    """One effect on one folder; for a ``with`` block. Everything blocks.

    Args:
        root: the folder, open; it has to stay open.
        file: where the journal lies.
        journal: what the effect is.

    Raises:
        InvalidArgumentError: a change can't be one of a tree (``PATH_INVALID``, ``ENTRY_INVALID``).
    """

    def __init__(self, root: int, file: JournalFile, journal: Journal) -> None:
        self._root = root
        self._file = file
        self._journal = journal
        for change in journal.effect.changes:
            check_change(change, "changes")
        self._steps = steps_of(journal.effect)
        self._staging: Staging | None = None

    @property
    def effect(self) -> Effect:
        """What it puts there."""
        return self._journal.effect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    def prepare(self, content: Content, seal: Seal) -> dict[str, str]:
        """Writes the journal and makes all ready. Nothing that was there is changed.

        Args:
            content: gives the bytes of the files that come.
            seal: seals the journal.

        Returns:
            The paths that aren't as the effect starts from, each with why. Where there are any, or where this fails,
            everything is as it was.

        Raises:
            FailedPreconditionError: ``FOLDER_UNFIT``: the folder can't be written to, or not in the way that is needed.
            UnavailableError: ``JOURNAL_FAILED``: the journal can't be written.
            BrokerError: a content can't be read.
        """
        self._write(seal)
        try:
            self._staging = Staging.make(self._root, self._journal.staging, self._steps)
            self._staging.fill(content)
            found = conflicts(self._root, self._steps)
            if not found:
                self._write(seal, ready=True)
        except OSError as error:
            self.finish(begun=False)
            raise FailedPreconditionError(
                f"the workspace's directory can't be written to: {error.strerror}",
                reason="FOLDER_UNFIT",
                hint="Nothing was changed. Let the broker's user write there, and see that there is room.",
            ) from error
        except BaseException:
            self.finish(begun=False)
            raise
        if found:
            self.finish(begun=False)
        return found

    def carry_out(self) -> Stopped | None:
        """Changes each path that isn't changed yet. Durable on return.

        Returns:
            Where it stopped, and why: nothing is overwritten that isn't what the effect starts from. ``None`` where all of
            the effect is there.
        """
        try:
            staging = self._found()
        except OSError as error:
            return self._stopped(self._journal.staging, f"what was made ready can't be used: {error.strerror}")
        if staging is None:
            return self._stopped(self._journal.staging, "what was made ready is gone")
        stop = Placing(staging).place()
        return None if stop is None else self._stopped(*stop)

    def finish(self, *, begun: bool) -> tuple[str, ...]:
        """Removes what was made ready and what was replaced, and then the journal. Durable on return.

        Args:
            begun: may something have been changed already?

        Returns:
            Where something lies that is somebody else's and so stays, by path.

        Raises:
            OSError: it can't be removed; the journal stays.
        """
        staging = self._found()
        left = () if staging is None else staging.clean(begun=begun)
        self._file.remove()
        return left

    def _write(self, seal: Seal, *, ready: bool = False) -> None:
        journal = replace(self._journal, ready=ready)
        self._journal = replace(journal, seal=seal(journal.text()))
        try:
            self._file.write(self._journal)
        except OSError as error:
            raise UnavailableError(
                f"the journal of an effect can't be written: {error.strerror}",
                reason="JOURNAL_FAILED",
                hint="See that there is room in the broker's state directory.",
            ) from error

    def _found(self) -> Staging | None:
        if self._staging is None:
            self._staging = Staging.find(self._root, self._journal.staging, self._steps)
        return self._staging

    def _stopped(self, path: str, why: str) -> Stopped:
        found: dict[str, list[str]] = {"done": [], "left": [], "others": []}
        for change in self._journal.effect.changes:
            found[self._how(change)].append(change.path)
        return Stopped(path, why, tuple(found["done"]), tuple(found["left"]), tuple(found["others"]))

    def _how(self, change: Change) -> str:
        try:
            there = look(self._root, change.path)
        except OSError:
            return "others"
        if there == change.after or (change.after is None and there == FOLDER):
            return "done"
        return "left" if there == change.before else "others"
