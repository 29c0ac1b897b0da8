"""A tree that comes piece by piece: a sound one gets through whole, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.domain.tree_stream import Announced, Bound, Intake, Piece, Total, listing_digest
from broker.errors import BrokerError

BOUND = Bound(files=100, size=1000)


def digest(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def file(path: str, data: bytes, *, said: str = "", size: int | None = None, mode: int = 0o644) -> list[Piece]:
    return [Announced(path, TreeFile(said, len(data) if size is None else size, mode)), *([data] if data else [])]


def take(*items: Piece, bound: Bound = BOUND) -> Intake:
    intake = Intake(bound)
    for item in items:
        if isinstance(item, bytes):
            intake.take(item)
        else:
            intake.announce(item)
    return intake


def reason(*items: Piece, bound: Bound = BOUND) -> str:
    with pytest.raises(BrokerError) as caught:
        take(*items, bound=bound)
    assert caught.value.message
    return caught.value.reason


def test_a_sound_tree_gets_through_with_its_digests() -> None:
    intake = take(*file("a/b", b"one"), *file("empty", b""), Announced("a/link", TreeLink("../empty")))
    wanted: Mapping[str, Entry] = {
        "a/b": TreeFile(digest(b"one"), 3, 0o644),
        "empty": TreeFile(digest(b""), 0, 0o644),
        "a/link": TreeLink("../empty"),
    }
    assert intake.end(Total.of(wanted)) == wanted


def test_a_file_may_come_in_pieces_and_with_its_digest() -> None:
    intake = take(Announced("f", TreeFile(digest(b"abc"), 3)), b"a", b"bc")
    assert intake.entries == {"f": TreeFile(digest(b"abc"), 3)}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\x00b",
        "a\nb",
        "x" * 256,
        "a/" * 32 + "a",
        "\ud800",
    ],
)
def test_a_path_that_leads_out_or_is_none_is_refused(path: str) -> None:
    assert reason(*file(path, b"x")) == "PATH_INVALID"


def test_a_path_comes_once() -> None:
    assert reason(*file("a", b"x"), *file("a", b"x")) == "PATH_TWICE"
    assert reason(*file("a", b"x"), Announced("a", TreeLink("b"))) == "PATH_TWICE"


@pytest.mark.parametrize("above", [file("a/b", b"x"), [Announced("a/b", TreeLink("/etc"))]])
def test_nothing_lies_under_a_file_or_a_link_in_either_order(above: list[Piece]) -> None:
    below = file("a/b/c/d", b"y")
    assert reason(*above, *below) == "PATH_UNDER_FILE"
    assert reason(*below, *above) == "PATH_UNDER_FILE"
    assert reason(*file("a/b/c", b"y"), *above) == "PATH_UNDER_FILE"


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        ([b"x"], "SIZE_DIFFERS"),
        (file("a", b"four", size=3), "SIZE_DIFFERS"),
        ([*file("a", b"two", size=4), *file("b", b"x")], "SIZE_DIFFERS"),
        (file("a", b"", size=-1), "ENTRY_INVALID"),
        (file("a", b"x", mode=0o4755), "ENTRY_INVALID"),
        (file("a", b"x", mode=-1), "ENTRY_INVALID"),
        (file("a", b"x", said=digest(b"y")), "DIGEST_DIFFERS"),
        (file("a", b"x", said="sha256:"), "DIGEST_DIFFERS"),
        ([Announced("a", TreeLink(""))], "ENTRY_INVALID"),
        ([Announced("a", TreeLink("b\0c"))], "ENTRY_INVALID"),
        ([Announced("a", TreeLink("x" * 5000))], "ENTRY_INVALID"),
        ([Announced("a", TreeLink("\udc80"))], "ENTRY_INVALID"),
    ],
)
def test_what_lies_is_refused(items: list[Piece], wanted: str) -> None:
    assert reason(*items) == wanted


def test_more_than_is_taken_is_refused_before_its_bytes_come() -> None:
    assert reason(Announced("a", TreeFile("", 11)), bound=Bound(9, 10)) == "TREE_TOO_LARGE"
    assert reason(*file("a", b"123456"), Announced("b", TreeFile("", 5)), bound=Bound(9, 10)) == "TREE_TOO_LARGE"
    links = [Announced(f"l{number}", TreeLink("x")) for number in range(3)]
    assert reason(*links, bound=Bound(2, 10)) == "TREE_TOO_LARGE"
    assert take(*links, bound=Bound(3, 0)).files == 3


def test_an_end_that_says_something_else_is_refused() -> None:
    true = Total.of({"a": TreeFile(digest(b"x"), 1)})
    for said in (
        Total(2, true.size, true.listing),
        Total(1, 2, true.listing),
        Total(1, 1, listing_digest({})),
        Total(1, 1, ""),
    ):
        with pytest.raises(BrokerError) as caught:
            take(*file("a", b"x")).end(said)
        assert caught.value.reason == "TOTAL_DIFFERS"


def test_an_end_in_the_middle_of_a_file_is_refused() -> None:
    intake = take(Announced("a", TreeFile("", 3)), b"ab")
    with pytest.raises(BrokerError) as caught:
        intake.end(Total.of({}))
    assert caught.value.reason == "SIZE_DIFFERS"


_ENTRIES = st.one_of(
    st.builds(TreeFile, st.just(digest(b"")), st.integers(0, 9), st.integers(0, 0o777)),
    st.builds(TreeLink, st.text("ab/.", min_size=1, max_size=4)),
)


@given(st.dictionaries(st.text("abäz\U0001f600", min_size=1, max_size=3), _ENTRIES, max_size=5))
def test_the_listing_tells_trees_apart_and_not_orders(entries: dict[str, Entry]) -> None:
    found = listing_digest(entries)
    assert found == listing_digest(dict(reversed(entries.items())))
    for path in entries:
        other = {**entries, path: TreeLink("other")}
        assert (listing_digest(other) == found) == (other == entries)
