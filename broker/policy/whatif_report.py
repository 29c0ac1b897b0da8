"""The report of a what-if: what flips, grouped, with the entries that show it; bound to the ledger that it was read from.

The same ledger, policy and table give the same report, byte for byte: it holds no time of its own making.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.domain.canonical import canonical, digest
from broker.errors import DataLossError, InvalidArgumentError

FORMAT = "broker.whatif.v1"
MOST = 200
"""Most items of one list in a report; it says how many more there are."""
MOST_BYTES = 2**20
"""Longest report that is read."""

LONGEST = 400
"""Characters of what a group has in common."""

T = TypeVar("T")


class Part(BaseModel):
    """Base of the parts of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LedgerPart(Part):
    """Which entries were read, and what is known of them; hashes are hexadecimal. ``extract`` is empty for a whole ledger."""

    sound: bool
    verdict: str
    why: str
    origin: str
    entries: int
    head: str
    checkpoint_size: int
    checkpoint_root: str
    extract: str
    complete: str


class TextsPart(Part):
    """Digests of a policy and of a table of tiers; empty where not known."""

    policy: str
    tiers: str


class SpanPart(Part):
    """Which decisions: ``since`` and ``until`` as asked for (empty for no bound), then the first and last on record."""

    since: str
    until: str
    first: str
    last: str


class TotalsPart(Part):
    """All that was decided again: requests, the entries that show them, and distinct inputs."""

    requests: int
    entries: int
    inputs: int
    unchanged: int
    """Requests of which nothing changes."""


class UndecidedPart(Part):
    """What can't be decided again, and why; ``reason`` is that of the refusal on record."""

    why: str
    reason: str
    requests: int
    entries: int


class FlipPart(Part):
    """One question that gets something else; ``first`` and ``last`` are numbers of entries."""

    before: str
    after: str
    why: list[str]
    agent: str
    name: str
    tool: str
    workspace: str
    action: str
    tier: str
    requests: int
    entries: int
    first: int
    last: int
    first_time: str
    last_time: str


class GroupPart(Part):
    """Flips that have something in common: what each gets before and after, or an agent, or a tool."""

    of: Annotated[str, Field(max_length=LONGEST)]
    requests: int
    entries: int
    inputs: int
    first: int
    last: int
    first_time: str
    last_time: str


class SidePart(Part):
    """All flips of one side, and the same grouped. ``cut`` is how many flips and groups are left out of the lists."""

    requests: int
    entries: int
    inputs: int
    by_rule: list[GroupPart]
    by_agent: list[GroupPart]
    by_tool: list[GroupPart]
    flips: list[FlipPart]
    cut: int


class LackingPart(Part):
    """Calls that were let through and would be refused by the table of tiers."""

    tier: int
    tool: str
    agent: str
    name: str
    why: str
    requests: int
    entries: int
    first: int
    last: int


class LackPart(Part):
    """All such calls, which count as narrowed; ``cut`` is how many items are left out of the list."""

    requests: int
    calls: list[LackingPart]
    cut: int


class LoadPart(Part):
    """Requests for approval: in all, the mean of a day in hundredths, and the busiest day."""

    total: int
    mean_hundredths: int
    busiest: int
    busiest_day: str


class ApproverPart(Part):
    """One person, with what they may be asked. Each request asks everybody who may vote on it."""

    person: str
    name: str
    before: LoadPart
    after: LoadPart


class DayPart(Part):
    """Requests for approval of one day, UTC."""

    day: str
    before: int
    after: int


class ForecastPart(Part):
    """How often people would be asked, had all that was asked been decided so. ``people_known``: whether approvers are named."""

    days: int
    before: LoadPart
    after: LoadPart
    by_day: list[DayPart]
    approvers: list[ApproverPart]
    cut: int
    people_known: bool


class DisagreementPart(Part):
    """A recorded decision that the policy named in it doesn't make: the record and its policy disagree."""

    entry: int
    recorded: str
    policy_says: str
    policy: str
    requests: int


