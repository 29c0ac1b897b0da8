"""Taking back what a tool changed outside: by the programs of that very tool, under its own limits and with its hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.approvals.freezing import check_frozen
from broker.domain.call import CallState
from broker.domain.outside import Step
from broker.domain.planned import OutsidePlan
from broker.domain.ports import CallRow, Transaction
from broker.domain.tier import Tier
from broker.domain.tree import Effect
from broker.errors import FailedPreconditionError
from broker.pipeline.kept import read_request
from broker.pipeline.outside_inputs import step_inputs
from broker.pipeline.parts import Parts
from broker.pipeline.tree_inputs import TreeInputs
from broker.rollback.artifact import unpack
from broker.specs.catalogue import Tool

ONE_WAY = "irreversible"
"""What is said of the taking back of what can only be compensated."""


def acting(parts: Parts, undo: Tool, named: str, tier: Tier) -> Tool:
    """The tool that takes back, as it runs: with programs, image, limits and hosts of the tool whose calls it takes back.

    Args:
        parts: the broker's.
        undo: ``workspace.undo``.
        named: the tool whose calls are taken back.
        tier: at which it runs.

    Raises:
        FailedPreconditionError: there is no such tool any more, or it has no programs that take back (``UNDO_TOOL_GONE``).
    """
    tool = parts.catalogue.get(named)
    if tool is None or tool.spec.outside is None or tool.spec.image not in parts.images:
        raise FailedPreconditionError(
            f"what {named} changed is taken back by its own programs, and they are not here",
            reason="UNDO_TOOL_GONE",
            hint=f"Bring the specification of {named}, its files and its image back, and start the broker again.",
            metadata={"tool": named},
        )
    check_accepted(tool)
    exact = tool.spec.reversibility == "exact"
    spec = tool.spec.model_copy(
        update={
            "name": undo.spec.name,
            # A tool that changed and wasn't accepted since runs at the tier at which it is held, also where it takes back.
            "tier": max(int(tier), int(undo.spec.tier), int(tool.spec.tier)),
            "arguments": undo.spec.arguments,
            "files": undo.spec.files,
            "retention": undo.spec.retention,
            "reversibility": tool.spec.reversibility if exact else ONE_WAY,
        }
    )
    held = tool.held or undo.held
    return replace(undo, spec=spec, files=tool.files, runtime=tool.runtime, counts_files=tool.counts_files, held=held)


def check_accepted(tool: Tool) -> None:
    """Lets a tool pass whose plan reaches no host, or that two people accepted as it is: nobody is asked before its plan.

    Raises:
        FailedPreconditionError: ``TOOL_UNACCEPTED``.
    """
    if tool.held and tool.spec.reaches_first:
        raise FailedPreconditionError(
            f"{tool.spec.name} would reach its hosts before anybody is asked, and is not accepted as it is: {tool.held}",
            reason="TOOL_UNACCEPTED",
            hint=f"Two people accept it: broker tools approve {tool.spec.name}; the next start brings it into force.",
            metadata={"tool": tool.spec.name},
        )


def version_of(parts: Parts, named: str) -> str:
    """The present version of a tool; empty where there is none."""
    tool = parts.catalogue.get(named)
    return "" if tool is None else tool.digest


def check_compensable(parts: Parts, named: str, calls: Sequence[str], undoes: Sequence[str]) -> None:
    """Lets pass what can be taken back so: what is only compensated goes one call at a time, and one way.

    Args:
        parts: the broker's.
        named: the tool whose calls are taken back.
        calls: these calls.
        undoes: what they have taken back themselves.

    Raises:
        FailedPreconditionError: ``NOT_REVERSIBLE``.
    """
    tool = parts.catalogue.get(named)
    if tool is None or tool.spec.reversibility == "exact":
        return
    if undoes or len(calls) > 1:
        raise FailedPreconditionError(
            f"what {named} does is compensated, call by call, and a compensation can't be taken back",
            reason="NOT_REVERSIBLE",
            hint="Take back one call at a time; for the rest, call the tool anew.",
        )


def check_doubts(tx: Transaction, parts: Parts, named: str, workspace: str, call: str) -> None:
    """Lets pass a call that no other may have taken back already; where that can be looked at, it is.

    Raises:
        FailedPreconditionError: ``UNDO_UNKNOWN``.
    """
    tool = parts.catalogue.get(named)
    if tool is not None and tool.spec.reversibility == "exact":
        return
    for row in tx.trees.effects(workspace, -1):
        other = tx.calls.get(row.call) if call in row.undoes else None
        if other is not None and other.state is CallState.UNKNOWN:
            raise FailedPreconditionError(
                f"{row.call} was to take {call} back, and nobody knows whether it did: it could be done twice",
                reason="UNDO_UNKNOWN",
                hint="Look at the service itself, and make up for it by a call of its own.",
                metadata={"call": row.call},
            )


def origin_of(tx: Transaction, parts: Parts, call: str) -> str:
    """The arguments, as JSON, of the call at the beginning: where that is an undo, of what it took back."""
    row = tx.trees.effect(call)
    while row is not None and row.undoes:
        call = row.undoes[0]
        row = tx.trees.effect(call)
    return read_request(tx, parts.vault.open(tx, call)).arguments_json


async def outside_undo_inputs(
    parts: Parts,
    tool: Tool,
    back: Effect,
    *,
    named: str,
    base: str,
    workspace: str,
    ids: tuple[str, ...],
    artifacts: Sequence[str],
) -> TreeInputs:
    """What the look at the present state is given, with the contents out of the encrypted artifacts.

    Args:
        parts: the broker's.
        tool: as ``acting`` gives it.
        back: what takes the calls back.
        named: the tool under whose name the items stand.
        base: state of the workspace's files; empty for a tool that has nothing to do with them.
        workspace: the workspace.
        ids: the calls that are taken back, oldest first.
        artifacts: theirs.

    Raises:
        NotFoundError: an artifact is no longer kept.
        DataLossError: an artifact is damaged.
    """
    for address in artifacts:
        async with parts.objects.batch(anew=True) as batch:
            await unpack(parts.artifacts.open(address), batch.put)
    origin = await parts.store.read(lambda tx: origin_of(tx, parts, ids[0]))
    return await step_inputs(
        parts, tool, Step.VERIFY, back, named=named, base=base, workspace=workspace, origin=origin, undoes=ids
    )


def check_acting(tx: Transaction, parts: Parts, row: CallRow, outside: OutsidePlan) -> None:
    """Lets pass where the tool whose programs run is the version that was planned with, and nobody has frozen it.

    Raises:
        FailedPreconditionError: it is another now (``TOOL_VERSION_CHANGED``), or frozen (``FROZEN``).
    """
    tool = parts.catalogue.get(outside.tool)
    if tool is None or tool.digest != outside.version or tool.spec.image not in parts.images:
        raise FailedPreconditionError(
            f"{outside.tool} is not what it was when this was planned",
            reason="TOOL_VERSION_CHANGED",
            hint="Ask for it again.",
        )
    known = parts.desk.agreement.frozen()
    check_frozen(tx, agent=row.agent, tool=outside.tool, workspace=row.workspace, known=known)
