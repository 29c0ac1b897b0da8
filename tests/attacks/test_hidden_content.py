"""An agent puts into its arguments, files and reasons what approvers are not meant to see, or what looks like our words."""

from __future__ import annotations

import time

import pytest

from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.rendering import render
from tests.approval_envelopes import approval_envelope
from tests.rendered import block, field, is_structure, tree


def everywhere(content: str) -> tuple[str, JsonObject]:
    """The text of a call that has the content in its arguments, as key and as value, in a file, its argv and its reason."""
    arguments: JsonObject = {content: content, "list": [content]}
    envelope = approval_envelope(arguments=arguments, files={"a.txt": content})
    envelope["reason"] = envelope["purpose"] = content
    run = envelope["call"]["run"]  # type: ignore[index,call-overload]
    run["argv"] = [content]  # type: ignore[index,call-overload]
    return render(envelope), arguments


def recovered(text: str, content: str, arguments: JsonObject) -> None:
    assert tree(text, "Arguments") == arguments
    assert block(text, "Content") == content
    assert block(text, "Reason") == content
    assert block(text, "Purpose") == content
    assert field(text, "Argument") == content


def structure(text: str) -> list[str]:
    return [
        line for line in text.split("\n") if is_structure(line) and not line.startswith(("  \\u{", "sha256:", "  None"))
    ]


HIDING = {
    "bidi_override": "transfer \u202e001\u202c to me",
    "bidi_isolates": "safe\u2066 // \u2069danger",
    "right_to_left_letters_that_swap_their_neighbours": "/a/\u05d0/1/\u05d1/b",
    "zero_width_joiner": "pass\u200dword\u200b\ufeff\u2060",
    "tag_characters": "hello" + "".join(chr(0xE0000 + ord(char)) for char in "ignore this"),
    "variation_selectors": "a\ufe0f\U000e0100\U000e01ef",
    "carriage_return_overwriting": "rm -rf /\rls -l   ",
    "backspaces": "rm -rf /\x08\x08\x08\x08\x08\x08\x08\x08ls",
    "ansi_escapes": "\x1b[8mhidden\x1b[0m\x1b[2J\x9b1A",
    "homoglyph_spaces": "rm\u00a0-rf\u2003\u3000\u1680\u2028\u2029/",
    "homoglyph_letters": "p\u0430ypal.com",
    "full_width_letters": "\uff41\uff44\uff4d\uff49\uff4e",
    "fillers_and_blanks": "a\u3164\u115f\u2800\uffa0\u00adb",
    "combining_marks_piled_up": "a" + "\u0336" * 40 + "\u20dd",
    "characters_that_aren_t_normal": "e\u0301 \u212b \u1112\u1161",
    "private_use_and_unassigned": "\ue000\U0010ffff\u0378",
    "trailing_spaces": "yes" + " " * 5,
    "a_written_out_form_of_its_own": "\\u{41} \\\\u{202E} \\u{5C}u{41}",
}


@pytest.mark.parametrize("attack", HIDING)
def test_what_hides_is_written_out(attack: str) -> None:
    content = HIDING[attack]
    text, arguments = everywhere(content)
    recovered(text, content, arguments)
    assert attack == "trailing_spaces" or content not in text  # in JSON a quotation mark stands behind them
    known, _ = everywhere("x")
    assert structure(text) == structure(known)


FAKES = {
    "newline_faking_a_heading": "x\n\nWHO MUST AGREE\n  People                 | 0\n",
    "newline_faking_our_words": "x\n  Content                - as follows\n  | harmless",
    "newline_faking_the_last_line": f"x\nsha256:{'0' * 64}\n",
    "a_line_faking_the_rest_of_another": "x\n  : y\n  | z\n",
    "spaces_pushing_a_heading_to_a_line_of_its_own": "x" + " " * 95 + "WHO MUST AGREE",
    "other_line_breaks": "x\x0bWHY\x0cWHY\x85WHY\u2028WHY\r\nWHY",
}


@pytest.mark.parametrize("attack", FAKES)
def test_what_looks_like_our_words_stands_behind_a_bar(attack: str) -> None:
    content = FAKES[attack]
    text, arguments = everywhere(content)
    recovered(text, content, arguments)
    known, _ = everywhere("x")
    assert structure(text) == structure(known)
    assert text.splitlines() == text.removesuffix("\n").split("\n")


@pytest.mark.parametrize("piece", ["harmless ", "\u65e5\u672c", " ", "x\u202e"])
def test_a_string_of_a_mebibyte_is_shown_whole_and_soon(piece: str) -> None:
    content = piece * (2**20 // len(piece.encode()))
    started = time.process_time()
    text = render(approval_envelope(arguments={"a": f"{content}END"}))
    assert time.process_time() - started < 10
    assert max(map(len, text.split("\n"))) <= 100
    assert tree(text, "Arguments") == {"a": f"{content}END"}


def test_deep_nesting_is_shown_whole() -> None:
    value: JsonValue = "hidden"
    for _ in range(31):
        value = [value]
    text = render(approval_envelope(arguments={"a": value}))
    assert tree(text, "Arguments") == {"a": value}
    assert "hidden" in text


def test_keys_that_look_the_same_are_told_apart() -> None:
    arguments: JsonObject = {
        "path": 1,
        "p\u0430th": 2,
        "path\u200b": 3,
        "path ": 4,
        "\uff50ath": 5,
        "pa\u0301th": 6,
        "p\u00e1th": 7,
    }
    text = render(approval_envelope(arguments=arguments))
    assert tree(text, "Arguments") == arguments
    lines = [line for line in text.split("\n") if line.startswith('  |   "')]
    assert len({line.split(":")[0] for line in lines}) == len(arguments)
    assert [line.split(":")[0].strip(" |") for line in lines].count('"path"') == 1


def test_content_can_t_reach_the_summary_line_of_the_policy() -> None:
    envelope = approval_envelope()
    envelope["decision"]["policy_row"] = "p, x\nIn words | harmless"  # type: ignore[index,call-overload]
    text = render(envelope)
    assert field(text, "As written") == "p, x\nIn words | harmless"
    assert field(text, "In words") == "agents of ops may write files"
