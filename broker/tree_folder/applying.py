"""An effect on a folder of the host, from its journal to its end. What is done between its parts decides what a start does:

1. ``prepare``: the journal is durable, then all that comes lies ready. Who is killed here has changed nothing.
2. The caller makes durable that the effect is to happen.
3. ``carry_out``: each path changes in one step. Who is killed here goes on at the next start.
4. The caller makes durable that it has happened.
5. ``finish``: what was made ready, and what was replaced, goes; the journal last.
"""

from __future__ import annotations

from typing import Self

from broker.domain.tree import check_change
from broker.errors import FailedPreconditionError, UnavailableError
from broker.tree_folder.guarding import conflicts
from broker.tree_folder.journal import Journal, JournalFile
from broker.tree_folder.placing import Placing
from broker.tree_folder.staging import Content, Staging
from broker.tree_folder.steps import steps_of


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    def prepare(self, content: Content) -> dict[str, str]:
        """Writes the journal and makes all ready. Nothing that was there is changed.

        Args:
            content: gives the bytes of the files that come.

        Returns:
            The paths that aren't as the effect starts from, each with why. Where there are any, or where this fails,
            everything is as it was.

        Raises:
            FailedPreconditionError: ``FOLDER_UNFIT``: the folder can't be written to, or not in the way that is needed.
            BrokerError: a content can't be read.
        """
        try:
            self._file.write(self._journal)
        except OSError as error:
            raise UnavailableError(
                f"the journal of an effect can't be written: {error.strerror}",
                reason="JOURNAL_FAILED",
                hint="See that there is room in the broker's state directory.",
            ) from error
        try:
            self._staging = Staging.make(self._root, self._journal.staging, self._steps)
            self._staging.fill(content)
            found = conflicts(self._root, self._steps)
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

    def carry_out(self) -> tuple[str, str] | None:
        """Changes each path that isn't changed yet. Durable on return.

        Returns:
            At which path it stopped, and why: nothing is overwritten that isn't what the effect starts from. ``None`` where
            all of the effect is there.
        """
        staging = self._found()
        if staging is None:
            return self._journal.staging, "what was made ready is gone"
        return Placing(staging).place()

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

    def _found(self) -> Staging | None:
        if self._staging is None:
            self._staging = Staging.find(self._root, self._journal.staging, self._steps)
        return self._staging
