"""Which runtime keeps which limit, and that none is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import pytest

from broker.domain.run import Limits, Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.capabilities import (
    check_profile,
    known_runtimes,
    missing,
    program_capabilities,
    runtime_capabilities,
)
from broker.sandbox.engine import Capabilities

GVISOR = ["--platform=ptrace", "--network=none"]
INFO: Mapping[str, object] = {
    "DefaultRuntime": "runc",
    "Runtimes": {
        "runc": {"path": "runc"},
        "io.containerd.runc.v2": {"path": "runc", "status": {}},
        "io.containerd.runtime.v1.linux": {},
        "small": {"path": "/opt/crun"},
        "runsc": {"path": "/usr/bin/runsc", "runtimeArgs": GVISOR},
        "shim": {"runtimeType": "io.containerd.runsc.v1"},
        "dressed-up-runsc": {"path": "/usr/bin/kata-runtime"},
    },
}
PROFILE = Profile("sha256:00", Limits())


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("", "runc"),
        ("runc", "runc"),
        ("io.containerd.runc.v2", "io.containerd.runc.v2"),
        ("io.containerd.runtime.v1.linux", "io.containerd.runtime.v1.linux"),
        ("small", "small"),
    ],
)
def test_a_runtime_of_the_kernels_own_parts_keeps_all(name: str, runtime: str) -> None:
    found = runtime_capabilities(name, INFO)
    assert found == Capabilities(runtime)
    assert missing(found) == ()
    check_profile(found, PROFILE)


@pytest.mark.parametrize("name", ["runsc", "shim"])
def test_gvisor_leaves_out_what_was_measured(name: str) -> None:
    found = runtime_capabilities(name, INFO)
    off = {field.name for field in fields(found) if getattr(found, field.name) is False}
    assert off == {"inodes", "counters", "isolated_runner"}
    assert len(missing(found)) == len(off)


@pytest.mark.parametrize(
    ("arguments", "limited"),
    [
        (["--platform=ptrace"], True),
        (["--ignore-cgroups"], False),
        (["-ignore-cgroups=true"], False),
        (["--ignore-cgroups=false"], True),
        (["--ignore-cgroups", "--ignore-cgroups=0"], True),
        (["ignore-cgroups"], True),
    ],
)
def test_arguments_are_read_as_the_program_reads_them(arguments: list[str], *, limited: bool) -> None:
    found = program_capabilities("runsc", "runsc", arguments)
    assert (found.memory, found.cpu) == (limited, limited)


def test_a_runtime_that_the_engine_lacks_is_named() -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        runtime_capabilities("kata", INFO)
    assert caught.value.reason == "RUNTIME_MISSING"
    assert "runsc" in caught.value.message


@pytest.mark.parametrize("info", [{}, {"Runtimes": None}, {"Runtimes": [], "DefaultRuntime": "runc"}])
def test_an_engine_that_names_no_runtime_has_none(info: Mapping[str, object]) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        runtime_capabilities("", info)
    assert caught.value.reason == "RUNTIME_MISSING"
    assert known_runtimes(info) == ((), ())


def test_a_program_that_nobody_measured_is_refused_whatever_its_name() -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        runtime_capabilities("dressed-up-runsc", INFO)
    assert caught.value.reason == "RUNTIME_UNSUPPORTED"
    known, unknown = known_runtimes(INFO)
    assert unknown == ("dressed-up-runsc",)
    assert len(known) == 6


@pytest.mark.parametrize("limit", ["memory", "processes", "cpu", "disk", "inodes", "open_files"])
def test_a_limit_that_is_not_kept_is_refused_by_name(limit: str) -> None:
    lacking = replace(Capabilities("odd"), **{limit: False})  # type: ignore[arg-type]  # a field of that name
    with pytest.raises(FailedPreconditionError) as caught:
        check_profile(lacking, PROFILE)
    assert caught.value.reason == "LIMIT_UNSUPPORTED"
    assert caught.value.metadata["limit"] == limit
    assert caught.value.hint
    assert len(missing(lacking)) == 1


def test_a_limit_on_files_can_be_given_up() -> None:
    gvisor = runtime_capabilities("runsc", INFO)
    with pytest.raises(FailedPreconditionError) as caught:
        check_profile(gvisor, PROFILE)
    assert "inodes: 0" in caught.value.hint
    check_profile(gvisor, replace(PROFILE, limits=Limits(inodes=0)))


def test_a_kernel_of_its_own_needs_room() -> None:
    tight = Limits(inodes=0, memory_bytes=32 * 2**20)
    check_profile(Capabilities("runc"), replace(PROFILE, limits=tight))
    with pytest.raises(FailedPreconditionError) as caught:
        check_profile(runtime_capabilities("runsc", INFO), replace(PROFILE, limits=tight))
    assert caught.value.metadata["limit"] == "memory"
    assert "48 MiB" in caught.value.hint
