"""What a tool is given of its workspace's tree: chosen by its specification from one state, or by what it takes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.outside import Step
from broker.domain.run import Job, JobFile, JobLink, TreeRules
from broker.domain.tree import Effect, Entry, TreeFile, TreeLink, entry_body
from broker.errors import FailedPreconditionError
from broker.specs.catalogue import Tool
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees

SELECTION = "broker.tree-selection.v1"
"""First field of what is hashed of a selection."""


@dataclass(frozen=True, slots=True)
class TreeInputs:
    """A copy of a part of a workspace, and what may be changed of it."""

    base: str
    """State of the tree that it is a part of."""
    entries: Mapping[str, Entry]
    """What lies in the tool's working folder."""
    rules: TreeRules | None
    """``None`` for a tool that changes nothing: what it does to its copy is nobody's."""
    expected: Effect | None = None
    """What has to come of it, for what takes something back."""
    undoes: tuple[str, ...] = ()
    """The calls that it takes back, oldest first."""
    step: Step | None = None
    """Of a tool with outside effects: what the run is for."""
    named: str = ""
    """Of what takes back such effects: the tool that had them."""

    @property
    def selection(self) -> str:
        """Digest of all that lies there. Bound to the state, whose digest nobody can guess."""
        entries = {path: entry_body(entry) for path, entry in self.entries.items()}
        return digest(canonical({"format": SELECTION, "base": self.base, "entries": entries}))

    def bound(self) -> JsonObject:
        """What a call's envelope says of it, besides what its job does."""
        return {"base": self.base, "selection": self.selection, "undoes": list(self.undoes)}

    def added_to(self, job: Job, objects: Objects) -> Job:
        """A job with the copy in its working folder."""
        files = [
            JobFile(
                path,
                entry.size,
                executable=False,
                open=_opener(objects, entry.digest),
                digest=entry.digest,
                mode=entry.mode,
            )
            for path, entry in sorted(self.entries.items())
            if isinstance(entry, TreeFile)
        ]
        links = tuple(
            JobLink(path, entry.target) for path, entry in sorted(self.entries.items()) if isinstance(entry, TreeLink)
        )
        return replace(job, files=(*job.files, *files), links=links, tree=self.rules or TreeRules())


def _opener(objects: Objects, content: str) -> Callable[[], AsyncIterator[bytes]]:
    return lambda: objects.open(content)


async def select_inputs(trees: Trees, tool: Tool, base: str, workspace: str) -> TreeInputs | None:
    """What a tool's specification chooses of a state; ``None`` for a tool that has nothing to do with workspaces.

    Args:
        trees: the states.
        tool: the tool; not the one that takes back.
        base: the state; empty where the workspace has no tree.
        workspace: its name.

    Raises:
        FailedPreconditionError: the workspace has no tree (``WORKSPACE_EMPTY``).
    """
    chosen = tool.spec.workspace
    if chosen is None:
        return None
    if not base:
        raise FailedPreconditionError(
            f"{tool.spec.name} works on the files of a workspace, and {workspace} has none",
            reason="WORKSPACE_EMPTY",
            hint=f"Import them first: broker workspaces import {workspace} FOLDER",
        )
    rules = None
    if chosen.writes:
        rules = TreeRules(patterns=chosen.writes, max_changes=chosen.max_changes, max_bytes=chosen.max_change_bytes)
    return TreeInputs(base, await trees.select(base, chosen.gets), rules)
