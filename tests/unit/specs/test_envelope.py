"""The envelope changes with everything that decides what a call does, and with nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.domain.call import CallContext, CallRequest, Decision, Lineage
from broker.domain.canonical import canonical
from broker.domain.container_facts import ContainerFacts, Cpu, Mount, Namespaces, Security, Ulimit
from broker.domain.envelope import envelope, envelope_digest, fresh_salt, salt_of
from broker.domain.rendering import render
from broker.domain.run import (
    EgressKind,
    EgressRule,
    Job,
    JobFile,
    JobLink,
    Limits,
    OutputRules,
    Profile,
    SecretUse,
    TreeRules,
)
from broker.domain.tier import Tier
from broker.errors import InternalError
from tests.approval_envelopes import approval_envelope


async def content() -> AsyncIterator[bytes]:
    yield b"data"


SECRET = SecretUse("api-token", "authorization", "Bearer ")
RULE = EgressRule(EgressKind.HTTPS, "api.example.com", 443, ("GET",), ("/v1/",), secret=SECRET)
OTHER = EgressRule(EgressKind.TCP, "db.example.com", 5432, listen=15432)
FILE = JobFile("a.csv", 4, executable=False, open=content)
CONTAINER = ContainerFacts("sha256:image", "runsc", ("/runner",), "65534:65534")
BASE: dict[str, Any] = {
    "call_id": "call_1",
    "request": CallRequest("demo.echo", "", {"a": 1}, b'{"a":1}', (), CallContext("lab", workflow="w")),
    "lineage": Lineage("agt_1", "hum_1", "hum_2", "hum_3", "hum_4", ("session:x",)),
    "tool_version": "sha256:spec",
    "profile": Profile("sha256:image", Limits(), "runsc", (RULE, OTHER)),
    "job": Job(
        "argv",
        ("/bin/echo", "x"),
        "",
        {"LANG": "C"},
        b'{"a":1}',
        (FILE,),
        OutputRules(("out/*",), 1, 2),
        wants_result=False,
        proxy=True,
        forwards=(15432,),
    ),
    "file_digests": {"a.csv": "sha256:file"},
    "container": CONTAINER,
    "job_frame_digest": f"sha256:{'f0' * 32}",
    "tier": Tier.INTERNAL,
    "decision": Decision(allowed=True, rule="r1", reason="because", policy_digest="sha256:p", inputs={"role": "x"}),
    "expires": datetime(2030, 1, 2, 3, 4, 5, 678, UTC),
    "salt": "5a" * 32,
}


def changed(part: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of any part
    return {**BASE, part: dataclasses.replace(BASE[part], **fields)}


def with_rule(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of a rule
    return changed("profile", egress=(dataclasses.replace(RULE, **fields), OTHER))


# What each field of a part is changed to; a field that is added to a part has to be added here.
LIMITS: dict[str, Any] = {field.name: 7 for field in dataclasses.fields(Limits)}
SECRETS: dict[str, Any] = {"name": "other", "header": "x-token", "prefix": ""}
RULES: dict[str, Any] = {
    "kind": EgressKind.HTTP,
    "host": "b.example.com",
    "port": 8443,
    "methods": ("GET", "POST"),
    "paths": ("/v1/", "/v2/"),
    "listen": 15432,
    "secret": None,
    "database": "shop",
    "user": "shop",
    "record_bytes": 2**20,
}
PROFILES: dict[str, Any] = {"image": "sha256:other", "limits": Limits(processes=7), "runtime": "", "egress": (OTHER,)}
OUTPUTS: dict[str, Any] = {"patterns": ("out/**",), "max_files": 2, "max_bytes": 3}
JOBS: dict[str, Any] = {
    "kind": "python",
    "argv": ("/bin/echo", "y"),
    "code": "print(1)",
    "env": {"LANG": "D"},
    "files": (dataclasses.replace(FILE, executable=True),),
    "outputs": OutputRules(),
    "wants_result": True,
    "proxy": False,
    "forwards": (15433,),
    "tree": TreeRules(),
}
TREES: dict[str, Any] = {"patterns": ("t/**",), "max_changes": 2, "max_bytes": 3}
TREE_FILE = JobFile("t/f", 4, executable=False, open=content, digest="sha256:t", mode=0o644)
TREE_FILES: dict[str, Any] = {"path": "t/g", "size": 5, "digest": "sha256:u", "mode": 0o600}
LINK = JobLink("t/l", "f")
LINKS: dict[str, Any] = {"path": "t/m", "target": "g"}
CPUS: dict[str, Any] = {"nano": 7, "quota": 7, "period": 7, "shares": 7, "cores": "0"}
NAMESPACES: dict[str, Any] = {field.name: "host" for field in dataclasses.fields(Namespaces)}
SECURITY: dict[str, Any] = {
    "no_new_privileges": True,
    "seccomp": "unconfined",
    "apparmor": "unconfined",
    "options": ("label:disable",),
    "unmasked_paths": ("/proc/kcore",),
    "writable_paths": ("/proc/sys",),
}
MOUNT = Mount("/host", "bind", "/", ("rw",))
MOUNTS: dict[str, Any] = {"target": "/root", "kind": "volume", "source": "/etc", "options": ()}
ULIMIT = Ulimit("nofile", 10, 20)
ULIMITS: dict[str, Any] = {"name": "core", "soft": 11, "hard": 21}
FACTS: dict[str, Any] = {
    "image": "sha256:other",
    "runtime": "runc",
    "argv": ("/runner", "-x"),
    "user": "0",
    "groups": ("0",),
    "hostname": "other",
    "working_dir": "/",
    "environment_names": ("LD_PRELOAD",),
    "environment_digest": "sha256:e",
    "cap_add": ("SYS_ADMIN",),
    "cap_drop": ("ALL",),
    "privileged": True,
    "read_only_root": True,
    "devices": ("/dev/kvm",),
    "network_mode": "host",
    "networks": ("bridge",),
    "memory_bytes": 7,
    "memory_swap_bytes": 7,
    "processes": 7,
    "shm_bytes": 7,
    "oom_kill_disabled": True,
    "oom_score": 7,
    "log_driver": "json-file",
    "restart": "always",
    "auto_remove": True,
    "init": True,
    "healthcheck": ("CMD", "true"),
    "exec_sessions": 1,
    "other": (("HostConfig.Sysctls", "{}"),),
}
PARTS: list[tuple[type, dict[str, Any], set[str]]] = [
    (Limits, LIMITS, set()),
    (SecretUse, SECRETS, set()),
    (EgressRule, RULES, set()),
    (Profile, PROFILES, set()),
    (Cpu, CPUS, set()),
    (Namespaces, NAMESPACES, set()),
    (Security, SECURITY, set()),
    (Mount, MOUNTS, set()),
    (Ulimit, ULIMITS, set()),
    (ContainerFacts, FACTS, {"security", "mounts", "namespaces", "cpu", "ulimits"}),  # changed by their own fields
    (OutputRules, OUTPUTS, set()),
    (Job, JOBS, {"arguments", "links"}),  # changed with those of the request, and with the tree
    (TreeRules, TREES, set()),
    (JobLink, LINKS, set()),
]


@pytest.mark.parametrize(("part", "fields", "apart"), PARTS, ids=[part.__name__ for part, _, _ in PARTS])
def test_no_field_is_forgotten(part: type, fields: dict[str, Any], apart: set[str]) -> None:
    assert {field.name for field in dataclasses.fields(part)} == set(fields) | apart


def all_facts() -> list[ContainerFacts]:
    """Facts that differ from ``CONTAINER`` and from each other."""
    parts: list[tuple[str, Any, dict[str, Any]]] = [
        ("security", Security(), SECURITY),
        ("namespaces", Namespaces(), NAMESPACES),
        ("cpu", Cpu(), CPUS),
    ]
    inner = [
        {name: dataclasses.replace(part, **{field: value})}
        for name, part, fields in parts
        for field, value in fields.items()
    ]
    listed: list[tuple[str, Any, dict[str, Any]]] = [("mounts", MOUNT, MOUNTS), ("ulimits", ULIMIT, ULIMITS)]
    for name, part, fields in listed:
        inner += [{name: (dataclasses.replace(part, **{field: value}),)} for field, value in fields.items()]
        inner.append({name: (part,)})
    changes = [*({name: value} for name, value in FACTS.items()), *inner]
    return [dataclasses.replace(CONTAINER, **change) for change in changes]


def with_tree(rules: TreeRules | None = None, file: JobFile = TREE_FILE, link: JobLink = LINK) -> dict[str, Any]:
    return changed("job", tree=rules or TreeRules(("t/*",), 1, 2), files=(FILE, file), links=(link,))


def all_trees() -> list[dict[str, Any]]:
    return [
        with_tree(),
        *(with_tree(dataclasses.replace(TreeRules(("t/*",), 1, 2), **{name: value})) for name, value in TREES.items()),
        *(with_tree(file=dataclasses.replace(TREE_FILE, **{name: value})) for name, value in TREE_FILES.items()),
        *(with_tree(link=dataclasses.replace(LINK, **{name: value})) for name, value in LINKS.items()),
    ]


def all_changes() -> list[dict[str, Any]]:
    more: dict[str, Any] = {
        "request": dataclasses.replace(BASE["request"], arguments={"a": 2}, arguments_bytes=b'{"a":2}')
    }
    return [
        {**BASE, "call_id": "call_2"},
        {**BASE, "tool_version": "sha256:other"},
        {**BASE, "file_digests": {"a.csv": "sha256:other"}},
        *({**BASE, "container": facts} for facts in all_facts()),
        {**BASE, "job_frame_digest": f"sha256:{'0f' * 32}"},
        {**BASE, "tier": Tier.AUTONOMOUS},
        {**BASE, "salt": "a5" * 32},
        {**BASE, "expires": BASE["expires"] + timedelta(microseconds=1)},
        {**BASE, **more, "job": dataclasses.replace(BASE["job"], arguments=b'{"a":2}')},
        changed("request", tool="demo.other"),
        changed("request", context=CallContext("lab", workflow="v")),
        changed("request", context=CallContext("live", workflow="w")),
        *(
            changed("lineage", **{field.name: ("y",) if field.name == "proofs" else "y"})
            for field in dataclasses.fields(Lineage)
        ),
        *(changed("profile", **{name: value}) for name, value in PROFILES.items() if name != "limits"),
        *(changed("profile", limits=dataclasses.replace(Limits(), **{name: value})) for name, value in LIMITS.items()),
        changed("profile", egress=()),
        changed("profile", egress=(OTHER, RULE)),
        *(with_rule(**{name: value}) for name, value in RULES.items()),
        *(with_rule(secret=dataclasses.replace(SECRET, **{name: value})) for name, value in SECRETS.items()),
        *(changed("job", **{name: value}) for name, value in JOBS.items() if name != "outputs"),
        *(
            changed("job", outputs=dataclasses.replace(BASE["job"].outputs, **{name: value}))
            for name, value in OUTPUTS.items()
        ),
        changed("job", argv=("/bin/echo x",)),
        changed("job", env={"LANGUAGE": "C"}),
        changed("job", forwards=()),
        changed("job", files=(dataclasses.replace(FILE, size=5),)),
        {**changed("job", files=(dataclasses.replace(FILE, path="b"),)), "file_digests": {"b": "sha256:file"}},
        *all_trees(),
        changed("decision", rule="r2"),
        changed("decision", allowed=False),
    ]


def test_all_that_decides_is_in_the_digest() -> None:
    variants = all_changes()
    digests = {envelope_digest(envelope(**variant)) for variant in [BASE, *variants]}
    assert len(digests) == len(variants) + 1


def test_what_does_not_decide_is_not() -> None:
    base = envelope(**BASE)
    assert envelope(**changed("decision", policy_digest="sha256:q", inputs={}, reason="so")) == base
    assert envelope(**changed("request", request_id="again")) == base
    assert json.loads(base)["format"] == "broker.envelope.v4"
    assert json.loads(base)["egress"][0]["secret"] == {
        "name": "api-token",
        "header": "authorization",
        "prefix": "Bearer ",
    }
    assert set(json.loads(base)["egress"][0]) == {"kind", "host", "port", "methods", "paths", "listen", "secret"}
    assert json.loads(base)["expires"] == "2030-01-02T03:04:05.000678Z"


def test_the_bytes_are_those_of_the_whole() -> None:
    made = envelope(**BASE)
    assert canonical(json.loads(made)) == made
    assert json.loads(made)["container"] == CONTAINER.json()


def test_what_an_engine_reports_has_bytes_whatever_it_is() -> None:
    facts = dataclasses.replace(CONTAINER, memory_bytes=2**63 - 1, ulimits=(Ulimit("core", -(2**63), 2**63 - 1),))
    said = json.loads(envelope(**{**BASE, "container": facts}))["container"]
    assert said["memory_bytes"] == "9223372036854775807"
    assert said["ulimits"] == {"core": {"soft": "-9223372036854775808", "hard": "9223372036854775807"}}


def test_files_may_come_in_any_order() -> None:
    second = dataclasses.replace(FILE, path="b.csv")
    digests = {"b.csv": "sha256:b", "a.csv": "sha256:a"}
    made = [
        envelope(**{**changed("job", files=files), "file_digests": digests})
        for files in ((FILE, second), (second, FILE))
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {**BASE, "file_digests": {}},
        {**BASE, "file_digests": {"a.csv": "x", "b.csv": "y"}},
        changed("job", files=(FILE, FILE)),
        changed("job", files=(dataclasses.replace(FILE, digest="sha256:other"),)),
        {**BASE, "job_frame_digest": ""},
        changed("job", files=(FILE, TREE_FILE)),
        changed("job", links=(LINK,)),
        {**with_tree(), "file_digests": {"a.csv": "sha256:file", "t/f": "sha256:t"}},
        changed("job", arguments=b'{"a":2}'),
        changed("request", arguments={"a": 2}),
        {**BASE, "expires": datetime(2030, 1, 1)},  # noqa: DTZ001 - the very thing that is refused
    ],
)
def test_parts_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InternalError) as caught:
        envelope(**wrong)
    assert caught.value.reason == "ENVELOPE_INVALID"


def test_the_salt_is_random_and_read_back() -> None:
    first, second = fresh_salt(), fresh_salt()
    assert first != second
    text = envelope(**{**BASE, "salt": first}).decode()
    assert salt_of(text) == first
    assert salt_of("{}") == salt_of("no JSON") == salt_of('{"salt":1}') == salt_of("[]") == ""


@pytest.mark.parametrize("salt", ["", "5a" * 31, "5A" * 32, "5a" * 33])
def test_an_envelope_without_a_whole_salt_is_refused(salt: str) -> None:
    with pytest.raises(InternalError) as caught:
        envelope(**{**BASE, "salt": salt})
    assert caught.value.reason == "ENVELOPE_INVALID"


def test_approvers_are_shown_every_member_by_its_name() -> None:
    job = dataclasses.replace(BASE["job"], files=())
    call = json.loads(envelope(**{**BASE, "job": job, "file_digests": {}}))
    text = render(approval_envelope() | {"call": call})
    assert "NOT KNOWN HERE" not in text
    assert "65534:65534" in text


def test_approvers_are_shown_the_tree() -> None:
    job = dataclasses.replace(with_tree()["job"], files=(TREE_FILE,))
    call = json.loads(envelope(**{**BASE, "job": job, "file_digests": {}}))
    text = render(approval_envelope() | {"call": call})
    assert all(part in text for part in ("May change the tree at", "t/*", call["run"]["tree"]["digest"]))


def test_a_call_without_a_tree_says_nothing_of_one() -> None:
    assert "tree" not in json.loads(envelope(**BASE))["run"]
