"""The triggers that an operator names are read as the server writes names."""

from __future__ import annotations

import pytest

from broker_rows.endings import RefusedError
from broker_rows.reach import vouched


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        ("  ", set()),
        ("a.b.c", {"a.b.c"}),
        (" a.b.c , d.e.f ", {"a.b.c", "d.e.f"}),
        ('a."b, c".d,"x""y".z."."', {'a."b, c".d', '"x""y".z."."'}),
    ],
)
def test_names_with_commas(text: str, names: set[str]) -> None:
    assert vouched(text) == names


@pytest.mark.parametrize(
    "text", ["a", "a.b", "a.b.c.d", "a.b.c,", ",a.b.c", "a.b.c d.e.f", 'a."b.c', 'a."".c', "a..c", "a.b.c;d.e.f"]
)
def test_what_is_no_such_list_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="SPECIFICATION: SQL_TRIGGERS"):
        vouched(text)
