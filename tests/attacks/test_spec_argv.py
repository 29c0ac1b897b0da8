"""Values of a call on a command line: whole elements, never text that something parses, never options."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.spec import ToolSpec
from broker.errors import InvalidArgumentError
from broker.specs.catalogue import Catalogue
from broker.specs.shipped import shipped_folder

NASTY = [
    "; rm -rf /",
    "$(id)",
    "`id`",
    "a b",
    "",
    "'",
    '"',
    "x\ny",
    "*",
    "~",
    "${IFS}",
    "| cat",
    "&& id",
    "\\",
    "é\u202e",
]


def spec(argv: list[Any]) -> ToolSpec:
    return ToolSpec.model_validate(
        {
            "name": "demo.echo",
            "description": "Says what it is told.",
            "owner": "platform",
            "tier": 1,
            "image": "python",
            "run": {"argv": argv},
            "arguments": {
                "type": "object",
                "required": ["text"],
                "properties": {"text": {"type": ["string", "integer"]}, "more": {"type": "array"}},
            },
        }
    )


@pytest.mark.parametrize("value", NASTY)
def test_shell_text_arrives_as_one_element(value: str) -> None:
    argv = spec(["/usr/bin/printf", "%s", {"argument": "text"}]).argv({"text": value})
    assert argv == ("/usr/bin/printf", "%s", value)
    assert subprocess.run(argv, capture_output=True, check=True).stdout == value.encode()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20), max_size=5))
def test_a_list_gives_as_many_elements_as_it_has_items(items: list[str]) -> None:
    argv = spec(["/bin/x", "--", {"argument": "text"}, {"arguments": "more"} | {"optional": True}]).argv(
        {"text": "t", "more": list(items)}
    )
    assert argv == ("/bin/x", "--", "t", *items)


@pytest.mark.parametrize("value", ["-rf", "--help", "-", "-o/etc/passwd", -5])
def test_a_value_never_becomes_an_option(value: str | int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        spec(["/bin/x", {"argument": "text"}]).argv({"text": value})
    assert caught.value.reason == "ARGUMENTS_INVALID"
    assert caught.value.violations[0].field == "arguments/text"
    assert spec(["/bin/x", "--", {"argument": "text"}]).argv({"text": value})[-1] == str(value)


def test_a_value_cannot_stand_in_for_the_fence() -> None:
    argv = ["/bin/x", {"argument": "text"}, {"arguments": "more", "optional": True}]
    with pytest.raises(InvalidArgumentError, match="arguments/text begins with `-`"):
        spec(argv).argv({"text": "--", "more": ["-x"]})
    with pytest.raises(InvalidArgumentError, match="arguments/more/1 begins with `-`"):
        spec(argv).argv({"text": "a", "more": ["b", "-x"]})


def test_what_the_kernel_would_refuse_is_refused_before() -> None:
    with pytest.raises(InvalidArgumentError, match="bytes long"):
        spec(["/bin/x", {"argument": "text"}]).argv({"text": "é" * 70_000})
    with pytest.raises(InvalidArgumentError, match="command line of more than"):
        spec(["/bin/x", {"argument": "text"}, {"arguments": "more", "optional": True}]).argv(
            {"text": "x", "more": ["x" * 100_000] * 11}
        )
    with pytest.raises(InvalidArgumentError, match="NUL"):
        spec(["/bin/x", {"argument": "text"}]).argv({"text": "a\x00b"})


@pytest.mark.parametrize("value", [*NASTY, "-c", "--"])
def test_arguments_of_the_shell_tool_stay_arguments(value: str) -> None:
    tool = Catalogue.load([shipped_folder()]).get("shell.run")
    assert tool is not None
    arguments: dict[str, Any] = {"script": 'printf "%s|" "$@"', "args": [value, "end"]}
    tool.validate_arguments(arguments)
    job = tool.spec.job(arguments, b"", (), tool.files)
    done = subprocess.run(job.argv, capture_output=True, check=True, env={})
    assert done.stdout == f"{value}|end|".encode()


def test_a_script_that_looks_like_an_option_is_still_the_script() -> None:
    tool = Catalogue.load([shipped_folder()]).get("shell.run")
    assert tool is not None
    job = tool.spec.job({"script": "-x", "args": ["echo forged"]}, b"", (), tool.files)
    done = subprocess.run(job.argv, capture_output=True, check=False, env={})
    assert done.stdout == b""
    assert done.returncode != 0
