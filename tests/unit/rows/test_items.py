"""Rows as items: paths that are safe and tell rows apart, contents that are read back only as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_rows import items
from broker_rows.endings import RefusedError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
COLUMNS = (("id", "integer"), ('a "b" = c\n', 'public."T = x"'), ("ü\u2028", "text"))
ROWS = st.tuples(*[st.none() | TEXT] * 3)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_a_keys_part_is_a_safe_name(key: list[str]) -> None:
    part = items.key_part(key)
    assert 0 < len(part.encode()) <= 200
    assert part not in {".", ".."}
    assert part.isascii()
    assert part.isprintable()
    assert "/" not in part


@given(st.lists(TEXT, min_size=2, max_size=2), st.lists(TEXT, min_size=2, max_size=2))
def test_two_keys_have_two_parts(one: list[str], other: list[str]) -> None:
    assert (items.key_part(one) == items.key_part(other)) == (one == other)


@given(TEXT, TEXT, TEXT, TEXT)
def test_two_tables_have_two_parts(a: str, b: str, c: str, d: str) -> None:
    assert (items.table_part(a, b) == items.table_part(c, d)) == ((a, b) == (c, d))


@given(ROWS)
def test_a_content_is_read_back(row: tuple[str | None, str | None, str | None]) -> None:
    text = items.content(COLUMNS, row)
    assert text.count("\n") == 3
    assert items.parse(text, COLUMNS, "t/1") == row


@given(ROWS, st.integers(min_value=0), st.characters(exclude_categories=["Cs"]))
def test_a_content_with_one_character_more_is_another_row_or_none(
    row: tuple[str | None, str | None, str | None], at: int, more: str
) -> None:
    text = items.content(COLUMNS, row)
    at %= len(text) + 1
    changed = text[:at] + more + text[at:]
    try:
        found = items.parse(changed, COLUMNS, "t/1")
    except (items.OtherColumnsError, RefusedError):
        return
    assert items.content(COLUMNS, found) == changed


@pytest.mark.parametrize(
    "value", ["1", "true", "[]", '"a" ', "'a'", '"\\/"', '"\\u00e9"', '"\\ud800"', '"\\u0000"', "NaN", ""]
)
def test_a_value_that_is_written_otherwise_is_none(value: str) -> None:
    with pytest.raises(RefusedError, match='ITEM_UNREADABLE: t/1: column "id"'):
        items.parse(f'"id" integer = {value}\n', COLUMNS[:1], "t/1")
