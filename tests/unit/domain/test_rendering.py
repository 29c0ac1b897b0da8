"""The approvers' text: nothing is left out, nothing hides, nothing pretends, and a broken envelope has none."""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.domain.canonical import JsonObject, JsonValue, canonical, digest
from broker.domain.rendering import render, rendering_digest, summary
from broker.domain.sheet import COLUMNS
from broker.domain.visible import Visible, restore, width
from broker.errors import InvalidArgumentError
from tests.approval_envelopes import approval_envelope, call_envelope, database_envelope
from tests.rendered import block, field, is_structure, lines_of, tree

KINDS = ("CALL", "WORKFLOW", "ADMINISTRATION", "RUNBOOK", "REVIEW")
ALL = (*KINDS, "DATABASE")
"""With a call that reaches a database."""

# Never shown, or able to move what is: the default-ignorable characters of Unicode, its spaces, and its bidi controls.
INVISIBLE = [
    *((0x00, 0x1F), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x1680, 0x1680)),
    *((0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800)),
    *((0x3000, 0x3000), (0x3164, 0x3164), (0xD800, 0xF8FF), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0)),
    *((0xFFF0, 0xFFFC), (0x1BCA0, 0x1BCA3), (0x1D159, 0x1D159), (0x1D173, 0x1D17A), (0xE0000, 0x10FFFF)),
]

anything = st.text(st.characters(exclude_categories=["Cs"]))
PIECES = ("\\", "u{", "41}", "\u202e", "\n", "\r", " ", "  | ", "  : ", "\u0301", "e", "\u0430", '"', "\u3164", "WHAT")
MORE = ("\u0e01", "\u0e31", "\u05d0", "\U000e0041", "\x1b[2J", "\u65e5", "x" * 90, " " * 90, "\u1112", "\u1161")
tricky = st.lists(st.sampled_from([*PIECES, *MORE]), max_size=12).map("".join)
texts = anything | tricky
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
arguments = st.dictionaries(texts, values, max_size=5)


def unsafe(text: str) -> list[str]:
    return [char for char in text if char != "\n" and any(low <= ord(char) <= high for low, high in INVISIBLE)]


def leaves(value: JsonValue, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*at, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*at, index))
    else:
        yield at


def get(value: JsonValue, at: tuple[str | int, ...]) -> JsonValue:
    for part in at:
        value = value[part]  # type: ignore[index,call-overload]
    return value


def put(value: JsonObject, at: tuple[str | int, ...], new: JsonValue) -> JsonObject:
    changed = copy.deepcopy(value)
    inner = get(changed, at[:-1])
    inner[at[-1]] = new  # type: ignore[index,call-overload]
    call = changed.get("call")
    if isinstance(call, dict) and at[:2] == ("call", "arguments"):
        call["arguments_digest"] = digest(canonical(call["arguments"]))
    return changed


def body(text: str) -> str:
    """Without the last line: what tells two texts apart must be read by people."""
    return text[: text.rindex("\n", 0, -1)]


def rendered_or_refused(envelope: JsonObject) -> str:
    try:
        return render(envelope)
    except InvalidArgumentError as error:
        return "" if error.reason == "ENVELOPE_MALFORMED" else error.reason


def envelope_of(kind: str, files: dict[str, str] | None = None) -> JsonObject:
    return database_envelope() if kind == "DATABASE" else approval_envelope(kind, files=files)


