"""From an engine's report to facts: what engines write in different ways is the same, and whatever is set is seen."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.canonical import canonical, digest
from broker.domain.container_facts import ContainerFacts, Mount, facts_bytes
from broker.domain.run import Limits, Profile
from broker.sandbox.docker_config import container_config
from broker.sandbox.docker_facts import expected_facts, read_facts

PROFILE = Profile("sha256:00", Limits())
IMAGE = {
    "Env": ["PATH=/bin", "LANG=C.UTF-8"],
    "Entrypoint": ["/usr/libexec/broker/python", "-I", "start.py"],
    "Cmd": None,
    "User": "1:1",
    "ExposedPorts": None,
}
INFO: dict[str, object] = {"DefaultRuntime": "runc", "SwapLimit": True}
MASKED = [
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
Report = dict[str, Any]


def expected(profile: Profile = PROFILE, image: Report = IMAGE, info: Report = INFO) -> ContainerFacts:
    return expected_facts(container_config("x", profile, "1.41"), image, info)


def report() -> Report:
    """As Docker 20.10 answers for a container of ``PROFILE``."""
    body: Report = copy.deepcopy(container_config("x", PROFILE, "1.41"))
    host = body.pop("HostConfig")
    unset: Report = dict.fromkeys(
        ["Binds", "CapAdd", "GroupAdd", "Devices", "DeviceRequests", "VolumesFrom", "BlkioWeightDevice", "Links"]
    )
    more = {"PidMode": "", "UTSMode": "", "UsernsMode": "", "CpuQuota": 0, "CgroupParent": "", "ConsoleSize": [0, 0]}
    paths = {"MaskedPaths": list(MASKED), "ReadonlyPaths": list(READ_ONLY)}
    return {
        "Id": "c1",
        "Path": "/usr/libexec/broker/python",
        "Args": ["-I", "start.py"],
        "Image": PROFILE.image,
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": {**host, **unset, **more, **paths, "Runtime": "runc", "MemorySwappiness": None},
        "Mounts": [],
        "Config": {
            **body,
            "Env": list(IMAGE["Env"] or ()),
            "Entrypoint": IMAGE["Entrypoint"],
            "Cmd": None,
            "Volumes": None,
            "OnBuild": None,
            "Domainname": "",
            "Labels": {"a": "b"},
        },
        "NetworkSettings": {"Networks": {}},
    }


def changed(path: str, value: object) -> Report:
    """A report with one field changed."""
    made = report()
    *parents, name = path.split(".")
    part = made
    for parent in parents:
        part = part[parent]
    part[name] = value
    return made


def test_an_engine_of_2020_reports_what_was_expected() -> None:
    assert read_facts(report()) == expected()


SAME: dict[str, tuple[str, object]] = {
    "apparmor": ("AppArmorProfile", "docker-default"),
    "more_masked_paths": ("HostConfig.MaskedPaths", [*MASKED, "/proc/interrupts", "/sys/devices/virtual/powercap"]),
    "the_network_none_by_name": ("NetworkSettings.Networks", {"none": {"NetworkID": "x"}}),
    "no_list_of_networks": ("NetworkSettings", {}),
    "capabilities_with_their_prefix": ("HostConfig.CapDrop", ["CAP_ALL"]),
    "another_order_of_limits": ("HostConfig.Ulimits", list(reversed(report()["HostConfig"]["Ulimits"]))),
    "another_order_of_variables": ("Config.Env", ["LANG=C.UTF-8", "PATH=/bin"]),
    "swappiness_of_its_own": ("HostConfig.MemorySwappiness", -1),
    "no_annotations": ("HostConfig.Annotations", {}),
    "no_word_on_killing": ("HostConfig.OomKillDisable", None),
    "empty_lists": ("HostConfig.Binds", []),
    "a_restart_policy_without_a_name": ("HostConfig.RestartPolicy", {"Name": "", "MaximumRetryCount": 0}),
    "no_sessions": ("ExecIDs", []),
    "a_driver_for_no_volumes": ("HostConfig.VolumeDriver", "local"),
    "the_usual_isolation": ("HostConfig.Isolation", "default"),
    "a_field_that_only_builds_read": ("Config.OnBuild", ["RUN x"]),
    "no_new_privileges_in_short": ("HostConfig.SecurityOpt", ["no-new-privileges"]),
    "no_new_privileges_as_newer_engines_write_it": ("HostConfig.SecurityOpt", ["no-new-privileges=true"]),
}


@pytest.mark.parametrize(("path", "value"), SAME.values(), ids=SAME)
def test_what_engines_write_in_different_ways_is_the_same(path: str, value: object) -> None:
    assert read_facts(changed(path, value)) == expected()


OTHER: dict[str, tuple[str, object]] = {
    "no_killing": ("HostConfig.OomKillDisable", True),
    "another_group_of_the_engine": ("HostConfig.CgroupParent", "/elsewhere"),
    "a_field_that_nobody_knows_yet": ("HostConfig.GrantEverything", True),
    "a_field_of_the_configuration_likewise": ("Config.Grant", {"all": 1}),
    "annotations": ("HostConfig.Annotations", {"dev.gvisor.x": "y"}),
    "apparmor_off": ("AppArmorProfile", "unconfined"),
    "a_path_unmasked": ("HostConfig.MaskedPaths", MASKED[1:]),
    "no_list_of_masked_paths": ("HostConfig.MaskedPaths", None),
    "no_new_privileges_off": ("HostConfig.SecurityOpt", ["no-new-privileges:false"]),
    "a_label": ("HostConfig.SecurityOpt", ["no-new-privileges:true", "label:disable"]),
    "a_session": ("ExecIDs", ["e1"]),
    "a_bind_that_is_not_mounted_yet": ("HostConfig.Binds", ["/:/host"]),
    "a_mount_that_is_not_mounted_yet": ("HostConfig.Mounts", [{"Type": "bind", "Source": "/", "Target": "/h"}]),
    "a_mount_over_ours": ("Mounts", [{"Type": "bind", "Source": "/", "Destination": "/work", "RW": True}]),
    "volumes_of_another_container": ("HostConfig.VolumesFrom", ["c2"]),
    "a_variable_twice": ("Config.Env", ["PATH=/bin", "PATH=/work", "LANG=C.UTF-8"]),
    "a_graphics_card": ("HostConfig.DeviceRequests", [{"Count": -1, "Capabilities": [["gpu"]]}]),
    "no_configuration": ("Config", None),
    "no_host": ("HostConfig", []),
    "a_number_as_text": ("HostConfig.Memory", str(PROFILE.limits.memory_bytes)),
    "a_truth_as_number": ("HostConfig.PidsLimit", True),
    "a_text_as_list": ("Config.User", ["65534:65534"]),
    "another_name_of_the_runtime": ("HostConfig.Runtime", ""),
    "no_program": ("Path", None),
}


@pytest.mark.parametrize(("path", "value"), OTHER.values(), ids=OTHER)
def test_whatever_else_is_set_is_seen(path: str, value: object) -> None:
    assert read_facts(changed(path, value)) != expected()


def test_every_field_of_a_report_that_is_set_counts_or_is_known_to_have_no_say() -> None:
    silent = {
        *("Config.Entrypoint", "Config.Cmd"),  # said by Path and Args
        *("Config.Image", "Config.Labels", "Config.NetworkDisabled", "Config.OnBuild"),
        *("Config.AttachStdin", "Config.AttachStdout", "Config.AttachStderr", "Config.OpenStdin", "Config.StdinOnce"),
    }
    base = read_facts(report())
    odd = [["odd"], {"odd": "odd"}, "odd", 12345, True]
    for part in ("Config", "HostConfig"):
        for name in report()[part]:
            path = f"{part}.{name}"
            is_seen = any(read_facts(changed(path, value)) != base for value in odd)
            assert is_seen != (path in silent), path


def test_what_the_image_brings_is_expected() -> None:
    image = {**IMAGE, "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT", "Cmd": ["more"]}
    facts = expected(image=image)
    assert facts.environment_names == ("A",)
    assert facts.argv == ("/usr/libexec/broker/python", "-I", "start.py", "more")
    assert [name for name, _ in facts.other] == ["Config.ExposedPorts", "Config.StopSignal"]
    assert facts.user == "65534:65534"  # ours, not the image's


def test_what_an_engine_cannot_do_it_is_not_expected_to_report() -> None:
    assert expected(info={**INFO, "SwapLimit": False}).memory_swap_bytes == -1
    assert expected(info={**INFO, "DefaultRuntime": "crun"}).runtime == "crun"
    assert expected(replace(PROFILE, runtime="runsc")).runtime == "runsc"
    old = expected_facts(container_config("x", PROFILE, "1.40"), IMAGE, INFO)
    assert (old.namespaces.cgroup, expected().namespaces.cgroup) == ("", "private")


def test_long_values_are_told_by_their_digest() -> None:
    text = "x" * 5000
    facts = read_facts(changed("HostConfig.SecurityOpt", ["no-new-privileges:true", f"seccomp={text}"]))
    assert facts.security.seccomp == digest(text.encode())
    facts = read_facts(changed("HostConfig.Sysctls", {"a": text}))
    assert facts.other == (("HostConfig.Sysctls", digest(json.dumps({"a": text}).encode())),)


def test_a_mount_is_told_with_all_that_it_allows() -> None:
    entry = {"Type": "volume", "Name": "v", "Source": "/var/lib/v", "Destination": "/v", "Mode": "z", "RW": False}
    facts = read_facts(changed("Mounts", [entry]))
    assert Mount("/v", "volume", "v", ("ro", "z")) in facts.mounts


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["\ud800", "\x00", "a=b", "a:b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("\udfff"), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = [
    *(f"HostConfig.{name}" for name in [*report()["HostConfig"], "Mounts", "Anything"]),
    *(f"Config.{name}" for name in report()["Config"]),
    *("Path", "Args", "Image", "Mounts", "ExecIDs", "NetworkSettings", "AppArmorProfile", "Config", "HostConfig"),
]


@given(st.sampled_from(PLACES), values)
def test_any_report_has_facts_and_these_have_bytes(path: str, value: object) -> None:
    facts = read_facts(changed(path, value))
    assert facts_bytes(facts) == canonical(facts.json())
