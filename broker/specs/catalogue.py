"""The tools that a broker knows: an immutable set, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

from jsonschema.protocols import Validator

from broker.domain.canonical import JsonObject, JsonValue, parse_json
from broker.domain.run import Limits, Profile
from broker.domain.spec import MAX_RESULT_BYTES, ToolSpec
from broker.domain.tier import Tier
from broker.errors import FieldViolation, InvalidArgumentError
from broker.specs.findings import refusal, violation
from broker.specs.lint import load_paths
from broker.specs.schemas import compile_schema
from broker.specs.tiers import TIERS_FILE
from broker.specs.violations import violations


@dataclass(frozen=True, slots=True)
class Tool:
    """One version of a tool, with the files that it names and its compiled schemas."""

    spec: ToolSpec
    digest: str
    """``sha256:...`` over the specification and its files: the version."""
    files: Mapping[str, bytes]
    validator: Validator
    result_validator: Validator | None
    runtime: str = ""
    """Container runtime that it runs under: its specification's, or else the operator's choice for its tier, or else
    empty, which is the engine's own choice."""

    counts_files: bool = True
    """Whether its runtime keeps a limit on the number of files."""

    held: str = ""
    """Why it runs at a higher tier than its specification says; empty where it doesn't."""

    @classmethod
    def of(cls, spec: ToolSpec, files: Mapping[str, bytes], runtimes: Mapping[int, str] = MappingProxyType({})) -> Self:
        """The tool of a specification that was read and checked.

        Args:
            spec: the specification.
            files: the files that it names.
            runtimes: tier -> container runtime of a tool whose specification names none.
        """
        return cls(
            spec=spec,
            digest=spec.digest(files),
            files=MappingProxyType(dict(files)),
            validator=compile_schema(spec.arguments),
            result_validator=None if spec.result is None else compile_schema(spec.result),
            runtime=spec.runtime or runtimes.get(spec.tier, ""),
        )

    @property
    def limits(self) -> Limits:
        """What one run may use. Where its runtime keeps no limit on files and its specification wants none in so many
        words, there is none: the bytes of files and memory bound them.
        """
        limits = self.spec.limits.for_run()
        asked = self.counts_files or "inodes" in self.spec.limits.model_fields_set
        return limits if asked else replace(limits, inodes=0)

    def profile(self, image_digest: str) -> Profile:
        """What container a call gets, in the image of that digest (``sha256:...``)."""
        return replace(self.spec.profile(image_digest, self.runtime), limits=self.limits)

    def validate_arguments(self, value: JsonObject) -> None:
        """Lets arguments pass that fit the schema and can stand in the argument vector.

        Raises:
            InvalidArgumentError: ``ARGUMENTS_INVALID``; up to ten violations, each ``arguments`` and a JSON pointer.
        """
        found = violations(self.validator, value, "arguments")
        if found:
            first = found[0]
            raise InvalidArgumentError(
                f"the arguments of {self.spec.name} don't fit: {first.field} {first.description}",
                reason="ARGUMENTS_INVALID",
                hint=f"see `broker tools show {self.spec.name}` for what it takes",
                metadata={"tool": self.spec.name, "tool_version": self.digest},
                violations=found,
            )
        self.spec.argv(value)

    def validate_result(self, data: bytes) -> JsonValue:
        """Reads what the tool wrote as its result, and lets it pass if it fits the schema.

        Raises:
            InvalidArgumentError: ``RESULT_INVALID``: a failure of the tool, not of the caller's request.
        """
        if self.result_validator is None:
            raise self._bad_result((FieldViolation("result", "was written by a tool that declares none"),))
        try:
            value = parse_json(data, field="result", max_bytes=MAX_RESULT_BYTES)
        except InvalidArgumentError as error:
            raise self._bad_result(error.violations) from error
        found = violations(self.result_validator, value, "result")
        if found:
            raise self._bad_result(found)
        return value

    def _bad_result(self, found: tuple[FieldViolation, ...]) -> InvalidArgumentError:
        first = found[0]
        return InvalidArgumentError(
            f"{self.spec.name} wrote a result that it doesn't declare: {first.field} {first.description}",
            reason="RESULT_INVALID",
            hint=f"this is a defect of the tool; its owner is {self.spec.owner}",
            metadata={"tool": self.spec.name, "tool_version": self.digest},
            violations=found,
        )


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All tools, by name."""

    tools: Mapping[str, Tool]

    @classmethod
    def load(cls, folders: Sequence[Path], *, runtime_by_tier: Mapping[int, str] | None = None) -> Catalogue:
        """Reads every ``*.yaml`` of the folders; one fault anywhere refuses them all.

        Args:
            folders: where to look.
            runtime_by_tier: tier -> container runtime of its tools whose specification names none.

        Raises:
            InvalidArgumentError: ``SPECS_INVALID``; each violation's field is ``file:line:column``.
        """
        found: list[FieldViolation] = [
            FieldViolation(str(folder), "is not a folder") for folder in folders if not folder.is_dir()
        ]
        loaded = load_paths(folder for folder in folders if folder.is_dir())
        found.extend(violation(item) for part in loaded for item in part.errors)
        if found:
            raise refusal(
                found,
                what="tool specifications",
                reason="SPECS_INVALID",
                hint="run `broker tools lint` on the folder",
            )
        tools = {
            item.spec.name: Tool.of(item.spec, item.files, runtime_by_tier or {})
            for item in loaded
            if item.spec is not None and item.path.name != TIERS_FILE
        }
        return cls(MappingProxyType(dict(sorted(tools.items()))))

    def fitted(self, runtimes: Mapping[str, bool]) -> Catalogue:
        """The same tools, each fitted to its runtime.

        Args:
            runtimes: name of a runtime, the empty one being the engine's own choice -> whether it keeps a limit on the
                number of files; one that isn't named is taken to.
        """
        fitted = {
            name: replace(tool, counts_files=runtimes.get(tool.runtime, True)) for name, tool in self.tools.items()
        }
        return Catalogue(MappingProxyType(fitted))

    def at(self, tiers: Mapping[str, Tier], runtime_by_tier: Mapping[int, str], why: Mapping[str, str]) -> Catalogue:
        """The same tools, some at other tiers than their specifications say.

        Args:
            tiers: name of a tool -> its tier; one that isn't named keeps its own.
            runtime_by_tier: as for ``load``.
            why: name of a tool that runs at a higher tier than it asks for -> why.
        """
        found = {
            name: replace(_at(tool, tiers.get(name, tool.spec.risk), runtime_by_tier), held=why.get(name, ""))
            for name, tool in self.tools.items()
        }
        return Catalogue(MappingProxyType(found))

    def get(self, name: str) -> Tool | None:
        """The tool of that name, or ``None``: there is no nearest match."""
        return self.tools.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(self.tools)

    def all(self) -> tuple[Tool, ...]:
        """All tools, by name."""
        return tuple(self.tools.values())


def _at(tool: Tool, tier: Tier, runtimes: Mapping[int, str]) -> Tool:
    if tier is tool.spec.risk:
        return tool
    # The version stays: it is the digest of what the operator wrote.
    spec = tool.spec.model_copy(update={"tier": int(tier)})
    return replace(tool, spec=spec, runtime=spec.runtime or runtimes.get(int(tier), ""))
