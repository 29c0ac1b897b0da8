"""What a call did on its way out, counted per host, port, kind and verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.domain.meter import Meter
from broker.domain.run import EgressKind, EgressRecord, EgressRule, EgressVerdict
from broker.sandbox.egress.refusal import RefusedError

MAX_RECORDS = 64
_MAX_TEXT = 255
_Key = tuple[str, int, EgressKind, EgressVerdict]


@dataclass(slots=True)
class Tally:
    """One request or connection while it goes on."""

    kind: EgressKind
    host: str = ""
    port: int = 0
    listed: bool = False
    verdict: EgressVerdict = EgressVerdict.MALFORMED
    detail: str = "it ended before it said what it wanted"
    sent: int = 0
    received: int = 0

    def wants(self, host: str, port: int) -> None:
        """What the tool named, as it named it."""
        self.host, self.port = visible(host), port

    def meant(self, rule: EgressRule) -> None:
        """The rule that names this host and port."""
        self.kind, self.host, self.port, self.listed = rule.kind, rule.host, rule.port, True

    def allowed(self, rule: EgressRule) -> None:
        """The rule covers it."""
        self.meant(rule)
        self.verdict, self.detail = EgressVerdict.ALLOWED, ""

    def refused(self, error: RefusedError) -> None:
        """It was refused or cut."""
        if error.rule is not None:
            self.meant(error.rule)
        self.verdict, self.detail = error.verdict, visible(error.message)

    def record(self) -> EgressRecord:
        """As it stands."""
        return EgressRecord(
            host=self.host,
            port=self.port,
            kind=self.kind,
            verdict=self.verdict,
            listed=self.listed,
            sent_bytes=self.sent,
            received_bytes=self.received,
            detail=self.detail,
        )


class Records:
    """All tallies of a call: those that go on, and the sum of those that ended.

    At most 64 rows are kept; the rest is counted in one of them, with an empty host. A listed host takes the row of one
    that no rule lists, so that a tool can't push what it did with a listed host out by asking for many others.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._open: dict[int, Tally] = {}
        self._sums: dict[_Key, EgressRecord] = {}
        self._rest: EgressRecord | None = None

    def open(self, kind: EgressKind) -> Tally:
        """A new tally, counted from now on."""
        tally = Tally(kind)
        self._open[id(tally)] = tally
        return tally

    def close(self, tally: Tally) -> None:
        """It ended. One that nobody wrote a byte to is forgotten."""
        if self._open.pop(id(tally), None) is None or not _counts(tally):
            return
        record = tally.record()
        self._meter.egress(record.verdict, record.sent_bytes, record.received_bytes)
        self._rest = _add(self._sums, self._rest, record)

    def rows(self) -> tuple[EgressRecord, ...]:
        """All rows, those of listed hosts first."""
        sums, rest = dict(self._sums), self._rest
        for tally in self._open.values():
            if _counts(tally):
                rest = _add(sums, rest, tally.record())
        rows = sorted(sums.values(), key=lambda row: (not row.listed, row.host, row.port, row.kind, row.verdict))
        return (*rows, *(() if rest is None else (rest,)))


def visible(text: str) -> str:
    """A hostile text for a person: control and other characters that don't show are escaped; cut to 255."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return shown if len(shown) <= _MAX_TEXT else shown[: _MAX_TEXT - 1] + "…"


def _counts(tally: Tally) -> bool:
    return bool(tally.sent or tally.received or tally.host or tally.port)


def _add(sums: dict[_Key, EgressRecord], rest: EgressRecord | None, record: EgressRecord) -> EgressRecord | None:
    key = (record.host, record.port, record.kind, record.verdict)
    known = sums.get(key)
    if known is not None:
        sums[key] = _sum(known, record)
        return rest
    if len(sums) < MAX_RECORDS - 1:
        sums[key] = record
        return rest
    unlisted = next((other for other, row in reversed(sums.items()) if not row.listed), None)
    if record.listed and unlisted is not None:
        moved = sums.pop(unlisted)
        sums[key] = record
        record = moved
    if rest is None:
        return replace(record, host="", port=0, detail="what has no row of its own")
    return _sum(rest, record)


def _sum(one: EgressRecord, other: EgressRecord) -> EgressRecord:
    return replace(
        one,
        count=one.count + other.count,
        listed=one.listed or other.listed,
        sent_bytes=one.sent_bytes + other.sent_bytes,
        received_bytes=one.received_bytes + other.received_bytes,
        detail=one.detail or other.detail,
    )
