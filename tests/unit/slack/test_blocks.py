"""Texts in Block Kit: letter by letter, whole, and within Slack's limits."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from broker.slack.blocks import MAX_TEXT, box, escape, joined, literal, moment, pieces, size, view_bytes
from tests.slack_limits import shown

TEXTS = st.text(st.sampled_from("ab &<>;#\n\u00e9\U0001f600") | st.characters(codec="utf-8"), max_size=300)
ENTITIES = st.lists(st.sampled_from(["&", "amp;", "lt;", "&amp;", "&lt;", "&#60;", "x", "\n"]), max_size=30).map(
    "".join
)


@given(TEXTS | ENTITIES)
def test_a_box_shows_the_very_letters_however_slack_reads_entities(text: str) -> None:
    for decoding in (False, True):
        assert shown([box(text)], decoding=decoding) == [text or " "]


@given(TEXTS | ENTITIES, st.integers(min_value=6, max_value=60))
def test_pieces_are_the_whole_text_and_none_is_too_long(text: str, most: int) -> None:
    parts = pieces(text, most)
    assert joined(parts) == text
    assert all(size(part.text) <= most for part in parts)


def test_pieces_end_between_lines_where_they_can() -> None:
    parts = pieces("a" * 20 + "\n" + "b" * 20 + "\n" + "c" * 70, 50)
    assert [(part.text, part.goes_on) for part in parts] == [
        ("a" * 20 + "\n" + "b" * 20, False),
        ("c" * 50, True),
        ("c" * 20, False),
    ]


def test_a_text_of_a_box_s_size_is_one_piece() -> None:
    assert len(pieces("x" * MAX_TEXT)) == 1
    assert len(pieces("x" * (MAX_TEXT + 1))) == 2
    assert len(pieces("&" * (MAX_TEXT // 5))) == 1
    assert len(pieces("&" * (MAX_TEXT // 5 + 1))) == 2


def test_only_the_three_characters_are_escaped() -> None:
    assert escape("a & <b> \"c\" 'd' *e*") == "a &amp; &lt;b&gt; \"c\" 'd' *e*"
    assert size("<\U0001f600") == len("&lt;") + 2


def test_no_element_is_empty() -> None:
    assert literal("") == []
    assert all(element["text"] for element in literal("&amp;&amp;", bold=True))


def test_a_view_is_measured_as_slack_stores_it() -> None:
    assert view_bytes({"a": "<"}) == len('{"a": "&lt;"}')
    assert view_bytes({"a": "\u00e9"}) == len('{"a": "\\u00e9"}')


def test_a_time_has_words_for_those_who_can_not_show_it() -> None:
    shown_time = moment(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert shown_time["timestamp"] == 1767323045
    assert shown_time["fallback"] == "2026-01-02 03:04 UTC"
