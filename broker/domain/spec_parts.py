"""The parts of a tool specification and the types of their fields."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from rfc8785 import CanonicalizationError

from broker.domain import units
from broker.domain.canonical import canonical, pointer
from broker.domain.run import Limits

_LABEL = r"^[a-z][a-z0-9-]{0,62}$"
SANDBOX_NAMES = frozenset({"HOME", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "NO_PROXY", "PATH", "TMPDIR"})
"""Environment variables that sandboxes set; a specification that set them would be ignored without a word."""

_SECRETIVE = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_?KEY")


def _size(value: object) -> object:
    return units.parse_size(value) if isinstance(value, str) else value


def _duration(value: object) -> object:
    return units.parse_duration(value) if isinstance(value, str) else value


def _no_control(text: str) -> str:
    # They would hide what a person reads in a list of tools or in an approval.
    bad = next((char for char in text if not char.isprintable() and char != "\n"), None)
    if bad is not None:
        raise ValueError(f"holds the character U+{ord(bad):04X}, which doesn't show")
    return text


Text = Annotated[str, Strict()]
Shown = AfterValidator(_no_control)
Whole = Annotated[int, Strict()]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Size = Annotated[
    int, Strict(), BeforeValidator(_size), WithJsonSchema({"type": "string", "pattern": units.SIZE_PATTERN})
]
Duration = Annotated[
    float,
    Field(strict=True, allow_inf_nan=False),
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": units.DURATION_PATTERN}),
]
Label = Annotated[Text, Field(pattern=_LABEL)]
CodeFile = Annotated[Text, Field(pattern=r"^[a-z][a-z0-9_]{0,60}\.py$")]
Place: TypeAlias = tuple[str | int, ...]
"""Keys and indexes that lead to a value, from the part that is checked."""


def refuse_places(problems: Iterable[tuple[Place, str]]) -> None:
    """Raises one error that names each place and what is wrong there; without problems nothing happens.

    Raises:
        PydanticCustomError: its context has ``places`` and ``texts``, which lint turns into findings.
    """
    found = list(problems)
    if found:
        raise PydanticCustomError(
            "spec",
            "{summary}",
            {
                "summary": "; ".join(f"{pointer(*place)} {text}" for place, text in found),
                "places": [list(place) for place, _ in found],
                "texts": [text for _, text in found],
            },
        )


class SpecPart(BaseModel):
    """Base of all parts of a specification: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Placeholder(SpecPart):
    """Stands in an argument vector for a value of the call, as one whole element or as several."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["argument"]}, {"required": ["arguments"]}]},
    )

    argument: Text | None = None
    """Name of the argument whose value becomes one element."""
    arguments: Text | None = None
    """Name of the list argument whose items become one element each."""
    optional: Annotated[bool, Strict()] = False
    """With it, nothing is put in where the call doesn't give the argument."""

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.argument is None) == (self.arguments is None):
            raise ValueError("needs exactly one of `argument` (one element) and `arguments` (an element per item)")
        return self

    @property
    def name(self) -> str:
        """The argument that it stands for."""
        return self.argument or self.arguments or ""


def _element_kind(value: object) -> str:
    return "placeholder" if isinstance(value, dict | Placeholder) else "literal"


Element = Annotated[
    Annotated[str, Strict(), Tag("literal")] | Annotated[Placeholder, Tag("placeholder")],
    Discriminator(_element_kind),
]


class PythonRun(SpecPart):
    """Python that runs in a fork of the runner: a file beside the specification, or text that the caller gives."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["file"]}, {"required": ["argument"]}]})

    file: CodeFile | None = None
    """Name of the Python file; it lies in the same folder as the specification."""
    argument: Text | None = None
    """Name of the argument whose text is the program."""
    args: tuple[Element, ...] = ()
    """What follows the program's name in `sys.argv`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.argument is None):
            raise ValueError("needs exactly one of `file` and `argument`")
        return self


class Run(SpecPart):
    """How the tool runs: exactly one of an argument vector and Python."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["argv"]}, {"required": ["python"]}]})

    argv: Annotated[tuple[Element, ...], Field(min_length=1, max_length=256)] | None = None
    """Program and arguments, executed as written and without a shell; the first is an absolute path."""
    python: PythonRun | None = None
    """Python that runs in a fork of the waiting interpreter."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.argv is None) == (self.python is None):
            raise ValueError("needs exactly one of `argv` and `python`")
        if self.argv is not None and not (isinstance(self.argv[0], str) and self.argv[0].startswith("/")):
            raise ValueError("`argv` must begin with the absolute path of a program, written out")
        return self

    @property
    def elements(self) -> tuple[tuple[tuple[str | int, ...], str | Placeholder], ...]:
        """All elements with their places in the specification."""
        argv, where = (
            (self.argv, ("run", "argv")) if self.python is None else (self.python.args, ("run", "python", "args"))
        )
        return tuple(((*where, index), element) for index, element in enumerate(argv or ()))


_DEFAULT = Limits()
_FILES = 64
_BYTES = 64 * 2**20
# The files of both ways lie in the working folder at one time, each rounded up to whole pages, beside what a tool keeps
# there for itself; all of it counts as memory and leaves room for the tool.
_DISK = 2 * _BYTES + 32 * 2**20
_MIN_INODES = 64