@pytest.mark.parametrize("kind", ALL)
def test_each_leaf_is_in_the_text(kind: str) -> None:
    envelope = envelope_of(kind, {"a.txt": "hello\n"} if kind in {"CALL", "RUNBOOK"} else None)
    before = body(render(envelope))
    shown = 0
    for at in leaves(envelope):
        old = get(envelope, at)
        other: JsonValue = f"{old}x" if isinstance(old, str) else (not old if isinstance(old, bool) else 7)
        text = rendered_or_refused(put(envelope, at, other))
        assert text == "" or body(text) != before, at
        shown += text != ""
    assert shown > 20


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_two_envelopes_that_differ_in_a_leaf_have_two_texts(data: st.DataObject) -> None:
    envelope = envelope_of(data.draw(st.sampled_from(ALL)))
    at = data.draw(st.sampled_from(list(leaves(envelope))))
    one, two = (put(envelope, at, data.draw(values)) for _ in range(2))
    texts_of_both = [rendered_or_refused(item) for item in (one, two)]
    if canonical(one) != canonical(two) and all(texts_of_both):
        assert body(texts_of_both[0]) != body(texts_of_both[1])


@given(arguments, arguments)
@settings(max_examples=200, deadline=None)
def test_two_arguments_that_differ_have_two_texts(one: JsonObject, two: JsonObject) -> None:
    shown = [tree(render(approval_envelope(arguments=item)), "Arguments") for item in (one, two)]
    assert (canonical(shown[0]) == canonical(shown[1])) == (canonical(one) == canonical(two))


@given(arguments, st.dictionaries(st.text("ab/.", min_size=1), texts, max_size=3), texts)
@settings(max_examples=300, deadline=None)
def test_nothing_hides_nothing_pretends_and_all_is_there(
    given_: JsonObject, files: dict[str, str], reason: str
) -> None:
    envelope = approval_envelope(arguments=given_, files=files)
    envelope["reason"] = reason
    text = render(envelope)

    assert unsafe(text) == []
    assert all(sum(map(width, line)) <= COLUMNS and line == line.rstrip() for line in text.split("\n"))

    plain = approval_envelope(arguments={}, files=dict.fromkeys(files, ""))
    known = {line for line in render(plain).split("\n") if is_structure(line)}
    own = [line for line in text.split("\n") if is_structure(line) and line not in known]
    allowed = ("  \\u{", "sha256:", "  Reason", "  None")
    assert [line for line in own if not line.startswith(allowed)] == []

    assert canonical(tree(text, "Arguments")) == canonical(given_)
    for number, (_, content) in enumerate(sorted(files.items())):
        assert block(text, "Content", number) == content
    assert reason == "" or block(text, "Reason") == reason


@given(texts)
@example("\\u{41}")
@example("\\\\u{41}")
@example("\\u{5C}u{41}")
@example(" ")
def test_a_visible_line_stands_for_one_text(text: str) -> None:
    line = Visible().line(text)
    assert restore(line) == text
    assert unsafe(line) == []
    assert "\n" not in line
    assert line == line.rstrip()


@given(texts)
def test_what_is_shown_is_normal(text: str) -> None:
    assert unicodedata.is_normalized("NFC", Visible().line(text))


def test_each_character_that_hides_or_moves_others_is_written_out() -> None:
    numbers = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000), 0xF0000, 0x10FFFF]
    kinds = {"Cc", "Cf", "Cn", "Co", "Me", "Zl", "Zp", "Zs"}
    risky = [
        char
        for char in map(chr, numbers)
        if char != " "
        and (
            unicodedata.category(char) in kinds or unicodedata.bidirectional(char) in {"R", "AL", "AN"} or unsafe(char)
        )
    ]
    # Alone, and behind a letter that might hold it.
    shown = Visible().line(" ".join(f"{char} \u0915{char}" for char in risky))
    assert len(risky) > 20_000
    assert set(shown) & set(risky) == set()


def test_ordinary_text_of_many_scripts_is_shown_as_it_is() -> None:
    for text in (
        "r\u00e9sum\u00e9",
        "\u043f\u0440\u0438\u0432\u0435\u0442",
        "\ud55c\uad6d\uc5b4",
        "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48",
        "\u5341\u4e00\u3002",
        "\u201cq\u201d \u2014 5 \u20ac",
    ):
        assert Visible().line(text) == text


