"""A tool specification: what a tool is, how it runs, and what one run of it may use.

A specification is data that an operator writes. Its digest covers every field and every file that it names, so a change
of either is a new version. Values of a call become whole elements of an argument vector and are never spliced into text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from broker.domain.canonical import JsonObject, JsonValue, canonical, digest
from broker.domain.command import expand
from broker.domain.outside import Step
from broker.domain.reserved import RESERVED_NAMESPACE, is_reserved
from broker.domain.run import EgressRule, Job, JobFile, OutputRules, Profile
from broker.domain.spec_effects import Effects, effect_conflicts
from broker.domain.spec_egress import MAX_RULES, SpecEgress, record_conflicts, rule_conflicts
from broker.domain.spec_outside import SpecOutside
from broker.domain.spec_parts import (
    Duration,
    Label,
    Place,
    Placeholder,
    Run,
    Schema,
    Shown,
    SpecFiles,
    SpecLimits,
    SpecPart,
    SpecWorkspace,
    Text,
    Whole,
    env_values,
    refuse_places,
)
from broker.domain.tier import Tier
from broker.errors import InternalError

MAX_RESULT_BYTES = 2**20
"""Longest structured result: it travels in one message together with the call."""

CODE_NAME = "<code>"
"""``sys.argv[0]`` of a program that the caller gave."""

TOOL_NAME = r"^[a-z][a-z0-9_]{0,30}\.[a-z][a-z0-9_]{0,30}$"
"""What the name of a tool matches: ``namespace.name``."""


def _not_reserved(name: str) -> str:
    if is_reserved(name):
        raise ValueError(f"the namespace {RESERVED_NAMESPACE} is the broker's own; choose another")
    return name


class ToolSpec(SpecPart):
    """One tool."""

    name: Annotated[Text, Field(pattern=TOOL_NAME), AfterValidator(_not_reserved)]
    """`namespace.name`, in lower case; unique in the broker, and not in its own namespace `broker`."""
    description: Annotated[Text, Field(min_length=10, max_length=4000), Shown]
    """What it does, for people and for models that choose a tool."""
    owner: Label
    """Name of the human who answers for it."""
    tier: Annotated[Whole, Field(ge=0, le=4)]
    """Its own risk tier, 0 to 4; a call runs at the higher of this and its workflow's."""
    image: Label
    """Name of the sandbox image that it runs in, such as `python`."""
    run: Run
    """How it runs."""
    arguments: Schema
    """JSON Schema (2020-12) of the arguments: an object without additional properties."""
    result: Schema | None = None
    """JSON Schema (2020-12) of what the tool writes to the file that BROKER_RESULT names; absent where it has none."""
    limits: SpecLimits = SpecLimits()
    """What one run may use."""
    files: SpecFiles = SpecFiles()
    """Which files may go in, and which come out."""
    env: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,62}$")], Annotated[str, Field(max_length=4096)]],
        Field(max_length=64, default_factory=dict),
        AfterValidator(env_values),
    ]
    """Environment variables with their values, written out; never secrets."""
    data_classes: Annotated[tuple[Label, ...], Field(max_length=32)] = ()
    """Classes of data that it handles, such as `public` or `customer`."""
    retention: Annotated[Duration, Field(ge=60, le=10 * 366 * 86400)] = 30.0 * 86400
    """How long events, output and result files of a call are kept."""
    effects: Literal["none", "workspace", "outside"] = "none"
    """What a call changes outside its sandbox: nothing, files of its workspace, or something elsewhere. With `workspace` it runs on a
    copy, and what it changed there is the effect, which is looked at, kept undoable and then applied; the tool doesn't run again.
    With `outside` its programs say what would be changed, and take it back."""
    workspace: SpecWorkspace | None = None
    """Which paths of its workspace's tree it gets and may change; absent for a tool that has nothing to do with it."""
    outside: SpecOutside | None = None
    """The programs that plan and take back what it changes outside; absent for a tool that is `irreversible`."""
    reversibility: Literal["no_effect", "exact", "compensable", "irreversible"] = "no_effect"
    """Whether its effect can be taken back: `exact` with `effects: workspace`; with `outside` that, or `compensable` by another
    action, or `irreversible`, which not every tier allows; and otherwise there is none."""
    egress: Annotated[tuple[SpecEgress, ...], Field(max_length=MAX_RULES)] = ()
    """Hosts that it may reach through the broker; the sandbox itself has no network."""
    runtime: Annotated[Text, Field(pattern=r"^([a-z][a-z0-9._-]{0,62})?$")] = ""
    """Container runtime by the engine's name for it, such as `runsc`; where absent the operator's choice for its tier."""
    notes: Annotated[Text, Field(max_length=4000), Shown] = ""
    """What changed in this version and why, for people."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = [*self._wrong_placeholders()]
        problems.extend((("egress", *place), text) for place, text in rule_conflicts(self.egress))
        problems.extend((("egress", *place), text) for place, text in record_conflicts(self.egress))
        problems.extend(
            effect_conflicts(
                Effects(self.effects, self.reversibility, self.workspace, self.outside, self.egress),
                run=self.run,
                answers=self.result is not None or bool(self.files.outputs),
            )
        )
        if len(set(self.data_classes)) != len(self.data_classes):
            problems.append((("data_classes",), "names a class twice"))
        refuse_places(problems)
        return self

    def _wrong_placeholders(self) -> list[tuple[Place, str]]:
        found: list[tuple[Place, str]] = []
        used = list(self.run.elements)
        if self.run.python is not None and self.run.python.argument is not None:
            used.append((("run", "python", "argument"), Placeholder(argument=self.run.python.argument)))
            if self._argument_types(self.run.python.argument) not in ({"string"}, None):
                found.append((("run", "python", "argument"), "must name an argument of type string"))
        for place, element in used:
            if isinstance(element, str):
                if "\x00" in element:
                    found.append((place, "holds a NUL character"))
                continue
            types = self._argument_types(element.name)
            if types is None:
                found.append((place, f"names {element.name!r}, which `arguments` has no property for"))
                continue
            wanted = {"array"} if element.arguments else {"string", "integer", "number", "boolean"}
            if not types or not types <= wanted:
                found.append(
                    (place, f"needs the argument {element.name!r} to be of type {' or '.join(sorted(wanted))}")
                )
            required = self.arguments.get("required")
            if not element.optional and not (isinstance(required, list) and element.name in required):
                found.append((place, f"needs {element.name!r} in `required`, or `optional: true` beside it"))
        return found

    def _argument_types(self, name: str) -> set[str] | None:
        properties = self.arguments.get("properties")
        schema = properties.get(name) if isinstance(properties, dict) else None
        if schema is None:
            return None
        kind = schema.get("type") if isinstance(schema, dict) else None
        kinds = kind if isinstance(kind, list) else [kind]
        return {item for item in kinds if isinstance(item, str)}

    def normalised(self) -> JsonObject:
        """The specification with its defaults filled in, sizes in bytes and times in seconds; without `effects`, `workspace`,
        `outside`, what only rules of `postgres` have and what is kept of hosts' answers, where it has none, as they were unknown to
        the first specifications.
        """
        value: JsonObject = self.model_dump(mode="json")
        value["egress"] = [item.normalised() for item in self.egress]
        if self.effects == "none":
            del value["effects"]
        if self.workspace is None:
            del value["workspace"]
        if self.outside is None:
            del value["outside"]
        return value

    @classmethod
    def of_normalised(cls, value: JsonObject) -> Self:
        """The specification that ``normalised`` gave; of its rules, what stands there for an absent key is left out again.

        Raises:
            ValidationError: it is none that this release would take.
        """
        rules = value.get("egress")
        egress = [
            {name: item for name, item in rule.items() if name not in {"port", "listen"} or item}
            for rule in (rules if isinstance(rules, list) else [])
            if isinstance(rule, dict)
        ]
        return cls.model_validate({**value, "egress": egress})

    def digest(self, files: Mapping[str, bytes]) -> str:
        """The version: ``sha256:`` over the RFC 8785 form of all fields and of the digests of its files by name."""
        return _version(self.normalised(), files)

    @property
    def planned(self) -> bool:
        """Is what it changes known, and kept undoable, before it is changed?"""
        return self.effects == "workspace" or self.outside is not None

    @property
    def reaches_first(self) -> bool:
        """Does it reach hosts in its plan, before anybody is asked about the call?"""
        return self.outside is not None and bool(self.egress)

    @property
    def code_files(self) -> Iterator[tuple[Place, str]]:
        """The Python files that it names, each with its place."""
        if self.run.python is not None and self.run.python.file is not None:
            yield ("run", "python", "file"), self.run.python.file
        if self.outside is not None:
            yield from self.outside.files

    @property
    def risk(self) -> Tier:
        """The tier as the pipeline compares it."""
        return Tier(self.tier)

    @property
    def egress_rules(self) -> tuple[EgressRule, ...]:
        """The hosts that it may reach, as the sandbox takes them."""
        return tuple(item.rule() for item in self.egress)

    def profile(self, image_digest: str, runtime: str = "") -> Profile:
        """What container a call gets.

        Args:
            image_digest: the image, ``sha256:...``.
            runtime: what to take where the specification names none; empty is the engine's own choice.
        """
        return Profile(
            image=image_digest,
            limits=self.limits.for_run(),
            runtime=self.runtime or runtime,
            egress=self.egress_rules,
        )

    def argv(self, arguments: JsonObject) -> tuple[str, ...]:
        """The argument vector of a call; ``arguments`` have passed the schema.

        Raises:
            InvalidArgumentError: ``ARGUMENTS_INVALID``, with the JSON pointer of a value that can't stand in it.
        """
        python = self.run.python
        elements = (element for _, element in self.run.elements)
        program = () if python is None else (python.file or CODE_NAME,)
        return (*program, *expand(elements, arguments, fenced=python is not None))

    def job(
        self,
        arguments: JsonObject,
        arguments_bytes: bytes,
        files: tuple[JobFile, ...],
        code_files: Mapping[str, bytes],
        step: Step | None = None,
    ) -> Job:
        """What the sandbox is asked to do for one call, or for one step of a call with programs in `outside`.

        Args:
            arguments: the arguments, as the schema let them through.
            arguments_bytes: their RFC 8785 bytes, which the tool reads.
            files: what is put into the working folder.
            code_files: the files that the specification names, as the catalogue read them.
            step: of which the program is run; ``None`` for a tool without such programs.

        Raises:
            InvalidArgumentError: a value can't be an element of the argument vector.
        """
        python = self.run.python
        code, argv = "", self.argv(arguments)
        if step is not None:
            file = self._program(step)
            code, argv = self._code(file, code_files), (file, step.value)
        elif python is not None and python.file is not None:
            code = self._code(python.file, code_files)
        elif python is not None and python.argument is not None:
            code = str(arguments[python.argument])
        return Job(
            kind="argv" if python is None else "python",
            argv=argv,
            code=code,
            env=dict(self.env),
            arguments=arguments_bytes,
            files=files,
            outputs=OutputRules(
                patterns=self.files.outputs,
                max_files=self.files.max_output_files,
                max_bytes=self.files.max_output_bytes,
            ),
            wants_result=self.result is not None,
            proxy=any(not item.kind.is_forward for item in self.egress),
            forwards=tuple(item.listen for item in self.egress if item.kind.is_forward),
        )

    def _program(self, step: Step) -> str:
        own = None if self.run.python is None else self.run.python.file
        file = own if step is Step.APPLY or self.outside is None else self.outside.file(step)
        if file is None or self.outside is None:
            raise InternalError(f"{self.name} has no program for {step}", reason="SPEC_STEP_MISSING")
        return file

    def _code(self, file: str, code_files: Mapping[str, bytes]) -> str:
        if file not in code_files:
            raise InternalError(f"the file {file} of {self.name} is missing", reason="SPEC_FILE_MISSING")
        return code_files[file].decode("utf-8")


def version_of(text: JsonObject) -> str:
    """The version of a specification from the text that is kept of it: its fields, and its files' texts; empty where it is none."""
    spec, files = text.get("spec"), text.get("files")
    if not isinstance(spec, dict) or not isinstance(files, dict):
        return ""
    return _version(spec, {name: str(data).encode() for name, data in files.items()})


def _version(spec: JsonObject, files: Mapping[str, bytes]) -> str:
    named: dict[str, JsonValue] = {name: digest(data) for name, data in files.items()}
    return digest(canonical({"format": "broker.tool-spec.v1", "spec": spec, "files": named}))
