"""The workflows of an operator's folder: read, checked, and refused as a whole where one is wrong."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from broker.domain.workflow import WorkflowSpec
from broker.specs.document import Position
from broker.specs.files import is_there, yaml_files
from broker.specs.findings import Finding, findings_at, model_problems, read_yaml, refusal, violation
from broker.specs.schemas import Problem

_START = Position(1, 1)


@dataclass(frozen=True, slots=True)
class LoadedWorkflow:
    """What a file holds: the workflow where there is no error, and all findings."""

    path: Path
    findings: tuple[Finding, ...]
    workflow: WorkflowSpec | None = None
    name_at: Position = _START

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that aren't warnings."""
        return tuple(item for item in self.findings if not item.warning)


def load_workflows(folder: Path) -> Mapping[str, WorkflowSpec]:
    """Every ``*.yaml`` of a folder, by the workflow's name; a folder that isn't there holds none.

    Raises:
        InvalidArgumentError: ``WORKFLOWS_INVALID``: one fault anywhere refuses them all; each violation's field is
            ``file:line:column``.
    """
    loaded = read_workflows([folder]) if is_there(folder) else ()
    found = [violation(item) for part in loaded for item in part.errors]
    if found:
        raise refusal(found, what="workflows", reason="WORKFLOWS_INVALID", hint=f"run `broker workflows lint {folder}`")
    workflows = {item.workflow.name: item.workflow for item in loaded if item.workflow is not None}
    return MappingProxyType(dict(sorted(workflows.items())))


def read_workflows(paths: Iterable[Path], tool_tiers: Mapping[str, int] | None = None) -> tuple[LoadedWorkflow, ...]:
    """Reads files and folders; a second definition of a workflow is a finding at its ``name``.

    Args:
        paths: files, and folders with all of their YAML files.
        tool_tiers: name -> tier of each tool that the broker knows; with it, doubts about tools are found too.
    """
    loaded: list[LoadedWorkflow] = []
    first: dict[str, Path] = {}
    for path in itertools.chain.from_iterable(map(yaml_files, paths)):
        item = read_workflow(path, tool_tiers)
        if path.suffix != ".yaml":
            found = Finding(str(path), 1, 1, "a workflow's file name ends in .yaml; another is never loaded")
            item = dataclasses.replace(item, findings=(found, *item.findings), workflow=None)
        elif item.workflow is not None and item.workflow.name in first:
            message = f"the workflow {item.workflow.name} is already defined in {first[item.workflow.name]}"
            found = Finding(str(path), item.name_at.line, item.name_at.column, message, "/name")
            item = dataclasses.replace(item, findings=(*item.findings, found), workflow=None)
        if item.workflow is not None:
            first[item.workflow.name] = path
        loaded.append(item)
    return tuple(loaded)


def read_workflow(path: Path, tool_tiers: Mapping[str, int] | None = None) -> LoadedWorkflow:
    """Reads one file; ``tool_tiers`` as for ``read_workflows``."""
    document = read_yaml(path)
    if isinstance(document, Finding):
        return LoadedWorkflow(path, (document,))
    workflow, problems = model_problems(WorkflowSpec, document)
    if workflow is not None and tool_tiers is not None:
        problems.extend(_doubts(workflow, tool_tiers))
    return LoadedWorkflow(path, findings_at(path, document, problems), workflow, document.locate(("name",)))


def _doubts(workflow: WorkflowSpec, tool_tiers: Mapping[str, int]) -> Iterator[Problem]:
    for index, tool in enumerate(workflow.tools):
        tier = tool_tiers.get(tool)
        if tier is None:
            yield Problem(("tools", index), f"there is no tool {tool}", warning=True)
        elif tier > workflow.tier:
            yield Problem(
                ("tools", index),
                f"{tool} is Tier {tier}: calls run at that tier, but the workflow is approved as Tier {workflow.tier}",
                warning=True,
            )
