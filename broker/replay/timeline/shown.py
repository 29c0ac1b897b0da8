"""Texts from elsewhere, made fit to be seen: nothing hidden, nothing that reorders itself, nothing endless. Pure."""

from __future__ import annotations

from broker.domain.visible import Visible
from broker.replay.casebook import moment

MOST_SHOWN = 2_000
"""Characters of one value."""


def seen(text: str, most: int = MOST_SHOWN) -> str:
    """One line with all that hides or reorders itself written out; of a longer one the beginning, and how long it is."""
    cut = text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)"
    return Visible().line(cut)


def brief(text: str, most: int) -> str:
    """At most so many characters of a line, the last of them dots where it is cut."""
    shown = seen(text, 4 * most)
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def clock(microseconds: int) -> str:
    """Time of day in UTC, to the millisecond."""
    return moment(microseconds).strftime("%H:%M:%S.%f")[:-3]


def day(microseconds: int) -> str:
    """The day in UTC."""
    return moment(microseconds).strftime("%Y-%m-%d")


def span(microseconds: int) -> str:
    """How long, in the two largest units."""
    seconds = abs(microseconds) / 1e6
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    for size, name, inner, inner_name in units:
        if whole >= size:
            rest = whole % size // inner
            return f"{whole // size} {name}" + (f" {rest} {inner_name}" if rest else "")
    return f"{whole} s"
