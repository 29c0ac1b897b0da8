"""What a call of ``workspace.undo`` takes back: which calls, in which state, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from broker.approvals.freezing import check_frozen
from broker.domain.call import CallContext, Lineage
from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller, IdentityKind
from broker.domain.outside import tool_of
from broker.domain.ports import Transaction
from broker.domain.requirement import Requirement
from broker.domain.run import TreeRules
from broker.domain.tier import Tier
from broker.domain.tree import Effect, Entry, TreeFile
from broker.errors import (
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
)
from broker.identity.directory import Directory
from broker.identity.lineage import prove, prove_human
from broker.pipeline.effect_history import FIELD, LISTED, History, built_upon, check_in_effect
from broker.pipeline.outside_inputs import plan_inputs
from broker.pipeline.parts import Parts
from broker.pipeline.tree_inputs import TreeInputs, select_inputs
from broker.pipeline.undoing_outside import acting, check_compensable, check_doubts, outside_undo_inputs
from broker.rollback.artifact import unpack
from broker.rollback.back import Difference, Done, dependents, differences, taking_back
from broker.rollback.restore import CHANGES, UNDO_TOOL, changes_file, restore_entries
from broker.specs.catalogue import Tool
from broker.workspace.objects import Objects


@dataclass(frozen=True, slots=True)
class Chain:
    """Calls that are taken back together, oldest first, and the effects since the first of them."""

    calls: tuple[Done, ...]
    later: tuple[Done, ...]
    artifacts: tuple[str, ...]
    tier: Tier
    """The highest at which one of them ran."""
    left: tuple[str, ...] = ()
    """Ids of the calls that built on them and are not taken back with them, oldest first."""

    @property
    def back(self) -> Effect:
        """What takes them back."""
        return taking_back(self.calls)

    @property
    def named(self) -> str:
        """The tool that changed something outside; empty where it is files of the workspace that were changed."""
        return tool_of(self.back)

    @property
    def ids(self) -> tuple[str, ...]:
        """Their ids, oldest first."""
        return tuple(item.call for item in self.calls)


def takes_back(tool: str) -> bool:
    """Is it the tool that takes calls back?"""
    return tool == UNDO_TOOL


def lineage_of(
    tx: Transaction,
    parts: Parts,
    directory: Directory,
    *,
    caller: Caller,
    tool: Tool,
    context: CallContext,
    tier: Tier,
    now: datetime,
) -> Lineage:
    """Who stands behind a call; a person may stand behind the taking back of one, and behind no other.

    Raises:
        BrokerError: as ``prove`` and ``prove_human``.
    """
    own = not context.session and not context.delegation
    if caller.identity.kind is IdentityKind.HUMAN and takes_back(tool.spec.name) and own:
        return prove_human(tx, caller)
    return prove(tx, directory, caller=caller, context=context, tier=tier, now=now, origin=parts.origin)


def find_chain(tx: Transaction, parts: Parts, workspace: str, arguments: JsonObject) -> Chain:
    """The calls that a call of ``workspace.undo`` is about.

    Args:
        tx: a transaction.
        parts: the broker's.
        workspace: in which it is made.
        arguments: its arguments, as its schema let them through.

    Raises:
        NotFoundError: no call of that id has changed anything in this workspace (``EFFECT_NOT_FOUND``).
        FailedPreconditionError: it has been taken back (``ALREADY_UNDONE``), or others have built on it and ``cascade`` isn't
            given (``UNDO_DEPENDENTS``, with their ids).
        DataLossError: what is kept of an effect is gone, or isn't what was applied.
    """
    call = str(arguments["call"])
    chain = look(tx, parts, workspace, call, cascade=arguments.get("cascade") is True)
    if chain.left:
        raise built_upon(call, chain.left)
    if chain.named:
        # Its programs look before anybody is asked: a freeze of the tool holds them up too.
        check_frozen(tx, agent="", tool=chain.named, workspace=workspace, known=parts.desk.agreement.frozen())
        undone = tuple(which for item in chain.calls for which in item.undoes)
        check_compensable(parts, chain.named, chain.ids, undone)
        check_doubts(tx, parts, chain.named, workspace, call)
    return chain


def look(tx: Transaction, parts: Parts, workspace: str, call: str, *, cascade: bool) -> Chain:
    """The same for one who wants to know: with the calls that are in the way, if any.

    Raises:
        BrokerError: as ``find_chain``, but for ``UNDO_DEPENDENTS``.
        FailedPreconditionError: an earlier change of the same paths was taken back, or brought back, since (``UNDO_CONFLICT``).
    """
    row = tx.trees.effect(call)
    if row is None or row.workspace != workspace:
        why = f"no call {call} has changed files of workspace {workspace}"
        raise NotFoundError(
            why,
            reason="EFFECT_NOT_FOUND",
            violations=(FieldViolation(FIELD, why),),
            hint="What a call changed stands in its outcome: broker calls show CALL.",
        )
    check_in_effect(tx, call)
    history = History(tx, parts, row)
    target, later = history.first, history.later
    others = dependents(target, later)
    chain = (target, *(others if cascade else ()))
    if cascade or not others:
        history.check_bases(chain)
    found = [history.row(item.call) for item in chain]
    tiers = [tx.calls.get(item.call) for item in found]
    tier = max((Tier(item.tier) for item in tiers if item is not None), default=Tier.AUTONOMOUS)
    left = () if cascade else tuple(item.call for item in others)
    return Chain(chain, later, tuple(item.artifact for item in found if item.artifact), tier, left)


def check_unchanged(chain: Chain, back: Effect, present: Mapping[str, Entry]) -> None:
    """Lets pass where the files are as the calls left them.

    Raises:
        FailedPreconditionError: they aren't (``UNDO_CONFLICT``); a violation for each path says what differs, and by which
            later call.
    """
    found = differences(back, present, chain.later)
    if found:
        raise FailedPreconditionError(
            f"{len(found)} path(s) are not as {chain.ids[-1]} left them: {', '.join(repr(d.path) for d in found[:3])}",
            reason="UNDO_CONFLICT",
            violations=tuple(FieldViolation(item.path, _told(item)) for item in found[:LISTED]),
            hint="Look at what differs; undo the later call first, or bring these files back by hand.",
            metadata={"paths": str(len(found))},
        )


@dataclass(frozen=True, slots=True)
class Preview:
    """What taking a call back would do now, and what is in its way."""

    chain: Chain
    back: Effect
    conflicts: tuple[Difference, ...]
    requirement: Requirement | None
    """Who would have to agree; ``None`` where nobody would."""


async def preview(parts: Parts, workspace: str, call: str, *, cascade: bool) -> Preview:
    """Looks without doing anything.

    Raises:
        BrokerError: as ``look``.
    """

    def work(tx: Transaction) -> tuple[Chain, str]:
        return look(tx, parts, workspace, call, cascade=cascade), tx.trees.state(workspace)

    await parts.folders.look(workspace)
    chain, state = await parts.store.read(work)
    back = chain.back
    if chain.named:
        # What is there now, only the tool's own program can tell: it looks when the undo is asked for, on record.
        return Preview(chain, back, (), parts.tiers.row(chain.tier).call_requirement())
    found = differences(back, await parts.trees.entries(state, back.paths), chain.later)
    return Preview(chain, back, found, parts.tiers.row(chain.tier).call_requirement())


def _told(item: Difference) -> str:
    by = f", changed by {', '.join(item.by)}" if item.by else ", and no call of the broker changed it"
    return f"was left as {_entry(item.expected)} and is {_entry(item.present)}{by}"


def _entry(entry: Entry | None) -> str:
    match entry:
        case None:
            return "absent"
        case TreeFile(content, size, mode):
            return f"a file of {size} bytes ({content}, mode {mode:04o})"
        case _:
            return f"a link to {entry.target!r}"


async def undo_inputs(parts: Parts, chain: Chain, base: str) -> TreeInputs:
    """What the program that puts files back is given, with the pre-images out of the encrypted artifacts.

    Raises:
        FailedPreconditionError: ``UNDO_CONFLICT``.
        InvalidArgumentError: there is nothing to put back (``UNDO_EMPTY``).
        NotFoundError: an artifact is no longer kept.
        DataLossError: an artifact is damaged.
    """
    back = chain.back
    if not back.changes:
        raise InvalidArgumentError(
            f"together, {', '.join(chain.ids)} changed nothing",
            reason="UNDO_EMPTY",
            violations=(FieldViolation(FIELD, "names calls that cancel each other out"),),
        )
    check_unchanged(chain, back, await parts.trees.entries(base, back.paths))
    objects = parts.objects
    for address in chain.artifacts:
        async with objects.batch(anew=True) as batch:  # what lies there may have been damaged; the artifact is sealed
            await unpack(parts.artifacts.open(address), batch.put)
    return await back_inputs(parts.objects, back, base, chain.ids)


async def back_inputs(objects: Objects, back: Effect, base: str, undoes: tuple[str, ...] = ()) -> TreeInputs:
    """The inputs of the program that makes one change of a workspace undone; its pre-images are there."""
    told = changes_file(back)
    content, size = await objects.put_bytes(told)
    entries = {**restore_entries(back), CHANGES: TreeFile(content, size, 0o444)}
    rules = TreeRules(patterns=("**",), max_changes=max(1, len(back.changes)), max_bytes=2**30)
    return TreeInputs(base, entries, rules, expected=back, undoes=undoes)


def as_it_runs(parts: Parts, tool: Tool, tier: Tier, named: str) -> Tool:
    """The tool that takes back, as it runs: at the tier of what it takes back, by whose programs that takes.

    Raises:
        FailedPreconditionError: as ``acting``.
    """
    if named:
        return acting(parts, tool, named, tier)
    return tool if tool.spec.risk >= tier else replace(tool, spec=tool.spec.model_copy(update={"tier": int(tier)}))


async def call_inputs(
    parts: Parts, tool: Tool, *, workspace: str, base: str, arguments: JsonObject, undoes: tuple[str, ...] | None = None
) -> TreeInputs | None:
    """What a call is given of its workspace; ``None`` for a tool that has nothing to do with workspaces.

    Args:
        parts: the broker's.
        tool: the tool.
        workspace: in which it is called.
        base: the state of its tree.
        arguments: as the tool's schema let them through.
        undoes: for a call on record, what it is to take back; ``None`` where that is still to be found out.

    Raises:
        FailedPreconditionError: no tree is there, or what is to be taken back isn't in effect any more or has been built on.
        BrokerError: as ``find_chain`` and ``undo_inputs``.
    """
    if not takes_back(tool.spec.name):
        if tool.spec.outside is not None:
            return await plan_inputs(parts, tool, base, workspace)
        return await select_inputs(parts.trees, tool, base, workspace)
    chain = await parts.store.read(lambda tx: find_chain(tx, parts, workspace, arguments))
    if undoes is not None and chain.ids != undoes:
        raise FailedPreconditionError(
            "other calls would be taken back with it now than when it was asked for",
            reason="UNDO_DEPENDENTS",
            metadata={"calls": ",".join(chain.ids[:LISTED])},
            hint="Ask for it again.",
        )
    back = chain.back
    if not chain.named or not back.changes:
        return await undo_inputs(parts, chain, base)
    return await outside_undo_inputs(
        parts,
        tool,
        back,
        named=chain.named,
        base=base,
        workspace=workspace,
        ids=chain.ids,
        artifacts=chain.artifacts,
    )
