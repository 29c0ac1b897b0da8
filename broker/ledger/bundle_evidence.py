"""What the bundle of an incident has beside the selected entries: its story, names, and through whose hands it goes.

Which entries tell the story is decided elsewhere (``broker.replay.evidence``); here is what of it is written, and how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.domain.canonical import JsonObject
from broker.errors import FieldViolation, InvalidArgumentError

FORMAT = "broker.evidence-bundle.v1"
"""``format`` of the manifest."""
PAYLOAD_TYPE = "application/vnd.broker.evidence-bundle.v1+json"
"""``payloadType`` of the manifest's envelope."""
NAMES, CUSTODY = "names.json", "custody.json"

MAX_CASE = 1000
"""Most characters of what a bundle is made for."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one agent's own chain that is in the bundle without a gap, by the ledger's numbers.

    ``heads``: it ends at ``last``, an entry that commits where the chain ended; else ``last`` is the last entry itself.
    """

    agent: str
    first: int
    last: int
    heads: bool


@dataclass(frozen=True, slots=True)
class Exported:
    """Who made a bundle, with which options, and what for; goes into ``custody.json``.

    ``by`` is ``{person, fingerprint}`` of whoever proved to hold the key of a certificate, else ``{os_user}``.
    """

    by: JsonObject
    options: JsonObject
    case: str

    def __post_init__(self) -> None:
        if len(self.case) > MAX_CASE or not all(char.isprintable() for char in self.case):
            why = f"must be one line of at most {MAX_CASE} characters"
            raise InvalidArgumentError(
                f"--case {why}",
                reason="CASE_INVALID",
                violations=(FieldViolation("--case", why),),
                hint="Say it shorter.",
            )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is to be in the bundle beside the selected entries."""

    exported: Exported
    span: Span | None = None
    stretch: frozenset[int] = frozenset()
    """Numbers of all entries of the span."""
    story: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Part of the story -> numbers of the entries that tell it, ascending; none of them is selected."""
    names: JsonObject | None = None
    """Id -> ``{kind, name}``; ``None`` where names weren't asked for."""
    redacted: Mapping[str, int] = field(default_factory=dict)
    """What would be there and was erased -> the entry that says so."""

    @property
    def numbers(self) -> frozenset[int]:
        """Of all entries that are there because of it."""
        return self.stretch | self.told

    @property
    def told(self) -> frozenset[int]:
        """Of the entries that tell the story."""
        return frozenset().union(*self.story.values())

    def members(self) -> JsonObject:
        """What the manifest says of it."""
        span = self.span
        return {
            "span": None
            if span is None
            else {"agent": span.agent, "first": span.first, "last": span.last, "heads": span.heads},
            "story": {part: list(numbers) for part, numbers in sorted(self.story.items())},
            "redacted": [{"id": which, "erased": seq} for which, seq in sorted(self.redacted.items())],
        }

    def custody(self, *, origin: str, checkpoint: JsonObject, at: str, software: str) -> JsonObject:
        """What ``custody.json`` says."""
        return {
            "format": "broker.custody.v1",
            "origin": origin,
            "checkpoint": checkpoint,
            "at": at,
            "software": software,
            "by": dict(self.exported.by),
            "options": dict(self.exported.options),
            "for": self.exported.case,
        }
