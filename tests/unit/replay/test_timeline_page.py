"""The page: it stands by itself, says all in words, shapes and colours, stays readable when much happened, and is drawn."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.replay.casebook import Mark
from broker.replay.timeline.lanes import MOST_EVENTS, Shape, lay_out
from broker.replay.timeline.model import Timeline
from broker.replay.timeline.page import write_page
from tests.pages import Page, browse
from tests.timeline_world import DELETE, LOST, UNDO, Incident, name, timeline_of
from tests.votes_world import ADA, BOB, Story


@pytest.fixture(scope="module")
def whole() -> Timeline:
    return timeline_of(Incident().tell().story)


@pytest.fixture(scope="module")
def page(whole: Timeline) -> str:
    return write_page(whole, name)


def test_it_needs_nothing_from_outside_and_runs_nothing(page: str) -> None:
    found = Page(page)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "use",
        "image",
        "foreignobject",
    }
    attributes = [(key, value or "") for _, attrs in found.tags for key, value in attrs.items()]
    assert not [
        key for key, _ in attributes if key.startswith("on") or key in ("src", "srcset", "xlink:href", "action")
    ]
    assert all(value.startswith("#e") for key, value in attributes if key == "href")
    policy = next(attrs["content"] for tag, attrs in found.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not re.findall(r"url\((?!#tip\))|@import|https?:", page)


def test_each_entry_has_its_place_and_each_link_leads_to_one(page: str, whole: Timeline) -> None:
    found = Page(page)
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {f"e{event.seq}" for event in whole.events} <= set(ids)
    links = {str(attrs["href"])[1:] for tag, attrs in found.tags if tag == "a"}
    assert links <= set(ids)
    for words in (
        "human:ada: approve",
        f"undone by {UNDO}",
        "no end on record",
        "checkpoint",
        "ab" * 32,
        "Verified: ok",
    ):
        assert words in found.text, words


def test_the_picture_is_whole_and_shape_says_what_colour_says(page: str, whole: Timeline) -> None:
    svg = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + len("</svg>")])  # noqa: S314 - our own
    classes = [item.get("class", "") for item in svg.iter("path")]
    tones = {shape: {words.split()[1] for words in classes if words.endswith(f" {shape}")} for shape in Shape}
    assert tones[Shape.CROSS] == {"bad"}
    assert tones[Shape.SQUARE] == tones[Shape.CIRCLE] == {"good"}
    assert any(words == "cause" for words in classes)
    labels = {item.text for item in svg.iter("text")}
    assert {"human:ada", "human:bob", "broker", "What the marks say"} <= labels
    drawn = lay_out(whole)
    assert not drawn.folded
    assert all(0 < dot.x < drawn.width and 0 < dot.y < drawn.height for dot in drawn.dots)
    (opened,) = [bar for bar in drawn.bars if bar.open]
    assert opened.end == max(dot.x for dot in drawn.dots)
    assert LOST in opened.title
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_time_runs_to_the_right_and_a_long_pause_is_shortened_and_told(whole: Timeline) -> None:
    events = [replace(event, ts=event.ts + 7_200_000_000 * (event.seq > 30)) for event in whole.events]
    drawn = lay_out(replace(whole, events=tuple(events)))
    places = {dot.seq: dot.x for dot in drawn.dots}
    assert [places[event.seq] for event in whole.events if event.seq in places] == sorted(places.values())
    assert [length for _, length in drawn.pauses] == ["2 h"]
    assert drawn.width < 2200


def test_a_thousand_events_are_folded_and_stay_small() -> None:
    story = Story().found()
    for number in range(160):
        story.run(ADA, BOB, approval=f"apv_{number:026d}", call=f"call_{number:026d}")
    found = timeline_of(story)
    assert len(found.events) > 6 * MOST_EVENTS
    drawn = lay_out(found)
    assert drawn.folded
    assert len(drawn.rows) < 20
    assert len(drawn.dots) < len(found.events) / 2
    assert (drawn.arrows, drawn.width < 1200) == ((), True)
    assert sum(dot.count for dot in drawn.dots) >= 160
    assert len(write_page(found, name)) < 1_500_000


def test_what_does_not_verify_says_so_first_and_loudly() -> None:
    mark = Mark("tampered", "entry 5, bytes: they hash to something else", "brk_test", 0, "")
    page = write_page(timeline_of(Incident().tell().story, mark=mark, call=DELETE), name)
    assert page.index("DOESN&#x27;T VERIFY: tampered".replace("&#x27;", "'")) < page.index("<dl>")
    assert "entry 5, bytes" in page
    assert "Verified: ok" not in page


def test_a_real_browser_draws_it(page: str, tmp_path: Path) -> None:
    file = tmp_path / "timeline.html"
    file.write_text(page, "utf-8")
    shown = browse(file, "--dump-dom")
    assert f'id="e{Incident().tell().at["undone"]}"' in shown
    if shown == page:
        return  # no browser is here (chromium, say): what a parser could see has been checked above
    picture = tmp_path / "timeline.png"
    browse(file, f"--screenshot={picture}", "--window-size=1300,900", "--hide-scrollbars")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.stat().st_size > 20_000, "a blank page is smaller"
