"""What a probe of a sandbox says, and what its rules share. What was seen inside is hostile: what is missing is unknown."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broker.domain.canonical import JsonObject
from broker.domain.run import Profile
from broker.sandbox.engine import Capabilities

REFUSALS = frozenset(
    {
        "EACCES",
        "EAFNOSUPPORT",
        "EIO",
        "EISDIR",
        "EMFILE",
        "ENODEV",
        "ENOENT",
        "ENOSYS",
        "ENOTDIR",
        "ENOTSUP",
        "ENXIO",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTONOSUPPORT",
        "EROFS",
    }
)
"""Answers to an attempt that never got through; any other, such as ``EINVAL``, means that somebody listened."""
_SEEN_CHARS = 300


class Holds(enum.StrEnum):
    """Whether a probe found what it should."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that was looked at."""

    name: str
    holds: Holds
    must: bool
    """Whether a sandbox in which it doesn't hold is unfit; what the runtime is declared not to do is none of these."""
    seen: str
    why: str
    """One sentence: what a tool could do otherwise."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the machine of the broker says of itself."""

    boot: str = ""
    namespaces: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the sandbox was made under, and what is known from outside."""

    profile: Profile
    capabilities: Capabilities
    host: HostFacts
    runner_survived: bool | None
    """Whether process 1 outlived every signal that a tool can send; nothing where that wasn't tried."""


def refused(
    name: str,
    answers: Mapping[str, str | None],
    why: str,
    *,
    must: bool = True,
    refusals: frozenset[str] = REFUSALS,
) -> Probe:
    """A probe of attempts that all have to fail, each in a way that says they never got through."""
    known = {attempt: answer for attempt, answer in answers.items() if answer}
    through = [f"{attempt}: {answer}" for attempt, answer in known.items() if answer not in refusals]
    words = ", ".join(sorted(set(known.values())))
    seen = ", ".join(through) if through else f"{len(known)} refused: {words}" if known else "not tried"
    return Probe(name, holds(not through if known else None), must, cut(seen), why)


def holds(value: bool | None) -> Holds:  # noqa: FBT001  # three-valued, and the only argument
    """The three values as words."""
    return Holds.UNKNOWN if value is None else Holds.YES if value else Holds.NO


def cut(text: str) -> str:
    """What was seen, no longer than a line or two."""
    return text if len(text) <= _SEEN_CHARS else f"{text[: _SEEN_CHARS - 1]}…"


def text_at(table: JsonObject, name: str) -> str | None:
    """An entry that is text, or nothing."""
    value = table.get(name)
    return value if isinstance(value, str) else None


def object_at(table: JsonObject, name: str) -> JsonObject:
    """An entry that is an object, or an empty one."""
    value = table.get(name)
    return value if isinstance(value, dict) else {}


def words_at(table: JsonObject, name: str) -> dict[str, str]:
    """The entries of an object that are text; those that nobody could try are left out."""
    return {key: value for key, value in object_at(table, name).items() if isinstance(value, str)}


def picked(seen: JsonObject, names: Iterable[str]) -> dict[str, str | None]:
    """Some system calls, and what became of each."""
    calls = words_at(seen, "calls")
    return {name: calls.get(name) for name in names}
