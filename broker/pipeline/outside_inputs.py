"""What lies in the working folder of each step of a tool with outside effects."""

from __future__ import annotations

from collections.abc import Mapping

from broker.domain.outside import AFTER, BEFORE, NOW, ORIGIN, Step, step_entries
from broker.domain.run import TreeRules
from broker.domain.tree import Effect, Entry, TreeFile
from broker.errors import FailedPreconditionError
from broker.pipeline.parts import Parts
from broker.pipeline.tree_inputs import TreeInputs, select_inputs
from broker.specs.catalogue import Tool

_OURS = frozenset({BEFORE, AFTER, NOW, ORIGIN.split("/", 1)[0]})


async def plan_inputs(parts: Parts, tool: Tool, base: str, workspace: str) -> TreeInputs:
    """What a plan is given: files of the workspace where its specification says so, and else an empty folder.

    Raises:
        FailedPreconditionError: the workspace has no tree and the tool works on one (``WORKSPACE_EMPTY``), or has files
            where the steps have theirs (``WORKSPACE_UNFIT``).
    """
    return plan_entries(tool, base, await _own_files(parts, tool, base, workspace))


def plan_entries(tool: Tool, base: str, entries: Mapping[str, Entry]) -> TreeInputs:
    """The same where the files of the workspace are known; without any for a tool that has nothing to do with them."""
    return TreeInputs(base, entries, _items(tool, BEFORE, AFTER), step=Step.PLAN)


async def step_inputs(
    parts: Parts,
    tool: Tool,
    step: Step,
    effect: Effect,
    *,
    named: str,
    base: str,
    workspace: str,
    origin: str = "",
    undoes: tuple[str, ...] = (),
    own: bool = True,
) -> TreeInputs:
    """What another step is given: the items before and after, with what a plan is given.

    Args:
        parts: the broker's.
        tool: whose program runs.
        step: which.
        effect: what is to be made so; its contents are there.
        named: the tool under whose name the items stand.
        base: state of the workspace's files; empty for a tool that has nothing to do with them.
        workspace: the workspace.
        origin: for what takes a call back, the arguments of that call.
        undoes: the calls that it takes back.
        own: whether the workspace's files are there as well, where the tool works on them.

    Raises:
        FailedPreconditionError: as ``plan_inputs``.
    """
    files = await _own_files(parts, tool, base, workspace) if own else {}
    entries = {**files, **step_entries(named, effect)}
    if origin:
        content, size = await parts.objects.put_bytes(origin.encode())
        entries[ORIGIN] = TreeFile(content, size, 0o444)
    rules = TreeRules()
    if step is Step.VERIFY:
        rules = _items(tool, NOW)
    elif step in {Step.APPLY, Step.UNDO} and tool.spec.workspace is not None and tool.spec.workspace.writes:
        chosen = tool.spec.workspace
        rules = TreeRules(patterns=chosen.writes, max_changes=chosen.max_changes, max_bytes=chosen.max_change_bytes)
    return TreeInputs(base, entries, rules, expected=effect, undoes=undoes, step=step, named=named if undoes else "")


def _items(tool: Tool, *folders: str) -> TreeRules:
    outside = tool.spec.outside
    if outside is None:
        return TreeRules()
    patterns = tuple(f"{folder}/**" for folder in folders)
    return TreeRules(patterns=patterns, max_changes=2 * outside.max_items, max_bytes=outside.max_item_bytes)


async def _own_files(parts: Parts, tool: Tool, base: str, workspace: str) -> Mapping[str, Entry]:
    if tool.spec.workspace is None:
        return {}
    inputs = await select_inputs(parts.trees, tool, base, workspace)
    entries = {} if inputs is None else inputs.entries
    taken = sorted(path for path in entries if path.split("/", 1)[0] in _OURS)
    if taken:
        raise FailedPreconditionError(
            f"{tool.spec.name} can't be given {taken[0]!a}: {', '.join(sorted(_OURS))} are names of its own folders",
            reason="WORKSPACE_UNFIT",
            hint="Give these files another name, or let the tool's specification leave them out.",
        )
    return entries
