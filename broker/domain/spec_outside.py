"""The part of a tool specification that says how what it changes elsewhere is planned, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from broker.domain.outside import Step
from broker.domain.spec_parts import CodeFile, Place, Size, SpecPart, Whole


class SpecOutside(SpecPart):
    """The programs that plan, try, take back and look at what a tool changes outside, one Python file each, run like the tool.

    Each is told its step as `sys.argv[1]`: `plan`, `rehearse`, `undo` or `verify`; the tool's own `run` is told `apply`. One
    file may serve for all.
    """

    plan: CodeFile
    """A dry run: changes nothing, and writes each item that would be changed to `before/` and `after/`."""
    undo: CodeFile
    """Makes of `before/`, which the call had left, what is in `after/`, which was there before it."""
    verify: CodeFile
    """Writes what is there now of the items in `before/` and `after/` to `now/`; ends with 4 where it can't tell."""
    rehearse: CodeFile | None = None
    """Applies, takes back and compares, and leaves nothing changed; needed for `exact`."""
    on_failure: Literal["none", "undo"] = "none"
    """Whether a call that may have changed something, and whose end is not known, is taken back by itself where all is as it
    was to be: approvers agree to that too."""
    max_items: Annotated[Whole, Field(ge=1, le=10_000)] = 1000
    """Most items that one call may change."""
    max_item_bytes: Annotated[Size, Field(ge=1, le=2**28)] = 16 * 2**20
    """Most bytes of their contents, before and after, together."""

    def file(self, step: Step) -> str | None:
        """The program of a step; ``None`` where there is none, and for ``apply``, which is the tool's own."""
        match step:
            case Step.PLAN:
                return self.plan
            case Step.REHEARSE:
                return self.rehearse
            case Step.UNDO:
                return self.undo
            case Step.VERIFY:
                return self.verify
            case Step.APPLY:
                return None

    @property
    def files(self) -> Iterator[tuple[Place, str]]:
        """Each program with its place in the specification."""
        for step in Step:
            name = self.file(step)
            if name is not None:
                yield ("outside", step.value), name