def test_the_names_of_what_is_written_out_are_listed() -> None:
    text = render(approval_envelope(arguments={"a": "\u202e\u200b\u202e\U000e0041\ue000"}))
    end = text[text.index("CHARACTERS THAT ARE WRITTEN OUT ABOVE") :]
    assert [" ".join(line.split()) for line in end.split("\n")[1:7]] == [
        "\\u{20} - SPACE",  # behind `Bearer`, in the secret's prefix
        "\\u{200B} - ZERO WIDTH SPACE",
        "\\u{202E} - RIGHT-TO-LEFT OVERRIDE, 2 times",
        "\\u{E000} - PRIVATE USE",
        "\\u{E0041} - TAG LATIN CAPITAL LETTER A",
        "",
    ]


def test_the_last_line_is_the_envelopes_digest() -> None:
    envelope = approval_envelope()
    text = render(envelope)
    assert text.endswith(f"\n{digest(canonical(envelope))}\n")
    assert rendering_digest(text) == digest(text.encode())


def test_the_bytes_make_the_same_text_again() -> None:
    envelope = approval_envelope(arguments={"a": 1.0, "b": 1e22, "c": "\u00e9"})
    assert render(json.loads(canonical(envelope))) == render(envelope)


@pytest.mark.parametrize(
    "at", [(), ("call",), ("call", "run"), ("call", "egress", 0), ("requirement",), ("requester",)]
)
def test_a_member_that_nobody_knows_is_shown(at: tuple[str | int, ...]) -> None:
    envelope = put(approval_envelope(), (*at, "mount_host"), {"path": "/etc"})
    text = render(envelope)
    assert "NOT KNOWN HERE" in text
    pointer = "/" + "/".join(map(str, (*at, "mount_host")))
    assert tree(text, "Members") == {pointer: {"path": "/etc"}}


def test_nothing_of_a_known_envelope_is_unknown() -> None:
    for kind in ALL:
        assert "NOT KNOWN HERE" not in render(envelope_of(kind))


def test_a_file_that_is_not_shown_says_so() -> None:
    envelope = approval_envelope(files={"a.bin": "hello"})
    envelope["files"][0] |= {"shown": "no", "text": ""}  # type: ignore[index,operator,call-overload]
    text = render(envelope)
    assert "NOT SHOWN" in text
    assert "hello" not in text
    assert field(text, "File") == "a.bin"


def test_files_may_come_in_any_order() -> None:
    envelope = approval_envelope(files={"a.txt": "1", "b.txt": "22"})
    envelope["files"] = list(reversed(envelope["files"]))  # type: ignore[arg-type]
    text = render(envelope)
    assert [block(text, "Content", number) for number in (0, 1)] == ["22", "1"]


def test_that_answers_are_kept_is_shown() -> None:
    at = ("call", "egress", 0, "record_bytes")
    text = render(put(approval_envelope(), at, 2**20))
    assert "Answers                - kept encrypted with the call" in text
    assert "Kept at most           | 1048576 bytes" in text
    assert "kept encrypted" not in render(approval_envelope())


def test_irreversible_is_in_capitals() -> None:
    assert "IRREVERSIBLE" in render(approval_envelope())
    assert "IRREVERSIBLE" not in render(approval_envelope() | {"reversibility": "exact"})


def test_what_widens_is_marked() -> None:
    lines = lines_of(render(approval_envelope("ADMINISTRATION")))
    assert [line for line in lines if line.startswith("  !! WIDENS ")] == [
        "  !! WIDENS              | WIDENS: agent:scout may call shell.run in ops"
    ]


def test_a_summary_is_one_line_without_content() -> None:
    envelope = approval_envelope(arguments={"secret": "hunter2"})
    envelope["requester"] = {"id": "x", "name": "agent:a\nb\u202e"}
    assert summary(envelope) == "CALL, files.write, in ops, tier 4, asked by agent:a\\u{A}b\\u{202E}"


