"""Which calls are being taken back outside just now: two at once would do it twice. One broker serves a state directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from broker.errors import FailedPreconditionError


class Claims:
    """Calls, each claimed by one who takes it back."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, calls: Sequence[str]) -> None:
        """Claims calls, all or none.

        Raises:
            FailedPreconditionError: another takes one of them back just now (``UNDO_RUNNING``).
        """
        taken = sorted(self._taken.intersection(calls))
        if taken:
            raise FailedPreconditionError(
                f"{taken[0]} is being taken back by another call",
                reason="UNDO_RUNNING",
                hint="Look at it again once that has ended: broker calls show CALL",
            )
        self._taken.update(calls)

    def give_back(self, calls: Sequence[str]) -> None:
        """Others may take them back."""
        self._taken.difference_update(calls)

    @contextmanager
    def of(self, calls: Sequence[str]) -> Iterator[None]:
        """Claims calls while the block lasts.

        Raises:
            FailedPreconditionError: as ``take``.
        """
        self.take(calls)
        try:
            yield
        finally:
            self.give_back(calls)
