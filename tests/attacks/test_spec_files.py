"""Hostile specification files: bombs, objects, links and schemas that would reach out or never end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.errors import InvalidArgumentError
from broker.specs import patterns
from broker.specs.catalogue import Catalogue
from broker.specs.document import DocumentError, read_document
from broker.specs.lint import lint_file

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)
SECONDS = 5.0
"""Far above what a refusal takes, and far below what the attack would."""

SPEC: dict[str, Any] = {
    "name": "demo.echo",
    "description": "Says what it is told.",
    "owner": "platform",
    "tier": 1,
    "image": "python",
    "run": {"argv": ["/bin/true"]},
    "arguments": {"type": "object", "additionalProperties": False, "properties": {}},
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "anchors are not allowed"),
        ("a: *b", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['true']", "tags are not allowed"),
        ("!!map {a: 1}", "tags are not allowed"),
        ("%TAG ! tag:x,2000:\n---\na: !y z", "tags are not allowed"),
        ("<<: {tier: 0}", "must be text"),
        ("a: 1\na: 2", "stands twice"),
        ("a: {b: 1, 'b': 2}", "stands twice"),
        ("1: x", "must be text"),
        ("? [a]\n: x", "a key must be text"),
        ("[" * 100_000, "nested deeper"),
        ("{a: " * 30_000, "nested deeper"),
        ("- a\n" * 6000, "more than 5000 values"),
        ("# " + "x" * 200_000, "longer|bytes long"),
        ("a: 1\n---\nb: 2", "second document"),
        ("a: 12345678901234567890", "put it in quotes"),
        ("a: 1e999", "beyond the range"),
        ("tier: 04", "begins with 0"),
        ("a: 'x", "not YAML"),
        ("a: \x07", "not YAML"),
        ("", "empty"),
    ],
)
def test_yaml_that_would_expand_build_or_hide_something(text: str, message: str) -> None:
    begun = time.monotonic()
    with pytest.raises(DocumentError, match=message):
        read_document(text.encode())
    assert time.monotonic() - begun < SECONDS


def test_yaml_1_1_words_stay_text() -> None:
    assert read_document(b"%YAML 1.1\n---\na: [yes, no, on, 0x10, 1_000, 2024-01-01]").value == {
        "a": ["yes", "no", "on", "0x10", "1_000", "2024-01-01"]
    }


@pytest.mark.parametrize("name", ["../evil.py", "/etc/passwd", "a/b.py", "..", "evil\x00.py", ".py"])
def test_a_script_path_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    (tmp_path / "evil.py").write_text("x = 1\n")
    path = folder / "a.yaml"
    path.write_text(yaml.safe_dump({**SPEC, "run": {"python": {"file": name}}}))
    assert lint_file(path)
    with pytest.raises(InvalidArgumentError):
        Catalogue.load([folder])


@pytest.mark.parametrize("target", ["../evil.py", "/dev/zero", "loop.py", "gone.py"])
def test_a_link_cannot_leave_the_folder(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    (tmp_path / "evil.py").write_text("x = 1\n")
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "link.py").symlink_to(target)
    path = folder / "a.yaml"
    path.write_text(yaml.safe_dump({**SPEC, "run": {"python": {"file": "link.py"}}}))
    assert [finding.field for finding in lint_file(path)] == ["/run/python/file"]


def test_a_specification_that_is_itself_a_link_outwards_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    (tmp_path / "outside.yaml").write_text(yaml.safe_dump(SPEC))
    (folder / "a.yaml").symlink_to("../outside.yaml")
    with pytest.raises(InvalidArgumentError, match="leads out of its folder"):
        Catalogue.load([folder])


def with_property(schema: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any schema
    return {**SPEC, "arguments": {**SPEC["arguments"], "properties": {"p": {"description": "x", **schema}}, **more}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (with_property({"$ref": "https://example.com/schema"}), "nothing is ever fetched"),
        (with_property({"$ref": "file:///etc/passwd"}), "nothing is ever fetched"),
        (with_property({"$ref": "other.json"}), "nothing is ever fetched"),
        (with_property({"$dynamicRef": "#x"}), "may not use: $dynamicRef"),
        (with_property({"$id": "https://example.com/"}), "may not use: $id"),
        (with_property({"$schema": "http://json-schema.org/draft-04/schema#"}), "must be https://json-schema.org"),
        (with_property({"$ref": "#"}), "leads back to itself"),
        (with_property({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}), "leads back"),
        (
            with_property(
                {"$ref": "#/$defs/d0"},
                **{
                    "$defs": {
                        **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)},
                        "d30": {"type": "string"},
                    }
                },
            ),
            "stands for more than",
        ),
        (with_property({"patternProperties": {"(a+)+$": {}}}), "may not use: patternProperties"),
        (with_property({"type": "string", "pattern": "(a+)+$", "maxLength": 40}), "may take too long"),
        (
            with_property({"type": "string", "pattern": "^a", "maxLength": 40, "maxLenght": 1}),
            "did you mean maxLength?",
        ),
        (with_property({"type": "array", "uniqueItems": True}), "needs maxItems"),
        ({**SPEC, "arguments": {"type": "object"}}, "additionalProperties: false"),
        ({**SPEC, "arguments": {"additionalProperties": False}}, "needs `type: object`"),
    ],
)
def test_schemas_that_reach_out_or_never_end(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.yaml"
    yaml.Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign] # equal parts are to be written out
    path.write_text(yaml.dump(spec))
    begun = time.monotonic()
    findings = lint_file(path)
    assert any(message in finding.message for finding in findings if not finding.warning), findings
    assert time.monotonic() - begun < SECONDS


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(a|b|ab)*c",
        "(.*)*x",
        "^(([a-z])+.)+[A-Z]([a-z])+$",
        "a*a*a*a*a*b",
        r"(x+x+)+y",
        r"(a)\1+",
        "(?m)^a*a*a*a*b",
        "(",
        "a{99999999999}",
    ],
)
def test_patterns_that_backtrack_without_end_are_refused(pattern: str) -> None:
    assert patterns.refusal(pattern, 100)


@pytest.mark.parametrize(
    "pattern", [r"^[a-z][a-z0-9-]{0,62}$", r"^\d{4}-\d{2}-\d{2}$", "^(kg|lb)$", "^(?:[a-z]++\\.)*+x$", "abc"]
)
def test_ordinary_patterns_pass(pattern: str) -> None:
    assert patterns.refusal(pattern, 100) == ""


def test_a_pattern_is_not_tried_on_a_text_longer_than_it_was_bounded_for(tmp_path: Path) -> None:
    # The pattern stands first: 100 characters are harmless to it, a million would take hours.
    schema = {"type": "string", "pattern": "^a*a*a*b$", "maxLength": 100}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(with_property(schema), sort_keys=False))
    tool = Catalogue.load([tmp_path]).get("demo.echo")
    assert tool is not None
    begun = time.monotonic()
    with pytest.raises(InvalidArgumentError) as caught:
        tool.validate_arguments({"p": "a" * 1_000_000})
    assert [item.description for item in caught.value.violations] == [
        "must have at most 100 characters, and has 1000000"
    ]
    assert time.monotonic() - begun < SECONDS


def test_unique_items_are_not_compared_in_a_list_longer_than_allowed(tmp_path: Path) -> None:
    schema = {"type": "array", "uniqueItems": True, "maxItems": 10}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(with_property(schema), sort_keys=False))
    tool = Catalogue.load([tmp_path]).get("demo.echo")
    assert tool is not None
    begun = time.monotonic()
    with pytest.raises(InvalidArgumentError, match="must have at most 10 items"):
        tool.validate_arguments({"p": [[], 1, "x", {}] * 50_000})
    assert time.monotonic() - begun < SECONDS