def _inodes(value: int) -> int:
    if 0 < value < _MIN_INODES:
        raise ValueError(f"must be at least {_MIN_INODES}, or 0 for no limit where the runtime can't keep one")
    return value


class SpecLimits(SpecPart):
    """What one run may use; the bounds are the highest that this release grants to any tool."""

    cpu_cores: Annotated[Number, Field(ge=0.05, le=4)] = _DEFAULT.cpu_cores
    """Processor cores; 0.5 is half of one."""
    memory: Annotated[Size, Field(ge=16 * 2**20, le=4 * 2**30)] = _DEFAULT.memory_bytes
    """Memory, without swap; files that the tool writes count too."""
    processes: Annotated[Whole, Field(ge=4, le=1024)] = _DEFAULT.processes
    """Processes and threads at one time, the runner's own included."""
    wall_time: Annotated[Duration, Field(ge=0.1, le=3600)] = _DEFAULT.wall_s
    """From the start of the tool to its end."""
    output: Annotated[Size, Field(ge=0, le=64 * 2**20)] = _DEFAULT.output_bytes
    """Standard output and standard error, each."""
    disk: Annotated[Size, Field(ge=2**20, le=2 * 2**30)] = _DISK
    """Files in the working folder, those given with the call included."""
    inodes: Annotated[Whole, Field(ge=0, le=65536), AfterValidator(_inodes)] = _DEFAULT.inodes
    """Files and folders in the working folder, 64 at least; 0 sets no limit, for runtimes that can't keep one."""
    open_files: Annotated[Whole, Field(ge=32, le=4096)] = _DEFAULT.open_files
    """Files that one process may have open."""

    def for_run(self) -> Limits:
        """The same as the sandbox takes it."""
        return Limits(
            cpu_cores=self.cpu_cores,
            memory_bytes=self.memory,
            processes=self.processes,
            wall_s=self.wall_time,
            output_bytes=self.output,
            disk_bytes=self.disk,
            inodes=self.inodes,
            open_files=self.open_files,
        )


def _output_pattern(text: str) -> str:
    parts = text.split("/")
    if text.startswith("/") or "\\" in text or any(part in {"", ".", ".."} for part in parts):
        raise ValueError("must be a relative path pattern without empty, `.` or `..` parts, such as out/**")
    return text


class SpecFiles(SpecPart):
    """Which files may go in, and which come out."""

    max_input_files: Annotated[Whole, Field(ge=0, le=1024)] = _FILES
    """Most input files in one call; 0 takes none."""
    max_input_bytes: Annotated[Size, Field(ge=0, le=2**30)] = _BYTES
    """Most bytes of input files together."""
    outputs: Annotated[
        tuple[Annotated[Text, Field(min_length=1, max_length=256), AfterValidator(_output_pattern)], ...],
        Field(max_length=32),
    ] = ()
    """Patterns of the result files that are fetched after the run, relative to the working folder."""
    max_output_files: Annotated[Whole, Field(ge=0, le=1024)] = _FILES
    """Most result files."""
    max_output_bytes: Annotated[Size, Field(ge=0, le=2**30)] = _BYTES
    """Most bytes of result files together."""


_Pattern = Annotated[Text, Field(min_length=1, max_length=256), AfterValidator(_output_pattern)]


class SpecWorkspace(SpecPart):
    """Which paths of its workspace's tree a tool gets in its working folder, and which of them it may change."""

    reads: Annotated[tuple[_Pattern, ...], Field(max_length=32)] = ()
    """Patterns of the paths that it gets."""
    writes: Annotated[tuple[_Pattern, ...], Field(max_length=32)] = ()
    """Patterns of the paths that it gets and may add, change or remove; what it changes elsewhere is nobody's."""
    max_changes: Annotated[Whole, Field(ge=1, le=10_000)] = 1000
    """Most paths that one call may change."""
    max_change_bytes: Annotated[Size, Field(ge=0, le=2**30)] = _BYTES
    """Most bytes of the files that one call adds or changes, together."""

    @property
    def gets(self) -> tuple[str, ...]:
        """Patterns of all that goes in."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))

    @model_validator(mode="after")
    def _some_paths(self) -> Self:
        if not self.reads and not self.writes:
            raise ValueError("needs paths in `reads` or in `writes`")
        return self


def env_values(env: dict[str, str]) -> dict[str, str]:
    """Refuses names that belong to the broker or look like a secret."""
    for name, value in env.items():
        if name.startswith("BROKER_") or name in SANDBOX_NAMES:
            raise ValueError(f"{name}: the broker sets this one itself, as all that begin with BROKER_")
        if _SECRETIVE.search(name):
            raise ValueError(f"{name}: looks like a secret, and secrets never go into a sandbox")
        if "\x00" in value:
            raise ValueError(f"{name}: its value holds a NUL character")
    return env


def _json_only(value: dict[str, Any]) -> dict[str, Any]:
    try:
        canonical(value)
    except (CanonicalizationError, RecursionError) as error:
        raise ValueError(f"is no JSON that can be hashed: {error}") from error
    return value


Schema = Annotated[
    dict[str, Any],
    AfterValidator(_json_only),
    WithJsonSchema({"$ref": "https://json-schema.org/draft/2020-12/schema"}),
]