def _nested(depth: int) -> JsonValue:
    value: JsonValue = 1
    for _ in range(depth):
        value = [value]
    return value


MALFORMED: dict[str, tuple[tuple[str | int, ...], JsonValue]] = {
    "another format": (("format",), "broker.approval-envelope.v2"),
    "another format of the call": (("call", "format"), "broker.envelope.v0"),
    "a kind that nobody knows": (("kind",), "PARTY"),
    "no call": (("call",), None),
    "no lineage": (("call", "lineage"), None),
    "a number as text": (("reason",), 5),
    "a text as number": (("call", "tier"), "4"),
    "true as number": (("call", "tier"), True),
    "below zero": (("requirement", "people"), -1),
    "no time": (("expires",), "2026-13-29T04:00:00Z"),
    "a time without zone": (("expires",), "2026-11-29T04:00:00"),
    "a local time": (("expires",), "2026-11-29T04:00:00+01:00"),
    "other arguments' digest": (("call", "arguments_digest"), digest(b"other")),
    "arguments that are no object": (("call", "arguments"), []),
    "an unknown reversibility": (("reversibility",), "perhaps"),
    "an unknown end": (("on_failure",), "perhaps"),
    "files that the call hasn't": (("call", "files"), []),
    "another file": (("call", "files", 0, "path"), "b.txt"),
    "an executable file": (("call", "files", 0, "executable"), True),
    "another content": (("files", 0, "text"), "hullo"),
    "a content beside the word no": (("files", 0, "shown"), "no"),
    "neither shown nor not": (("files", 0, "shown"), "perhaps"),
    "people that are a list": (("people",), []),
    "differences that are no texts": (("difference",), [1]),
    "a container that is a text": (("call", "container"), "x"),
    "a lone surrogate": (("reason",), "\ud800"),
    "an integer that isn't safe": (("call", "tier"), 2**60),
    "no number": (("call", "limits", "cpu_cores"), float("nan")),
    "deeper than read": (("call", "arguments", "deep"), _nested(39)),
    "deeper than the stack": (("further",), _nested(50_000)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_envelope_is_refused(name: str) -> None:
    at, value = MALFORMED[name]
    envelope = approval_envelope(files={"a.txt": "hello"})
    inner = get(envelope, at[:-1])
    inner[at[-1]] = value  # type: ignore[index,call-overload]
    for make in (render, summary):
        if make is summary and name not in {"no call", "a lone surrogate", "deeper than the stack"}:
            continue
        with pytest.raises(InvalidArgumentError) as caught:
            make(envelope)
        assert caught.value.reason == "ENVELOPE_MALFORMED"


@pytest.mark.parametrize("at", [at for at in leaves(approval_envelope()) if isinstance(at[-1], str)])
def test_a_missing_member_is_refused(at: tuple[str | int, ...]) -> None:
    envelope = approval_envelope()
    if at[:2] == ("call", "arguments") or at[0] == "people" or at[-1] == "secret":
        return
    inner = get(envelope, at[:-1])
    del inner[at[-1]]  # type: ignore[union-attr,arg-type]
    with pytest.raises(InvalidArgumentError, match="is missing"):
        render(envelope)


def test_files_without_a_call_are_refused() -> None:
    envelope = approval_envelope("ADMINISTRATION")
    envelope["files"] = [{"path": "x"}]
    with pytest.raises(InvalidArgumentError, match="there is none"):
        render(envelope)


def test_the_container_is_shown_whole() -> None:
    envelope = approval_envelope()
    container: JsonObject = {"user": "65534", "network_mode": "none", "cap_add": [], "argv": ["runner"]}
    envelope["call"] = call_envelope() | {"container": container, "job_frame_digest": digest(b"frames")}
    text = render(envelope)
    assert field(text, "User") == '"65534"'
    assert field(text, "Network") == '"none"'
    assert tree(text, "Container") == container
    assert "NOT KNOWN HERE" not in text
