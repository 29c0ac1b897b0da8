"""What the dry run of a tool with outside effects, or the look before an undo, came to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broker.domain.call import CallState
from broker.domain.outside import CANT_TELL, Step, planned_effect, present_items, sides
from broker.domain.run import EndCause, EvidenceSource
from broker.domain.tree import Effect, Entry
from broker.errors import DataLossError, InvalidArgumentError
from broker.pipeline.ran import Ran
from broker.pipeline.tree_inputs import TreeInputs
from broker.specs.catalogue import Tool

_LISTED = 20


def read_plan(tool: Tool, tree: TreeInputs, ran: Ran) -> Ran:
    """The end of a plan with the effect that it told of; or, where it is none, how the call ends.

    Args:
        tool: the tool, as it runs.
        tree: what the run was given.
        ran: how it ended; its effect is what it changed in its working folder.
    """
    looked = tree.step is Step.VERIFY
    if looked and cant_tell(tool, ran.outcome.exit_code):
        return replace(ran, state=CallState.SUCCEEDED, effect=tree.expected or Effect(()), complete=True)
    if ran.state is not CallState.SUCCEEDED or not ran.complete:
        return ran
    try:
        if looked and tree.expected is not None:
            return _looked(tree.named, tree.expected, ran)
        effect = planned_effect(tool.spec.name, ran.effect)
    except (InvalidArgumentError, DataLossError) as error:
        return _ended(ran, CallState.FAILED, EndCause.TOOL, f"{error.reason}: {error.message}; nothing was changed")
    most = 0 if tool.spec.outside is None else tool.spec.outside.max_items
    if len(effect.changes) > most:
        detail = f"PLAN_TOO_LARGE: {len(effect.changes)} items would change, and {most} may: nothing was changed"
        return _ended(ran, CallState.FAILED, EndCause.TOOL, detail)
    return replace(ran, effect=effect)


def cant_tell(tool: Tool, exit_code: int | None) -> bool:
    """Did a look say that it can't tell, where that may be? What is taken back exactly has to be told."""
    return exit_code == CANT_TELL and tool.spec.reversibility != "exact"


def moved(expected: Mapping[str, Entry], items: Sequence[str], now: Mapping[str, Entry]) -> list[str]:
    """The items that aren't as expected, in order."""
    return sorted(item for item in items if now.get(item) != expected.get(item))


def listed(items: Sequence[str]) -> str:
    """The first of some items, for a person."""
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(repr(item) for item in items[:_LISTED]) + more


def _looked(named: str, back: Effect, ran: Ran) -> Ran:
    before, after = sides(named, back)
    items, now = sorted({*before, *after}), present_items(ran.effect)
    differ = moved(before, items, now)
    if differ and not moved(after, items, now):
        return replace(ran, effect=Effect(()), already=True)
    if differ:
        what = (
            f"UNDO_CONFLICT: {len(differ)} item(s) are not as the call left them: {listed(differ)}; nothing was changed"
        )
        return _ended(ran, CallState.DENIED, EndCause.POLICY, what)
    return replace(ran, effect=back)


def _ended(ran: Ran, state: CallState, cause: EndCause, detail: str) -> Ran:
    outcome = replace(ran.outcome, cause=cause, cause_source=EvidenceSource.BROKER, detail=detail)
    return replace(ran, state=state, outcome=outcome)
