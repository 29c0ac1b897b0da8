"""A picture of the lanes as SVG inside a page: every text in it is escaped, and it refers to nothing outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape

from broker.domain.ids import ID_PATTERN
from broker.replay.timeline.lanes import LEFT, LEGEND, ROW, TOP, Arrow, Bar, Dot, Picture, Shape
from broker.replay.timeline.model import Lane, Tone
from broker.replay.timeline.shown import brief, clock, day, seen

_TITLE = 160
_LABEL = 27
_R = 5.0
_AXIS = 22
_EXACT = 120_000_000
_FITS, _LEAST = 1200, 900
_LEGEND_ROW = 20
_LEGEND_WIDTH = 250
_HEAD = """<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="lanes-title lanes-desc"
style="min-width:{least:.0f}px"><title id="lanes-title">What happened, by lane</title>
<desc id="lanes-desc">Time runs from left to right; long pauses are shortened. Rows are calls, people, and policy and broker.
The list below the picture says the same in words.</desc>
<defs><marker id="tip" markerWidth="7" markerHeight="7" refX="6" refY="3.5" orient="auto">
<path class="tip" d="M0 0 7 3.5 0 7z"/></marker></defs>"""


def draw(picture: Picture, name: Callable[[str], str]) -> str:
    """The SVG element; labels of rows that are ids are shown by name.

    Args:
        picture: what stands where.
        name: how the person or agent with an id is called.
    """
    across = max(1, int((picture.width - LEFT) // _LEGEND_WIDTH))
    legend_height = math.ceil((len(LEGEND) + 2) / across) * _LEGEND_ROW + 12
    height = picture.height + _AXIS + legend_height
    parts = [
        _HEAD.format(width=picture.width, height=height, least=picture.width if picture.width > _FITS else _LEAST),
        *_bands(picture, name),
        *_axis(picture),
        *(_bar(bar) for bar in picture.bars),
        *(_arrow(arrow) for arrow in picture.arrows),
        *(_dot(dot) for dot in picture.dots),
        *_legend(picture.height + _AXIS + 8, across),
        "</svg>",
    ]
    return "\n".join(parts)


def _text(x: float, y: float, kind: str, text: str, most: int = _TITLE) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(seen(text, most))}</text>'


def _bands(picture: Picture, name: Callable[[str], str]) -> list[str]:
    found: list[str] = []
    for lane in Lane:
        rows = [row for row in picture.rows if row.lane is lane]
        for number, row in enumerate(rows):
            kind = f"band {_css(lane)}" + (" odd" if number % 2 else "")
            y = row.y - ROW / 2
            found.append(f'<rect class="{kind}" x="0" y="{y:.1f}" width="{picture.width:.0f}" height="{ROW}"/>')
            found.append(_text(LEFT - 14, row.y + 4, "row", _label(name(row.label))))
        if rows:
            top, bottom = min(row.y for row in rows) - ROW / 2, max(row.y for row in rows) + ROW / 2
            found.append(f'<line class="edge" x1="0" y1="{bottom:.1f}" x2="{picture.width:.0f}" y2="{bottom:.1f}"/>')
            found.append(f'<rect class="side {_css(lane)}" x="0" y="{top:.1f}" width="5" height="{bottom - top:.1f}"/>')
    return found


def _axis(picture: Picture) -> list[str]:
    bottom = max((row.y for row in picture.rows), default=TOP) + ROW / 2
    found, last = [], ""
    times = [ts for _, ts in picture.ticks]
    exact = bool(times) and max(times) - min(times) < _EXACT
    for x, ts in picture.ticks:
        found.append(f'<line class="tick" x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        found.append(_text(x, TOP - 10, "time", clock(ts) if exact else clock(ts)[:8]))
        if day(ts) != last:
            found.append(_text(x, TOP - 23, "time day", day(ts)))
            last = day(ts)
    for x, length in picture.pauses:
        found.append(f'<line class="pause" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        found.append(_text(x, bottom + 14, "time gap", f"pause {length}"))
    return found


def _bar(bar: Bar) -> str:
    kind = f"bar {bar.tone.value}" + (" open" if bar.open else "")
    width = max(bar.end - bar.x, 2.0)
    return (
        f'<rect class="{kind}" x="{bar.x:.1f}" y="{bar.y - 3:.1f}" width="{width:.1f}" height="6" rx="3">'
        f"<title>{escape(seen(bar.title, _TITLE))}</title></rect>"
    )


def _arrow(arrow: Arrow) -> str:
    middle = (arrow.x + arrow.end_x) / 2
    gap = 7 if arrow.end_y > arrow.y else -7
    end = arrow.end_y - gap
    kind = "cause faint" if arrow.faint else "cause"
    return (
        f'<path class="{kind}" d="M{arrow.x:.1f} {arrow.y:.1f} C{middle:.1f} {arrow.y:.1f} '
        f'{arrow.end_x:.1f} {arrow.y:.1f} {arrow.end_x:.1f} {end:.1f}"/>'
    )


def _dot(dot: Dot) -> str:
    number = f'<text class="count" x="{dot.x + 7:.1f}" y="{dot.y - 5:.1f}">{dot.count}</text>' if dot.count > 1 else ""
    title = f"<title>{escape(seen(dot.title, _TITLE))}</title>"
    return f'<a href="#e{dot.seq}">{_shape(dot.shape, dot.tone, dot.x, dot.y, title)}{number}</a>'


def _shape(shape: Shape, tone: Tone, x: float, y: float, title: str = "") -> str:
    return f'<path class="dot {tone.value} {shape.value}" d="{_PATHS[shape](x, y)}">{title}</path>'


def _around(x: float, y: float, corners: int, turn: float, radius: float) -> str:
    points = (
        f"{x + radius * math.cos(turn + 2 * math.pi * k / corners):.1f} "
        f"{y + radius * math.sin(turn + 2 * math.pi * k / corners):.1f}"
        for k in range(corners)
    )
    return "M" + " L".join(points) + "Z"


def _circle(x: float, y: float, radius: float) -> str:
    return (
        f"M{x - radius:.1f} {y:.1f} a{radius} {radius} 0 1 0 {2 * radius} 0 a{radius} {radius} 0 1 0 {-2 * radius} 0Z"
    )


_PATHS: Mapping[Shape, Callable[[float, float], str]] = {
    Shape.DIAMOND: lambda x, y: _around(x, y, 4, 0, _R + 1.5),
    Shape.HOLLOW: lambda x, y: _around(x, y, 4, 0, _R + 1.5),
    Shape.TRIANGLE: lambda x, y: _around(x, y, 3, 0, _R + 1.5),
    Shape.SQUARE: lambda x, y: _around(x, y, 4, math.pi / 4, _R + 1.5),
    Shape.EMPTY: lambda x, y: _around(x, y, 4, math.pi / 4, _R + 1.5),
    Shape.CROSS: lambda x, y: f"M{x - _R} {y - _R} L{x + _R} {y + _R} M{x - _R} {y + _R} L{x + _R} {y - _R}",
    Shape.CIRCLE: lambda x, y: _circle(x, y, _R),
    Shape.RING: lambda x, y: _circle(x, y, _R),
    Shape.HEXAGON: lambda x, y: _around(x, y, 6, 0, _R + 1.5),
    Shape.PLUS: lambda x, y: f"M{x - _R} {y} L{x + _R} {y} M{x} {y - _R} L{x} {y + _R}",
    Shape.DOT: lambda x, y: _circle(x, y, 3.0),
}


def _legend(top: float, across: int) -> list[str]:
    found = [_text(14, top + 14, "row left", "What the marks say")]
    places = (
        (LEFT + _LEGEND_WIDTH * (k % across), top + 10 + _LEGEND_ROW * (k // across)) for k in range(len(LEGEND) + 2)
    )
    for (shape, tone, words), (x, y) in zip(LEGEND, places, strict=False):
        found += [_shape(shape, tone, x + 8, y), _text(x + 22, y + 4, "note", words)]
    for number, kind in enumerate(("cause", "open"), len(LEGEND)):
        place, y = LEFT + _LEGEND_WIDTH * (number % across), top + 10.0 + _LEGEND_ROW * (number // across)
        if kind == "cause":
            found.append(f'<path class="cause" d="M{place:.1f} {y:.1f} L{place + 18:.1f} {y:.1f}"/>')
            found.append(_text(place + 24, y + 4, "note", "came of it (dashed: was in force)"))
        else:
            found.append(f'<rect class="bar plain open" x="{place:.1f}" y="{y - 3:.1f}" width="18" height="6" rx="3"/>')
            found.append(_text(place + 24, y + 4, "note", "no end on record"))
    return found


def _label(text: str) -> str:
    """A row's label; of an id its kind and its end, by which ids differ."""
    return f"{text[:3]} ...{text[-6:]}" if ID_PATTERN.fullmatch(text) else brief(text, _LABEL)


def _css(lane: Lane) -> str:
    return lane.name.lower()
