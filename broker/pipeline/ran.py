"""A run on a copy, or a step, that has ended."""

from __future__ import annotations

from dataclasses import dataclass

from broker.domain.call import CallState
from broker.domain.events import EventPayload, Outcome
from broker.domain.tree import Effect


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended, and what it changed in its working folder."""

    state: CallState
    outcome: Outcome
    effect: Effect
    complete: bool
    """Whether the runner told all that was changed."""
    already: bool = False
    """Of a look before an undo: is all as it was before what is to be taken back?"""
    tail: tuple[EventPayload, ...] = ()
    """Output that is not on record yet."""
