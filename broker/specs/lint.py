"""Checks specification files and says where in them each fault is."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from broker.domain.spec import ToolSpec
from broker.specs import schemas
from broker.specs.document import Document, Path, Position
from broker.specs.files import FileRefusedError, read_file, yaml_files
from broker.specs.findings import Finding, findings_at, model_problems, read_yaml
from broker.specs.schemas import Problem
from broker.specs.tiers import ALL_RISKS, TIERS_FILE, Tiers

START = Position(1, 1)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file holds: the specification and its files where there is no error, and all findings."""

    path: FilePath
    findings: tuple[Finding, ...]
    spec: ToolSpec | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    name_at: Position = START

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that aren't warnings."""
        return tuple(item for item in self.findings if not item.warning)


def lint_file(path: FilePath) -> tuple[Finding, ...]:
    """All findings about one specification file (or ``tiers.yaml``), in order of place."""
    return load_file(path).findings


def load_file(path: FilePath) -> Loaded:
    """Reads one specification file and the files that it names, once each."""
    document = read_yaml(path)
    if isinstance(document, Finding):
        return Loaded(path, (document,))
    if path.name == TIERS_FILE:
        tiers, found = model_problems(Tiers, document, ALL_RISKS)
        found.extend(() if tiers is None else _risky(tiers))
        return Loaded(path, findings_at(path, document, found))
    spec, found = model_problems(ToolSpec, document)
    files: dict[str, bytes] = {}
    if spec is not None:
        found.extend(_spec_problems(spec))
        found.extend(_read_code(spec, path.parent, files))
    else:
        found.extend(_schemas_alone(document, found))
    findings = findings_at(path, document, found)
    if any(not finding.warning for finding in findings):
        spec = None
    return Loaded(path, findings, spec, files, document.locate(("name",)))


def lint_paths(paths: Iterable[FilePath]) -> tuple[Finding, ...]:
    """Findings about files and about all of folders, with tools that are defined twice."""
    return tuple(finding for loaded in load_paths(paths) for finding in loaded.findings)


def load_paths(paths: Iterable[FilePath]) -> tuple[Loaded, ...]:
    """Reads files and folders; a second definition of a tool is a finding at its ``name``."""
    loaded: list[Loaded] = []
    first: dict[str, FilePath] = {}
    for path in itertools.chain.from_iterable(map(yaml_files, paths)):
        item = load_file(path)
        if path.suffix != ".yaml":
            found = Finding(str(path), 1, 1, "a specification's file name ends in .yaml; another is never loaded")
            item = dataclasses.replace(item, findings=(found, *item.findings), spec=None)
        elif item.spec is not None and item.spec.name in first:
            message = f"the tool {item.spec.name} is already defined in {first[item.spec.name]}"
            found = Finding(str(path), item.name_at.line, item.name_at.column, message, "/name")
            item = dataclasses.replace(item, findings=(*item.findings, found), spec=None)
        if item.spec is not None:
            first[item.spec.name] = path
        loaded.append(item)
    return tuple(loaded)


def _risky(tiers: Tiers) -> Iterator[Problem]:
    for index, row in enumerate(tiers.tiers):
        for place, text in row.below_floor():
            said = (
                f"{text}; a broker refuses it, unless a setting takes the risk (unsafe_chat_only_quorum for `signed`,"
            )
            yield Problem(("tiers", index, *place), f"{said} unsafe_slack_approves_tier4 for `channels`)", warning=True)


def _spec_problems(spec: ToolSpec) -> Iterator[Problem]:
    yield from schemas.check_schema(spec.arguments, ("arguments",))
    yield from schemas.check_arguments(spec.arguments)
    if spec.result is not None:
        yield from schemas.check_schema(spec.result, ("result",))
    if spec.limits.disk >= spec.limits.memory:
        yield Problem(("limits",), "files count as memory, so memory runs out before this disk limit", warning=True)
    if "max_input_bytes" in spec.files.model_fields_set and spec.files.max_input_bytes > spec.limits.disk:
        yield Problem(("files",), "input files of max_input_bytes don't fit within limits.disk", warning=True)
    if spec.files.outputs and not (spec.files.max_output_files and spec.files.max_output_bytes):
        yield Problem(("files", "outputs"), "fetches nothing without max_output_files and max_output_bytes")
    if spec.limits.inodes == 0:
        yield Problem(
            ("limits", "inodes"),
            "0 sets no limit: fit only for a runtime that can't keep one; a broker refuses it with any other",
            warning=True,
        )
    yield from _wide_secrets(spec)


def _wide_secrets(spec: ToolSpec) -> Iterator[Problem]:
    for number, rule in enumerate(spec.egress):
        if rule.secret is not None and rule.secret.header and not rule.paths:
            yield Problem(
                ("egress", number, "secret"),
                f"without `paths` the secret goes with every request to {rule.host}",
                warning=True,
            )


def _schemas_alone(document: Document, found: list[Problem]) -> Iterator[Problem]:
    # A fault elsewhere must not hide those of the schemas.
    value = document.value if isinstance(document.value, dict) else {}
    for name in ("arguments", "result"):
        schema = value.get(name)
        if isinstance(schema, dict) and not any(problem.path[:1] == (name,) for problem in found):
            yield from schemas.check_schema(schema, (name,))


def _read_code(spec: ToolSpec, folder: FilePath, files: dict[str, bytes]) -> Iterator[Problem]:
    for place, name in spec.code_files:
        yield from _read_one(place, name, folder, files)


def _read_one(place: Path, name: str, folder: FilePath, files: dict[str, bytes]) -> Iterator[Problem]:
    try:
        data = files.get(name) or read_file(folder, name)
        compile(data.decode("utf-8"), name, "exec", dont_inherit=True)
    except FileRefusedError as error:
        yield Problem(place, str(error))
    except UnicodeDecodeError:
        yield Problem(place, f"{name} is not UTF-8")
    except (SyntaxError, ValueError) as error:
        yield Problem(place, f"{name} is not Python: {error}")
    else:
        files[name] = data
