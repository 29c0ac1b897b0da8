"""What a benchmark gives back, and how it is printed: one JSON object, or a table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Measure:
    """One number.

    Args:
        key: its name in the JSON object.
        value: the number.
        unit: such as ``us``, ``ms``, ``s`` or ``x``.
        at_most: its target, where it has an upper one.
        at_least: its target, where it has a lower one.
        note: what it is, in a few words.
    """

    key: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The target in words; empty where there is none."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else ""

    @property
    def met(self) -> bool:
        """Is the target met? Without one: yes."""
        if self.at_most is not None and self.value > self.at_most:
            return False
        return self.at_least is None or self.value >= self.at_least


@dataclass(frozen=True, slots=True)
class Report:
    """All that one run of a benchmark measured."""

    title: str
    measures: tuple[Measure, ...]

    @property
    def values(self) -> dict[str, float]:
        """Key to number, rounded to four significant places."""
        return {measure.key: _rounded(measure.value) for measure in self.measures}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all values don't exceed (nearest rank); 50 is the median.

    Raises:
        ValueError: there are no values, or the percentage is not above 0 and at most 100.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError("a percentile needs values, and a percentage above 0 and up to 100")
    ordered = sorted(values)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def print_json(report: Report) -> None:
    """Prints the numbers as one JSON object on one line."""
    print(json.dumps(report.values))


def print_table(report: Report) -> None:
    """Prints the numbers as a table, each with its target."""
    table = Table(title=report.title, title_justify="left", box=None, pad_edge=False)
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("target")
    table.add_column("met")
    table.add_column("what it is")
    for measure in report.measures:
        met = "" if not measure.target else "yes" if measure.met else "NO"
        number = f"{_rounded(measure.value):,.12g}"
        table.add_row(measure.key, number, measure.unit, measure.target, met, measure.note)
    Console(highlight=False).print(table)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else value
