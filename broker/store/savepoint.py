"""The point that one function of a batch is undone to, made in the database only once the function needs it there.

A function that does nothing but append to the ledger needs none: what it appended is still in the transaction's own hands
(``broker.store.ledger_table``).
"""

from __future__ import annotations

from collections.abc import Callable


class Savepoint:
    """Says when the database must make the point; used by one thread at a time.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], None]) -> None:
        self._make = make
        self._wanted = False
        self._made = False

    @property
    def wanted(self) -> bool:
        """Is there a point to go back to, made or not?"""
        return self._wanted

    @property
    def made(self) -> bool:
        """Has the database made it?"""
        return self._made

    def want(self) -> None:
        """Here begins what may have to be undone by itself."""
        self._wanted, self._made = True, False

    def need(self) -> None:
        """Before each statement that may write."""
        if self._wanted and not self._made:
            self._make()
            self._made = True

    def drop(self) -> None:
        """There is no such point any more, in the database neither."""
        self._wanted = self._made = False
