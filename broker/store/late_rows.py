"""Entries and agents' heads that a transaction has taken and not given to the database yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from broker.domain.ports import Head, StoredEntry

Row = Mapping[str, object]
_Move: TypeAlias = tuple[str, Head | None, Head, int]
"""Agent, head before, head now, number of the entry."""


class LateRows:
    """What is to be written, in order, and how much of it the database has."""

    def __init__(self) -> None:
        self._entries: list[Row] = []
        self._moves: list[_Move] = []
        self._given = (0, 0)
        self._mark: tuple[int, int, tuple[int, int], int] | None = None
        self.waiting = 0
        """How much the database hasn't."""

    def add_entry(self, entry: StoredEntry) -> None:
        """Takes an entry."""
        self._entries.append({"seq": entry.seq, "prev": entry.prev, "leaf": entry.leaf, "data": entry.data})
        self.waiting += 1

    def add_move(self, agent: str, before: Head | None, head: Head, entry_seq: int) -> None:
        """Takes an agent's new head, after the one before."""
        self._moves.append((agent, before, head, entry_seq))
        self.waiting += 1

    def clear(self) -> None:
        """Nothing is there any more, given or not."""
        self._entries, self._moves = [], []
        self._given, self._mark, self.waiting = (0, 0), None, 0

    def mark(self) -> None:
        """Marks a point to go back to, in place of the one before."""
        self._mark = len(self._entries), len(self._moves), self._given, self.waiting

    def undo(self) -> Mapping[str, Head | None]:
        """Goes back to the mark, where the database must go too; returns the heads of then of the agents that moved."""
        entries, moves, given, waiting = self._mark or (0, 0, (0, 0), 0)
        before = {agent: head for agent, head, _, _ in reversed(self._moves[moves:])}
        del self._entries[entries:], self._moves[moves:]
        self._given, self.waiting = given, waiting
        return before

    def give(self) -> tuple[Sequence[Row], Sequence[Row], Sequence[Row]]:
        """What the database hasn't, once: entries, agents that are new to it, and those that it knows."""
        first, first_move = self._given
        entries, moves = self._entries[first:], self._moves[first_move:]
        if self._mark is None:  # nothing can be undone but the whole transaction
            self.clear()
        else:
            self._given, self.waiting = (len(self._entries), len(self._moves)), 0
        new: dict[str, Row] = {}
        known: dict[str, Row] = {}
        for agent, before, head, entry_seq in moves:
            if before is None or agent in new:
                new[agent] = {"agent": agent, "seq": head.seq, "leaf": head.leaf, "entry_seq": entry_seq}
            else:
                known[agent] = {
                    "which": agent, "new_seq": head.seq, "new_leaf": head.leaf, "new_entry_seq": entry_seq
                }  # fmt: skip
        return entries, [*new.values()], [*known.values()]