class ControlPart(Part):
    """What was recorded, decided again by the very policies that decided it, in requests."""

    reproduced: int
    without_text: int
    unknown: int
    policies: list[str]
    disagree: list[DisagreementPart]
    cut: int


class Report(Part):
    """A what-if. ``digest`` is over the RFC 8785 form of all the rest."""

    format: Literal["broker.whatif.v1"]
    ledger: LedgerPart
    candidate: TextsPart
    present: TextsPart
    span: SpanPart
    totals: TotalsPart
    undecided: list[UndecidedPart]
    widened: SidePart
    narrowed: SidePart
    lacking: LackPart
    forecast: ForecastPart
    control: ControlPart
    notes: list[str]
    digest: str = ""

    def sealed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"digest": self.own_digest()})

    def own_digest(self) -> str:
        """Digest of all but the digest."""
        return digest(canonical(self.model_dump(mode="json", exclude={"digest"})))

    def data(self) -> bytes:
        """Its RFC 8785 bytes."""
        return canonical(self.model_dump(mode="json"))

    def summary(self) -> tuple[str, ...]:
        """What an approver has to know of it, a sentence each."""
        widened, narrowed, load = self.widened, self.narrowed, self.forecast
        lost = narrowed.requests + self.lacking.requests
        sentences = [
            f"What-if report {self.digest}: {_over(self)}",
            f"What-if: of {self.totals.requests} requests, {widened.requests} are widened, {lost} narrowed",
            *(f"What-if, widened: {group.requests} requests, {group.of}" for group in widened.by_rule[:_TOLD]),
            *(f"What-if, narrowed: {group.requests} requests, {group.of}" for group in narrowed.by_rule[:_TOLD]),
            f"What-if, requests for approval over {load.days} days: {load.before.total} before, {load.after.total} after",
        ]
        if self.undecided:
            sentences.append(
                f"What-if: {sum(item.requests for item in self.undecided)} requests can't be decided again"
            )
        if self.control.disagree:
            sentences.append("What-if: THE RECORD AND ITS POLICY DISAGREE: see the report")
        return tuple(sentences)


_TOLD = 5
"""Most groups of each side in a summary."""


def _over(report: Report) -> str:
    ledger = report.ledger
    signed = f"of {ledger.checkpoint_size} with root {ledger.checkpoint_root}" if ledger.checkpoint_size else "none"
    return f"{ledger.entries} entries of {ledger.origin}, which are {ledger.verdict}, checkpoint {signed}"


def limited(items: Sequence[T]) -> tuple[list[T], int]:
    """As many as a report has room for, and how many that leaves out."""
    return list(items[:MOST]), max(0, len(items) - MOST)


def parse_report(data: bytes) -> Report:
    """Reads a report and checks its digest.

    Raises:
        InvalidArgumentError: ``WHATIF_INVALID``: it is none, or too long.
        DataLossError: ``WHATIF_CHANGED``: it isn't what it was when its digest was taken.
    """
    if len(data) > MOST_BYTES:
        raise InvalidArgumentError(
            f"the what-if report has {len(data)} bytes; the limit is {MOST_BYTES}", reason="WHATIF_INVALID"
        )
    try:
        report = Report.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise InvalidArgumentError(
            f"this is no what-if report: {error.errors()[0]['msg']}",
            reason="WHATIF_INVALID",
            hint="Make one with `broker replay whatif --report FILE`.",
        ) from error
    if report.digest != report.own_digest():
        raise DataLossError(
            "the what-if report was changed after it was made: its digest is not its own",
            reason="WHATIF_CHANGED",
            hint="Make it again with `broker replay whatif --report FILE`.",
        )
    return report


def read_report(path: Path) -> Report:
    """Reads a report from a file.

    Raises:
        InvalidArgumentError: as ``parse_report``; also where there is no such file.
        DataLossError: as ``parse_report``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidArgumentError(
            f"the what-if report {path} can't be read: {error.strerror}", reason="WHATIF_INVALID"
        ) from error
    return parse_report(data)


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by something that they have in common."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
