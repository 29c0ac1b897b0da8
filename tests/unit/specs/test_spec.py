"""A specification as a value: its fields, its digest, and the job that it makes of a call."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from broker.domain import units
from broker.domain.run import Limits
from broker.domain.spec import ToolSpec
from broker.domain.spec_outside import SpecOutside
from broker.domain.spec_parts import SpecWorkspace
from broker.errors import InternalError, InvalidArgumentError

CHANGES: dict[str, Any] = {
    "name": "demo.other",
    "description": "Says something else.",
    "owner": "somebody",
    "tier": 2,
    "image": "shell",
    "run": {"argv": ["/bin/echo", "--", {"argument": "text"}]},
    "arguments": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "more": {"type": "array"}},
        "required": ["text"],
    },
    "result": {"type": "object"},
    "env": {"MODE": "C"},
    "data_classes": ["public"],
    "retention": "2d",
    "notes": "Why.",
    "egress": [{"host": "example.com", "kind": "connect"}],
    "runtime": "runsc",
}
LIMITS: dict[str, Any] = {
    "cpu_cores": 0.5,
    "memory": "65MiB",
    "processes": 5,
    "wall_time": "6s",
    "output": "1KiB",
    "disk": "2MiB",
    "inodes": 100,
    "open_files": 100,
}
FILES: dict[str, Any] = {
    "max_input_files": 1,
    "max_input_bytes": "1KiB",
    "outputs": ["out/*"],
    "max_output_files": 1,
    "max_output_bytes": "1KiB",
}
TREE_FIELDS: dict[str, Any] = {"reads": ["r"], "max_changes": 7, "max_change_bytes": "1KiB"}
# Fields that go together, and those that have fields of their own.
FIXED = {"reversibility", "effects", "workspace", "outside", "limits", "files"}
TREE: dict[str, Any] = {"effects": "workspace", "reversibility": "exact", "workspace": {"writes": ["a"]}}
TREES: list[dict[str, Any]] = [
    TREE,
    *({**TREE, "workspace": {"writes": ["a"], key: value}} for key, value in TREE_FIELDS.items()),
    {**TREE, "workspace": {"writes": ["b"]}},
    {"workspace": {"reads": ["a"]}},
]
OUTSIDE: dict[str, Any] = {
    "effects": "outside",
    "reversibility": "exact",
    "run": {"python": {"file": "a.py"}},
    "outside": {"plan": "a.py", "rehearse": "a.py", "undo": "a.py", "verify": "a.py"},
}
OUTSIDE_FIELDS: dict[str, Any] = {"on_failure": "undo", "max_items": 7, "max_item_bytes": "1KiB"}
OUTSIDES: list[dict[str, Any]] = [
    OUTSIDE,
    *({**OUTSIDE, "outside": {**OUTSIDE["outside"], key: value}} for key, value in OUTSIDE_FIELDS.items()),
    *({**OUTSIDE, "outside": {**OUTSIDE["outside"], step: "b.py"}} for step in OUTSIDE["outside"]),
    {**OUTSIDE, "reversibility": "compensable"},
    {"effects": "outside", "reversibility": "irreversible"},
]


def test_every_field_is_in_the_digest(good: dict[str, Any]) -> None:
    assert set(CHANGES) | FIXED == set(ToolSpec.model_fields)
    base = ToolSpec.model_validate(good)
    variants = [{**good, key: value} for key, value in CHANGES.items()]
    variants += [{**good, "limits": {**good["limits"], key: value}} for key, value in LIMITS.items()]
    variants += [{**good, "files": {key: value}} for key, value in FILES.items()]
    variants += [{**good, **tree} for tree in TREES]
    plain = {key: value for key, value in good.items() if key not in {"result", "files"}}
    variants += [{**plain, **outside} for outside in OUTSIDES]
    assert set(OUTSIDE["outside"]) | set(OUTSIDE_FIELDS) == set(SpecOutside.model_fields)
    assert {*TREE_FIELDS, "writes"} == set(SpecWorkspace.model_fields)
    assert set(LIMITS) == set(type(base.limits).model_fields)
    assert set(FILES) == set(type(base.files).model_fields)
    digests = {ToolSpec.model_validate(variant).digest({}) for variant in variants} | {base.digest({})}
    assert len(digests) == len(variants) + 1


def test_files_are_in_the_digest_by_name_and_content(good: dict[str, Any]) -> None:
    spec = ToolSpec.model_validate(good)
    digests = {spec.digest(files) for files in ({}, {"a.py": b"1"}, {"a.py": b"2"}, {"b.py": b"1"})}
    assert len(digests) == 4


def test_the_digest_is_of_the_meaning_and_not_of_the_writing(good: dict[str, Any]) -> None:
    written = {
        **good,
        "limits": {"disk": "1024KiB", "wall_time": "5000ms", "memory": "65536KiB"},
        "retention": "24h",
        "tier": 1,
    }
    assert ToolSpec.model_validate(written).digest({}) == ToolSpec.model_validate(good).digest({})


def test_units() -> None:
    assert units.parse_size("256MiB") == 2**28
    assert units.parse_duration("30d") == 30 * 86400
    assert units.parse_duration("1.5s") == 1.5
    for bad in ("", "256", "256MB", "-1B", "1.5MiB", "1 MiB", "\u0661MiB", "1MiB\n", "9" * 20 + "B"):
        with pytest.raises(ValueError, match="is not a size"):
            units.parse_size(bad)
    for bad in ("", "10", "10S", "-1s", "1e3s", "1s\n", "infs"):
        with pytest.raises(ValueError, match="is not a duration"):
            units.parse_duration(bad)


def test_profile_and_job(good: dict[str, Any]) -> None:
    spec = ToolSpec.model_validate({**good, "env": {"MODE": "C"}, "files": FILES, "result": {"type": "object"}})
    assert spec.profile("sha256:abc").image == "sha256:abc"
    assert spec.profile("sha256:abc").limits == Limits(memory_bytes=2**26, wall_s=5.0, disk_bytes=2**20)
    assert spec.profile("sha256:abc").egress == ()
    assert spec.profile("sha256:abc").runtime == ""
    job = spec.job({"text": "hi", "more": ["a", "b"]}, b"{}", (), {})
    assert (job.kind, job.argv, job.code) == ("argv", ("/bin/echo", "--", "hi", "a", "b"), "")
    assert (dict(job.env), job.arguments, job.wants_result) == ({"MODE": "C"}, b"{}", True)
    assert (job.outputs.patterns, job.outputs.max_files, job.outputs.max_bytes) == (("out/*",), 1, 1024)


def test_the_specification_chooses_its_runtime_before_the_operator(good: dict[str, Any]) -> None:
    assert ToolSpec.model_validate(good).profile("sha256:abc", "runsc").runtime == "runsc"
    assert ToolSpec.model_validate({**good, "runtime": "runc"}).profile("sha256:abc", "runsc").runtime == "runc"


def test_the_files_of_a_call_fit_into_its_sandbox_by_default(good: dict[str, Any]) -> None:
    del good["limits"]
    spec = ToolSpec.model_validate(good)
    files, limits = spec.files, spec.limits
    assert (files.max_input_bytes, files.max_output_bytes, files.outputs) == (64 * 2**20, 64 * 2**20, ())
    pages = 4096 * (files.max_input_files + files.max_output_files)
    assert files.max_input_bytes + files.max_output_bytes + pages < limits.disk < limits.memory
    assert files.max_input_files + files.max_output_files < limits.inodes


def test_a_limit_of_files_can_be_left_to_the_runtime(good: dict[str, Any]) -> None:
    good["limits"]["inodes"] = 0
    assert ToolSpec.model_validate(good).profile("sha256:abc").limits.inodes == 0


def test_python_jobs(good: dict[str, Any]) -> None:
    given = ToolSpec.model_validate(
        {**good, "run": {"python": {"argument": "text", "args": [{"arguments": "more", "optional": True}]}}}
    )
    job = given.job({"text": "print(1)", "more": ["-x"]}, b"", (), {})
    assert (job.kind, job.argv, job.code) == ("python", ("<code>", "-x"), "print(1)")
    filed = ToolSpec.model_validate({**good, "run": {"python": {"file": "x.py"}}})
    job = filed.job({"text": "print(1)"}, b"", (), {"x.py": b"print(2)"})
    assert (job.kind, job.argv, job.code) == ("python", ("x.py",), "print(2)")
    with pytest.raises(InternalError):
        filed.job({"text": ""}, b"", (), {})


def test_scalars_stand_on_a_command_line_as_json_writes_them(good: dict[str, Any]) -> None:
    good["arguments"]["properties"]["text"] = {"type": ["integer", "number", "boolean", "string"]}
    spec = ToolSpec.model_validate(good)
    values = [5, 1.5, True, "x"]
    assert [spec.argv({"text": value})[2] for value in values] == ["5", "1.5", "true", "x"]
    with pytest.raises(InvalidArgumentError, match="arguments/text must be text"):
        spec.argv({"text": ["x"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"egress": ["example.com"]}, "SpecEgress"),
        ({"secrets": []}, "Extra inputs"),
        ({"runtime": "Runsc"}, "match pattern"),
        ({"runtime": "/usr/bin/runsc"}, "match pattern"),
        ({"limits": {"inodes": 63}}, "must be at least 64, or 0 for no limit"),
        ({"env": {"HTTP_PROXY": "http://x"}}, "the broker sets this one itself"),
        ({"reversibility": "exact"}, "must be `no_effect` for a tool without effects"),
        ({"reversibility": "irreversible"}, "must be `no_effect` for a tool without effects"),
        ({"reversibility": "perhaps"}, "Input should be"),
        ({"effects": "workspace", "reversibility": "exact"}, "needs the paths that it may change"),
        ({"effects": "workspace", "workspace": {"writes": ["a"]}}, "must be `exact`"),
        ({"workspace": {"writes": ["a"]}}, "needs `effects: workspace` beside it"),
        ({"workspace": {}}, "needs paths in `reads` or in `writes`"),
        ({"workspace": {"reads": ["../a"]}}, "must be a relative path pattern"),
        ({"tier": 5}, "less than or equal to 4"),
        ({"tier": "1"}, "valid integer"),
        ({"tier": True}, "valid integer"),
        ({"tier": 1.0}, "valid integer"),
        ({"name": "Demo.echo"}, "match pattern"),
        ({"name": "demo.echo\n"}, "match pattern"),
        ({"name": "demo"}, "match pattern"),
        ({"name": "a.b.c"}, "match pattern"),
        ({"description": "Looks \u202eharmless enough"}, "U+202E"),
        ({"run": {}}, "exactly one of `argv` and `python`"),
        ({"run": {"argv": ["/bin/x"], "python": {"file": "x.py"}}}, "exactly one of `argv` and `python`"),
        ({"run": {"argv": []}}, "at least 1 item"),
        ({"run": {"argv": ["echo"]}}, "absolute path"),
        ({"run": {"argv": [{"argument": "text"}]}}, "absolute path"),
        ({"run": {"argv": ["/bin/x", 5]}}, "valid string"),
        ({"run": {"argv": ["/bin/x", {}]}}, "exactly one of `argument`"),
        ({"run": {"argv": ["/bin/x", {"argument": "text", "arguments": "more"}]}}, "exactly one of `argument`"),
        ({"run": {"argv": ["/bin/x", {"argument": "nothing"}]}}, "has no property for"),
        ({"run": {"argv": ["/bin/x", {"argument": "more", "optional": True}]}}, "to be of type boolean"),
        ({"run": {"argv": ["/bin/x", {"arguments": "text"}]}}, "to be of type array"),
        ({"run": {"argv": ["/bin/x", {"argument": "count"}]}}, "optional: true"),
        ({"run": {"python": {}}}, "exactly one of `file` and `argument`"),
        ({"run": {"python": {"file": "../x.py"}}}, "match pattern"),
        ({"run": {"python": {"file": "/etc/x.py"}}}, "match pattern"),
        ({"run": {"python": {"argument": "count"}}}, "of type string"),
        ({"limits": {"memory": "5GiB"}}, "less than or equal to 4294967296"),
        ({"limits": {"memory": "1MiB"}}, "greater than or equal to"),
        ({"limits": {"wall_time": "2h"}}, "less than or equal to 3600"),
        ({"limits": {"cpu_cores": float("inf")}}, "finite"),
        ({"files": {"outputs": ["../out"]}}, "relative path pattern"),
        ({"files": {"outputs": ["/out"]}}, "relative path pattern"),
        ({"env": {"BROKER_RESULT": "/x"}}, "the broker sets this one itself"),
        ({"env": {"DB_PASSWORD": "x"}}, "looks like a secret"),
        ({"env": {"PATH": "/x"}}, "the broker sets this one itself"),
        ({"env": {"MODE": "a\x00b"}}, "NUL"),
        ({"data_classes": ["a", "a"]}, "names a class twice"),
        ({"retention": "1s"}, "greater than or equal to 60"),
        ({"arguments": {"type": "object", "maximum": 2**60}}, "can be hashed"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_a_specification_may_not_say(good: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ToolSpec.model_validate({**good, **change})
    assert message in str(caught.value)
