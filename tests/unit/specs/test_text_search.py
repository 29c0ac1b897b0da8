"""text.search on files of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.specs.catalogue import Catalogue, Tool
from broker.specs.shipped import shipped_folder

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def tool() -> Tool:
    found = Catalogue.load([shipped_folder()]).get("text.search")
    assert found is not None
    return found


@pytest.fixture
def search(run_script: Run, tool: Tool) -> Run:
    def run(pattern: str, files: dict[str, bytes], **arguments: Any) -> Any:  # noqa: ANN401 - whatever the schema takes
        tool.validate_arguments({"pattern": pattern, **arguments})
        ran = run_script("text_search.py", {"pattern": pattern, **arguments}, files)
        assert "Traceback" not in ran.err
        if ran.code == 0:
            tool.validate_result(ran.result_bytes)
        return ran

    return run


def test_matches_carry_place_and_context(search: Run) -> None:
    ran = search(r"b+", {"a.txt": b"one\r\nabbb\r\nthree\n", "d/b.txt": b"b\n"}, context=1)
    assert ran.result["matches"] == [
        {"path": "a.txt", "line": 2, "column": 2, "length": 3, "text": "abbb", "before": ["one"], "after": ["three"]},
        {"path": "d/b.txt", "line": 1, "column": 1, "length": 1, "text": "b", "before": [], "after": []},
    ]
    assert "a.txt:2:2: abbb" in ran.out


def test_literal_and_case(search: Run) -> None:
    files = {"a.txt": b"a.b\naxb\nA.B\n"}
    assert [item["line"] for item in search("a.b", files).result["matches"]] == [1, 2]
    assert [item["line"] for item in search("a.b", files, literal=True).result["matches"]] == [1]
    assert [item["line"] for item in search("a.b", files, literal=True, ignore_case=True).result["matches"]] == [1, 3]


def test_encodings_are_named_and_binary_files_are_said_to_be_skipped(search: Run) -> None:
    files = {
        "bom.txt": b"\xef\xbb\xbfcaf\xc3\xa9\n",
        "latin.txt": b"caf\xe9\n",
        "wide.txt": "café\n".encode("utf-16"),
        "zero.bin": b"caf\x00",
        "odd.txt": b"\xff\xfea",
        "empty.txt": b"",
    }
    ran = search("^café$", files)
    assert {item["path"]: item["column"] for item in ran.result["matches"]} == {
        "bom.txt": 1,
        "latin.txt": 1,
        "wide.txt": 1,
    }
    assert {item["path"]: item["encoding"] for item in ran.result["files"]} == {
        "bom.txt": "utf-8",
        "latin.txt": "latin-1",
        "wide.txt": "utf-16",
        "empty.txt": "utf-8",
    }
    assert [item["path"] for item in ran.result["skipped"]] == ["odd.txt", "zero.bin"]
    assert "skipped zero.bin" in ran.err


def test_a_bad_expression_and_no_file_are_refused(search: Run) -> None:
    bad = search("(", {"a.txt": b"x"})
    assert bad.code == 1
    assert "not a regular expression" in bad.err
    none = search("x", {"a.txt": b"x"}, paths=["*.md"])
    assert none.code == 1
    assert "no file to search" in none.err


def test_what_is_cut_is_said(search: Run) -> None:
    many = search("x", {"a.txt": b"x\n" * 500})
    assert (len(many.result["matches"]), many.result["truncated"]) == (200, True)
    exact = search("x", {"a.txt": b"x\n" * 500}, max_matches=500)
    assert (len(exact.result["matches"]), exact.result["truncated"]) == (500, False)
    long = search("y", {"a.txt": b"x" * 5000 + b"y" + b"x" * 5000}).result["matches"][0]
    assert long["column"] == 5001
    assert long["text"].startswith("…x")
    assert "y" in long["text"]
    assert len(long["text"]) == 502


def test_no_match_is_no_failure(search: Run) -> None:
    ran = search("zzz", {"a.txt": b"x\n"}, paths=["*.txt"])
    assert (ran.code, ran.result["matches"]) == (0, [])
